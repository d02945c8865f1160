package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// errNotSmaller is a compressed frame above the size that was asked for.
var errNotSmaller = errors.New("segment: compressed batch is not smaller")

// encoder compresses payloads, one at a time.
type encoder interface {
	// encode appends the compressed payload to dst.
	encode(dst, payload []byte) ([]byte, error)
}

// scratch is an encoder with the buffer into which it writes, so that the frame
// that is kept can be allocated at its exact size: it may live in the tail cache.
type scratch struct {
	encoder encoder
	buffer  []byte
}

// maxKeptScratch is the largest scratch buffer that is kept for reuse.
const maxKeptScratch = 4 << 20

// zstdEncodeWindow bounds the memory of encoders and of readers; batches are
// rarely larger.
const zstdEncodeWindow = 1 << 20

// scratchPools keep encoders by codec.
var scratchPools [len(codecNames)]sync.Pool

// compress makes a frame of at most limit bytes with header h (length, codec and
// CRC are set anew) and the payload compressed by c, a codec that is known. Above
// the limit the error is errNotSmaller.
func compress(h Header, payload []byte, c Codec, limit int) ([]byte, error) {
	s, ok := scratchPools[c].Get().(*scratch)
	if !ok {
		s = &scratch{encoder: newEncoder(c)}
	}
	defer func() {
		if cap(s.buffer) > maxKeptScratch {
			s.buffer = nil
		}
		scratchPools[c].Put(s)
	}()
	var err error
	if s.buffer, err = s.encoder.encode(s.buffer[:0], payload); err != nil {
		return nil, err
	}
	if HeaderSize+len(s.buffer) > limit {
		return nil, errNotSmaller
	}
	frame := make([]byte, HeaderSize+len(s.buffer))
	copy(frame[HeaderSize:], s.buffer)
	h.Attributes = h.Attributes&^attrCodecMask | Attributes(c)
	h.put(frame)
	return frame, nil
}

// newEncoder makes an encoder for a codec that compresses. All options are
// constants, so that no error is possible.
func newEncoder(c Codec) encoder {
	switch c {
	case CodecGzip:
		writer, _ := gzip.NewWriterLevel(io.Discard, gzip.DefaultCompression)
		return &streamEncoder{writer: writer}
	case CodecSnappy:
		return snappyEncoder{}
	case CodecLZ4:
		writer := lz4.NewWriter(io.Discard)
		// What Java writes: blocks of 64 KiB, independent, no content checksum
		// (the batch has its CRC).
		writer.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false), lz4.ConcurrencyOption(1))
		return &streamEncoder{writer: writer}
	default:
		writer, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstdEncodeWindow), zstd.WithLowerEncoderMem(true))
		return zstdEncoder{writer}
	}
}

// streamEncoder is a codec whose package has a writer.
type streamEncoder struct {
	buffer bytes.Buffer
	writer interface {
		io.WriteCloser
		Reset(io.Writer)
	}
}

func (e *streamEncoder) encode(dst, payload []byte) ([]byte, error) {
	e.buffer = *bytes.NewBuffer(dst)
	e.writer.Reset(&e.buffer)
	if _, err := e.writer.Write(payload); err != nil {
		return dst, err
	}
	if err := e.writer.Close(); err != nil {
		return dst, err
	}
	out := e.buffer.Bytes()
	e.buffer = bytes.Buffer{}
	return out, nil
}

// zstdEncoder is CodecZstd, one frame with its content size.
type zstdEncoder struct{ writer *zstd.Encoder }

func (e zstdEncoder) encode(dst, payload []byte) ([]byte, error) {
	return e.writer.EncodeAll(payload, dst), nil
}

// snappyEncoder is CodecSnappy in Java's framing, which all clients read.
type snappyEncoder struct{}

func (snappyEncoder) encode(dst, payload []byte) ([]byte, error) {
	dst = append(dst, snappyHeader...)
	for len(payload) > 0 {
		n := min(len(payload), snappyBlock)
		at := len(dst)
		dst = append(dst, make([]byte, 4+s2.MaxEncodedLen(n))...)
		block := s2.EncodeSnappy(dst[at+4:], payload[:n])
		binary.BigEndian.PutUint32(dst[at:], uint32(len(block)))
		dst, payload = dst[:at+4+len(block)], payload[n:]
	}
	return dst, nil
}
