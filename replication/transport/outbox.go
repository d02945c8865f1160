package transport

import (
	"context"
	"net"
	"sync"
)

// outboxLimit is how many bytes may wait for one connection's writer before a
// Call waits; answers are bounded by the peer's budget instead.
const outboxLimit = 16 << 20

// frameOverhead is what a waiting frame costs beside its bytes, so that the limit
// bounds the number of small ones, too: a call that gives up leaves its frame here.
const frameOverhead = 256

// outbox is the frames waiting for the writer of one connection.
type outbox struct {
	wake chan struct{} // capacity 1: there is something to write

	mu     sync.Mutex
	queue  []*outFrame
	bytes  int64         // cost of frames queued or being written
	ponged bool          // a ping waits for its answer
	pongID uint64        // of the newest such ping
	room   chan struct{} // closed and replaced when bytes fall, closed for good by close
	closed bool
}

// newOutbox is an empty outbox.
func newOutbox() *outbox {
	return &outbox{wake: make(chan struct{}, 1), room: make(chan struct{})}
}

// push queues a frame without waiting. If the outbox is closed the frame is
// finished at once and push reports false.
func (o *outbox) push(f *outFrame) bool {
	o.mu.Lock()
	ok := o.pushLocked(f)
	o.mu.Unlock()
	if !ok {
		f.finish()
	}
	return ok
}

// pushLocked queues a frame unless the outbox is closed; the caller holds mu.
func (o *outbox) pushLocked(f *outFrame) bool {
	if o.closed {
		return false
	}
	o.queue = append(o.queue, f)
	o.bytes += f.cost()
	wakeUp(o.wake)
	return true
}

// pong answers the ping of that id, and no earlier one that still waits for its
// answer: a peer that pings and never reads costs one frame, not one a ping.
func (o *outbox) pong(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.ponged, o.pongID = true, id
		wakeUp(o.wake)
	}
}

// put queues a frame once there is room for it (a frame above the limit goes
// alone), and reports whether it was queued. It gives up when ctx ends.
func (o *outbox) put(ctx context.Context, f *outFrame) (bool, error) {
	for {
		o.mu.Lock()
		if o.closed || o.bytes == 0 || o.bytes+f.cost() <= outboxLimit {
			ok := o.pushLocked(f)
			o.mu.Unlock()
			return ok, nil
		}
		room := o.room
		o.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// take empties the queue into batch, which it returns.
func (o *outbox) take(batch []*outFrame) []*outFrame {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ponged { // first: it measures the way, not what lies before it
		f := newFrame(frameHeader{kind: framePong, id: o.pongID}, nil, nil)
		o.ponged = false
		o.bytes += f.cost()
		batch = append(batch, f)
	}
	batch = append(batch, o.queue...)
	clear(o.queue)
	o.queue = o.queue[:0]
	return batch
}

// written makes room for what take had returned, whose costs are cost together.
func (o *outbox) written(cost int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes -= cost
	if !o.closed {
		close(o.room)
		o.room = make(chan struct{})
	}
}

// close finishes all queued frames and those pushed later.
func (o *outbox) close() {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	o.closed = true
	queue := o.queue
	o.queue = nil
	close(o.room)
	o.mu.Unlock()
	for _, f := range queue {
		f.finish()
	}
}

// batcher turns frames into the buffers of one writev: small frames are copied
// together, bodies of large ones are used where they are.
type batcher struct {
	scratch []byte
	buffers net.Buffers
}

// scratchSize is how many bytes of small frames one writev copies together;
// what exceeds it becomes a buffer of its own.
const scratchSize = 64 << 10

// build returns the buffers of the frames, valid until the next build.
func (b *batcher) build(frames []*outFrame) net.Buffers {
	if b.scratch == nil {
		b.scratch = make([]byte, 0, scratchSize)
	}
	b.scratch, b.buffers = b.scratch[:0], b.buffers[:0]
	from := 0 // start of the run of copied bytes not yet in buffers
	for _, f := range frames {
		copied := len(b.scratch)+len(f.head) <= cap(b.scratch)
		if copied {
			b.scratch = append(b.scratch, f.head...)
		}
		if copied && f.bodies == nil {
			continue
		}
		if from < len(b.scratch) {
			b.buffers = append(b.buffers, b.scratch[from:len(b.scratch):len(b.scratch)])
			from = len(b.scratch)
		}
		if !copied {
			b.buffers = append(b.buffers, f.head)
		}
		for _, body := range f.bodies {
			if len(body) > 0 {
				b.buffers = append(b.buffers, body)
			}
		}
	}
	if from < len(b.scratch) {
		b.buffers = append(b.buffers, b.scratch[from:])
	}
	return b.buffers
}

// clear drops the references to bodies after they were written.
func (b *batcher) clear() { clear(b.buffers[:cap(b.buffers)]) }
