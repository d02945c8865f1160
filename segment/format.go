// # Files
//
// A segment is three files, named after the offset of its first record:
//
//	.log   frames, back to back; behind the last one there are only zeros
//	.idx   sparse index: offset, time, and a checksum chained over all frames
//	.hdr   header: what must be known to begin here; its seal once it is closed
//
//	format.go         the list of formats, the envelope of small files, fields
//	headerfile.go     FileHeader; producerstate.go its producers
//	cursor.go         Cursor: what is known between two frames, the chain
//	index.go          IndexFile
//	writer.go         Writer: rounds, preallocation, cuts, seals
//	recover.go        Recover: what a crash left; classify.go torn or corrupt;
//	                  rewrite.go what a failed sync may have left in memory alone
//	scanner.go        Scanner: frames of a file, one after the other
//	reader.go         Reader: frames by index, offset and time
//	verify.go         Checks: which pieces were checked lately
//	received.go       CheckReceived: a segment copied from another replica
//
// # Crash safety of the files
//
// Round. Frames are written behind the synced end, at most RoundLimit bytes, and
// synced before the next round begins. A crash loses any sectors of that round and
// nothing before it; a larger round is preceded by a header that says so. The limit
// follows the rounds, since it bounds what recovery can mistake for unfinished.
//
// Index entry. It is written after the sync of what is before its position, and is
// not synced. So a valid one proves that what is before it is on the disk, and a
// lost one costs the next start some reading.
//
// Cut. The index entries behind the cut go first, durably; then the file is
// shortened, durably; only then anything is written there. In any other order, an
// old entry would prove new frames that were torn.
//
// Seal. The index and the length are made durable, then the header with the seal, by
// rename. Taking a seal off goes the other way: header first, then the cut.
//
// Recovery reads no further back than the last valid index entry or the checkpoint,
// whichever is later, for CRCs, and than the checkpoint for headers. It tells a torn
// last round, which was never acknowledged, from damage, which is never cut; see
// classify for the rule and its assumption: a disk does not turn synced sectors into
// zeros. It can be run any number of times, and after a crash in the middle of it.
package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Format numbers the formats on disk that are Millrace's own, in the order in
// which they came to be. A number is never used again and never changes its
// meaning; a new layout of a file is a new number at the end, and what an older
// one wrote stays readable for as long as the list says so. Frames have no number
// here: they are Kafka's record batches of magic 2.
type Format uint32

// On disk: only ever append to this list.
const (
	// FormatIndex1 is a segment's sparse index (.idx), see IndexFile.
	FormatIndex1 Format = 1
	// FormatHeader1 is a segment's header file (.hdr), see FileHeader.
	FormatHeader1 Format = 2
	// FormatManifest1 is a replica's manifest, see package log.
	FormatManifest1 Format = 3
	// FormatCheckpoint1 is a replica's checkpoint, see package log.
	FormatCheckpoint1 Format = 4
	// FormatManifest2 is a manifest that says how far a trim may remove segments.
	FormatManifest2 Format = 5
	// FormatSwitch1 is a replica's manifest while the files of a seed are moved in, see
	// package log.
	FormatSwitch1 Format = 6
)

// The envelope of the small files: header file, manifest, checkpoint. Big endian,
// as all formats here.
//
//	 0        4        8        12          12+n    16+n
//	+--------+--------+--------+-----------+--------+
//	| "MLRC" | format | length | body      | CRC32C |
//	| (4)    | (4)    | n (4)  | (n)       | (4)    |
//	+--------+--------+--------+-----------+--------+
//
// The checksum covers all bytes before it, and nothing follows it. Such a file is
// replaced as a whole, by rename, so a bad one is damage and never half written.
const (
	envelopeMagic  = "MLRC"
	envelopeHeader = 12
	envelopeSize   = envelopeHeader + 4
)

// MaxMetadataSize is the longest header file, manifest or checkpoint in bytes
// that is read or written.
const MaxMetadataSize = 64 << 20

// ErrFormat is a file of Millrace's own whose bytes are not what its format says.
var ErrFormat = errors.New("segment: bad file format")

// Wrap puts a body into its envelope.
func Wrap(format Format, body []byte) []byte {
	out := make([]byte, 0, envelopeSize+len(body))
	out = append(out, envelopeMagic...)
	out = binary.BigEndian.AppendUint32(out, uint32(format))
	out = binary.BigEndian.AppendUint32(out, uint32(len(body)))
	out = append(out, body...)
	return binary.BigEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
}

