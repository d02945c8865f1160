package server

import (
	"container/list"
	"context"
	"fmt"
	"sync"
)

// budget is the memory that requests of one node may hold at a time, in bytes.
// A request takes its share before it is read and returns it when it has been
// answered. Who finds too little waits, first come first served, and meanwhile
// does not read from its connection: TCP slows the client down, and no number of
// connections makes the node run out of memory.
type budget struct {
	mu      sync.Mutex
	size    int64
	used    int64
	waiting list.List // of *budgetWait
}

// budgetWait is a request that waits for its share.
type budgetWait struct {
	n       int64
	granted chan struct{}
}

// newBudget makes a budget of size bytes.
func newBudget(size int64) *budget { return &budget{size: size} }

// take waits for n bytes. More than the whole budget counts as the whole budget,
// or a large request could never be served.
func (b *budget) take(ctx context.Context, n int64) (int64, error) {
	b.mu.Lock()
	n = min(n, b.size)
	if b.waiting.Len() == 0 && b.used+n <= b.size {
		b.used += n
		b.mu.Unlock()
		return n, nil
	}
	w := &budgetWait{n: n, granted: make(chan struct{})}
	place := b.waiting.PushBack(w)
	b.mu.Unlock()

	select {
	case <-w.granted:
		return n, nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.granted: // granted at the same moment: give it to the next
		b.used -= n
	default:
		b.waiting.Remove(place)
	}
	b.grantLocked()
	return 0, fmt.Errorf("wait for request memory: %w", context.Cause(ctx))
}

// tryTake takes n bytes if nobody waits and they are there.
func (b *budget) tryTake(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting.Len() > 0 || b.used+n > b.size {
		return false
	}
	b.used += n
	return true
}

// give returns n bytes.
func (b *budget) give(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.grantLocked()
}

func (b *budget) grantLocked() {
	for e := b.waiting.Front(); e != nil; e = b.waiting.Front() {
		w := e.Value.(*budgetWait)
		if b.used+w.n > b.size {
			return
		}
		b.waiting.Remove(e)
		b.used += w.n
		close(w.granted)
	}
}

// inUse is what is taken at present.
func (b *budget) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
