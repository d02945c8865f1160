package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one connection after its handshake, dialled by us (then we call on it)
// or accepted (then we answer on it). Two goroutines belong to it, a reader and
// a writer; fail, from anywhere, ends both.
type conn struct {
	mux    *Mux
	net    net.Conn
	peer   Peer     // as the handshake said
	own    Identity // what we said in the handshake
	class  Class
	link   *link // what it was dialled for; nil if accepted or a probe
	dialed bool
	born   time.Time
	limits limits
	from   entrant     // of an accepted connection
	member atomic.Bool // accepted, and its incarnation is the one in the metadata

	out    *outbox
	budget *budget // of an accepted connection

	ctx    context.Context // of the handlers; ends with the connection
	cancel context.CancelFunc
	done   chan struct{} // closed by fail
	reader chan struct{} // closed when the reader has returned
	err    error         // why, readable after done

	heard   atomic.Int64          // when bytes last came, in awake time, see Mux.awake
	stalled atomic.Bool           // the reader waits for memory, so silence means nothing
	pulse   atomic.Pointer[pulse] // of the node, if the connection counts for it

	pingPending atomic.Bool // a ping waits for the writer
	pingID      atomic.Uint64
	pingSent    atomic.Int64 // when ping pingID was queued, since mux.epoch
	rtt         atomic.Int64 // of the last answered ping, in nanoseconds; 0 none yet

	mu     sync.Mutex
	failed bool
	nextID uint64
	calls  map[uint64]chan answer
}

// answer is what a call waits for.
type answer struct {
	body []byte
	err  error
}

// newConn makes a connection whose goroutines are not started yet. An accepted one
// has the least memory until acceptedLocked knows better.
func (m *Mux) newConn(nc net.Conn, peer Peer, own Identity, class Class, dialed bool) *conn {
	c := &conn{
		mux: m, net: nc, peer: peer, own: own, class: class, dialed: dialed, born: time.Now(),
		limits: m.limitsOf(acquainted(own, peer, class)),
		out:    newOutbox(), done: make(chan struct{}), reader: make(chan struct{}),
		calls: map[uint64]chan answer{},
	}
	c.ctx, c.cancel = context.WithCancel(m.ctx)
	c.heard.Store(m.awake.Load())
	if !dialed {
		c.budget = newBudget(c.limits.memory)
	}
	return c
}

// call sends a request and waits for its answer.
func (c *conn) call(ctx context.Context, method Method, bodies [][]byte) ([]byte, error) {
	if size := totalLength(bodies); size > int64(c.limits.frame) {
		return nil, c.tooLarge(size)
	}
	id, result, err := c.register()
	if err != nil {
		return nil, err
	}
	defer c.forget(id)
	frame := newFrame(frameHeader{kind: frameRequest, method: method, id: id}, bodies, nil)
	queued, err := c.out.put(ctx, frame)
	if err != nil {
		return nil, err
	}
	if !queued {
		<-c.done
		return nil, c.lost()
	}
	select {
	case a := <-result:
		return a.body, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.done:
	}
	select {
	case a := <-result: // it came just before the end
		return a.body, a.err
	default:
		return nil, c.lost()
	}
}

// register makes a place for the answer of a new call.
func (c *conn) register() (uint64, chan answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed {
		return 0, nil, fmt.Errorf("%w: %w", ErrPeerDown, c.lost())
	}
	c.nextID++
	result := make(chan answer, 1)
	c.calls[c.nextID] = result
	return c.nextID, result, nil
}

// forget drops a call that is over.
func (c *conn) forget(id uint64) {
	c.mu.Lock()
	delete(c.calls, id)
	c.mu.Unlock()
}

// lost is the error of calls that a broken connection leaves without an answer.
func (c *conn) lost() error {
	if errors.Is(c.err, ErrClosed) {
		return c.err
	}
	return fmt.Errorf("%w: %w", ErrConnectionLost, c.err)
}

// fail closes the connection because of err; only the first call counts.
func (c *conn) fail(err error) {
	c.mu.Lock()
	first := !c.failed
	if first {
		c.failed = true
		c.err = err
	}
	c.mu.Unlock()
	if !first {
		return
	}
	c.net.Close()
	close(c.done)
	c.cancel()
	c.out.close()
	c.mux.forgetConn(c)
}

// write is the writer goroutine.
func (c *conn) write() {
	var batch []*outFrame
	var b batcher
	for {
		select {
		case <-c.out.wake:
		case <-c.done:
			return
		}
		batch = c.out.take(batch[:0])
		buffers := b.build(batch)
		_, err := buffers.WriteTo(c.net)
		b.clear()
		var cost int64
		for _, f := range batch {
			cost += f.cost()
			f.finish()
		}
		clear(batch)
		c.out.written(cost)
		if err != nil {
			c.fail(fmt.Errorf("write to node %d: %w", c.peer.Node, err))
			return
		}
	}
}

// Read is the connection's own, noting when bytes came: a frame that takes long
// is not silence.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.net.Read(p)
	if n > 0 {
		c.noteHeard()
	}
	return n, err
}

// noteHeard notes that the peer was heard now.
func (c *conn) noteHeard() {
	awake := c.mux.awake.Load()
	c.heard.Store(awake)
	if p := c.pulse.Load(); p != nil {
		p.beat(c.mux.now(), time.Duration(awake))
	}
}

