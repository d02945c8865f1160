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
	max    int64 // at least its largest timestamp
	whole  bool  // sealed, and wholly below the limit: max is exact
}

// views are the segments with records below an offset.
func (l *Log) views(limit segment.Offset) []segmentView {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var views []segmentView
	for _, p := range l.parts {
		if p.base >= limit {
			break
		}
		v := segmentView{part: p, length: l.lengthLocked(p), max: math.MaxInt64}
		if seal := p.header.Seal; seal != nil {
			v.max = seal.MaxTimestamp
			v.whole = seal.Length == v.length && seal.NextOffset <= limit
		}
		views = append(views, v)
	}
	return views
}

// OffsetForTime is the first record below limit whose timestamp (milliseconds) is
// not before ts: its offset and timestamp, and whether there is one. limit is the
// high watermark, or the last stable offset.
func (l *Log) OffsetForTime(ts int64, limit segment.Offset) (segment.Offset, int64, bool, error) {
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
		func(e segment.IndexEntry) bool { return e.MaxTimestamp < ts },
		func(c segment.Cursor, header segment.Header) bool {
			return c.Offset >= limit || header.Kind() == segment.KindRecords && header.MaxTimestamp >= ts
		})
	if errors.Is(err, io.EOF) || err == nil && at.Offset >= limit {
		return 0, 0, false, nil
	}
	if err != nil {
		return 0, 0, false, err
	}
	frame, _, err := h.reader.ReadFrame(at.Position, v.length)
	if err != nil {
		return 0, 0, false, err
	}
	records, err := segment.Records(frame, inflateLimit)
	if err != nil { // it cannot be looked into: the batch as a whole
		return header.BaseOffset, header.MaxTimestamp, true, nil
	}
	for _, r := range records {
		if r.Timestamp >= ts {
			return r.Offset, r.Timestamp, true, nil
		}
	}
	return header.LastOffset(), header.MaxTimestamp, true, nil
}

// MaxTimestamp is the record below limit with the largest timestamp, the first of
// them if there are several (KIP-734): its offset and timestamp in milliseconds,
// and whether there is one.
func (l *Log) MaxTimestamp(limit segment.Offset) (segment.Offset, int64, bool, error) {
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
	return l.OffsetForTime(newest, limit)
}

// newest is the largest timestamp below limit in a segment that goes on behind it:
// the index has it up to its last entry below, the headers from there on.
func (l *Log) newest(v segmentView, limit segment.Offset) (timestamp int64, found bool, err error) {
	h, err := l.files.acquire(l, v.part)
	if err != nil {
		return 0, false, err
	}
	defer l.files.release(h)
	at, _, err := h.reader.Locate(v.length,
		func(e segment.IndexEntry) bool { return e.Offset <= limit },
		func(c segment.Cursor, _ segment.Header) bool { return c.Offset >= limit })
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return at.MaxTimestamp, at.MaxTimestamp >= 0, err
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
