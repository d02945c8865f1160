package transport

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// A frame on a connection, after the handshake. Integers are big-endian.
//
//	 0        4      5        6       8          16         20         24
//	+--------+------+--------+-------+----------+----------+----------+--------
//	| length | type | method | code  | call id  | body CRC | head CRC | body ...
//	+--------+------+--------+-------+----------+----------+----------+--------
//
//	length    u32  bytes of the body; checked before anything is allocated
//	type      u8   below
//	method    u8   of a request, else 0
//	code      u16  of an error, else 0
//	call id   u64  chosen by the caller, echoed in the answer; counter of a ping
//	body CRC  u32  CRC32C of the body
//	head CRC  u32  CRC32C of bytes 0 to 19
//
// The head has a checksum of its own, so that a flipped bit in length is found
// at once and not after waiting for bytes that never come, or allocating for
// them; since it covers the body's checksum, no flipped bit anywhere passes.
const frameHeaderSize = 24

// DefaultMaxFrame is the largest body, in bytes, unless configured.
const DefaultMaxFrame = 64 << 20

// frameType says what a frame is. Numbers are part of the protocol.
type frameType uint8

const (
	frameRequest frameType = 1 // from the side that dialled; has a method
	frameReply   frameType = 2 // answer to a request
	frameError   frameType = 3 // answer to a request: code, and text as the body
	framePing    frameType = 4 // from either side; no body
	framePong    frameType = 5 // answer to a ping, same call id; no body
)

// frameHeader is a frame's head, decoded.
type frameHeader struct {
	length  uint32
	kind    frameType
	method  Method
	code    Code
	id      uint64
	bodyCRC uint32
}

// castagnoli is the table of CRC32C.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC32C of the buffers, one after the other.
func checksum(buffers [][]byte) uint32 {
	var sum uint32
	for _, b := range buffers {
		sum = crc32.Update(sum, castagnoli, b)
	}
	return sum
}

// appendFrameHeader appends the 24 bytes of h to dst.
func appendFrameHeader(dst []byte, h frameHeader) []byte {
	start := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, h.length)
	dst = append(dst, byte(h.kind), byte(h.method))
	dst = binary.BigEndian.AppendUint16(dst, uint16(h.code))
	dst = binary.BigEndian.AppendUint64(dst, h.id)
	dst = binary.BigEndian.AppendUint32(dst, h.bodyCRC)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// decodeFrameHeader reads the head of a frame whose body may have at most
// maxBody bytes. It allocates nothing unless it fails.
func decodeFrameHeader(b []byte, maxBody int) (frameHeader, error) {
	if len(b) < frameHeaderSize {
		return frameHeader{}, badFrame("head of %d bytes, need %d", len(b), frameHeaderSize)
	}
	if got, want := crc32.Checksum(b[:20], castagnoli), binary.BigEndian.Uint32(b[20:]); got != want {
		return frameHeader{}, badFrame("head checksum %08x, computed %08x", want, got)
	}
	h := frameHeader{
		length:  binary.BigEndian.Uint32(b),
		kind:    frameType(b[4]),
		method:  Method(b[5]),
		code:    Code(binary.BigEndian.Uint16(b[6:])),
		id:      binary.BigEndian.Uint64(b[8:]),
		bodyCRC: binary.BigEndian.Uint32(b[16:]),
	}
	return h, h.check(maxBody)
}

// check refuses heads that no sender of this version writes.
func (h frameHeader) check(maxBody int) error {
	limit := uint64(maxBody)
	switch h.kind {
	case frameRequest:
	case frameReply:
	case frameError:
		limit = maxErrorText
	case framePing, framePong:
		limit = 0
	default:
		return badFrame("unknown type %d", h.kind)
	}
	switch {
	case uint64(h.length) > limit:
		return badFrame("length %d of a frame of type %d, the limit is %d", h.length, h.kind, limit)
	case (h.kind == frameRequest) != (h.method != 0):
		return badFrame("method %d in a frame of type %d", h.method, h.kind)
	case (h.kind == frameError) != (h.code != 0):
		return badFrame("code %d in a frame of type %d", h.code, h.kind)
	}
	return nil
}

const (
	// assuredBody is how many bytes of one body every connection may hold while it
	// arrives. It is above the default of FacadeConfig.MaxEntriesBytes and what
	// goes with the entries, so that replication asks nobody for memory.
	assuredBody = 2 << 20
	// bodyGrowth is how many times what has arrived a body above assuredBody may
	// occupy.
	bodyGrowth = 8
)

// readBody reads and checks the body that follows head h, whose length the caller
// has checked. Memory follows what arrives, so that a head alone costs no more than
// r's own buffer: a body that is longer must first fill that, then it gets at most
// assuredBody, and beyond that it grows with its bytes. Before it grows, claim is
// called once; its error ends the read. Nil claims nothing.
func readBody(r *bufio.Reader, h frameHeader, claim func() error) ([]byte, error) {
	size := int(h.length)
	if size > r.Size() {
		if _, err := r.Peek(r.Size()); err != nil {
			return nil, err
		}
	}
	body := make([]byte, min(size, assuredBody))
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	if len(body) < size && claim != nil {
		if err := claim(); err != nil {
			return nil, err
		}
	}
	for len(body) < size {
		arrived := len(body)
		grown := make([]byte, min(size, bodyGrowth*arrived))
		copy(grown, body)
		if _, err := io.ReadFull(r, grown[arrived:]); err != nil {
			return nil, err
		}
		body = grown
	}
	if got := crc32.Checksum(body, castagnoli); got != h.bodyCRC {
		return nil, badFrame("body checksum %08x, computed %08x", h.bodyCRC, got)
	}
	return body, nil
}

// smallBody is the size up to which a body is copied behind its head, so that
// small frames are one buffer each; larger ones are handed to writev as they are.
const smallBody = 2 << 10

// outFrame is a frame on its way out.
type outFrame struct {
	// head is the 24 bytes, and a small body behind them.
	head []byte
	// bodies are the caller's own buffers, nil for a small body.
	bodies [][]byte
	// size is all bytes of the frame.
	size int64
	// done is called once, when the frame was written or never will be; may be nil.
	done func()
}

// newFrame builds a frame around the buffers of its body. The caller has checked
// that they are at most math.MaxUint32 bytes together.
func newFrame(h frameHeader, bodies [][]byte, done func()) *outFrame {
	length := totalLength(bodies)
	h.length = uint32(length)
	h.bodyCRC = checksum(bodies)
	f := &outFrame{size: frameHeaderSize + length, done: done}
	if length > smallBody {
		f.head = appendFrameHeader(make([]byte, 0, frameHeaderSize), h)
		f.bodies = bodies
		return f
	}
	f.head = appendFrameHeader(make([]byte, 0, frameHeaderSize+length), h)
	for _, b := range bodies {
		f.head = append(f.head, b...)
	}
	return f
}

// cost is what the frame holds while it waits, its bookkeeping included.
func (f *outFrame) cost() int64 { return f.size + frameOverhead }

// finish tells the frame's owner that its buffers are free.
func (f *outFrame) finish() {
	if f.done != nil {
		f.done()
	}
}

// totalLength is the bytes of all buffers together.
func totalLength(buffers [][]byte) int64 {
	var n int64
	for _, b := range buffers {
		n += int64(len(b))
	}
	return n
}
