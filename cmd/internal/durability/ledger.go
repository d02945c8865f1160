package durability

import (
	"sync"
)

// What a client was told about an event, as stored: nothing (or that the outcome
// is unknown), that it is at an offset, or that it is refused for good.
const (
	untold  uint64 = 0 // offset+1 says acknowledged
	refused uint64 = ^uint64(0)
)

// Ledger remembers what clients were told: 8 bytes an event for its outcome, 8
// for the reading of its offset. Its methods may be called concurrently.
type Ledger struct {
	run    uint32
	faults *Faults

	mu        sync.Mutex
	streams   map[streamKey]*stream
	readings  [][]uint64 // by partition and offset: id of the event that was read there
	ackedEnds []int64    // by partition: one more than the largest acknowledged offset
	trims     []int64    // by partition: the largest offset that anybody asked to trim to
	counts    Counts
}

// Counts says how much happened.
type Counts struct {
	// Acknowledged counts events that are in the log for certain.
	Acknowledged int64
	// Refused counts events that got a definite error.
	Refused int64
	// Unknown counts events of which the client knows that it does not know.
	Unknown int64
}

type streamKey struct {
	producer  int
	partition int32
}

// stream is the events of one producer in one partition.
type stream struct {
	ordered  bool // of an idempotent producer
	outcomes []uint64
}

// NewLedger makes an empty ledger. run marks the values of this run; violations go
// to faults.
func NewLedger(run uint32, faults *Faults) *Ledger {
	return &Ledger{run: run, faults: faults, streams: map[streamKey]*stream{}}
}

// open begins the stream of a producer in a partition.
func (l *Ledger) open(producer int, partition int32, ordered bool) *stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &stream{ordered: ordered}
	l.streams[streamKey{producer, partition}] = s
	return s
}

// outcome is the place of an event's outcome; the caller holds mu.
func (l *Ledger) outcome(e Event) *uint64 {
	s := l.streams[streamKey{e.Producer, e.Partition}]
	s.outcomes = grown(s.outcomes, e.Sequence)
	return &s.outcomes[e.Sequence]
}

// Acked notes an acknowledgement.
func (l *Ledger) Acked(e Event, offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if offset < 0 {
		l.faults.Add(CE, "%s was acknowledged at offset %d", e, offset)
		return
	}
	o := l.outcome(e)
	if *o != untold {
		l.faults.Add(CE, "%s got two outcomes: %s, then offset %d", e, told(*o), offset)
		return
	}
	*o = uint64(offset) + 1
	l.counts.Acknowledged++
	l.ackedEnds = grown(l.ackedEnds, int64(e.Partition))
	l.ackedEnds[e.Partition] = max(l.ackedEnds[e.Partition], offset+1)
	if id := l.reading(e.Partition, offset); id != 0 && id != e.id() {
		l.faults.Add(OI, "%s was acknowledged at offset %d, where %s was read", e, offset, eventOf(id))
	}
}

// Refused notes a definite error: the event must never be read.
func (l *Ledger) Refused(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.outcome(e)
	if *o != untold {
		l.faults.Add(CE, "%s got two outcomes: %s, then a definite error", e, told(*o))
		return
	}
	*o = refused
	l.counts.Refused++
}

// Unknown notes that a client cannot know what became of an event.
func (l *Ledger) Unknown(Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Unknown++
}

// Counts says how much happened so far.
func (l *Ledger) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// AckedEnd is one more than the largest acknowledged offset of a partition: a
// bound from below for its high watermark.
func (l *Ledger) AckedEnd(partition int32) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(partition) >= len(l.ackedEnds) {
		return 0
	}
	return l.ackedEnds[partition]
}

// Read notes that a consumer was given a value at an offset.
func (l *Ledger) Read(partition int32, offset int64, value []byte) {
	e, err := decode(l.run, value)
	if err != nil || e.Partition != partition || offset < 0 {
		l.faults.Add(OI, "partition %d offset %d: %v: %.40q", partition, offset, err, value)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.judge(e, offset, "a consumer")
	for int(partition) >= len(l.readings) {
		l.readings = append(l.readings, nil)
	}
	l.readings[partition] = grown(l.readings[partition], offset)
	slot := &l.readings[partition][offset]
	if *slot != 0 && *slot != e.id() {
		l.faults.Add(OI, "partition %d offset %d: %s was read, then %s", partition, offset, eventOf(*slot), e)
	}
	*slot = e.id()
}

// judge compares an event found at an offset with what its client was told; the
// caller holds mu.
func (l *Ledger) judge(e Event, offset int64, who string) {
	s := l.streams[streamKey{e.Producer, e.Partition}]
	if s == nil {
		l.faults.Add(OI, "%s found %s at offset %d, which nobody sent", who, e, offset)
		return
	}
	if e.Sequence >= int64(len(s.outcomes)) {
		return // its outcome is not known yet
	}
	switch o := s.outcomes[e.Sequence]; {
	case o == untold:
	case o == refused:
		l.faults.Add(NP, "%s found %s at offset %d, whose produce got a definite error", who, e, offset)
	case o != uint64(offset)+1:
		l.faults.Add(ND, "%s found %s at offset %d; it was acknowledged at %s", who, e, offset, told(o))
	}
}

// reading is the id of the event read at an offset, 0 if none was; the caller
// holds mu.
func (l *Ledger) reading(partition int32, offset int64) uint64 {
	if int(partition) >= len(l.readings) || offset >= int64(len(l.readings[partition])) {
		return 0
	}
	return l.readings[partition][offset]
}

// told describes an outcome.
func told(o uint64) string {
	switch o {
	case untold:
		return "nothing"
	case refused:
		return "a definite error"
	default:
		return "offset " + itoa(int64(o-1))
	}
}

// grown gives s with an element i.
func grown[T any](s []T, i int64) []T {
	if i < int64(len(s)) {
		return s
	}
	return append(s, make([]T, i+1-int64(len(s)))...)
}
