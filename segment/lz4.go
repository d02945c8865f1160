package segment

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/pierrec/lz4/v4"
)

// lz4Decoder reads CodecLZ4: exactly what Java's reader accepts, so that no
// batch is stored that stops a Java consumer. The frame (all little endian):
//
//	magic 0x184D2204 (4) | flags, block size (2) | content size (8, if flagged) |
//	header checksum (1) | blocks: size (4), bytes, checksum (4, if flagged) |
//	end mark 0 (4) | content checksum (4, if flagged)
//
// One frame, version 1, blocks independent, no dictionary, nothing behind it.
type lz4Decoder struct {
	source bytes.Reader
	reader *lz4.Reader
}

const (
	lz4Magic            = 0x184D2204
	lz4MinHeader        = 7
	lz4Uncompressed     = 1 << 31 // bit of a block's size
	lz4VersionMask      = 0xc0
	lz4Version          = 0x40
	lz4Independent      = 0x20
	lz4BlockChecksum    = 0x10
	lz4ContentSize      = 0x08
	lz4ContentChecksum  = 0x04
	lz4ReservedOrDict   = 0x03
	lz4ContentSizeBytes = 8
	lz4ChecksumBytes    = 4
)

var (
	errLZ4Frame   = errors.New("not one whole LZ4 frame")
	errLZ4Options = errors.New("LZ4 frame of a kind that Kafka does not read (version 1, independent blocks, no dictionary)")
)

func (d *lz4Decoder) reset(src []byte, _ int64) error {
	d.source.Reset(src)
	d.reader.Reset(&d.source)
	if src == nil {
		return nil
	}
	return checkLZ4Frame(src)
}

func (d *lz4Decoder) Read(p []byte) (int, error) { return d.reader.Read(p) }

// checkLZ4Frame walks the blocks of a frame without decompressing them.
func checkLZ4Frame(src []byte) error {
	if len(src) < lz4MinHeader || binary.LittleEndian.Uint32(src) != lz4Magic {
		return errLZ4Frame
	}
	flags := src[4]
	if flags&(lz4VersionMask|lz4Independent|lz4ReservedOrDict) != lz4Version|lz4Independent {
		return errLZ4Options
	}
	pos, blockTrailer := lz4MinHeader, 0
	if flags&lz4ContentSize != 0 {
		pos += lz4ContentSizeBytes
	}
	if flags&lz4BlockChecksum != 0 {
		blockTrailer = lz4ChecksumBytes
	}
	for {
		if pos+4 > len(src) {
			return errLZ4Frame
		}
		size := int(binary.LittleEndian.Uint32(src[pos:]) &^ lz4Uncompressed)
		pos += 4
		if size == 0 {
			break
		}
		if size+blockTrailer > len(src)-pos {
			return errLZ4Frame
		}
		pos += size + blockTrailer
	}
	if flags&lz4ContentChecksum != 0 {
		pos += lz4ChecksumBytes
	}
	if pos != len(src) {
		return errLZ4Frame
	}
	return nil
}
