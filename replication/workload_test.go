package replication

import (
	"context"
	"errors"
	"maps"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/segment"
)

// workload runs producers against a trio and remembers what each was told.
type workload struct {
	group *trio
	stop  chan struct{}
	wait  sync.WaitGroup

	mu       sync.Mutex
	acked    map[segment.Offset]uint64 // offset -> value
	definite map[uint64]bool           // values that must never be read
	trimmed  map[segment.Offset]uint64 // what was in the log before it was trimmed
}

// firstPlain is the first of the producers without a sequence.
const firstPlain = 1000

// inFlight is what an idempotent Kafka producer has under way.
const inFlight = 5

func startWorkload(g *trio, idempotent, plain int) *workload {
	w := &workload{group: g, stop: make(chan struct{}), acked: map[segment.Offset]uint64{}, definite: map[uint64]bool{}}
	for i := range idempotent {
		w.wait.Go(func() { w.produce(int64(i) + 1) })
	}
	for i := range plain {
		w.wait.Go(func() { w.producePlain(uint64(firstPlain + i)) })
	}
	return w
}

func (w *workload) stopped() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

// leading is the partition on a node that believes to lead, nil without one.
func (w *workload) leading() *Partition {
	for _, n := range w.group.nodes {
		n.mu.Lock()
		p := n.partition
		n.mu.Unlock()
		if p != nil && p.Leadership().Leader {
			return p
		}
	}
	return nil
}

// produce is an idempotent producer: it keeps up to inFlight batches under way
// and, after a failure, sends everything unanswered again, in order.
func (w *workload) produce(producer int64) { w.produceSome(producer, math.MaxInt32) }

// produceSome ends after count batches.
func (w *workload) produceSome(producer int64, count int32) {
	var window []int32
	for next := int32(0); ; {
		for len(window) < inFlight && next < count && !w.stopped() {
			window = append(window, next)
			next++
		}
		if len(window) == 0 {
			return
		}
		window = window[w.send(producer, window):]
	}
}

// send offers the window and returns how many of its first batches are settled.
func (w *workload) send(producer int64, window []int32) (settled int) {
	p := w.leading()
	if p == nil {
		pause()
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	proposals := make([]*Proposal, len(window))
	for i, sequence := range window {
		proposals[i] = p.Propose(ctx, batch(producer, 0, sequence, value(uint64(producer), sequence)), Guard{})
	}
	for i, proposal := range proposals {
		result, err := await(ctx, proposal)
		if err != nil {
			pause()
			return settled
		}
		w.ack(result.Base, value(uint64(producer), window[i]))
		settled++
	}
	return settled
}

// producePlain sends each value once, so that a definite error can be held
// against what is read later.
func (w *workload) producePlain(producer uint64) {
	for sequence := int32(0); !w.stopped(); sequence++ {
		p := w.leading()
		if p == nil {
			pause()
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		v := value(producer, sequence)
		result, err := await(ctx, p.Propose(ctx, batch(-1, -1, -1, v), Guard{}))
		cancel()
		var void *VoidError
		switch {
		case err == nil:
			w.ack(result.Base, v)
		case errors.Is(err, ErrNotLeader), errors.As(err, &void):
			w.mu.Lock()
			w.definite[v] = true
			w.mu.Unlock()
			pause()
		}
	}
}

func value(producer uint64, sequence int32) uint64 { return producer<<32 | uint64(uint32(sequence)) }

// pause gives an election the processor; nothing depends on how long it is.
func pause() { <-time.After(2 * time.Millisecond) }

func await(ctx context.Context, p *Proposal) (Result, error) {
	select {
	case <-p.Done():
		return p.Result()
	case <-ctx.Done():
		return Result{}, ErrUnknownOutcome
	}
}

func (w *workload) ack(offset segment.Offset, v uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked[offset] = v
}

func (w *workload) ackedSoFar() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// progress waits for n more acknowledgements.
func (w *workload) progress(n int) {
	w.group.t.Helper()
	goal := w.ackedSoFar() + n
	eventually(w.group.t, "acknowledgements", func() bool { return w.ackedSoFar() >= goal })
}

// finish stops the producers, waits until the replicas agree and checks all of
// them: nothing acknowledged is missing, one value an offset, no value twice,
// none that got a definite error, each producer's values in order, and those of an
// idempotent one without a gap from its first.
func (w *workload) finish() {
	t := w.group.t
	t.Helper()
	close(w.stop)
	w.wait.Wait()
	w.group.leader()
	w.group.inStep()
	for _, n := range w.group.nodes {
		n.mu.Lock()
		p := n.partition
		n.mu.Unlock()
		if p != nil {
			w.check(t, n, values(t, p.Log()), p.Log().HighWatermark())
			idle(t, n, p)
		}
	}
	t.Logf("%d acknowledged, %d refused for good", len(w.acked), len(w.definite))
	if len(w.acked) == 0 {
		t.Error("nothing was acknowledged: the test proved nothing")
	}
}

// idle waits until a partition without producers has given back all the room in
// its queue, and has no proposal that nobody will answer.
func idle(t *testing.T, n *trioNode, p *Partition) {
	t.Helper()
	var bytes int64
	var open int
	done := func() bool {
		p.queue.mu.Lock()
		bytes = p.queue.bytes
		p.queue.mu.Unlock()
		p.proposals.mu.Lock()
		open = len(p.proposals.open)
		p.proposals.mu.Unlock()
		return bytes == 0 && open == 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	if poll(ctx, done) != nil {
		t.Errorf("node %d: %d bytes of the queue and %d proposals are left behind", n.id, bytes, open)
	}
}

func (w *workload) check(t *testing.T, n *trioNode, found map[segment.Offset]uint64, end segment.Offset) {
	t.Helper()
	maps.Copy(found, w.trimmed)
	for offset, v := range w.acked {
		if got, ok := found[offset]; !ok || got != v {
			t.Errorf("node %d: acknowledged value %x at offset %d: found %x, there: %v", n.id, v, offset, got, ok)
		}
	}
	seen := map[uint64]segment.Offset{}
	last := map[uint64]uint64{}
	for producer := range uint64(firstPlain) {
		last[producer] = producer<<32 - 1 // before sequence 0
	}
	for offset := segment.Offset(0); offset < end; offset++ {
		v, ok := found[offset]
		if !ok {
			t.Errorf("node %d: offset %d is missing below the high watermark %d", n.id, offset, end)
			continue
		}
		if first, twice := seen[v]; twice {
			t.Errorf("node %d: value %x at offsets %d and %d", n.id, v, first, offset)
		}
		seen[v] = offset
		if w.definite[v] {
			t.Errorf("node %d: value %x got a definite error and is at offset %d", n.id, v, offset)
		}
		producer := v >> 32
		if before := last[producer]; producer < firstPlain && v != before+1 {
			t.Errorf("node %d: value %x of an idempotent producer at offset %d comes after %x", n.id, v, offset, before)
		} else if v <= before {
			t.Errorf("node %d: value %x at offset %d comes after %x", n.id, v, offset, before)
		}
		last[producer] = v
	}
}
