package transport

import (
	"context"
	"sync"
	"sync/atomic"
)

// Handler answers requests of one method, each in a goroutine of its own. It
// must call Reply or ReplyError of the request exactly once, before or after it
// returns, and must return soon after Request.Context ends: Mux.Close waits.
type Handler func(*Request)

// Request is a call from a peer.
type Request struct {
	// Peer is the caller, as its handshake said.
	Peer Peer
	// Class is the connection it came on.
	Class Class
	// Method is what is asked for.
	Method Method
	// Body belongs to the handler, which may keep and change it. Its checksum
	// was verified.
	Body []byte

	ctx      context.Context
	answer   func(bodies [][]byte, err error)
	answered atomic.Bool
}

// NewRequest makes a request that calls answer with its reply, for tests of
// handlers.
func NewRequest(ctx context.Context, peer Peer, class Class, method Method, body []byte, answer func(bodies [][]byte, err error)) *Request {
	return &Request{Peer: peer, Class: class, Method: method, Body: body, ctx: ctx, answer: answer}
}

// Context ends when the caller's connection breaks, after which nobody hears the
// answer, or when the mux closes.
func (r *Request) Context() context.Context { return r.ctx }

// Reply answers with the buffers one after the other. They must not be changed
// afterwards. It does not wait for the network. A second answer is ignored.
func (r *Request) Reply(body ...[]byte) {
	if !r.answered.Swap(true) {
		r.answer(body, nil)
	}
}

// ReplyError answers with an error, which the caller gets as a *RemoteError:
// code and message are those of the *RemoteError in err's chain, or CodeInternal
// and err's text. A second answer is ignored.
func (r *Request) ReplyError(err error) {
	if !r.answered.Swap(true) {
		r.answer(nil, asRemote(err))
	}
}

// requestOverhead is what a request costs beside its body: its goroutine's stack
// and its bookkeeping. It bounds the number of requests being handled.
const requestOverhead = 4 << 10

// budget bounds bytes: those of requests being handled, and of their answers not
// yet written, for one connection; or those of the large bodies that arrive on
// several.
type budget struct {
	mu    sync.Mutex
	limit int64
	used  int64
	free  chan struct{} // closed and replaced whenever used falls or limit rises
}

// newBudget allows limit bytes, or one larger request alone.
func newBudget(limit int64) *budget {
	return &budget{limit: limit, free: make(chan struct{})}
}

// take waits until n bytes are free, and reports false if stop ends first.
func (b *budget) take(n int64, stop <-chan struct{}) bool {
	for {
		free, ok := b.tryTake(n)
		if ok {
			return true
		}
		select {
		case <-free:
		case <-stop:
			return false
		}
	}
}

// tryTake takes n bytes if they are free; else the channel says when to look again.
func (b *budget) tryTake(n int64) (<-chan struct{}, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used > 0 && b.used+n > b.limit {
		return b.free, false
	}
	b.used += n
	return nil, true
}

// add counts n bytes that are there already: an answer. It reports whether they
// are within the limit and the grace on top of it.
func (b *budget) add(n, grace int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += n
	return b.used <= b.limit+grace
}

// raise allows limit bytes from now on.
func (b *budget) raise(limit int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = limit
	b.wakeLocked()
}

// give returns n bytes.
func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.wakeLocked()
}

// wakeLocked lets whoever waits look again; the caller holds mu.
func (b *budget) wakeLocked() {
	close(b.free)
	b.free = make(chan struct{})
}
