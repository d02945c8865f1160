package log

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/millrace/millrace/segment"
)

// Info describes an entry. Entries that are not applied, and the last of those
// that are, are answered from memory; older ones from the index and the frame's
// header. The base of the log answers too, as a no-op of its term: raft asks for
// the entry before the first. ErrNotFound, bare, is below the base or behind the
// end.
func (l *Log) Info(i segment.Index) (EntryInfo, error) {
	info, _, err := l.find(i)
	return info, err
}

// Payload is the content of an internal frame, for raft's configurations.
func (l *Log) Payload(i segment.Index) ([]byte, error) {
	l.mu.RLock()
	for _, c := range l.configurations {
		if c.index == i && i < l.end.index {
			l.mu.RUnlock()
			return slices.Clone(c.content), nil
		}
	}
	l.mu.RUnlock()
	info, at, err := l.find(i)
	if err != nil {
		return nil, err
	}
	if info.Kind == segment.KindRecords || info.Size == 0 {
		return nil, fmt.Errorf("log: entry %d is no internal frame", i)
	}
	h, err := l.files.acquire(l, at.part)
	if err != nil {
		return nil, err
	}
	defer l.files.release(h)
	frame, _, err := h.reader.ReadFrame(at.position, at.end)
	if err != nil {
		return nil, l.corruption(err)
	}
	_, content, err := segment.DecodeInternal(frame)
	return slices.Clone(content), err
}

// location is where a frame is.
type location struct {
	part     *part
	position int64
	end      int64 // how much of the segment counts
}

// find is the description of an entry, and where it is.
func (l *Log) find(i segment.Index) (EntryInfo, location, error) {
	l.mu.RLock()
	if l.closed {
		l.mu.RUnlock()
		return EntryInfo{}, location{}, ErrClosed
	}
	first := l.parts[0]
	switch e := l.entryLocked(i); {
	case e != nil:
		info, at := e.info(i), location{part: e.part, position: e.position, end: l.lengthLocked(e.part)}
		l.mu.RUnlock()
		return info, at, nil
	case i+1 == first.index:
		info := EntryInfo{Index: i, Term: first.header.PrevTerm, Kind: segment.KindNoop, Base: first.base, Next: first.base}
		l.mu.RUnlock()
		return info, location{part: first}, nil
	case i < first.index || i >= l.end.index:
		l.mu.RUnlock()
		return EntryInfo{}, location{}, ErrNotFound
	}
	n := sort.Search(len(l.parts), func(n int) bool { return l.parts[n].index > i }) - 1
	at := location{part: l.parts[n], end: l.lengthLocked(l.parts[n])}
	l.mu.RUnlock()
	return l.findOnDisk(i, at)
}

// nearby is how far a walk goes on from where the last one ended, instead of
// asking the index: raft reads entries in order at its start.
const nearby = 64

// findOnDisk looks an entry up that is applied and no longer in memory, so that it
// cannot be cut meanwhile.
func (l *Log) findOnDisk(i segment.Index, at location) (EntryInfo, location, error) {
	h, err := l.files.acquire(l, at.part)
	if errors.Is(err, errTrimmed) {
		return EntryInfo{}, at, ErrNotFound
	}
	if err != nil {
		return EntryInfo{}, at, err
	}
	defer l.files.release(h)

	l.walking.Lock()
	last, same := l.walking.cursor, l.walking.part == at.part
	l.walking.Unlock()
	stop := func(c segment.Cursor, _ segment.Header) bool { return c.Index == i }
	var c segment.Cursor
	var header segment.Header
	if same && last.Index <= i && i-last.Index < nearby {
		c, header, err = h.reader.LocateFrom(last, at.end, stop)
	} else {
		c, header, err = h.reader.Locate(at.end, func(e segment.IndexEntry) bool { return e.Index <= i }, stop)
	}
	if errors.Is(err, io.EOF) {
		err = &segment.DamageError{File: segment.LogName(at.part.base), Position: c.Position, Detail: fmt.Sprintf("it ends before entry %d", i)}
	}
	if err != nil {
		return EntryInfo{}, at, l.corruption(err)
	}
	l.walking.Lock()
	l.walking.part, l.walking.cursor = at.part, c
	l.walking.Unlock()
	at.position = c.Position
	info, err := describe(h.reader, c, header, at.end)
	return info, at, l.corruption(err)
}

// describe is the description of a frame on the disk.
func describe(r *segment.Reader, c segment.Cursor, header segment.Header, end int64) (EntryInfo, error) {
	var kind segment.Kind
	var content []byte
	if header.Kind() != segment.KindRecords {
		frame, _, err := r.ReadFrame(c.Position, end)
		if err != nil {
			return EntryInfo{}, err
		}
		if kind, content, err = segment.DecodeInternal(frame); err != nil {
			return EntryInfo{}, err
		}
	}
	e, err := newEntry(header, kind, content)
	if err != nil {
		return EntryInfo{}, err
	}
	return e.info(c.Index), nil
}

