package log

import (
	"errors"
	"io"
	"time"

	"github.com/millrace/millrace/segment"
)

// times are what is known of the times in the segment being written, in milliseconds
// since 1970.
type times struct {
	max         int64 // largest record timestamp, -1 without records
	first, last int64 // wall clock at the first and last append of a record; 0: none yet
}

func timesOf(w *segment.Writer) times {
	first, last := w.Appended()
	return times{max: w.End().MaxTimestamp, first: first, last: last}
}

// recoverTimes finds out when records were appended to the segment being written, which
// only a seal says: last is when its file was changed, or now, never too early, though
// maybe too late: a no-op changed it too. A clock that is behind when a machine boots
// must not make it old. first is the time of its first record, but neither before the
// segment before it ended nor after last.
func (l *Log) recoverTimes() error {
	w := l.tail.writer
	if first, _ := w.Appended(); first == 0 && w.End().Offset > w.Header().BaseOffset {
		last := l.end.part.modified
		if last <= 0 {
			last = l.options.Clock()
		}
		record, err := firstTimestamp(w)
		if err != nil {
			return err
		}
		if n := len(l.parts); n > 1 {
			record = max(record, l.parts[n-2].header.Seal.LastAppend)
		}
		if record < 0 {
			record = last
		}
		w.SetAppended(max(1, min(record, last)), max(1, last))
	}
	l.written = timesOf(w)
	return nil
}

// firstTimestamp is the largest timestamp in a segment's first batch of records, -1
// without one.
func firstTimestamp(w *segment.Writer) (int64, error) {
	if w.End().Offset == w.Header().BaseOffset {
		return -1, nil
	}
	_, h, err := w.Reader().LocateFrom(w.Header().Start(), w.End().Position,
		func(_ segment.Cursor, h segment.Header) bool { return h.Kind() == segment.KindRecords })
	if errors.Is(err, io.EOF) {
		return -1, nil
	}
	return h.MaxTimestamp, err
}

// aged reports whether the segment being written has reached Options.SegmentAge. One
// without a record cannot be closed.
func (l *Log) aged(now int64) bool {
	w := l.tail.writer
	first, _ := w.Appended()
	return l.options.SegmentAge > 0 && first > 0 && w.End().Offset > w.Header().BaseOffset &&
		now-first >= l.options.SegmentAge.Milliseconds()
}

// Retention says which records a log keeps.
type Retention struct {
	// Age is how old a segment becomes; negative: for ever.
	Age time.Duration
	// Bytes is how large the log stays, in bytes of frames; negative: no limit.
	Bytes int64
}

// Expired is the log start that a retention asks for: the offset behind the last of
// the segments at the front that have expired, the current start where none has. A
// segment has expired
//   - by age, when its largest record timestamp and its last append of a record are
//     both older than that. A timestamp that is in the future counts as the append:
//     clients may send any time, 1970 and 2100 included, and one record must neither
//     remove its segment at once nor keep it for ever. The clock of an append may have
//     been wrong too, see lastAppendLocked;
//   - by size, when the log without it still has that many bytes.
//
// Segments with entries above through, which not every member of the group has
// acknowledged, stay; held says that this kept one. Nothing is read from the disk.
func (l *Log) Expired(r Retention, now time.Time, through segment.Index) (start segment.Offset, held bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	start = l.start
	spare := -r.Bytes // what is there beyond what is to be kept
	for _, p := range l.parts {
		if l.boundsLocked(p).next > start {
			spare += l.lengthLocked(p)
		}
	}
	earlier := int64(0) // the last append before
	for n, p := range l.parts {
		b := l.boundsLocked(p)
		b.times.last = l.lastAppendLocked(n, earlier, now.UnixMilli())
		earlier = max(earlier, b.times.last)
		if b.next <= start {
			continue
		}
		size := l.lengthLocked(p)
		bySize := r.Bytes >= 0 && spare >= size
		if !bySize && !b.times.expired(r.Age, now) {
			return start, false
		}
		if b.last > min(through, l.applied) {
			return start, true
		}
		start, spare = b.next, spare-size
	}
	return start, false
}

// clockSlack is how far a clock may step back, in milliseconds, and still be believed.
const clockSlack = int64(time.Hour / time.Millisecond)

// lastAppendLocked is when a segment was appended to last, at the latest. A time in the
// future, or before that of an earlier segment, is that of a clock that was wrong; then
// it is the first append to a later segment that can be believed, or now.
func (l *Log) lastAppendLocked(n int, earlier, now int64) int64 {
	believed := func(at int64) bool { return at >= earlier-clockSlack && at <= now }
	if last := l.boundsLocked(l.parts[n]).times.last; believed(last) {
		return last
	}
	for _, later := range l.parts[n+1:] {
		if first := l.boundsLocked(later).times.first; first > 0 && believed(first) {
			return first
		}
	}
	return now
}

// bounds are the end of a segment, and its times.
type bounds struct {
	next  segment.Offset
	last  segment.Index
	times times
}

// boundsLocked are those of a segment, from memory.
func (l *Log) boundsLocked(p *part) bounds {
	if seal := p.header.Seal; seal != nil && p != l.parts[len(l.parts)-1] {
		return bounds{seal.NextOffset, seal.LastIndex, times{max: seal.MaxTimestamp, first: seal.FirstAppend, last: seal.LastAppend}}
	}
	return bounds{l.end.offset, l.end.index - 1, l.written}
}

// expired is the rule of age.
func (t times) expired(age time.Duration, now time.Time) bool {
	if age < 0 {
		return false
	}
	newest := t.last
	if t.max <= now.UnixMilli() {
		newest = max(newest, t.max)
	}
	return now.UnixMilli()-newest > age.Milliseconds()
}

// Trimmable reports whether a trim through an entry would free the space of segments
// that are wholly below the log start, which earlier trims had to leave.
func (l *Log) Trimmable(through segment.Index) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	first := l.parts[0]
	seal := first.header.Seal
	return len(l.parts) > 1 && seal != nil && seal.NextOffset <= l.start &&
		seal.LastIndex > l.through && seal.LastIndex <= min(through, l.applied)
}
