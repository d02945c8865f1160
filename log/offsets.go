package log

import (
	"errors"
	"io"
	"math"

	"github.com/millrace/millrace/segment"
)

// inflateLimit bounds what is decompressed to find a record in its batch.
const inflateLimit = 100 << 20

// segmentView is one segment as a search sees it.
type segmentView struct {
	part   *part
	length int64
	max    int64          // at least its largest timestamp
	whole  bool           // sealed, and wholly between log start and limit: max is exact
	start  segment.Offset // the log start; the segment may begin before it
}

// views are the segments with records between the log start and an offset.
func (l *Log) views(limit segment.Offset) []segmentView {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var views []segmentView
	for _, p := range l.parts {
		if p.base >= limit {
			break
		}
		if l.boundsLocked(p).next <= l.start {
			continue // not removed yet
		}
		v := segmentView{part: p, length: l.appliedLocked(p), max: math.MaxInt64, start: l.start}
		if seal := p.header.Seal; seal != nil {
			v.max = seal.MaxTimestamp
			v.whole = seal.Length == v.length && seal.NextOffset <= limit && p.base >= l.start
		}
		views = append(views, v)
	}
	return views
}

// OffsetForTime is the first record below limit whose timestamp (milliseconds) is
// not before ts: its offset and timestamp, and whether there is one. limit is the
// high watermark, or the last stable offset.
func (l *Log) OffsetForTime(ts int64, limit segment.Offset) (segment.Offset, int64, bool, error) {
	for {
		offset, timestamp, found, err := l.offsetForTime(ts, limit)
		if !errors.Is(err, errTrimmed) {
			return offset, timestamp, found, err
		}
		// The segment went while it was looked into: what is left has the answer.
	}
}

func (l *Log) offsetForTime(ts int64, limit segment.Offset) (segment.Offset, int64, bool, error) {
	limit = min(limit, l.HighWatermark())
	for _, v := range l.views(limit) {
		if v.max < ts {
			continue
		}
		offset, timestamp, found, err := l.searchTime(v, ts, limit)
		if found || err != nil {
			return offset, timestamp, found, l.corruption(err)
		}
	}
	return 0, 0, false, nil
}

// searchTime is OffsetForTime in one segment.
func (l *Log) searchTime(v segmentView, ts int64, limit segment.Offset) (segment.Offset, int64, bool, error) {
	h, err := l.files.acquire(l, v.part)
	if err != nil {
		return 0, 0, false, err
	}
	defer l.files.release(h)
	at, header, err := h.reader.Locate(v.length,
		func(e segment.IndexEntry) bool { return e.MaxTimestamp < ts || e.Offset <= v.start },
		func(c segment.Cursor, header segment.Header) bool {
			return c.Offset >= limit || candidate(header, ts, v.start)
		})
	for {
		if errors.Is(err, io.EOF) || err == nil && at.Offset >= limit {
			return 0, 0, false, nil
		}
		if err != nil {
			return 0, 0, false, err
		}
		var frame []byte
		if frame, _, err = h.reader.ReadFrame(at.Position, v.length); err != nil {
			return 0, 0, false, err
		}
		if offset, timestamp, found := recordAt(frame, header, ts, v.start); found {
			return offset, timestamp, true, nil
		}
		at.Position, at.Offset = at.Position+int64(header.FrameSize()), header.NextOffset()
		at, header, err = h.reader.LocateFrom(at, v.length, func(c segment.Cursor, header segment.Header) bool {
			return c.Offset >= limit || candidate(header, ts, v.start)
		})
	}
}

// candidate reports a batch that may hold a record of that time or later, at or
// behind the log start.
func candidate(header segment.Header, ts int64, start segment.Offset) bool {
	return header.Kind() == segment.KindRecords && header.MaxTimestamp >= ts && header.NextOffset() > start
}

