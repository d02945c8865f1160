package simulation

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/millrace/millrace/cmd/internal/durability"
	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/segment"
)

// segmentBytes bounds the size in bytes of small segments, of which a run makes many.
const (
	leastSegment = 8 << 10
	mostSegment  = 136 << 10
)

// configs are those of the topic. Half of the runs have segments so small that they
// are rolled, and trims remove some; the others keep a divergent end in one file.
func (s *simulation) configs() map[string]string {
	if s.rng.IntN(2) == 0 {
		return nil
	}
	size := leastSegment + s.rng.IntN(mostSegment-leastSegment)
	s.trace.add("segments have %d bytes", size)
	return map[string]string{"segment.bytes": strconv.Itoa(size)}
}

// trim moves a partition's start now and then, as DeleteRecords and retention do.
func (c *client) trim(partition int32) {
	var seen segment.Offset // what it has read all of
	for !closed(c.finish) {
		time.Sleep(time.Duration(50+c.rng.IntN(600)) * time.Millisecond)
		if r, p := c.target(partition); r != nil {
			seen = c.trimOnce(partition, r, p, seen)
		}
	}
}

// trimOnce reads what it then asks to trim: an append that was never answered may be
// among it, and nobody could say later whether it took effect.
func (c *client) trimOnce(partition int32, r *replication.Partition, p *process, seen segment.Offset) segment.Offset {
	role := r.Leadership()
	end := r.Log().HighWatermark()
	if !role.Ready || r.Leadership() != role || p.dead.Load() {
		return seen
	}
	to := r.Log().StartOffset() + segment.Offset(c.rng.Int64N(int64(max(end-r.Log().StartOffset(), 0)+1)))
	h := c.histories[partition]
	for seen < to {
		records, next, err := readSome(r, seen, end)
		if err != nil || next <= seen {
			return seen // it was stopped meanwhile
		}
		for _, record := range records {
			c.ledger.Read(partition, int64(record.Offset), record.Value)
			if e, err := durability.EventOf(c.run, record.Value); err == nil {
				h.sawAt(value(e), int64(record.Offset))
			}
		}
		seen = next
	}
	c.ledger.TrimAsked(partition, int64(to))
	call := c.clock.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), c.patience())
	defer cancel()
	start, err := r.Trim(ctx, to)
	switch {
	case err == nil && start < to:
		c.ledger.Broken(durability.MN, "partition %d begins at %d after a trim to %d", partition, start, to)
	case err == nil:
		h.trimmed(c.id, call, int64(to), true)
	case !definite(err):
		h.trimmed(c.id, call, int64(to), false)
	}
	return seen
}

// sawAt notes that a record is, or was, at an offset, whatever becomes of it.
func (h *history) sawAt(value uint64, offset int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen[value] = offset
}

// trimmed notes a trim, answered now or never: one that was not may take effect
// whenever, or never, which is the same as after everything else.
func (h *history) trimmed(client int, call, start int64, answered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	back := int64(math.MaxInt64)
	if answered {
		back = h.clock.Add(1)
	}
	h.starts = append(h.starts, porcupine.Operation{ClientId: client, Call: call, Return: back, Input: startInput{trim: true, start: start}})
}

// began notes a reading of the log start that began at call.
func (h *history) began(client int, call, start int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.starts = append(h.starts, porcupine.Operation{ClientId: client, Call: call, Return: h.clock.Add(1), Input: startInput{start: start}})
}

// trims is how many were confirmed.
func (h *history) trims() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, op := range h.starts {
		if op.Input.(startInput).trim && op.Return != math.MaxInt64 {
			n++
		}
	}
	return n
}

// startInput is a trim, or a reading with what it saw.
type startInput struct {
	trim  bool
	start int64
}

// startModel is a partition's log start for porcupine: the largest of all trims.
var startModel = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(s, in, _ any) (bool, any) {
		now, i := s.(int64), in.(startInput)
		if i.trim {
			return true, max(now, i.start)
		}
		return i.start == now, now
	},
}

// startLinearizable checks the trims and the readings of the log start, which are an
// object of their own.
func (h *history) startLinearizable(limit time.Duration) (operations int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch porcupine.CheckOperationsTimeout(startModel, h.starts, limit) {
	case porcupine.Ok:
		return len(h.starts), nil
	case porcupine.Unknown:
		return len(h.starts), fmt.Errorf("porcupine found no answer about the log start in %v", limit)
	}
	return len(h.starts), errors.New("log start not linearizable: " + h.startSuspects())
}

// startSuspects finds a reading that lies below a trim, or another reading, before it,
// or that nobody asked for.
func (h *history) startSuspects() string {
	for _, r := range h.starts {
		in := r.Input.(startInput)
		if in.trim {
			continue
		}
		asked := in.start == 0
		for _, before := range h.starts {
			b := before.Input.(startInput)
			if before.Return < r.Call && b.start > in.start {
				return fmt.Sprintf("client %d (%d-%d) read %d after %+v of client %d (%d-%d)", r.ClientId, r.Call, r.Return,
					in.start, b, before.ClientId, before.Call, before.Return)
			}
			asked = asked || b.trim && b.start == in.start
		}
		if !asked {
			return fmt.Sprintf("client %d (%d-%d) read %d, to which nobody trimmed", r.ClientId, r.Call, r.Return, in.start)
		}
	}
	return fmt.Sprintf("%d operations, no single reading is wrong", len(h.starts))
}
