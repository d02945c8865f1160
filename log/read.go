package log

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"time"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// Slice is a run of whole batches of records for a consumer, without an internal
// frame in it: either Bytes, or a range of File. The file stays open until
// Release.
type Slice struct {
	// File is the segment's file, nil where Bytes are given. Its range never
	// changes.
	File vfs.File
	// Position is where the range begins in File, in bytes.
	Position int64
	// Length is the size of the range, or of Bytes.
	Length int64
	// Bytes are the batches, not to be changed; nil where File is given.
	Bytes []byte
	// First is the base offset of the first batch, which may be below what was
	// asked for; what was asked for in an empty slice.
	First segment.Offset
	// Next is the offset to go on with.
	Next segment.Offset

	release func()
}

// Release ends the use of the slice.
func (s *Slice) Release() {
	if s.release != nil {
		s.release()
		s.release = nil
	}
}

// smallRead is the size below which bytes are copied: sending a file range has a
// price of its own.
const smallRead = 32 << 10

// extent is a range of one segment that begins with a batch of records.
type extent struct {
	part     *part
	length   int64 // how much of the segment counts
	position int64
	size     int64
	first    segment.Offset
	next     segment.Offset
	// inMemory are the entries of the range where the list in memory has them.
	inMemory []EntryInfo
}

// Read finds batches for a consumer, beginning with the one that holds from, below
// limit (the high watermark, which limit is cut to, or the last stable offset),
// of at most maxBytes; with minOne the first may be larger. The range ends before
// an internal frame and at the end of a segment, so that short answers do not mean
// the end. At or above limit the slice is empty; below the log's start or above
// its end is ErrOffsetOutOfRange. The CRCs of what is returned were checked now or
// within the last hour; bad ones are a *CorruptionError.
func (l *Log) Read(from, limit segment.Offset, maxBytes int64, minOne bool) (Slice, error) {
	l.mu.RLock()
	limit = min(limit, l.highWatermark)
	start, end, closed := l.start, l.end.offset, l.closed
	l.mu.RUnlock()
	switch {
	case closed:
		return Slice{}, ErrClosed
	case from < start || from > end:
		return Slice{}, fmt.Errorf("%w: %d, the log has %d to %d", ErrOffsetOutOfRange, from, start, end)
	case from >= limit:
		return Slice{First: from, Next: from}, nil
	}
	x, ok := l.recentExtent(from, limit, maxBytes, minOne)
	if !ok {
		var err error
		if x, err = l.storedExtent(from, limit, maxBytes, minOne); err != nil {
			return Slice{}, l.corruption(err)
		}
	}
	if x.size == 0 {
		return Slice{First: from, Next: from}, nil
	}
	s, err := l.slice(x)
	return s, l.corruption(err)
}

// recentExtent answers from the entries in memory; false if they do not reach back
// to from.
func (l *Log) recentExtent(from, limit segment.Offset, maxBytes int64, minOne bool) (extent, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := sort.Search(len(l.entries), func(n int) bool { return l.entries[n].next > from })
	if n == len(l.entries) || l.entries[n].base > from || l.entries[n].kind != segment.KindRecords {
		return extent{}, false
	}
	e := &l.entries[n]
	x := extent{part: e.part, length: l.lengthLocked(e.part), position: e.position, first: e.base, next: e.base}
	for ; n < len(l.entries); n++ {
		e := &l.entries[n]
		size := x.size + int64(e.size)
		if e.kind != segment.KindRecords || e.part != x.part || e.next > limit || size > maxBytes && (x.size > 0 || !minOne) {
			break
		}
		x.size, x.next = size, e.next
		x.inMemory = append(x.inMemory, e.info(l.firstEntry+segment.Index(n)))
	}
	return x, true
}

// storedExtent answers from the index and the headers of frames. Internal frames
// may still be in the range.
func (l *Log) storedExtent(from, limit segment.Offset, maxBytes int64, minOne bool) (extent, error) {
	l.mu.RLock()
	n := sort.Search(len(l.parts), func(n int) bool { return l.parts[n].base > from }) - 1
	if n < 0 {
		l.mu.RUnlock()
		return extent{}, errTrimmed
	}
	x := extent{part: l.parts[n], length: l.appliedLocked(l.parts[n])}
	l.mu.RUnlock()
	h, err := l.files.acquire(l, x.part)
	if err != nil {
		return extent{}, err
	}
	defer l.files.release(h)

	at, header, err := h.reader.Locate(x.length,
		func(e segment.IndexEntry) bool { return e.Offset <= from },
		func(_ segment.Cursor, header segment.Header) bool { return header.NextOffset() > from })
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = &segment.DamageError{File: segment.LogName(x.part.base), Position: at.Position, Detail: fmt.Sprintf("it ends before offset %d", from)}
		}
		return extent{}, err
	}
	x.position, x.first, x.next = at.Position, header.BaseOffset, header.BaseOffset
	size := int64(header.FrameSize())
	if header.NextOffset() > limit || size > maxBytes && !minOne {
		return x, nil
	}
	goal := at.Position + max(maxBytes, size)
	end, _, err := h.reader.Locate(x.length,
		func(e segment.IndexEntry) bool { return e.Position <= goal && e.Offset <= limit },
		func(c segment.Cursor, header segment.Header) bool {
			return c.Position+int64(header.FrameSize()) > goal || header.NextOffset() > limit
		})
	if err != nil && !errors.Is(err, io.EOF) {
		return extent{}, err
	}
	x.size, x.next = end.Position-x.position, end.Offset
	return x, nil
}

// slice makes a checked slice of a range.
func (l *Log) slice(x extent) (Slice, error) {
	small := x.size <= smallRead
	if small && x.inMemory != nil {
		if frames := l.cached(x.inMemory, int(x.size)); frames != nil {
			return Slice{Bytes: frames, Length: x.size, First: x.first, Next: x.next}, nil
		}
	}
	h, err := l.files.acquire(l, x.part)
	if err != nil {
		return Slice{}, err
	}
	if small {
		defer l.files.release(h)
		return copySlice(h.reader, x)
	}
	internal, found, err := h.reader.Verify(&x.part.checks, x.position, x.position+x.size, time.Now())
	if err != nil {
		l.files.release(h)
		return Slice{}, err
	}
	if found {
		x.size, x.next = internal.Position-x.position, internal.Offset
	}
	return Slice{
		File: h.reader.File(), Position: x.position, Length: x.size, First: x.first, Next: x.next,
		release: func() { l.files.release(h) },
	}, nil
}

// copySlice reads a small range and checks it in memory.
func copySlice(r *segment.Reader, x extent) (Slice, error) {
	frames, internal, err := r.ReadChecked(x.position, x.position+x.size)
	if err != nil {
		return Slice{}, err
	}
	if internal.Position >= 0 {
		frames, x.next = frames[:internal.Position-x.position], internal.Offset
	}
	return Slice{Bytes: frames, Length: int64(len(frames)), First: x.first, Next: x.next}, nil
}
