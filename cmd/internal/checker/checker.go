// Package checker decides whether a log kept its promises. It is told of every
// event that was produced, with the outcome, and of every record that was
// consumed, and counts what must not happen:
//
//   - lost: acknowledged and never consumed;
//   - duplicated: one event at two places of the log;
//   - out of order: an event of a key was delivered, for the first time, after a
//     later one of that key;
//   - conflicting: one offset gave two different events at two readings, or not
//     the one that was acknowledged there, or one event got two outcomes;
//   - refused and read: its produce got a definite error, and it was consumed.
//
// A record that is consumed again from the same place is a redelivery, which a
// group may do after a rebalance; it is counted apart and is no fault.
//
// Events are numbered densely from 0, so that ten million take about 300 MB: 16
// bytes an event, 8 an offset.
package checker

import (
	"fmt"
	"sync"
)

const (
	// MaxEvents bounds event ids and offsets, so that a damaged number cannot
	// make the checker allocate without end.
	MaxEvents = 1 << 28
	// maxPartitions bounds partition numbers.
	maxPartitions = 1 << 10
	// maxKeys bounds key numbers.
	maxKeys = 1 << 20
	// maxExamples bounds how many faults are described.
	maxExamples = 10
)

// Event is one produced event. Its three numbers travel with it.
type Event struct {
	// ID is unique; counted from 0.
	ID uint64
	// Key is the number of its key; counted from 0.
	Key uint32
	// Seq grows by one with each event of the same key.
	Seq uint64
}

// Report is what was found.
type Report struct {
	// Acknowledged counts events whose produce succeeded.
	Acknowledged int
	// Refused counts events whose produce failed definitely.
	Refused int
	// Unknown counts events whose produce failed with an unknown outcome.
	Unknown int
	// Consumed counts different events that were consumed.
	Consumed int
	// Lost, Duplicated, OutOfOrder, Conflicting and RefusedRead count the
	// faults that the package comment describes.
	Lost, Duplicated, OutOfOrder, Conflicting, RefusedRead int
	// Strange counts records that no producer of this run can have made.
	Strange int
	// Redelivered counts records that were consumed again; no fault.
	Redelivered int
	// Examples describe the first faults of all kinds but the lost.
	Examples []string
}

// OK reports whether nothing happened that must not.
func (r Report) OK() bool {
	return r.Lost+r.Duplicated+r.OutOfOrder+r.Conflicting+r.RefusedRead+r.Strange == 0
}

// place is a partition and an offset in one number, plus one: 0 is nowhere.
type place uint64

func at(partition int32, offset int64) place { return place(uint64(partition)<<48|uint64(offset)) + 1 }

// String is for examples.
func (p place) String() string {
	return fmt.Sprintf("partition %d offset %d", (p-1)>>48, (p-1)&(1<<48-1))
}

// refused marks an event whose produce got a definite error.
const refused = ^place(0)

// history is what became of one event.
type history struct {
	acknowledged place // or refused
	read         place // where it was first consumed
}

// Checker collects what was produced and consumed. All its methods may be called
// concurrently.
type Checker struct {
	mu      sync.Mutex
	events  []history
	offsets [][]uint64 // by partition and offset: id of the event read there, plus one
	seqs    []uint64   // by key: largest sequence delivered, plus one
	report  Report
}

// New makes an empty checker.
func New() *Checker { return &Checker{} }

// Acknowledged notes that producing e succeeded, at that place.
func (c *Checker) Acknowledged(e Event, partition int32, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.plausible(e, partition, offset) {
		return
	}
	h := c.event(e.ID)
	if h.acknowledged != 0 {
		c.fault(&c.report.Conflicting, "event %d got two outcomes", e.ID)
		return
	}
	h.acknowledged = at(partition, offset)
	c.report.Acknowledged++
	if h.read != 0 && h.read != h.acknowledged {
		c.fault(&c.report.Conflicting, "event %d was acknowledged at %s and read at %s", e.ID, h.acknowledged, h.read)
	}
}

