package log

import (
	"fmt"

	"github.com/millrace/millrace/segment"
)

// Entry is what Stage takes.
type Entry struct {
	// Index must be the append's NextIndex.
	Index segment.Index
	// Term must not be below that of the entry before.
	Term segment.Term
	// Kind is what Frame holds.
	Kind segment.Kind
	// Frame is a whole frame, stamped with Term and the append's NextOffset, its
	// checksum right. The log keeps it; nobody changes it any more.
	Frame []byte
	// Backing is the size in bytes of the buffer that Frame keeps alive; 0 means
	// its capacity. The tail cache copies a frame out of a much larger buffer.
	Backing int
}

// EntryInfo describes a stored entry.
type EntryInfo struct {
	// Index is the entry's Raft index.
	Index segment.Index
	// Term is the entry's Raft term.
	Term segment.Term
	// Kind is what the entry holds.
	Kind segment.Kind
	// Base is the offset of its first record; of an internal frame, that of the
	// record after it.
	Base segment.Offset
	// Next is the offset after its last record.
	Next segment.Offset
	// Size is the frame's size in bytes; 0 for the base of the log.
	Size int
	// Void is the content of a void, nil for all other kinds. Not to be changed.
	Void *segment.Void
}

// entry is an entry in memory: all that are not applied, and some that are.
type entry struct {
	term     segment.Term
	base     segment.Offset
	next     segment.Offset
	position int64
	part     *part
	void     *segment.Void
	trim     *segment.Trim
	batch    batch
	size     int32
	kind     segment.Kind
}

// recentEntries is how many applied entries stay in memory, for followers that are
// close behind.
const recentEntries = 512

// info is the description of an entry of this index.
func (e *entry) info(index segment.Index) EntryInfo {
	return EntryInfo{Index: index, Term: e.term, Kind: e.kind, Base: e.base, Next: e.next, Size: int(e.size), Void: e.void}
}

// newEntry describes a frame of which the header and, for an internal frame, kind
// and content are known.
func newEntry(h segment.Header, kind segment.Kind, content []byte) (entry, error) {
	e := entry{
		term: h.Term(), base: h.BaseOffset, next: h.NextOffset(), size: int32(h.FrameSize()),
		kind: kind, batch: batchOf(h),
	}
	switch kind {
	case segment.KindVoid:
		void, err := segment.DecodeVoid(content)
		if err != nil {
			return entry{}, err
		}
		e.void = &void
	case segment.KindTrim:
		trim, err := segment.DecodeTrim(content)
		if err != nil {
			return entry{}, err
		}
		e.trim = &trim
	}
	return e, nil
}

// configuration is a raft configuration in the log.
type configuration struct {
	index   segment.Index
	content []byte
}

// entryLocked is the entry of an index, nil if it is not in memory.
func (l *Log) entryLocked(i segment.Index) *entry {
	if i < l.firstEntry || i >= l.end.index {
		return nil
	}
	return &l.entries[i-l.firstEntry]
}

// unappliedLocked are the entries that are not applied.
func (l *Log) unappliedLocked() []entry {
	return l.entries[l.applied+1-l.firstEntry:]
}

// configurationAtLocked is the configuration as of an index that is not below the
// durable checkpoint's.
func (l *Log) configurationAtLocked(i segment.Index) (configuration, bool) {
	for n := len(l.configurations) - 1; n >= 0; n-- {
		if l.configurations[n].index <= i {
			return l.configurations[n], true
		}
	}
	return configuration{}, false
}

// forgetConfigurationsLocked drops those that no cut and no checkpoint can need.
func (l *Log) forgetConfigurationsLocked() {
	for len(l.configurations) > 1 && l.configurations[1].index <= l.durable.Index {
		l.configurations = l.configurations[1:]
	}
}

// forgetEntriesLocked drops applied entries from the front of the list, many at a
// time, so that it costs little an entry.
func (l *Log) forgetEntriesLocked() {
	spare := int(l.applied+1-l.firstEntry) - recentEntries
	if spare < recentEntries {
		return
	}
	n := copy(l.entries, l.entries[spare:])
	clear(l.entries[n:])
	l.entries = l.entries[:n]
	l.firstEntry += segment.Index(spare)
}

// startTerm adds the term of an entry to a table of terms, if it is a new one.
func startTerm(terms []segment.TermStart, e *entry, index segment.Index) []segment.TermStart {
	if n := len(terms); n > 0 && terms[n-1].Term >= e.term {
		return terms
	}
	return append(terms, segment.TermStart{Term: e.term, Index: index, Offset: e.base})
}

// mismatch is an entry that does not fit.
func mismatch(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMismatch, fmt.Sprintf(format, args...))
}