// recordAt is the first such record of a candidate. There may be none where the log
// starts inside of the batch.
func recordAt(frame []byte, header segment.Header, ts int64, start segment.Offset) (segment.Offset, int64, bool) {
	records, err := segment.Records(frame, inflateLimit)
	if err != nil { // it cannot be looked into: the batch as a whole
		return max(header.BaseOffset, start), header.MaxTimestamp, true
	}
	for _, r := range records {
		if r.Timestamp >= ts && r.Offset >= start {
			return r.Offset, r.Timestamp, true
		}
	}
	if header.BaseOffset < start {
		return 0, 0, false
	}
	return header.LastOffset(), header.MaxTimestamp, true
}

// MaxTimestamp is the record below limit with the largest timestamp, the first of
// them if there are several (KIP-734): its offset and timestamp in milliseconds,
// and whether there is one.
func (l *Log) MaxTimestamp(limit segment.Offset) (segment.Offset, int64, bool, error) {
	for {
		offset, timestamp, found, err := l.maxTimestamp(limit)
		if !errors.Is(err, errTrimmed) {
			return offset, timestamp, found, err
		}
	}
}

func (l *Log) maxTimestamp(limit segment.Offset) (segment.Offset, int64, bool, error) {
	limit = min(limit, l.HighWatermark())
	newest, found := int64(0), false
	for _, v := range l.views(limit) {
		timestamp, ok := v.max, v.max >= 0
		if !v.whole {
			var err error
			if timestamp, ok, err = l.newest(v, limit); err != nil {
				return 0, 0, false, l.corruption(err)
			}
		}
		if ok && (!found || timestamp > newest) {
			newest, found = timestamp, true
		}
	}
	if !found {
		return 0, 0, false, nil
	}
	return l.offsetForTime(newest, limit)
}

// newest is the largest timestamp below limit in a segment that goes on behind it:
// the index has it up to its last entry below, the headers from there on.
func (l *Log) newest(v segmentView, limit segment.Offset) (timestamp int64, found bool, err error) {
	h, err := l.files.acquire(l, v.part)
	if err != nil {
		return 0, false, err
	}
	defer l.files.release(h)
	if v.part.base < v.start {
		return newestBehind(h.reader, v, limit)
	}
	at, _, err := h.reader.Locate(v.length,
		func(e segment.IndexEntry) bool { return e.Offset <= limit },
		func(c segment.Cursor, _ segment.Header) bool { return c.Offset >= limit })
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return at.MaxTimestamp, at.MaxTimestamp >= 0, err
}

// newestBehind is newest in a segment in which the log starts: the index counts what
// is before that too, so it goes through the headers behind it, and into the batch in
// which the log starts.
func newestBehind(r *segment.Reader, v segmentView, limit segment.Offset) (timestamp int64, found bool, err error) {
	timestamp = -1
	var straddles segment.Cursor
	_, _, err = r.Locate(v.length,
		func(e segment.IndexEntry) bool { return e.Offset <= v.start },
		func(c segment.Cursor, header segment.Header) bool {
			switch {
			case c.Offset >= limit:
				return true
			case header.Kind() != segment.KindRecords || header.NextOffset() <= v.start:
			case header.BaseOffset < v.start:
				straddles = c
			default:
				timestamp = max(timestamp, header.MaxTimestamp)
			}
			return false
		})
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, false, err
	}
	if straddles.Index > 0 {
		frame, _, err := r.ReadFrame(straddles.Position, v.length)
		if err != nil {
			return 0, false, err
		}
		records, _ := segment.Records(frame, inflateLimit) // what cannot be looked into has no say
		for _, record := range records {
			if record.Offset >= v.start {
				timestamp = max(timestamp, record.Timestamp)
			}
		}
	}
	return timestamp, timestamp >= 0, nil
}

// OffsetForTerm is the last term not above t, and where it ended: the first offset
// of the term after it, or the high watermark, whichever is lower. ok is false
// where the log knows no such term.
func (l *Log) OffsetForTerm(t segment.Term) (last segment.Term, end segment.Offset, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	end = l.highWatermark
	for n := len(l.terms) - 1; n >= 0; n-- {
		if l.terms[n].Term <= t {
			return l.terms[n].Term, end, true
		}
		end = min(l.terms[n].Offset, l.highWatermark)
	}
	return 0, 0, false
}
