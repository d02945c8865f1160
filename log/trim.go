package log

import (
	"fmt"

	"github.com/millrace/millrace/segment"
)

// errTrimmed is a segment that a trim removed between the moment when it was looked
// up and the moment when its files were to be opened.
var errTrimmed = fmt.Errorf("%w: trimmed meanwhile", ErrOffsetOutOfRange)

// trimLocked applies a trim: the log start moves at once, to the end of what is
// committed at most. Whole segments below it go with the next Reclaim. Nothing ever
// moves back, so that applying it again after a restart changes nothing.
func (l *Log) trimLocked(t segment.Trim) {
	l.start = max(l.start, min(t.Start, l.highWatermark))
	l.through = max(l.through, min(t.Through, l.applied))
}

// trimmableLocked is how many segments at the front the trims allow to remove, given
// what a checkpoint names: all of a segment's records are below the log start, all
// of its entries were acknowledged by every member of the group, and the next start
// begins in a later segment.
func (l *Log) trimmableLocked(checkpoint segment.Index) int {
	n := 0
	for ; n < len(l.parts)-1; n++ {
		seal := l.parts[n].header.Seal
		if seal == nil || seal.NextOffset > l.start || seal.LastIndex > l.through ||
			seal.LastIndex >= min(checkpoint, l.applied) {
			break
		}
	}
	return n
}

// listTrim makes the manifest say at least this start and this last entry.
func (l *Log) listTrim(start segment.Offset, through segment.Index) error {
	l.listing.Lock()
	defer l.listing.Unlock()
	if l.listed.start >= start && l.listed.through >= through {
		return nil
	}
	return l.listLocked(l.listed)
}

// Reclaim frees the space of what was trimmed: a checkpoint behind it where the last
// one is not, then the manifest without the segments, then their files. Appends,
// reads and Apply go on meanwhile; a reader that has a file open keeps it. It may
// take as long as the disk does, and does nothing where there is nothing to free.
// For lack of space it fails with ErrNoSpace, and can be called again; any other
// error is a *FatalError.
func (l *Log) Reclaim() error {
	l.reclaiming.Lock()
	defer l.reclaiming.Unlock()
	if err := l.usable(); err != nil || l.stopping.Load() {
		return err
	}
	l.mu.RLock()
	durable, applied := l.trimmableLocked(l.durable.Index), l.trimmableLocked(l.applied)
	l.mu.RUnlock()
	if applied > durable {
		if err := l.WriteCheckpoint(); err != nil {
			return err
		}
	}
	if err := l.dropTrimmed(); err != nil {
		return err
	}
	return l.removeTrimmed()
}

// dropTrimmed takes the segments that may go out of the manifest, then out of the
// log. Their files stay until removeTrimmed or the next start.
func (l *Log) dropTrimmed() error {
	l.listing.Lock()
	defer l.listing.Unlock()
	l.mu.RLock()
	n := l.trimmableLocked(l.durable.Index)
	gone := l.parts[:n:n]
	l.mu.RUnlock()
	if n == 0 {
		return nil
	}
	next := l.listed
	next.segments = next.segments[n:]
	next.trimmed = append(next.trimmed[:len(next.trimmed):len(next.trimmed)], gone...)
	if err := l.listLocked(next); err != nil {
		return err
	}
	l.mu.Lock()
	l.parts = l.parts[n:]
	if first := l.parts[0].index; l.firstEntry < first {
		l.entries = append([]entry(nil), l.entries[first-l.firstEntry:]...)
		l.firstEntry = first
	}
	l.mu.Unlock()
	for _, p := range gone {
		l.files.retire(p)
	}
	return nil
}

// removeTrimmed unlinks the files of dropped segments, one after the other and under
// no lock that an append or a reader waits for: with thousands of them, and large
// ones, it takes its time. When that is durable, the manifest forgets their names.
func (l *Log) removeTrimmed() error {
	l.listing.Lock()
	gone := l.listed.trimmed
	l.listing.Unlock()
	if len(gone) == 0 {
		return nil
	}
	for _, p := range gone {
		if l.stopping.Load() {
			break
		}
		p.opening.Lock()
		err := segment.Remove(l.options.FS, l.options.Dir, p.base)
		p.opening.Unlock()
		if err != nil {
			return l.fail("remove trimmed segments", err)
		}
	}
	// Also where it ends early: after a clean stop, the next start takes an absent
	// file for removed.
	if err := l.options.FS.SyncDir(l.options.Dir); err != nil {
		return l.fail("remove trimmed segments", err)
	}
	if l.stopping.Load() {
		return nil
	}
	l.listing.Lock()
	defer l.listing.Unlock()
	next := l.listed
	next.trimmed = nil // only Reclaim and Close add to them, which exclude each other
	return l.listLocked(next)
}

// begins reports whether an entry begins a new segment: a trim of all the records
// before it, so that their segment can be removed too. Every replica decides this
// from the entries alone.
func (l *Log) begins(e *entry) bool {
	return e.trim != nil && e.trim.Start >= e.base && e.base > l.tail.writer.Header().BaseOffset
}
