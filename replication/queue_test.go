package replication

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/millrace/millrace/segment"
)

func sized(n int) *Proposal { return newProposal(make([]byte, n), segment.Header{}, Guard{}) }

// take takes the first n items of a queue, fewer if there are no more. The drainer it
// stands for has not looked whether there are more.
func take(q *queue, n int) (taken []*Proposal) {
	for range n {
		if p := q.next(); p != nil {
			taken = append(taken, p)
		}
	}
	return taken
}

func TestQueueKeepsOrderAndBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(func() {})
		first, second, third := sized(maxQueuedBytes), sized(10), sized(20)
		must(t, q.add(t.Context(), first))
		added := make(chan *Proposal, 2)
		for _, p := range []*Proposal{second, third} {
			go func() {
				must(t, q.add(t.Context(), p))
				added <- p
			}()
			synctest.Wait() // they wait in this order
		}
		if got := take(q, 2); len(got) != 1 || got[0] != first {
			t.Fatalf("drained %d proposals, want the first alone", len(got))
		}
		if len(added) != 0 {
			t.Fatal("a proposal was admitted into a full queue")
		}
		q.release(maxQueuedBytes)
		synctest.Wait()
		if got := take(q, 3); len(got) != 2 || got[0] != second || got[1] != third {
			t.Errorf("drained %d proposals, want second and third in order", len(got))
		}
	})
}

func TestQueueAdmitsOneLargerBatchAlone(t *testing.T) {
	q := newQueue(func() {})
	must(t, q.add(t.Context(), sized(2*maxQueuedBytes)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.add(ctx, sized(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("admission beside a batch larger than the queue: %v", err)
	}
}

func TestQueueWaiterThatGivesUpMakesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(func() {})
		must(t, q.add(t.Context(), sized(maxQueuedBytes-10)))
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() { gaveUp <- q.add(ctx, sized(maxQueuedBytes)) }()
		synctest.Wait()
		small := sized(5)
		admitted := make(chan error, 1)
		go func() { admitted <- q.add(t.Context(), small) }()
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("the large one: %v", err)
		}
		if err := <-admitted; err != nil {
			t.Errorf("the small one behind it: %v", err)
		}
	})
}

func TestClosedQueueRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(func() {})
		must(t, q.add(t.Context(), sized(maxQueuedBytes)))
		waiting := sized(1)
		done := make(chan error, 1)
		go func() { done <- q.add(t.Context(), waiting) }()
		synctest.Wait()
		q.close(ErrClosed)
		<-done
		if _, err := waiting.Result(); !errors.Is(err, ErrClosed) {
			t.Errorf("a waiting proposal: %v", err)
		}
		if err := q.add(t.Context(), sized(1)); !errors.Is(err, ErrClosed) {
			t.Errorf("a late proposal: %v", err)
		}
	})
}

// Whoever drains is started for the first item and there until nothing is left.
func TestQueueStartsOneDrainer(t *testing.T) {
	started := 0
	q := newQueue(func() { started++ })
	for range 2 {
		must(t, q.add(t.Context(), sized(1)))
	}
	q.addBarrier(sized(0))
	if got := take(q, 3); len(got) != 3 || started != 1 {
		t.Fatalf("%d drainers for %d items", started, len(got))
	}
	must(t, q.add(t.Context(), sized(1))) // before the drainer has looked again
	if got := take(q, 1); len(got) != 1 || started != 1 {
		t.Fatalf("%d drainers, the first has %d more items", started, len(got))
	}
	if q.next() != nil {
		t.Fatal("an item from nowhere")
	}
	must(t, q.add(t.Context(), sized(1)))
	if started != 2 {
		t.Errorf("%d drainers, the second was to come for the last item", started)
	}
	q.close(ErrClosed)
	if len(take(q, 2)) != 1 || started != 2 {
		t.Errorf("what was queued before the end is not drained by the one who is there")
	}
}
