package simulation

import (
	"fmt"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// history is what the clients of one partition did and were told, for porcupine.
// Times are not the clock's: the virtual clock stands still while the cluster
// works, and two operations of one instant would count as concurrent. They are
// numbers of one counter, which orders all calls and returns of the process.
type history struct {
	clock *atomic.Int64

	mu   sync.Mutex
	ops  []porcupine.Operation
	open map[uint64]openAppend // of unknown outcome so far, by value

	starts []porcupine.Operation // trims, and readings of the log start
	seen   map[uint64]int64      // what was read before it was trimmed, by value
	final  map[uint64]int64      // that, and what a replica held in the end
}

// openAppend is an append that was called and not answered.
type openAppend struct {
	client int
	call   int64
}

// input is an operation on a partition: an append of a value, or a reading of the
// end.
type input struct {
	append bool
	value  uint64 // of an append
}

// output is what a client was told, or what the log's end state says of an append
// that was never answered.
type output struct {
	end  int64  // the offset of an append; the high watermark of a reading
	last uint64 // of a reading: the value below end
}

// unread is the last value of a reading that found all of the log trimmed.
const unread = math.MaxUint64

// state is a partition as its clients see it: so many records, the last of which
// is this. What lies below the last one is held by the ledger, offset by offset.
type state struct {
	end  int64
	last uint64
}

func newHistory(clock *atomic.Int64) *history {
	return &history{clock: clock, open: map[uint64]openAppend{}, seen: map[uint64]int64{}}
}

// called notes that an append begins, unless it is a repetition: to its client the
// repetitions of a batch are one operation.
func (h *history) called(client int, value uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, again := h.open[value]; !again {
		h.open[value] = openAppend{client, h.clock.Add(1)}
	}
}

// appended notes an acknowledgement.
func (h *history) appended(value uint64, offset int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.open[value]
	delete(h.open, value)
	h.add(o.client, o.call, h.clock.Add(1), input{append: true, value: value}, output{end: offset})
}

// refused notes a definite error: the append did nothing, and the ledger sees that
// it did not.
func (h *history) refused(value uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, value)
}

// read notes a reading of the end that began at call.
func (h *history) read(client int, call, end int64, last uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.add(client, call, h.clock.Add(1), input{}, output{end, last})
}

func (h *history) add(client int, call, back int64, in input, out output) {
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Call: call, Return: back, Input: in, Output: out})
}

// sightings is a copy of seen.
func (h *history) sightings() map[uint64]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.seen)
}

// complete decides about the appends that were never answered, by what the log
// held in the end: one that is there took effect, at some time after its call; one
// that is not never did, since a log only grows, and what is trimmed from its
// beginning was read by who trimmed it. It loses no violation: a log's
// end is a reading of all of it.
func (h *history) complete() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for value, o := range h.open {
		if offset, there := h.final[value]; there {
			h.add(o.client, o.call, math.MaxInt64, input{append: true, value: value}, output{end: offset})
		}
	}
	clear(h.open)
}

// model is a partition for porcupine.
var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, in, out any) (bool, any) {
		now, i, o := s.(state), in.(input), out.(output)
		if i.append {
			return o.end == now.end, state{now.end + 1, i.value}
		}
		return o.end == now.end && (o.end == 0 || o.last == unread || o.last == now.last), now
	},
	DescribeOperation: func(in, out any) string {
		i, o := in.(input), out.(output)
		if i.append {
			return fmt.Sprintf("append %x at %d", i.value, o.end)
		}
		return fmt.Sprintf("read to %d, last %x", o.end, o.last)
	},
}

// linearizable checks the history, which must be complete. The error says how far
// it could be explained.
func (h *history) linearizable(limit time.Duration) (operations int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// Illegal histories are cut down to a prefix that fails, so that the message says
	// where to look.
	result := porcupine.CheckOperationsTimeout(model, h.ops, limit)
	switch result {
	case porcupine.Ok:
		return len(h.ops), nil
	case porcupine.Unknown:
		return len(h.ops), fmt.Errorf("porcupine found no answer in %v", limit)
	}
	return len(h.ops), fmt.Errorf("not linearizable: %s", h.suspects())
}

// suspects finds readings that no order can explain by themselves: one that ends
// below what was acknowledged, or read, before it began.
func (h *history) suspects() string {
	for _, r := range h.ops {
		if r.Input.(input).append {
			continue
		}
		for _, before := range h.ops {
			end := before.Output.(output).end
			if before.Input.(input).append {
				end++
			}
			if before.Return < r.Call && end > r.Output.(output).end {
				return fmt.Sprintf("client %d (%d-%d) %s after client %d (%d-%d) %s", r.ClientId, r.Call, r.Return,
					model.DescribeOperation(r.Input, r.Output), before.ClientId, before.Call, before.Return,
					model.DescribeOperation(before.Input, before.Output))
			}
		}
	}
	return fmt.Sprintf("%d operations, no single reading is stale", len(h.ops))
}
