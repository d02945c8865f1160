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
//
// A large request takes its memory in steps, as its bytes arrive (grow). All that
// grow share half of the budget, so that clients which send a part of something
// large and stop leave the other half to small requests and to answers. They hold
// what they have while they wait for more, so they could wait for each other for
// ever; therefore one of them at a time gets what it needs beyond the budget. It
// is the only one to exceed it, by one request at most.
type budget struct {
	mu      sync.Mutex
	size    int64
	used    int64
	large   int64     // of used: what claims have grown to
	over    *claim    // the one that may exceed the budget, nil if nobody does
	waiting list.List // of *budgetWait, for take
	growing list.List // of *budgetWait, for grow
}

// claim is what one request holds of a budget.
type claim struct {
	bytes int64
	large int64 // of bytes: by grow
}

// budgetWait is a request that waits for its share.
type budgetWait struct {
	n       int64
	claim   *claim // of grow
	granted chan struct{}
}

// newBudget makes a budget of size bytes.
func newBudget(size int64) *budget { return &budget{size: size} }

// grow adds n bytes to a claim, waiting for them while the claim keeps what it
// has.
func (b *budget) grow(ctx context.Context, c *claim, n int64) error {
	b.mu.Lock()
	if (b.growing.Len() == 0 || b.over == c) && b.growLocked(c, n) {
		b.mu.Unlock()
		return nil
	}
	w := &budgetWait{n: n, claim: c, granted: make(chan struct{})}
	place := b.growing.PushBack(w)
	b.mu.Unlock()

	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.granted: // at the same moment: the claim has it, and gives it back
	default:
		b.growing.Remove(place)
	}
	b.grantLocked()
	return fmt.Errorf("wait for request memory: %w", context.Cause(ctx))
}

// growLocked grows a claim if that is possible now.
func (b *budget) growLocked(c *claim, n int64) bool {
	if fits := b.large+n <= b.size/2 && b.used+n <= b.size; !fits && b.over != c {
		if b.over != nil {
			return false
		}
		b.over = c
	}
	b.used += n
	b.large += n
	c.bytes += n
	c.large += n
	return true
}

// drop gives back all that a claim holds.
func (b *budget) drop(c *claim) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= c.bytes
	b.large -= c.large
	if b.over == c {
		b.over = nil
	}
	c.bytes, c.large = 0, 0
	b.grantLocked()
}

// modestClaim is how much a claim may hold without standing in the way of those who
// grow: room for a batch of the largest size that topics have by default.
const modestClaim = 2 << 20

// impedes reports whether others wait for memory because of a claim. Those of take
// wait for everybody. Those of grow come one after the other beyond the budget, so
// that only the one that is there and those that hold much keep them.
func (b *budget) impedes(c *claim) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting.Len() > 0 || b.growing.Len() > 0 && (b.over == c || c.bytes > modestClaim)
}

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

// grantLocked serves those who wait: first those of take, who hold nothing and
// would otherwise wait until nothing large is under way.
func (b *budget) grantLocked() {
	for e := b.waiting.Front(); e != nil; e = b.waiting.Front() {
		w := e.Value.(*budgetWait)
		if b.used+w.n > b.size {
			break
		}
		b.waiting.Remove(e)
		b.used += w.n
		close(w.granted)
	}
	for e := b.growing.Front(); e != nil; e = b.growing.Front() {
		w := e.Value.(*budgetWait)
		if !b.growLocked(w.claim, w.n) {
			return
		}
		b.growing.Remove(e)
		close(w.granted)
	}
}

// inUse is what is taken at present.
func (b *budget) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
