package log

import (
	"cmp"
	"container/list"
	"math"
	"slices"

	"github.com/millrace/millrace/segment"
)

// Outcome is what a batch of an idempotent producer is at the end of the log.
type Outcome uint8

const (
	// Accepted: its sequence numbers come next.
	Accepted Outcome = iota
	// Duplicate: it is in the log already, at Verdict.Offset.
	Duplicate
	// OutOfOrder: sequence numbers are missing before it.
	OutOfOrder
	// Fenced: a newer epoch of its producer is known.
	Fenced
	// DuplicateTooOld: it is in the log already, and where is not remembered.
	DuplicateTooOld
)

// outcomeNames are the texts of Outcome.
var outcomeNames = [...]string{"accepted", "duplicate", "out of order", "fenced", "duplicate, too old"}

// String is the outcome in words.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return "unknown outcome"
}

// Verdict is the judgement about a batch.
type Verdict struct {
	// Outcome says what to do with the batch.
	Outcome Outcome
	// Offset is the base offset of the first copy of a Duplicate, else -1.
	Offset segment.Offset
}

// ProducerInfo describes an idempotent producer as applied.
type ProducerInfo struct {
	// ID is the producer id.
	ID int64
	// Epoch is its newest epoch.
	Epoch int16
	// LastSequence is the sequence number of its last record, -1 without one.
	LastSequence int32
	// LastTimestamp is the largest timestamp of its last batch, in milliseconds.
	LastTimestamp int64
}

// batch is what a record entry says about its producer.
type batch struct {
	id        int64
	epoch     int16
	first     int32 // sequence of the first record, -1 without
	records   int32
	timestamp int64
	base      segment.Offset
}

func batchOf(h segment.Header) batch {
	if h.Kind() != segment.KindRecords {
		return batch{id: -1}
	}
	return batch{
		id: h.ProducerID, epoch: h.ProducerEpoch, first: h.BaseSequence, records: h.LastOffsetDelta + 1,
		timestamp: h.MaxTimestamp, base: h.BaseOffset,
	}
}

// sequenceMask wraps sequence numbers: after math.MaxInt32 comes 0 (KIP-98).
const sequenceMask = math.MaxInt32

// fold makes a batch that is in the log part of its producer's state. Whether it
// should be there was judged before it got there.
func fold(s *segment.ProducerState, b batch) {
	if b.epoch < s.Epoch {
		return // accepted by a leader that had forgotten the newer epoch
	}
	if b.epoch > s.Epoch {
		*s = segment.ProducerState{ID: s.ID, Epoch: b.epoch}
	}
	s.LastTimestamp = b.timestamp
	if b.first < 0 { // a transaction marker
		return
	}
	if s.Count > 0 && b.first != nextSequence(s) {
		s.Count, s.Accepted = 0, 0 // likewise forgotten: what is before it is not known
	}
	if s.Count == segment.RememberedBatches {
		copy(s.Batches[:], s.Batches[1:])
		s.Count--
	}
	s.Batches[s.Count] = segment.BatchSpan{First: b.first, Records: b.records, Base: b.base}
	s.Count++
	s.Accepted += int64(b.records)
}

// nextSequence is the one after the last record of a state with batches.
func nextSequence(s *segment.ProducerState) int32 {
	last := s.Batches[s.Count-1]
	return int32((int64(last.First) + int64(last.Records)) & sequenceMask)
}

// judge compares a batch with its producer's state, nil where there is none. The
// rules are Kafka's (ProducerAppendInfo and ProducerStateEntry), with two
// differences: a duplicate whose place is forgotten is told from a gap, and it is
// so only where its records are known to have been accepted, since clients take
// that answer for success.
func judge(s *segment.ProducerState, b batch) Verdict {
	no := segment.Offset(-1)
	switch {
	case s == nil:
		return Verdict{Accepted, no} // also after its state was forgotten
	case b.epoch < s.Epoch:
		return Verdict{Fenced, no}
	case b.first < 0:
		return Verdict{Accepted, no}
	case b.epoch > s.Epoch || s.Count == 0:
		if b.first != 0 {
			return Verdict{OutOfOrder, no}
		}
		return Verdict{Accepted, no}
	}
	for _, span := range s.Batches[:s.Count] {
		if span.First == b.first && span.Records == b.records {
			return Verdict{Duplicate, span.Base}
		}
	}
	next := nextSequence(s)
	if b.first == next {
		return Verdict{Accepted, no}
	}
	back := (int64(next) - int64(b.first)) & sequenceMask
	remembered := int64(0)
	for _, span := range s.Batches[:s.Count] {
		remembered += int64(span.Records)
	}
	if back <= min(s.Accepted, sequenceMask/2) && back-int64(b.records) >= remembered {
		return Verdict{DuplicateTooOld, no}
	}
	return Verdict{OutOfOrder, no}
}

