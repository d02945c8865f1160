package segment

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/s2"
)

// snappyDecoder reads CodecSnappy: a raw snappy block (what franz-go and C
// clients write), or Java's framing, big endian:
//
//	0x82 "SNAPPY" 0x00 (8) | version 1 (4) | compatible from 1 (4) |
//	blocks: size (4), raw snappy block
type snappyDecoder struct {
	src    []byte
	framed bool
	left   int64  // bytes that may still come out
	block  []byte // decompressed
	pos    int    // read of block
	begun  bool
}

// snappyHeader begins what Java's snappy library frames.
const (
	snappyMagic       = "\x82SNAPPY\x00"
	snappyHeader      = snappyMagic + "\x00\x00\x00\x01\x00\x00\x00\x01"
	snappyBlock       = 32 << 10 // bytes a block, as Java writes them
	snappyMaxRatio    = 32       // above the 64 bytes that three can copy
	snappyTagLiteral  = 0
	snappyTagCopy1    = 1
	snappyTagCopy2    = 2
	snappyLongLiteral = 60 // from here on the length follows in 1 to 4 bytes
)

var errSnappy = errors.New("malformed snappy block")

func (d *snappyDecoder) reset(src []byte, limit int64) error {
	block := d.block[:0]
	if cap(block) > maxKeptBlock {
		block = nil
	}
	*d = snappyDecoder{src: src, left: limit, block: block}
	if len(src) >= len(snappyHeader) && string(src[:len(snappyMagic)]) == snappyMagic {
		// The version numbers are Java's to change; it checks only the second.
		if binary.BigEndian.Uint32(src[12:]) != 1 {
			return errors.New("snappy framing of an unknown version")
		}
		d.framed, d.src = true, src[len(snappyHeader):]
	}
	return nil
}

// Read copies from the present block, and decompresses the next one if need be.
func (d *snappyDecoder) Read(p []byte) (int, error) {
	for d.pos == len(d.block) {
		if err := d.nextBlock(); err != nil {
			return 0, err
		}
	}
	n := copy(p, d.block[d.pos:])
	d.pos += n
	return n, nil
}

// nextBlock decompresses the next block; its length is not believed before the
// bytes that are there could yield it.
func (d *snappyDecoder) nextBlock() error {
	if len(d.src) == 0 && (d.framed || d.begun) {
		return io.EOF
	}
	d.begun = true
	block, rest := d.src, []byte(nil)
	if d.framed {
		if len(d.src) < 4 {
			return errSnappy
		}
		size := binary.BigEndian.Uint32(d.src)
		if uint64(size) > uint64(len(d.src)-4) {
			return errSnappy
		}
		block, rest = d.src[4:4+size], d.src[4+size:]
	}
	d.src = rest
	n, err := s2.DecodedLen(block)
	if err != nil || n > snappyMaxRatio*len(block) {
		return errSnappy
	}
	if int64(n) > d.left {
		return ErrInflatedTooLarge
	}
	if !plainSnappy(block) {
		return errSnappy
	}
	d.left -= int64(n)
	d.pos = 0
	d.block, err = s2.Decode(d.block[:cap(d.block)], block)
	return err
}

// plainSnappy reports a block without the copies of offset 0 by which S2, which
// our decoder reads as well, repeats an offset: other readers refuse them. The
// decoder checks everything else.
func plainSnappy(block []byte) bool {
	_, n := binary.Uvarint(block)
	if n <= 0 {
		return false
	}
	for pos := n; pos < len(block); {
		tag := block[pos]
		switch tag & 3 {
		case snappyTagLiteral:
			length := int(tag >> 2)
			pos++
			if extra := length - snappyLongLiteral + 1; extra > 0 {
				if pos+extra > len(block) {
					return false
				}
				length = 0
				for i := range extra {
					length |= int(block[pos+i]) << (8 * i)
				}
				pos += extra
			}
			pos += length + 1
		case snappyTagCopy1:
			if pos+2 > len(block) || tag>>5 == 0 && block[pos+1] == 0 {
				return false
			}
			pos += 2
		case snappyTagCopy2:
			pos += 3
		default:
			pos += 5
		}
	}
	return true
}
