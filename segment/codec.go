package segment

import (
	"errors"
	"fmt"
	"io"
)

// Codec is a compression of record batches, by its number in the attributes
// (KIP-110 added zstd).
type Codec uint8

// The codecs. On disk and on the wire: never change.
const (
	// CodecNone is no compression.
	CodecNone Codec = 0
	// CodecGzip is RFC 1952, one member or several.
	CodecGzip Codec = 1
	// CodecSnappy is a raw snappy block, or several in the framing of Java's
	// snappy library ("xerial").
	CodecSnappy Codec = 2
	// CodecLZ4 is one LZ4 frame of independent blocks.
	CodecLZ4 Codec = 3
	// CodecZstd is RFC 8878, one frame or several.
	CodecZstd Codec = 4
)

// codecNames are the texts of Codec, as in compression.type.
var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

// String is the name as compression.type has it.
func (c Codec) String() string {
	if c.Known() {
		return codecNames[c]
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// Known reports a codec that this package reads and writes.
func (c Codec) Known() bool { return int(c) < len(codecNames) }

// ParseCodec is the inverse of String ("none", "gzip", "snappy", "lz4", "zstd").
func ParseCodec(name string) (Codec, bool) {
	for c, known := range codecNames {
		if name == known {
			return Codec(c), true
		}
	}
	return 0, false
}

// DefaultMaxInflated is the most bytes that a batch may have when inflated,
// unless configured: millrace.batch.inflated.max.bytes. The bound is on bytes,
// not on a ratio: real JSON reaches 125 to 1.
const DefaultMaxInflated = 100 << 20

// ErrInflatedTooLarge is a batch that has more bytes inflated than its limit.
var ErrInflatedTooLarge = errors.New("segment: batch too large when inflated")

// Compress returns the frame with its records compressed by c, under a new CRC,
// if that makes it smaller; otherwise, and when it is compressed already, has no
// records, or is a control batch or an internal frame, it returns frame itself
// and false. The new frame has no spare capacity and shares nothing with the old
// one. frame must have passed Check; it is not changed.
func Compress(frame []byte, c Codec) (out []byte, smaller bool, err error) {
	h, err := wholeHeader(frame)
	if err != nil {
		return nil, false, err
	}
	if !c.Known() {
		return nil, false, batchErrorf(UnsupportedCodec, "%s", c)
	}
	const kept = attrCodecMask | attrControl | attrInternal
	if c == CodecNone || h.Attributes&kept != 0 || h.NumRecords == 0 {
		return frame, false, nil
	}
	out, err = compress(h, frame[HeaderSize:], c, len(frame)-1)
	if errors.Is(err, errNotSmaller) {
		return frame, false, nil
	}
	return out, err == nil, err
}

// Inflate returns the frame with its records uncompressed, under a new CRC; an
// uncompressed frame is returned itself. limit bounds the records in bytes;
// above it the error is ErrInflatedTooLarge. Other errors are *BatchError. The
// result may be longer than MaxFrameSize: it is for clients, not for storage.
func Inflate(frame []byte, limit int64) ([]byte, error) {
	h, err := wholeHeader(frame)
	if err != nil {
		return nil, err
	}
	if h.Attributes.Codec() == CodecNone {
		return frame, nil
	}
	out, err := inflate(frame, h.Attributes.Codec(), limit)
	if err != nil {
		return nil, err
	}
	h.Attributes &^= attrCodecMask
	h.put(out)
	return out, nil
}

// inflate returns the records of a frame uncompressed, behind HeaderSize bytes
// of room. It does not trust what the frame says about its size, but allocates
// as the bytes come.
func inflate(frame []byte, codec Codec, limit int64) ([]byte, error) {
	stream, err := openStream(codec, frame[HeaderSize:], limit)
	if err != nil {
		return nil, err
	}
	defer stream.close()
	out := make([]byte, HeaderSize, HeaderSize+min(4*len(frame), int(min(limit, 1<<20))))
	for {
		if len(out) == cap(out) {
			out = append(out, 0)[:len(out)]
		}
		n, err := stream.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// wholeHeader decodes the header of a frame that must be there as a whole.
func wholeHeader(frame []byte) (Header, error) {
	h, err := decodeHeader(frame, maxInflatedFrame)
	if err != nil {
		return h, err
	}
	if h.FrameSize() != len(frame) {
		return h, batchErrorf(Corrupt, "%d bytes, the header says %d", len(frame), h.FrameSize())
	}
	return h, nil
}
