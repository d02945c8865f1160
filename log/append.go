package log

import (
	"errors"
	"slices"

	"github.com/millrace/millrace/segment"
)

// Append is one change of the end of the log: entries that become durable and
// visible together, or not at all. It is used by one goroutine, and ends with
// Commit or Abort.
type Append struct {
	log   *Log
	begun segment.Index
	next  place
	lists
	// configurations are those among the entries.
	configurations []configuration
	idempotent     bool // producer state was changed
	done           bool
}

// Begin opens one StoreLogs. Only one append may be open at a time.
func (l *Log) Begin() *Append {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &Append{log: l, begun: l.end.index, next: l.end, lists: l.spare}
	l.spare = lists{}
	return a
}

// lists are what an append collects, an element an entry. Their memory goes from
// one append to the next.
type lists struct {
	entries []entry
	frames  [][]byte
	backing []int
}

// maxSpare keeps one large append from holding memory for ever.
const maxSpare = 1024

// end marks the append as ended and keeps the memory of its lists.
func (a *Append) end() {
	a.done = true
	s := a.lists
	a.lists = lists{}
	if cap(s.entries) > maxSpare {
		return
	}
	clear(s.entries)
	clear(s.frames)
	a.log.mu.Lock()
	a.log.spare = lists{entries: s.entries[:0], frames: s.frames[:0], backing: s.backing[:0]}
	a.log.mu.Unlock()
}

// NextIndex is the Raft index of the next entry.
func (a *Append) NextIndex() segment.Index { return a.next.index }

// NextOffset is the base offset of the next entry.
func (a *Append) NextOffset() segment.Offset { return a.next.offset }

// Judge compares a batch's producer id, epoch and sequence numbers with the state
// at the end of the log, the entries staged so far included. A batch without a
// producer id is Accepted.
func (a *Append) Judge(h segment.Header) Verdict {
	b := batchOf(h)
	if b.id < 0 {
		return Verdict{Accepted, -1}
	}
	a.log.mu.RLock()
	defer a.log.mu.RUnlock()
	return a.log.producers.judge(b)
}

// Knows reports whether there is state of a producer at the end of the log, the
// entries staged so far included. Without it Judge accepts any first sequence.
func (a *Append) Knows(producer int64) bool {
	a.log.mu.RLock()
	defer a.log.mu.RUnlock()
	return a.log.producers.knows(producer)
}

// Stage adds an entry. What does not fit the end of the log is ErrMismatch, and
// the append can only be aborted then.
func (a *Append) Stage(e Entry) error {
	h, content, err := a.check(e)
	if err != nil {
		return err
	}
	staged, err := newEntry(h, e.Kind, content)
	if err != nil {
		return mismatch("entry %d: %v", e.Index, err)
	}
	a.entries = append(a.entries, staged)
	a.frames = append(a.frames, e.Frame)
	backing := e.Backing
	if backing == 0 {
		backing = cap(e.Frame)
	}
	a.backing = append(a.backing, backing)
	if e.Kind == segment.KindConfiguration {
		a.configurations = append(a.configurations, configuration{index: e.Index, content: slices.Clone(content)})
	}
	if staged.batch.id >= 0 {
		a.idempotent = true
		a.log.mu.Lock()
		a.log.producers.add(staged.batch)
		a.log.mu.Unlock()
	}
	a.next.index, a.next.offset, a.next.term = e.Index+1, staged.next, e.Term
	return nil
}

// check compares an entry with its frame and with the end of the log.
func (a *Append) check(e Entry) (segment.Header, []byte, error) {
	h, err := segment.DecodeHeader(e.Frame)
	switch {
	case a.done:
		return h, nil, mismatch("the append has ended")
	case err != nil:
		return h, nil, mismatch("entry %d: %v", e.Index, err)
	case e.Index != a.next.index:
		return h, nil, mismatch("index %d, must be %d", e.Index, a.next.index)
	case e.Term < a.next.term || e.Term > segment.MaxTerm:
		return h, nil, mismatch("entry %d of term %d after term %d", e.Index, e.Term, a.next.term)
	case h.FrameSize() != len(e.Frame) || len(e.Frame) > a.log.options.MaxFrame:
		return h, nil, mismatch("entry %d has %d bytes, its header says %d, at most %d", e.Index, len(e.Frame), h.FrameSize(), a.log.options.MaxFrame)
	case h.Term() != e.Term:
		return h, nil, mismatch("entry %d of term %d was stamped in term %d", e.Index, e.Term, h.Term())
	case h.BaseOffset != a.next.offset:
		return h, nil, mismatch("entry %d has base offset %d, must be %d", e.Index, h.BaseOffset, a.next.offset)
	}
	kind, content := h.Kind(), []byte(nil)
	if kind != segment.KindRecords {
		if kind, content, err = segment.DecodeInternal(e.Frame); err != nil {
			return h, nil, mismatch("entry %d: %v", e.Index, err)
		}
	}
	if kind != e.Kind {
		return h, nil, mismatch("entry %d is a frame of kind %v, not %v", e.Index, kind, e.Kind)
	}
	return h, content, nil
}