// readBuffer is the reader's buffer in bytes; larger bodies bypass it.
const readBuffer = 64 << 10

// read is the reader goroutine.
func (c *conn) read() {
	defer close(c.reader)
	r := bufio.NewReaderSize(c, readBuffer)
	var head [frameHeaderSize]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			c.fail(fmt.Errorf("read from node %d: %w", c.peer.Node, err))
			return
		}
		h, err := decodeFrameHeader(head[:], c.limits.frame)
		if err == nil {
			err = c.receive(r, h)
		}
		if err != nil {
			if errors.Is(err, ErrFrame) {
				c.mux.complain("bad frame", c.peer, c.class, c.net, err)
			}
			c.fail(fmt.Errorf("read from node %d: %w", c.peer.Node, err))
			return
		}
	}
}

// receive acts on one frame whose head was checked.
func (c *conn) receive(r *bufio.Reader, h frameHeader) error {
	switch {
	case h.kind == framePing:
		c.out.pong(h.id)
		return nil
	case h.kind == framePong:
		if h.id == c.pingID.Load() {
			c.rtt.Store(max(1, int64(c.mux.now())-c.pingSent.Load()))
		}
		return nil
	case h.kind == frameRequest && !c.dialed:
		return c.serve(r, h)
	case h.kind != frameRequest && c.dialed:
		return c.deliver(r, h)
	}
	return badFrame("type %d from the side that may not send it", h.kind)
}

// deliver hands an answer to the call that waits for it.
func (c *conn) deliver(r *bufio.Reader, h frameHeader) error {
	c.mu.Lock()
	result := c.calls[h.id]
	c.mu.Unlock()
	if result == nil { // the caller gave up: nothing is allocated for it
		_, err := io.CopyN(io.Discard, r, int64(h.length))
		return err
	}
	body, err := readBody(r, h, nil) // no more of these than calls we made
	if err != nil {
		return err
	}
	a := answer{body: body}
	if h.kind == frameError {
		a = answer{err: &RemoteError{Code: h.code, Message: string(body)}}
	}
	select {
	case result <- a:
	default: // a second answer to one call
	}
	return nil
}

// serve reads a request, once there is memory for it, and starts its handler.
func (c *conn) serve(r *bufio.Reader, h frameHeader) error {
	cost := int64(h.length) + requestOverhead
	if err := c.wait(c.budget, cost); err != nil {
		return err
	}
	body, err := c.receiveBody(r, h)
	if err != nil {
		c.budget.give(cost)
		return err
	}
	request := &Request{Peer: c.peer, Class: c.class, Method: h.method, Body: body, ctx: c.ctx}
	request.answer = func(bodies [][]byte, err error) { c.reply(h.id, cost, bodies, err) }
	if !c.mux.spawn(func() { c.handle(request) }) {
		c.budget.give(cost)
		return ErrClosed
	}
	return nil
}

// handle runs the handler of a request. A panic ends this connection, not the broker.
func (c *conn) handle(r *Request) {
	defer func() {
		if cause := recover(); cause != nil {
			c.mux.config.Logger.Error("a request handler panicked; its connection is closed",
				"method", r.Method.String(), "peer", int32(c.peer.Node), "cause", cause, "stack", string(debug.Stack()))
			r.ReplyError(&RemoteError{Code: CodePanic, Message: fmt.Sprintf("the handler of %v panicked", r.Method)})
			c.fail(fmt.Errorf("the handler of %v panicked", r.Method))
		}
	}()
	handler := c.mux.handler(r.Method)
	if handler == nil {
		r.ReplyError(&RemoteError{Code: CodeUnknownMethod, Message: fmt.Sprintf("%v is not served by this node", r.Method)})
		return
	}
	handler(r)
}

// reply queues the answer to request id, whose cost is given back when it was written.
func (c *conn) reply(id uint64, cost int64, bodies [][]byte, err error) {
	h := frameHeader{kind: frameReply, id: id}
	if size := totalLength(bodies); err == nil && size > int64(c.limits.frame) {
		err = asRemote(&RemoteError{Code: CodeTooLarge, Message: fmt.Sprintf("the answer has %d bytes", size)})
	}
	if err != nil {
		remote := asRemote(err)
		h.kind, h.code = frameError, remote.Code
		bodies = [][]byte{[]byte(remote.Message)}
	}
	size := totalLength(bodies)
	within := c.budget.add(size, 2*int64(c.limits.frame))
	c.out.push(newFrame(h, bodies, func() { c.budget.give(cost + size) }))
	if !within {
		c.fail(errors.New("the peer asks and does not read the answers"))
	}
}

// ping queues a ping unless the last one still waits for the writer.
func (c *conn) ping() {
	if c.pingPending.Swap(true) {
		return
	}
	id := c.pingID.Add(1)
	c.pingSent.Store(int64(c.mux.now()))
	c.out.push(newFrame(frameHeader{kind: framePing, id: id}, nil, func() { c.pingPending.Store(false) }))
}

// silence is how long nothing came from the peer, in awake time: whoever was stopped
// for a minute finds pings to read, and no peer that was silent. Zero while the reader
// waits for memory.
func (c *conn) silence() time.Duration {
	if c.stalled.Load() {
		return 0
	}
	return time.Duration(c.mux.awake.Load() - c.heard.Load())
}
