package replication

import (
	"container/list"
	"context"
	"sync"
)

// maxQueuedBytes bounds what a partition has accepted and not yet appended. It
// bounds a StoreLogs too, and with it the last write round of a segment
// (DESIGN 3 and 4.2); one larger batch is admitted alone.
const maxQueuedBytes = 8 << 20

// queue holds a partition's proposals in the order in which they were offered:
// the order of calls is the order of the log. A full queue makes callers wait,
// in order, so that a connection's reader stops reading (back pressure).
type queue struct {
	mu      sync.Mutex
	items   []*Proposal
	bytes   int64      // admitted and not yet released
	waiting *list.List // of *admission, first come first served
	start   func()     // starts the one who drains, who is there while items are
	drained bool       // nobody drains
	err     error      // set once closed
}

// admission is a caller that waits for room.
type admission struct {
	proposal *Proposal
	granted  chan struct{}
}

// newQueue is an empty queue. start is called under its lock when an item comes and
// nobody drains; whoever it starts calls next until there is nothing.
func newQueue(start func()) *queue {
	return &queue{waiting: list.New(), start: start, drained: true}
}

// add admits the proposal, waiting for room until ctx ends. On an error the
// proposal was not queued.
func (q *queue) add(ctx context.Context, p *Proposal) error {
	q.mu.Lock()
	if q.err != nil {
		defer q.mu.Unlock()
		return q.err
	}
	if q.waiting.Len() == 0 && q.fitsLocked(p) {
		q.admitLocked(p)
		q.mu.Unlock()
		return nil
	}
	a := &admission{proposal: p, granted: make(chan struct{})}
	place := q.waiting.PushBack(a)
	q.mu.Unlock()

	select {
	case <-a.granted:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-a.granted: // granted meanwhile: it is in the queue, and stays
		return nil
	default:
	}
	q.waiting.Remove(place)
	q.grantLocked()
	if q.err != nil {
		return q.err
	}
	return ctx.Err()
}

func (q *queue) fitsLocked(p *Proposal) bool {
	return q.bytes == 0 || q.bytes+int64(len(p.frame)) <= maxQueuedBytes
}

func (q *queue) admitLocked(p *Proposal) {
	q.bytes += int64(len(p.frame))
	q.items = append(q.items, p)
	q.wakeUpLocked()
}

func (q *queue) grantLocked() {
	for e := q.waiting.Front(); e != nil && q.err == nil; e = q.waiting.Front() {
		a := e.Value.(*admission)
		if !q.fitsLocked(a.proposal) {
			return
		}
		q.waiting.Remove(e)
		q.admitLocked(a.proposal)
		close(a.granted)
	}
}

func (q *queue) wakeUpLocked() {
	if q.drained {
		q.drained = false
		q.start()
	}
}

// addBarrier queues a marker behind everything admitted so far; it takes no room.
func (q *queue) addBarrier(p *Proposal) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return false
	}
	q.items = append(q.items, p)
	q.wakeUpLocked()
	return true
}

// release gives back the room of a proposal that was appended or refused.
func (q *queue) release(size int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= int64(size)
	q.grantLocked()
}

// next takes the first proposal. Nil, if there is none: whoever drains is done, and
// another is started for the next item.
func (q *queue) next() *Proposal {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		q.items, q.drained = nil, true // a burst's memory goes back
		return nil
	}
	p := q.items[0]
	q.items[0] = nil
	q.items = q.items[1:]
	return p
}

// expel takes everything queued, and lets everybody who waits for room in first, to
// take that too: all of it is to be refused.
func (q *queue) expel() []*Proposal {
	q.mu.Lock()
	defer q.mu.Unlock()
	for e := q.waiting.Front(); e != nil; e = q.waiting.Front() {
		a := e.Value.(*admission)
		q.waiting.Remove(e)
		q.admitLocked(a.proposal)
		close(a.granted)
	}
	items := q.items
	q.items = nil
	return items
}

// close refuses what comes from now on, and everybody who waits. It starts nobody
// to drain: whoever drains is there while items are.
func (q *queue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return
	}
	q.err = err
	for e := q.waiting.Front(); e != nil; e = e.Next() {
		a := e.Value.(*admission)
		a.proposal.resolve(Result{}, err)
		close(a.granted)
	}
	q.waiting.Init()
}