// producerTable is what a log knows of its producers: the state as applied, which
// checkpoints hold, and over it the state at the end of the log for producers
// with entries that are not applied. It is guarded by Log.mu.
type producerTable struct {
	limit   int
	applied map[int64]*list.Element // of *segment.ProducerState
	recent  *list.List              // the one that wrote last is at the back
	tail    map[int64]*tailState
}

// tailState is a producer at the end of the log.
type tailState struct {
	segment.ProducerState
	unapplied int // entries, staged ones included
}

func newProducerTable(limit int, states []segment.ProducerState) *producerTable {
	t := &producerTable{limit: limit, applied: map[int64]*list.Element{}, recent: list.New(), tail: map[int64]*tailState{}}
	for _, s := range states {
		t.applied[s.ID] = t.recent.PushBack(&s)
	}
	t.evict()
	return t
}

func (t *producerTable) evict() {
	for t.recent.Len() > t.limit {
		oldest := t.recent.Remove(t.recent.Front()).(*segment.ProducerState)
		delete(t.applied, oldest.ID)
	}
}

func (t *producerTable) judge(b batch) Verdict {
	if s, ok := t.tail[b.id]; ok {
		return judge(&s.ProducerState, b)
	}
	if s, ok := t.applied[b.id]; ok {
		return judge(s.Value.(*segment.ProducerState), b)
	}
	return judge(nil, b)
}

// knows reports whether there is state of a producer at the end of the log.
func (t *producerTable) knows(id int64) bool {
	_, tail := t.tail[id]
	_, applied := t.applied[id]
	return tail || applied
}

// add makes a batch part of the end of the log.
func (t *producerTable) add(b batch) {
	if b.id < 0 {
		return
	}
	s, ok := t.tail[b.id]
	if !ok {
		s = &tailState{ProducerState: segment.ProducerState{ID: b.id, Epoch: b.epoch}}
		if before, ok := t.applied[b.id]; ok {
			s.ProducerState = *before.Value.(*segment.ProducerState)
		}
		t.tail[b.id] = s
	}
	fold(&s.ProducerState, b)
	s.unapplied++
}

// apply makes the oldest batch that was added part of the applied state.
func (t *producerTable) apply(b batch) {
	if b.id < 0 {
		return
	}
	if s, ok := t.tail[b.id]; ok {
		if s.unapplied--; s.unapplied == 0 {
			delete(t.tail, b.id)
		}
	}
	at, ok := t.applied[b.id]
	if ok {
		t.recent.MoveToBack(at)
	} else {
		at = t.recent.PushBack(&segment.ProducerState{ID: b.id, Epoch: b.epoch})
		t.applied[b.id] = at
		t.evict()
	}
	fold(at.Value.(*segment.ProducerState), b)
}

// reset makes the end of the log the applied state and these entries after it.
func (t *producerTable) reset(entries []entry) {
	clear(t.tail)
	for i := range entries {
		t.add(entries[i].batch)
	}
}

// snapshot is the applied state, the producer that wrote last at the end.
func (t *producerTable) snapshot() []segment.ProducerState {
	states := make([]segment.ProducerState, 0, t.recent.Len())
	for at := t.recent.Front(); at != nil; at = at.Next() {
		states = append(states, *at.Value.(*segment.ProducerState))
	}
	return states
}

// after is the applied state with entries folded into it, which are not applied.
func (t *producerTable) after(entries ...[]entry) []segment.ProducerState {
	later := newProducerTable(t.limit, t.snapshot())
	for _, list := range entries {
		for i := range list {
			later.apply(list[i].batch)
		}
	}
	return later.snapshot()
}

// Producers lists the idempotent producers as applied, by id.
func (l *Log) Producers() []ProducerInfo {
	l.mu.RLock()
	states := l.producers.snapshot()
	l.mu.RUnlock()
	infos := make([]ProducerInfo, len(states))
	for i, s := range states {
		infos[i] = ProducerInfo{ID: s.ID, Epoch: s.Epoch, LastSequence: -1, LastTimestamp: s.LastTimestamp}
		if s.Count > 0 {
			last := s.Batches[s.Count-1]
			infos[i].LastSequence = int32((int64(last.First) + int64(last.Records) - 1) & sequenceMask)
		}
	}
	slices.SortFunc(infos, func(a, b ProducerInfo) int { return cmp.Compare(a.ID, b.ID) })
	return infos
}
