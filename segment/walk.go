package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// walker reads the records of a batch one after the other, from memory or, with
// a reader, through a small buffer of which it keeps nothing. It is the only
// place that knows the grammar of records. It trusts no length: each is checked
// against the end of its record, and the record against what a batch can hold.
type walker struct {
	buf    []byte
	pos    int
	passed int64     // bytes of the stream before buf
	reader io.Reader // nil: buf holds everything
	keep   bool      // keep keys, values and headers; memory only
	err    error     // of the reader, io.EOF included
	bad    bool      // met a varint that is too long or cut off
}

// rawRecord is a record as the walker finds it.
type rawRecord struct {
	timestampDelta int64
	offsetDelta    int32
	nullKey        bool
	key, value     []byte         // only if kept
	headers        []RecordHeader // only if kept
}

var (
	// errShort is a record that ends before its last field.
	errShort = errors.New("fields reach beyond the end of the record")
	// errVarint is a number that readers would refuse or read differently.
	errVarint = errors.New("a varint is too long or cut off")
)

const (
	maxVarint  = binary.MaxVarintLen32
	maxVarlong = binary.MaxVarintLen64
)

// next reads record i. The error is a *BatchError, or what the reader said.
func (w *walker) next(i int) (rawRecord, error) {
	raw, err := w.record()
	if err == nil {
		return raw, nil
	}
	return raw, w.wrap(i, err)
}

// wrap tells which record an error is about. What the decoder said counts first:
// it is the reason for the record's end.
func (w *walker) wrap(i int, err error) error {
	if w.err != nil && w.err != io.EOF {
		return w.err
	}
	return recordErrorf(Corrupt, i, "%v", err)
}

// record reads one record.
func (w *walker) record() (raw rawRecord, err error) {
	length := w.varint(maxVarint)
	end := w.offset() + length
	if w.bad {
		return raw, errVarint
	}
	if length < minRecordSize-1 || length > math.MaxInt32 || w.reader == nil && length > int64(len(w.buf)-w.pos) {
		return raw, fmt.Errorf("length %d", length)
	}
	w.skip(1)
	raw.timestampDelta = w.varint(maxVarlong)
	offsetDelta := w.varint(maxVarint)
	if offsetDelta < math.MinInt32 || offsetDelta > math.MaxInt32 {
		return raw, fmt.Errorf("offset delta %d", offsetDelta)
	}
	raw.offsetDelta = int32(offsetDelta)
	if raw.key, raw.nullKey, err = w.bytes(end); err != nil {
		return raw, fmt.Errorf("key: %w", err)
	}
	if raw.value, _, err = w.bytes(end); err != nil {
		return raw, fmt.Errorf("value: %w", err)
	}
	if err := w.headers(&raw, end); err != nil {
		return raw, err
	}
	if w.bad {
		return raw, errVarint
	}
	if w.offset() != end {
		return raw, fmt.Errorf("%d bytes, its fields have %d", length, length+w.offset()-end)
	}
	if w.pos > len(w.buf) {
		return raw, errShort
	}
	return raw, nil
}

// headers reads the headers of a record that ends at end.
func (w *walker) headers(raw *rawRecord, end int64) error {
	count := w.varint(maxVarint)
	if count == 0 {
		return nil
	}
	if count < 0 || count > (end-w.offset())/minRecordHeaderSize {
		return fmt.Errorf("%d headers in %d bytes", count, end-w.offset())
	}
	for range count {
		key, null, err := w.bytes(end)
		if err == nil && null {
			err = errors.New("null")
		}
		if err != nil {
			return fmt.Errorf("header key: %w", err)
		}
		value, _, err := w.bytes(end)
		if err != nil {
			return fmt.Errorf("header value: %w", err)
		}
		if w.keep {
			raw.headers = append(raw.headers, RecordHeader{Key: string(key), Value: value})
		}
	}
	return nil
}

// bytes reads a nullable byte string that must not reach beyond end.
func (w *walker) bytes(end int64) (value []byte, null bool, err error) {
	n := w.varint(maxVarint)
	if n < 0 {
		if n != -1 {
			return nil, false, fmt.Errorf("length %d", n)
		}
		return nil, true, nil
	}
	if n > end-w.offset() {
		return nil, false, errShort
	}
	if w.keep { // in memory, so the record is there up to end
		value = w.buf[w.pos : w.pos+int(n) : w.pos+int(n)]
	}
	w.skip(n)
	return value, false, nil
}

// offset is the position in the stream.
func (w *walker) offset() int64 { return w.passed + int64(w.pos) }

// varint reads a zigzag varint of at most size bytes. Java's reader refuses a
// 32-bit one of more than five, however small its value.
func (w *walker) varint(size int) int64 {
	if w.pos+maxVarlong > len(w.buf) && w.reader != nil {
		w.fill(maxVarlong)
	}
	if w.pos < len(w.buf) && w.buf[w.pos] < 0x80 {
		u := w.buf[w.pos]
		w.pos++
		return int64(u>>1) ^ -int64(u&1)
	}
	v, n := binary.Varint(w.buf[min(w.pos, len(w.buf)):])
	if n <= 0 || n > size {
		w.bad = true
		return 0
	}
	w.pos += n
	return v
}

// skip passes over n bytes.
func (w *walker) skip(n int64) {
	for w.reader != nil && int64(w.pos)+n > int64(len(w.buf)) && w.err == nil {
		n -= int64(max(len(w.buf)-w.pos, 0))
		w.pos = len(w.buf)
		w.fill(1)
	}
	w.pos += int(n)
}

// fill reads until at least n bytes are there or the stream ends.
func (w *walker) fill(n int) {
	if w.pos > len(w.buf) || w.err != nil {
		return
	}
	w.passed += int64(w.pos)
	rest := copy(w.buf[:cap(w.buf)], w.buf[w.pos:])
	w.buf, w.pos = w.buf[:rest], 0
	for len(w.buf) < n && w.err == nil {
		var got int
		got, w.err = w.reader.Read(w.buf[len(w.buf):cap(w.buf)])
		w.buf = w.buf[:len(w.buf)+got]
	}
}

// end checks that nothing is left behind the last record, and that the stream
// ends well (its own checksum, if it has one).
func (w *walker) end() error {
	if w.reader != nil && w.pos == len(w.buf) {
		w.fill(1)
	}
	if w.err != nil && w.err != io.EOF {
		return w.err
	}
	if w.pos != len(w.buf) {
		return batchErrorf(Corrupt, "bytes are left after the last record")
	}
	return nil
}

// recordErrorf is an error about record i.
func recordErrorf(reason Reason, i int, format string, args ...any) *BatchError {
	return &BatchError{Reason: reason, Record: i, Detail: fmt.Sprintf(format, args...)}
}
