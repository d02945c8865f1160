package log

import (
	"fmt"

	"github.com/millrace/millrace/segment"
)

// CutFrom takes the entries from an index on out of the log. Readers, Info,
// ReadEntries and the tail cache see that at once; on the disk the next Commit
// does it, in one step with what it appends. Until then, a crash brings the
// entries back. An index that is applied, or known to be committed, is
// ErrCommitted; one behind the end does nothing. Not while an append is open.
func (l *Log) CutFrom(first segment.Index) error {
	l.append.Lock()
	defer l.append.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := max(l.applied, l.committed); first <= known {
		return fmt.Errorf("%w: entry %d of the %d known", ErrCommitted, first, known)
	}
	if first >= l.end.index {
		return nil
	}
	var gone []cacheKey
	for i := first; i < l.end.index; i++ {
		gone = append(gone, cacheKey{log: l, index: i, term: l.entryLocked(i).term})
	}
	l.options.Cache.remove(gone)
	l.cutLocked(first)
	l.tail.cut = true
	return nil
}

// NoteCommitted tells the log that everything up to an entry is committed, which
// it then refuses to cut. Apply says so as well.
func (l *Log) NoteCommitted(i segment.Index) {
	l.mu.Lock()
	l.committed = max(l.committed, min(i, l.end.index-1))
	l.mu.Unlock()
}

// cutLocked makes an unapplied entry the one behind the end.
func (l *Log) cutLocked(first segment.Index) {
	l.cuts++
	end := l.appliedAt
	if first > l.applied+1 {
		before := l.entryLocked(first - 1)
		end = place{
			part: before.part, position: before.position + int64(before.size), index: first, offset: before.next, term: before.term,
		}
	}
	l.end = end
	keep := l.entries[:first-l.firstEntry]
	clear(l.entries[len(keep):])
	l.entries = keep
	for n := len(l.parts); n > 1 && l.parts[n-1] != l.end.part; n-- {
		l.parts = l.parts[: n-1 : n-1]
	}
	for n := len(l.terms); n > 0 && l.terms[n-1].Index >= first; n-- {
		l.terms = l.terms[: n-1 : n-1]
	}
	for n := len(l.configurations); n > 0 && l.configurations[n-1].index >= first; n-- {
		l.configurations = l.configurations[: n-1 : n-1]
	}
	l.producers.reset(l.unappliedLocked())
}

// makeCut brings the files in line with the log. The package comment has the order
// and what a crash leaves. After ErrNoSpace it is still to be made.
func (l *Log) makeCut() error {
	l.mu.RLock()
	to := l.end
	l.mu.RUnlock()
	t := &l.tail
	if t.chain[len(t.chain)-1] != to.part {
		if err := l.dropParts(to.part); err != nil {
			return err
		}
	}
	if t.writer == nil || to.part.sealed.Load() {
		if err := l.reopen(to); err != nil {
			return err
		}
	} else if err := l.cutWriter(to); err != nil {
		return err
	}
	t.cut = false
	return nil
}

// cutWriter cuts within the segment being written.
func (l *Log) cutWriter(to place) error {
	w := l.tail.writer
	cursor := w.End()
	if cursor.Position != to.position {
		var err error
		if cursor, err = w.CursorAt(to.position, to.term); err != nil {
			return l.fail("cut segment", err)
		}
	}
	if err := w.Cut(cursor); err != nil {
		return l.fail("cut segment", err)
	}
	return nil
}

// dropParts takes the segments behind one out of the manifest and removes their
// files.
func (l *Log) dropParts(last *part) error {
	t := &l.tail
	keep := len(t.chain)
	for t.chain[keep-1] != last {
		keep--
	}
	gone := t.chain[keep:]
	dropped := append([]segment.Offset(nil), t.dropped...)
	for _, p := range gone {
		dropped = append(dropped, p.base)
	}
	if err := l.list(t.chain[:keep], dropped); err != nil {
		return err
	}
	t.chain, t.dropped = t.chain[:keep:keep], dropped
	if t.handle != nil {
		l.files.release(t.handle)
	}
	t.writer, t.handle = nil, nil
	for _, p := range gone {
		l.files.drop(p)
		if err := segment.Remove(l.options.FS, l.options.Dir, p.base); err != nil {
			return l.fail("remove cut segments", err)
		}
	}
	return nil // a removal that a crash undoes is made again by Open, the manifest says so
}

// reopen makes a sealed segment the one being written again, cut at a place.
func (l *Log) reopen(to place) error {
	// Nobody opens it meanwhile: an index that is shorter than the seal says would
	// be made anew under the writer's feet.
	to.part.opening.Lock()
	defer to.part.opening.Unlock()
	header, err := segment.ReadHeader(l.options.FS, l.options.Dir, to.part.base)
	if err != nil {
		return l.fail("open segment again", err)
	}
	w, err := segment.Reopen(l.options.FS, l.options.Dir, header, to.position, to.term)
	if err != nil {
		return l.fail("open segment again", err)
	}
	if l.tail.handle != nil {
		l.files.release(l.tail.handle)
	}
	l.files.drop(to.part) // what readers of the sealed segment know of its end is void
	l.tail.writer, l.tail.handle = w, l.files.adopt(to.part, w.Reader())
	l.mu.Lock()
	to.part.header = w.Header()
	l.mu.Unlock()
	to.part.sealed.Store(false)
	return nil
}
