package server

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// handshakeTimeout is how long a new connection may take for its first
	// request.
	handshakeTimeout = 10 * time.Second
	// frameTimeout is how long each piece of a request may take to arrive (its
	// first eagerFrame bytes, then framePiece at a time): a client that sends a
	// byte a second is dropped, and one that stops does not keep its memory.
	frameTimeout = 30 * time.Second
	// frameStall is how long the next eagerFrame bytes may take while others wait
	// for memory because of them.
	frameStall = 3 * time.Second
	// readBuffer is the buffer of a connection's reader: small requests come
	// several to a read; large ones bypass it.
	readBuffer = 4 << 10
)

// Reasons why the broker closes a connection.
var (
	errUnknownAPI = errors.New("unknown API key or version")
	errDraining   = errors.New("the broker is stopping")
	errStalled    = errors.New("the request arrived too slowly while others waited for memory")
)

// client is what is known of the program at the other end.
type client struct {
	local  string // the address at which the connection arrived
	remote string
	// software is the name the client gave in ApiVersions. Only the answering
	// goroutine of the connection uses it.
	software string
	// produce orders the produce requests of the connection; for its reader.
	produce produceOrder
}

// host is the address the client connects from, without the port.
func (c *client) host() string {
	host, _, err := net.SplitHostPort(c.remote)
	if err != nil {
		return c.remote
	}
	return host
}

// conn is one client connection. Its reader decodes requests and puts them, as
// calls, into a queue of bounded length; its answerer takes them in that order,
// runs or finishes each, and writes the answer. So requests are answered in
// order; produce requests, which begin while they are read, overlap.
type conn struct {
	node   *node
	net    net.Conn
	client *client
	logger *slog.Logger
	calls  chan *call
	// underWay counts the calls that were read and not yet answered.
	underWay atomic.Int32

	// ctx ends when the connection is given up.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// draining: read nothing more, answer what was read.
	draining chan struct{}
	drain    func()
}

// call is a request on its way through a connection.
type call struct {
	request *request
	finish  func(context.Context) (kmsg.Response, error) // of api.begin
	charge  claim                                        // of node.budget
	cost    int64                                        // taken from node.decoding
	done    chan struct{}                                // closed when answered
}

func newConn(n *node, c net.Conn) *conn {
	ctx, cancel := context.WithCancelCause(context.Background())
	draining := make(chan struct{})
	return &conn{
		node: n, net: c, ctx: ctx, cancel: cancel,
		client:   &client{local: c.LocalAddr().String(), remote: c.RemoteAddr().String()},
		logger:   n.logger.With("client", c.RemoteAddr().String()),
		calls:    make(chan *call, n.settings.inFlight),
		draining: draining,
		drain:    sync.OnceFunc(func() { close(draining); c.SetReadDeadline(time.Unix(1, 0)) }),
	}
}

// serve runs the connection until it ends. It returns when both goroutines have.
func (c *conn) serve() {
	defer c.net.Close()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		c.answer()
	}()
	err := c.read()
	if !errors.Is(err, errDraining) {
		c.cancel(err) // nobody is there to answer: give up long polls
	}
	close(c.calls)
	<-answered
	c.cancel(errDraining)
	if !quiet(err) {
		c.logger.Warn("closed a client connection", "err", err)
	}
}

// quiet reports an end that is nobody's fault.
func quiet(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, errDraining) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.Canceled) || isReset(err)
}

// read is the reader goroutine.
func (c *conn) read() (err error) {
	defer c.recover(&err)
	reader := bufio.NewReaderSize(c.net, readBuffer)
	var ordered *call // the last request that later ones must not overtake
	for wait := handshakeTimeout; ; wait = c.node.settings.idle {
		next, err := c.readCall(reader, wait)
		if err != nil {
			return err
		}
		if next.request.api.begin == nil {
			if next.request.api.stream == nil {
				ordered = next
			}
		} else {
			// Produce overtakes a long poll before it, nothing else: what a client
			// sent earlier may have made the topic that it now writes to.
			if ordered != nil && !c.wait(ordered.done) {
				c.release(next)
				return context.Cause(c.ctx)
			}
			ordered = nil
			next.finish = next.request.api.begin(c.ctx, c.node, next.request)
		}
		select {
		case c.calls <- next:
		case <-c.ctx.Done():
			c.abandon(next)
			return context.Cause(c.ctx)
		}
	}
}

