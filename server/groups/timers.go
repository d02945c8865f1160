package groups

import (
	"container/heap"
	"sync"
	"time"
)

// timers runs every deadline of a coordinator on one goroutine over one heap, so
// that a hundred thousand sessions cost neither goroutines nor runtime timers.
// Its lock is taken with a shard's lock held, never the other way round: a
// callback runs with no lock held, takes its shard's lock itself, and must look
// whether it still is the timer that its owner waits for.
type timers struct {
	now  func() time.Time
	wake chan struct{} // capacity 1: the earliest deadline changed
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex
	queue timerHeap
}

// timer is one deadline.
type timer struct {
	at    time.Time
	index int // in the heap; -1 when it fired or was stopped
	fire  func(*timer)
}

func newTimers(now func() time.Time) *timers {
	t := &timers{now: now, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go t.run()
	return t
}

// start calls fire once, after d, on the timers' goroutine.
func (t *timers) start(d time.Duration, fire func(*timer)) *timer {
	x := &timer{at: t.now().Add(d), fire: fire}
	t.mu.Lock()
	heap.Push(&t.queue, x)
	first := x.index == 0
	t.mu.Unlock()
	if first {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
	return x
}

// cancel stops a timer that has not fired. A nil timer is allowed.
func (t *timers) cancel(x *timer) {
	if x == nil {
		return
	}
	t.mu.Lock()
	if x.index >= 0 {
		heap.Remove(&t.queue, x.index)
	}
	t.mu.Unlock()
}

// close stops the goroutine and waits for a callback under way.
func (t *timers) close() {
	close(t.stop)
	<-t.done
}

func (t *timers) run() {
	defer close(t.done)
	clock := time.NewTimer(time.Hour)
	defer clock.Stop()
	for {
		clock.Reset(t.fireDue())
		select {
		case <-clock.C:
		case <-t.wake:
		case <-t.stop:
			return
		}
	}
}

// fireDue calls what is due and returns the time to the next deadline.
func (t *timers) fireDue() time.Duration {
	for {
		t.mu.Lock()
		if len(t.queue) == 0 {
			t.mu.Unlock()
			return time.Hour
		}
		x := t.queue[0]
		if wait := x.at.Sub(t.now()); wait > 0 {
			t.mu.Unlock()
			return wait
		}
		heap.Pop(&t.queue)
		t.mu.Unlock()
		x.fire(x)
	}
}

// timerHeap orders timers by deadline (container/heap).
type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	return t
}