// Failed notes that producing e failed; definite if the error promises that the
// event is not in the log.
func (c *Checker) Failed(e Event, definite bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.plausible(e, 0, 0) {
		return
	}
	h := c.event(e.ID)
	if h.acknowledged != 0 { // a refusal must not make up for an acknowledged event that is lost
		c.fault(&c.report.Conflicting, "event %d got two outcomes", e.ID)
		return
	}
	if !definite {
		c.report.Unknown++
		return
	}
	h.acknowledged = refused
	c.report.Refused++
	if h.read != 0 {
		c.fault(&c.report.RefusedRead, "event %d was refused and read at %s", e.ID, h.read)
	}
}

// Consumed notes that a consumer was given e from that place, and reports
// whether it was the first to be given it.
func (c *Checker) Consumed(e Event, partition int32, offset int64) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.plausible(e, partition, offset) {
		return false
	}
	slot := c.slot(partition, offset)
	if *slot != 0 {
		if *slot == e.ID+1 {
			c.report.Redelivered++
		} else {
			c.fault(&c.report.Conflicting, "%s held event %d and then event %d", at(partition, offset), *slot-1, e.ID)
		}
		return false
	}
	*slot = e.ID + 1
	return c.firstReading(e, at(partition, offset))
}

// firstReading checks an event at a place that was not read before.
func (c *Checker) firstReading(e Event, here place) bool {
	h := c.event(e.ID)
	if h.read != 0 {
		c.fault(&c.report.Duplicated, "event %d is at %s and at %s", e.ID, h.read, here)
		return false
	}
	h.read = here
	c.report.Consumed++
	switch h.acknowledged {
	case 0, here:
	case refused:
		c.fault(&c.report.RefusedRead, "event %d was refused and read at %s", e.ID, here)
	default:
		c.fault(&c.report.Conflicting, "event %d was acknowledged at %s and read at %s", e.ID, h.acknowledged, here)
	}
	for uint32(len(c.seqs)) <= e.Key {
		c.seqs = append(c.seqs, 0)
	}
	if e.Seq+1 <= c.seqs[e.Key] {
		c.fault(&c.report.OutOfOrder, "event %d of key %d has sequence %d and came after %d", e.ID, e.Key, e.Seq, c.seqs[e.Key]-1)
		return true
	}
	c.seqs[e.Key] = e.Seq + 1
	return true
}

// Strange notes a record that is no event of this run.
func (c *Checker) Strange(partition int32, offset int64, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault(&c.report.Strange, "partition %d offset %d: %s", partition, offset, why)
}

// Counts gives how many events were acknowledged and consumed so far.
func (c *Checker) Counts() (acknowledged, consumed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report.Acknowledged, c.report.Consumed
}

// Report counts the lost events as of now: call it when everything has been
// consumed.
func (c *Checker) Report() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.report
	r.Examples = append([]string(nil), r.Examples...)
	for id, h := range c.events {
		if h.acknowledged == 0 || h.acknowledged == refused || h.read != 0 {
			continue
		}
		r.Lost++
		if r.Lost <= maxExamples {
			r.Examples = append(r.Examples, fmt.Sprintf("event %d, acknowledged at %s, was not consumed", id, h.acknowledged))
		}
	}
	return r
}

// plausible keeps absurd numbers out.
func (c *Checker) plausible(e Event, partition int32, offset int64) bool {
	if e.ID < MaxEvents && e.Key < maxKeys && partition >= 0 && partition < maxPartitions && offset >= 0 && offset < MaxEvents {
		return true
	}
	c.fault(&c.report.Strange, "event %d of key %d at partition %d offset %d", e.ID, e.Key, partition, offset)
	return false
}

func (c *Checker) event(id uint64) *history {
	c.events = grown(c.events, int(id))
	return &c.events[id]
}

func (c *Checker) slot(partition int32, offset int64) *uint64 {
	c.offsets = grown(c.offsets, int(partition))
	c.offsets[partition] = grown(c.offsets[partition], int(offset))
	return &c.offsets[partition][offset]
}

// grown gives s with an element i.
func grown[T any](s []T, i int) []T {
	if i < len(s) {
		return s
	}
	return append(s, make([]T, i+1-len(s))...)
}

func (c *Checker) fault(counter *int, format string, args ...any) {
	*counter++
	if len(c.report.Examples) < maxExamples {
		c.report.Examples = append(c.report.Examples, fmt.Sprintf(format, args...))
	}
}