// Abort drops what was staged. After Commit it does nothing.
func (a *Append) Abort() {
	if a.done {
		return
	}
	if a.idempotent {
		l := a.log
		l.mu.Lock()
		l.producers.reset(l.unappliedLocked())
		l.mu.Unlock()
	}
	a.end()
}

// Commit writes the entries and syncs them; a noted cut is made first. On nil they
// are durable and visible. On ErrNoSpace none of them is, what was written was cut
// back (or is by the next Commit, if not even that was possible), and the log can
// be used on. On a *FatalError nothing is known, and the log takes nothing more.
func (a *Append) Commit() error {
	l := a.log
	l.append.Lock()
	defer l.append.Unlock()
	if err := a.write(); err != nil {
		a.Abort()
		return err
	}
	a.publish()
	a.end()
	// Only now, when they prove what was synced; lost, they cost the next start some
	// reading.
	if err := l.tail.writer.FlushIndex(); err != nil {
		if err = l.fail("write index", err); !errors.Is(err, ErrNoSpace) {
			return err
		}
	}
	return nil
}

// write brings the frames onto the disk.
func (a *Append) write() error {
	l := a.log
	if err := l.usable(); err != nil {
		return err
	}
	if a.done || a.begun != l.LastIndex()+1 {
		return mismatch("the log was changed since the append began, or it has ended")
	}
	if l.tail.cut {
		if err := l.makeCut(); err != nil {
			return err
		}
	}
	for from := 0; from < len(a.frames); {
		to, err := a.round(from)
		if err != nil {
			return a.undo(err)
		}
		from = to
	}
	return nil
}

// undo cuts back what a failed commit wrote, also of rounds that were synced.
func (a *Append) undo(cause error) error {
	l := a.log
	l.tail.cut = true
	if l.fatal.Load() != nil {
		return cause
	}
	if err := l.makeCut(); err != nil && l.fatal.Load() != nil {
		return err
	}
	return cause
}

// round writes and syncs entries from one on, as many as fit into a round and into
// the segment, and returns the first that is left. It begins a new segment where
// the first does not fit.
func (a *Append) round(from int) (to int, err error) {
	l := a.log
	now := l.options.Clock()
	if !l.roomFor(len(a.frames[from])) || l.aged(now) || l.begins(&a.entries[from]) {
		if err := l.roll(a, from); err != nil {
			return 0, err
		}
	}
	w := l.tail.writer
	position, size := w.End().Position, int64(0)
	for to = from; to < len(a.frames); to++ {
		n := int64(len(a.frames[to]))
		if to > from && (size+n > l.options.RoundBytes || position+size+n > l.options.SegmentBytes || l.begins(&a.entries[to])) {
			break
		}
		a.entries[to].part = l.tail.chain[len(l.tail.chain)-1]
		a.entries[to].position = position + size
		size += n
	}
	if err := w.WriteRound(a.frames[from:to], now); err != nil {
		return 0, l.fail("append", err)
	}
	l.steps.Add(1)
	return to, nil
}

// roomFor reports whether a frame belongs into the segment being written: one
// without a record takes every frame, since it cannot be closed.
func (l *Log) roomFor(size int) bool {
	w := l.tail.writer
	end := w.End()
	return end.Position+int64(size) <= l.options.SegmentBytes || end.Offset == w.Header().BaseOffset
}

// publish makes what was written part of the log.
func (a *Append) publish() {
	l := a.log
	if len(a.entries) == 0 {
		return
	}
	end := l.tail.writer.End()
	l.mu.Lock()
	for i := range a.entries {
		l.terms = startTerm(l.terms, &a.entries[i], a.begun+segment.Index(i))
	}
	l.entries = append(l.entries, a.entries...)
	l.configurations = append(l.configurations, a.configurations...)
	if chain := l.tail.chain; l.parts[len(l.parts)-1] != chain[len(chain)-1] {
		for chain[0].index < l.parts[0].index { // trimmed meanwhile
			chain = chain[1:]
		}
		l.parts = slices.Clone(chain)
		l.rolled = true
	}
	l.written = timesOf(l.tail.writer)
	l.end = place{
		part: l.parts[len(l.parts)-1], position: end.Position, index: end.Index, offset: end.Offset, term: end.Term,
	}
	l.mu.Unlock()
	for i, frame := range a.frames {
		key := cacheKey{log: l, index: a.begun + segment.Index(i), term: a.entries[i].term}
		l.options.Cache.put(key, frame, a.backing[i])
	}
}
