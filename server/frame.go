package server

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A request on the wire (all numbers big-endian):
//
//	length    int32                what follows, this field excluded
//	key       int16                the API
//	version   int16                of the request and of its answer
//	correlation int32              repeated in the answer
//	clientId  nullable string      header v1 and v2 (int16 length, -1 null)
//	tags      tagged fields        header v2 only, which goes with flexible bodies (KIP-482)
//	body
//
// An answer: length int32, correlation int32, tags (one zero byte) if its body is
// flexible, body. ApiVersions is answered without tags at every version, because
// a client must be able to read the answer before it knows what the broker speaks.

const (
	// maxHeaderTags bounds the tagged fields of a request header; Kafka defines none.
	maxHeaderTags = 64
	// eagerFrame is how much of a frame is allocated on the word of its length
	// field alone, so a connection that only claims to send 100 MiB costs 64 KiB.
	eagerFrame = 64 << 10
	// frameGrowth is how many times what has arrived a frame may occupy.
	frameGrowth = 8
	// maxOrdinaryFrame is the longest frame of a request other than Produce, which
	// alone carries records. The largest in use, the assignment of a large group
	// (SyncGroup) and a topic of thousands of partitions, stay far below it.
	maxOrdinaryFrame = 8 << 20
	// framePiece is how much of the rest is read under one deadline.
	framePiece = 1 << 20
	// minFrame is key, version and correlation id.
	minFrame = 8
)

// Errors of the framing; each closes the connection, because what follows on it
// cannot be told apart from the middle of a frame.
var (
	errFrameLength = errors.New("request length out of bounds")
	errHeader      = errors.New("malformed request header")
)

// header is a request's header.
type header struct {
	key         int16
	version     int16
	correlation int32
	clientID    string // "" if null
}

// frameLength checks the four bytes before a request against the limit.
func frameLength(prefix [4]byte, limit int32) (int, error) {
	n := int32(binary.BigEndian.Uint32(prefix[:]))
	if n < minFrame || n > limit {
		return 0, fmt.Errorf("%w: %d, allowed are %d to %d (socket.request.max.bytes)", errFrameLength, n, minFrame, limit)
	}
	return int(n), nil
}

// readFrame reads size bytes, which were checked by frameLength, by fill. Beyond
// eagerFrame the frame grows as its bytes arrive: claim is called before that many
// bytes more are allocated, and its error, as that of fill, ends the read.
func readFrame(size int, fill func([]byte) error, claim func(n int) error) ([]byte, error) {
	frame := make([]byte, min(size, eagerFrame))
	if err := fill(frame); err != nil {
		return nil, err
	}
	for len(frame) < size {
		arrived := len(frame)
		room := min(size, frameGrowth*arrived)
		if err := claim(room - arrived); err != nil {
			return nil, err
		}
		grown := make([]byte, room)
		copy(grown, frame)
		frame = grown
		for rest := frame[arrived:]; len(rest) > 0; {
			piece := rest[:min(len(rest), framePiece)]
			if err := fill(piece); err != nil {
				return nil, err
			}
			rest = rest[len(piece):]
		}
	}
	return frame, nil
}

// decodeHeader splits a frame into header and body. flexible says whether the
// header of this key and version carries tags; it is asked before they are read.
func decodeHeader(frame []byte, flexible func(key, version int16) bool) (header, []byte, error) {
	if len(frame) < minFrame+2 {
		return header{}, nil, fmt.Errorf("%w: %d bytes", errHeader, len(frame))
	}
	h := header{
		key:         int16(binary.BigEndian.Uint16(frame)),
		version:     int16(binary.BigEndian.Uint16(frame[2:])),
		correlation: int32(binary.BigEndian.Uint32(frame[4:])),
	}
	rest := frame[minFrame:]
	n := int(int16(binary.BigEndian.Uint16(rest)))
	rest = rest[2:]
	if n > len(rest) || n < -1 {
		return h, nil, fmt.Errorf("%w: client id of %d bytes, %d are left", errHeader, n, len(rest))
	}
	if n > 0 {
		h.clientID, rest = string(rest[:n]), rest[n:]
	}
	if !flexible(h.key, h.version) {
		return h, rest, nil
	}
	s := scanner{left: rest, maxTags: maxHeaderTags}
	if err := s.tags(nil); err != nil {
		return h, nil, fmt.Errorf("%w: %w", errHeader, err)
	}
	return h, s.left, nil
}

// appendAnswerHeader begins an answer; the length is patched by finishAnswer.
func appendAnswerHeader(b []byte, correlation int32, tags bool) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	if tags {
		b = append(b, 0)
	}
	return b
}

// setAnswerLength writes the length prefix of an answer of total bytes (prefix
// included) into its first four.
func setAnswerLength(b []byte, total int64) {
	binary.BigEndian.PutUint32(b, uint32(total-4))
}