// ReadEntries reads whole frames, back to back, for replication: at most count and
// maxBytes, but the first in any case, and none of another segment than the
// first. After the read it is checked that they are still what the log holds: if
// entries were cut meanwhile, it fails with ErrChanged. Their CRCs are the
// receiver's to check. The bytes are not to be changed.
func (l *Log) ReadEntries(first segment.Index, count, maxBytes int) ([]byte, []EntryInfo, error) {
	l.mu.RLock()
	cuts := l.cuts
	infos, at := l.recentLocked(first, count, maxBytes)
	l.mu.RUnlock()
	var frames []byte
	var err error
	if len(infos) > 0 {
		frames, err = l.readKnown(infos, at)
	} else {
		frames, infos, err = l.readStored(first, count, maxBytes)
	}
	l.mu.RLock()
	changed := l.cuts != cuts
	l.mu.RUnlock()
	if changed {
		return nil, nil, ErrChanged
	}
	if errors.Is(err, errTrimmed) {
		return nil, nil, ErrNotFound
	}
	if err != nil {
		return nil, nil, err
	}
	return frames, infos, nil
}

// recentLocked are entries in memory, all of one segment.
func (l *Log) recentLocked(first segment.Index, count, maxBytes int) ([]EntryInfo, location) {
	e := l.entryLocked(first)
	if e == nil || l.closed {
		return nil, location{}
	}
	at := location{part: e.part, position: e.position, end: l.lengthLocked(e.part)}
	var infos []EntryInfo
	size := 0
	for i := first; i < l.end.index; i++ {
		e := l.entryLocked(i)
		size += int(e.size)
		if len(infos) > 0 && (len(infos) >= count || size > maxBytes || e.part != at.part) {
			break
		}
		infos = append(infos, e.info(i))
	}
	return infos, at
}

// readKnown reads entries whose description is known: from the tail cache, or with
// one read, after which they are compared with it.
func (l *Log) readKnown(infos []EntryInfo, at location) ([]byte, error) {
	size := 0
	for _, info := range infos {
		size += info.Size
	}
	if frames := l.cached(infos, size); frames != nil {
		return frames, nil
	}
	frames, err := l.readRange(at, size)
	if err != nil {
		return nil, err
	}
	rest, position := frames, at.position
	for _, info := range infos {
		h, err := segment.DecodeHeader(rest)
		if err != nil || h.Term() != info.Term || h.BaseOffset != info.Base || h.FrameSize() != info.Size {
			return nil, l.corruption(&segment.DamageError{File: segment.LogName(at.part.base), Position: position,
				Detail: fmt.Sprintf("entry %d of term %d, offset %d is not there", info.Index, info.Term, info.Base)})
		}
		rest = rest[info.Size:]
		position += int64(info.Size)
	}
	return frames, nil
}

// readStored reads entries that are no longer in memory: it finds the first, reads
// on from there once, and takes the frames that came whole.
func (l *Log) readStored(first segment.Index, count, maxBytes int) ([]byte, []EntryInfo, error) {
	info, at, err := l.find(first)
	if err != nil {
		return nil, nil, err
	}
	if info.Size == 0 { // the base
		return nil, nil, ErrNotFound
	}
	size := int(min(int64(max(info.Size, maxBytes)), at.end-at.position))
	frames, err := l.readRange(at, size)
	if err != nil {
		return nil, nil, err
	}
	infos, used := []EntryInfo{info}, info.Size
	next := info.Next
	for i := first + 1; len(infos) < count; i++ {
		e, n, err := entryAt(frames[used:])
		if n == 0 && err == nil {
			break
		}
		if err != nil || e.base != next {
			return nil, nil, l.corruption(&segment.DamageError{File: segment.LogName(at.part.base),
				Position: at.position + int64(used), Detail: fmt.Sprintf("entry %d of offset %d is not there: %v", i, next, err)})
		}
		infos, used, next = append(infos, e.info(i)), used+n, e.next
	}
	return frames[:used:used], infos, nil
}

// entryAt describes the frame at the start of b, and is its size; 0 if it is not
// whole.
func entryAt(b []byte) (entry, int, error) {
	if len(b) < segment.HeaderSize {
		return entry{}, 0, nil
	}
	h, err := segment.DecodeHeader(b)
	if err != nil || h.FrameSize() > len(b) {
		return entry{}, 0, err
	}
	var kind segment.Kind
	var content []byte
	if h.Kind() != segment.KindRecords {
		if kind, content, err = segment.DecodeInternal(b[:h.FrameSize()]); err != nil {
			return entry{}, 0, err
		}
	}
	e, err := newEntry(h, kind, content)
	return e, h.FrameSize(), err
}

// cached is a run of entries from the tail cache, nil unless all are there.
func (l *Log) cached(infos []EntryInfo, size int) []byte {
	if l.options.Cache == nil {
		return nil
	}
	parts := make([][]byte, 0, len(infos))
	for _, info := range infos {
		frame := l.options.Cache.get(cacheKey{log: l, index: info.Index, term: info.Term})
		if frame == nil {
			return nil
		}
		parts = append(parts, frame)
	}
	if len(parts) == 1 {
		return parts[0]
	}
	frames := make([]byte, 0, size)
	for _, frame := range parts {
		frames = append(frames, frame...)
	}
	return frames
}

// readRange reads a range of one segment.
func (l *Log) readRange(at location, size int) ([]byte, error) {
	h, err := l.files.acquire(l, at.part)
	if err != nil {
		return nil, err
	}
	defer l.files.release(h)
	frames := make([]byte, size)
	if _, err := h.reader.File().ReadAt(frames, at.position); err != nil {
		return nil, fmt.Errorf("read entries: %w", err)
	}
	return frames, nil
}