// Unwrap checks an envelope of the expected format and returns the body, which is
// a part of data. The error is ErrFormat.
func Unwrap(format Format, data []byte) ([]byte, error) {
	if len(data) < envelopeSize {
		return nil, fmt.Errorf("%w: %d bytes, at least %d", ErrFormat, len(data), envelopeSize)
	}
	if string(data[:4]) != envelopeMagic {
		return nil, fmt.Errorf("%w: begins with %q", ErrFormat, data[:4])
	}
	body, sum := data[:len(data)-4], binary.BigEndian.Uint32(data[len(data)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, fmt.Errorf("%w: checksum %08x, must be %08x", ErrFormat, got, sum)
	}
	if got := Format(binary.BigEndian.Uint32(data[4:])); got != format {
		return nil, fmt.Errorf("%w: format %d, must be %d", ErrFormat, got, format)
	}
	if n := binary.BigEndian.Uint32(data[8:]); int64(n) != int64(len(data)-envelopeSize) {
		return nil, fmt.Errorf("%w: length %d in a file of %d bytes", ErrFormat, n, len(data))
	}
	return body[envelopeHeader:], nil
}

// Encoder appends fields to a body. The zero value is ready.
type Encoder struct{ body []byte }

// Body is what was written so far.
func (e *Encoder) Body() []byte { return e.body }

// Uint8 appends one byte.
func (e *Encoder) Uint8(v uint8) { e.body = append(e.body, v) }

// Uint16 appends two bytes.
func (e *Encoder) Uint16(v uint16) { e.body = binary.BigEndian.AppendUint16(e.body, v) }

// Uint32 appends four bytes.
func (e *Encoder) Uint32(v uint32) { e.body = binary.BigEndian.AppendUint32(e.body, v) }

// Uint64 appends eight bytes.
func (e *Encoder) Uint64(v uint64) { e.body = binary.BigEndian.AppendUint64(e.body, v) }

// Raw appends bytes of a length that the format fixes.
func (e *Encoder) Raw(v []byte) { e.body = append(e.body, v...) }

// Bytes appends a length (4) and the bytes.
func (e *Encoder) Bytes(v []byte) {
	e.Uint32(uint32(len(v)))
	e.Raw(v)
}

// String appends a length (4) and the text.
func (e *Encoder) String(v string) {
	e.Uint32(uint32(len(v)))
	e.body = append(e.body, v...)
}

// Decoder takes fields from a body. After the first field that does not fit, it
// returns zeros, and Finish the error: callers need not look in between, except
// that a count bounds what they allocate.
type Decoder struct {
	rest []byte
	err  error
}

// NewDecoder reads body, which must not change meanwhile.
func NewDecoder(body []byte) *Decoder { return &Decoder{rest: body} }

// Fail makes Finish return an error about the content.
func (d *Decoder) Fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
	}
}

// take is the next n bytes, or zeros after an error.
func (d *Decoder) take(n int) []byte {
	if d.err == nil && len(d.rest) < n {
		d.Fail("%d bytes left, %d needed", len(d.rest), n)
	}
	if d.err != nil {
		return make([]byte, min(n, 16)) // only the fixed-size callers look at it
	}
	v := d.rest[:n]
	d.rest = d.rest[n:]
	return v
}

// Uint8 takes one byte.
func (d *Decoder) Uint8() uint8 { return d.take(1)[0] }

// Uint16 takes two bytes.
func (d *Decoder) Uint16() uint16 { return binary.BigEndian.Uint16(d.take(2)) }

// Uint32 takes four bytes.
func (d *Decoder) Uint32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }

// Uint64 takes eight bytes.
func (d *Decoder) Uint64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }

// Raw fills v, whose length the format fixes.
func (d *Decoder) Raw(v []byte) {
	if len(d.rest) < len(v) {
		d.Fail("%d bytes left, %d needed", len(d.rest), len(v))
	}
	if d.err == nil {
		copy(v, d.take(len(v)))
	}
}

// Bytes takes a length and that many bytes, copied; nil where the length is 0.
func (d *Decoder) Bytes() []byte {
	n := d.Count(1)
	if n == 0 {
		return nil
	}
	return append([]byte(nil), d.take(n)...)
}

// String takes a length and the text.
func (d *Decoder) String() string { return string(d.Bytes()) }

// Count takes a number (4) of elements that need at least size bytes each; a
// number that the bytes left cannot hold is an error and 0, so that nothing is
// allocated for it.
func (d *Decoder) Count(size int) int {
	n := d.Uint32()
	if d.err == nil && int64(n)*int64(size) > int64(len(d.rest)) {
		d.Fail("%d elements in %d bytes", n, len(d.rest))
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

// Offset takes an offset, which is not negative.
func (d *Decoder) Offset() Offset {
	v := Offset(d.Uint64())
	if v < 0 {
		d.Fail("offset %d", v)
	}
	return v
}

// Term takes a term, which is at most MaxTerm.
func (d *Decoder) Term() Term {
	v := Term(d.Uint64())
	if v > MaxTerm {
		d.Fail("term %d", v)
	}
	return v
}

// Err is the first error so far.
func (d *Decoder) Err() error { return d.err }

// Finish returns the first error, or that bytes are left over.
func (d *Decoder) Finish() error {
	if d.err == nil && len(d.rest) > 0 {
		d.Fail("%d bytes after the last field", len(d.rest))
	}
	return d.err
}