// wait waits for an earlier call, or the end of the connection.
func (c *conn) wait(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// readCall reads and decodes one request. idle bounds the wait for its first
// byte; 0 is no bound.
func (c *conn) readCall(reader *bufio.Reader, idle time.Duration) (*call, error) {
	if err := c.awaitFrame(reader, idle); err != nil {
		return nil, err
	}
	var prefix [4]byte
	if _, err := io.ReadFull(reader, prefix[:]); err != nil {
		return nil, c.readError(err)
	}
	size, err := frameLength(prefix, c.node.settings.requestMaxBytes)
	if err != nil {
		return nil, err
	}
	if err := c.checkSize(reader, size); err != nil {
		return nil, err
	}
	// Memory is taken for what a client sends, not for what it says it will: a few
	// connections that only claim to send 100 MiB must not stop all the others.
	charge, err := c.node.budget.take(c.ctx, int64(min(size, eagerFrame)))
	if err != nil {
		return nil, err
	}
	next := &call{charge: claim{bytes: charge}, done: make(chan struct{})}
	c.underWay.Add(1)
	if err := c.readBody(reader, size, next); err != nil {
		c.release(next)
		return nil, err
	}
	return next, nil
}

// checkSize refuses a large request that does not write records before it is read.
func (c *conn) checkSize(reader *bufio.Reader, size int) error {
	if size <= maxOrdinaryFrame {
		return nil
	}
	if err := c.readBy(frameTimeout); err != nil {
		return err
	}
	first, err := reader.Peek(2)
	if err != nil {
		return c.readError(err)
	}
	key := int16(binary.BigEndian.Uint16(first))
	if key == keyProduce {
		return nil
	}
	return fmt.Errorf("%w: %d for a request with API key %d, allowed are %d", errFrameLength, size, key, maxOrdinaryFrame)
}

// awaitFrame waits for the length of the next frame. A connection is idle only
// while nothing of it is under way: a member may wait longer for its group.
func (c *conn) awaitFrame(reader *bufio.Reader, idle time.Duration) error {
	for {
		if err := c.readBy(idle); err != nil {
			return err
		}
		_, err := reader.Peek(4)
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || reader.Buffered() > 0 || c.underWay.Load() == 0 {
			return c.readError(err)
		}
	}
}

// readBody reads and decodes what follows the length.
func (c *conn) readBody(reader *bufio.Reader, size int, next *call) error {
	fill := func(p []byte) error { return c.fill(reader, p, &next.charge) }
	frame, err := readFrame(size, fill, func(n int) error { return c.node.budget.grow(c.ctx, &next.charge, int64(n)) })
	if err != nil {
		return err
	}
	request, cost, err := decode(c.node.apis, frame)
	if err != nil {
		return err
	}
	request.client, request.at = c.client, c.node.now()
	next.request = request
	if cost > freeDecoding {
		next.cost, err = c.node.decoding.take(c.ctx, cost)
	}
	return err
}

// fill reads one piece of a request. It has frameTimeout to arrive; a client that
// stops, or trickles, gives way to those who wait for the memory that it holds; not
// with a batch of ordinary size, for which a thin line needs its time, to those who
// send something large.
func (c *conn) fill(reader *bufio.Reader, p []byte, held *claim) error {
	for end := time.Now().Add(frameTimeout); ; {
		left := time.Until(end)
		if left <= 0 {
			return c.readError(os.ErrDeadlineExceeded)
		}
		if err := c.readBy(min(left, frameStall)); err != nil {
			return err
		}
		n, err := io.ReadFull(reader, p)
		p = p[n:]
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return c.readError(err)
		case n < eagerFrame && left > frameStall && c.node.budget.impedes(held):
			return c.readError(errStalled)
		}
	}
}

// freeDecoding is the decoding cost that is not accounted for.
const freeDecoding = 16 << 10

// readBy sets the deadline of the next read.
func (c *conn) readBy(d time.Duration) error {
	var at time.Time
	if d > 0 {
		at = time.Now().Add(d)
	}
	if err := c.net.SetReadDeadline(at); err != nil {
		return c.readError(err)
	}
	select {
	case <-c.draining: // which may have set its own deadline before ours
		return errDraining
	default:
		return nil
	}
}

// readError tells a stop of the broker from a failure of the connection.
func (c *conn) readError(err error) error {
	select {
	case <-c.draining:
		return errDraining
	default:
		return fmt.Errorf("read request: %w", err)
	}
}

// answer is the answering goroutine.
func (c *conn) answer() {
	out := sink{conn: c.net, raw: newSendfiler(c.net, c.node.sendSlots), node: c.node}
	failed := false
	for next := range c.calls {
		if failed {
			c.abandon(next)
			continue
		}
		if err := c.answerCall(&out, next); err != nil {
			failed = true
			c.cancel(err)
			c.net.Close() // wakes the reader, which ends the queue
			if !quiet(err) {
				c.logger.Warn("closed a client connection", "err", err)
			}
		}
		c.release(next)
	}
}

// abandon ends a call that nobody is there to answer; its goroutine is joined.
func (c *conn) abandon(next *call) {
	defer c.release(next)
	if next.finish == nil {
		return
	}
	var panicked error
	defer c.recover(&panicked)
	_, _ = next.finish(c.ctx)
}

// answerCall produces one answer and writes it.
func (c *conn) answerCall(out *sink, next *call) (err error) {
	defer c.recover(&err)
	a, err := c.run(next)
	if err != nil || a == nil {
		return err
	}
	defer a.close()
	return out.write(a)
}

// run executes or finishes a call. A nil answer is no answer.
func (c *conn) run(next *call) (*answer, error) {
	r := next.request
	if r.api.stream != nil {
		return r.api.stream(c.ctx, c.node, r)
	}
	var response kmsg.Response
	var err error
	if next.finish != nil {
		response, err = next.finish(c.ctx)
	} else {
		response, err = r.api.handle(c.ctx, c.node, r)
	}
	if err != nil || response == nil {
		return nil, err
	}
	return encode(r.header, response), nil
}

// release returns what a call holds and lets later ones pass.
func (c *conn) release(next *call) {
	c.node.budget.drop(&next.charge)
	c.node.decoding.give(next.cost)
	c.underWay.Add(-1)
	close(next.done)
}

// recover turns a panic of a handler into the end of this connection: a bug that
// one request hits must not take the partitions of the node down with it.
func (c *conn) recover(err *error) {
	if p := recover(); p != nil {
		c.logger.Error("a request handler panicked; its connection is closed", "panic", p, "stack", string(debug.Stack()))
		*err = fmt.Errorf("panic: %v", p)
	}
}
