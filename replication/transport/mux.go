package transport

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/replication/metadata"
)

// Config is what a Mux needs. It is copied by New and not changed afterwards.
type Config struct {
	// Listener accepts peers' connections; the mux closes it. Nil: none are accepted.
	Listener net.Listener
	// Dial connects to an address of SetAddress or CallAddress. Nil: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Identity is what this node says of itself, asked at each handshake and each
	// 100 ms: the cluster id may become known while the mux runs (connections
	// made without it are then made anew); node and incarnation never change. It
	// is called with no lock held and must not wait.
	Identity func() Identity
	// Logger gets connections and refusals. Nil: slog.Default.
	Logger *slog.Logger
	// MaxFrame is the largest body of a request or answer in bytes, 1 to 1 GiB.
	// 0: 64 MiB. All nodes of a cluster must agree.
	MaxFrame int
	// PeerMemory is how many bytes of requests being handled, and of answers not
	// yet sent, one connection of a member may hold before it is read no further
	// (of others less, see limits.go); a request counts 4 KiB beside its body, and
	// one above the limit is let through alone. What admitted requests answer is
	// added on top, up to two frames; beyond that the connection is closed.
	// 0: 64 MiB.
	PeerMemory int64
}

// Limits and defaults of a mux.
const (
	// DefaultPeerMemory is Config.PeerMemory unless configured.
	DefaultPeerMemory = 64 << 20
	// maxFrameLimit is the largest MaxFrame that may be configured.
	maxFrameLimit = 1 << 30
)

// Mux is the connections of one node with all others. All methods may be called
// concurrently.
type Mux struct {
	config   Config
	instance uint64    // random; see the handshake
	epoch    time.Time // zero of now()
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup // every goroutine of the mux
	noise    noiseLimiter
	receipts receipts
	awake    atomic.Int64 // see wake, in nanoseconds

	mu        sync.Mutex // may be held while taking a conn's locks, never the other way
	started   bool
	closed    bool
	handlers  map[Method]Handler
	peers     map[metadata.NodeID]*peer
	conns     map[*conn]struct{}    // all that stand
	accepted  map[acceptedKey]*conn // the newest accepted of each peer and class
	strangers map[net.Conn]entrant  // accepted, in their handshake
	arrivals  uint64
	current   map[metadata.NodeID]metadata.Incarnation
	retired   map[incarnationKey]bool
	watchers  map[chan<- struct{}]int
}

// acceptedKey names the one accepted connection that a peer has of a class; a
// new one replaces it. Probes are not counted among them. The cluster belongs to
// it: who names none must not replace the connection of a member.
type acceptedKey struct {
	peer  Peer
	class Class
}

// acceptedKey is the key of an accepted connection, the zero value for others.
func (c *conn) acceptedKey() acceptedKey {
	if c.dialed || c.class == probe {
		return acceptedKey{class: probe}
	}
	return acceptedKey{peer: c.peer, class: c.class}
}

// New makes a mux that does nothing before Start. Config.Identity is required.
func New(config Config) *Mux {
	if config.Dial == nil {
		var dialer net.Dialer
		config.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.MaxFrame <= 0 {
		config.MaxFrame = DefaultMaxFrame
	}
	config.MaxFrame = min(config.MaxFrame, maxFrameLimit)
	if config.PeerMemory <= 0 {
		config.PeerMemory = DefaultPeerMemory
	}
	m := &Mux{
		config: config, epoch: time.Now(),
		handlers: map[Method]Handler{}, peers: map[metadata.NodeID]*peer{}, conns: map[*conn]struct{}{},
		accepted: map[acceptedKey]*conn{}, strangers: map[net.Conn]entrant{},
		current: map[metadata.NodeID]metadata.Incarnation{}, retired: map[incarnationKey]bool{},
		watchers: map[chan<- struct{}]int{},
	}
	var random [8]byte
	rand.Read(random[:]) // never fails since Go 1.24
	m.instance = binary.BigEndian.Uint64(random[:])
	m.receipts = newReceipts(config.MaxFrame)
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// now is the time since the mux was made, by the monotonic clock.
func (m *Mux) now() time.Duration { return time.Since(m.epoch) }

// Handle sets the handler of a method, before or after Start; nil removes it.
func (m *Mux) Handle(method Method, handler Handler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handlers[method] = handler
}

// handler is the handler of a method, nil if it has none.
func (m *Mux) handler(method Method) Handler {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.handlers[method]
}

// Start begins to accept and to dial. Once.
func (m *Mux) Start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started || m.closed {
		return
	}
	m.started = true
	if m.config.Listener != nil {
		m.spawnLocked(m.accept)
	}
	m.spawnLocked(m.watch)
	for _, p := range m.peers {
		m.spawnLocked(func() { m.keepControl(p) })
	}
}

// Close closes the listener and all connections, fails outstanding calls with
// ErrClosed, and waits for every goroutine, those of handlers included: whatever
// handlers wait for must end with Request.Context or be closed before. It
// returns the listener's error. Calling it again waits for the same.
func (m *Mux) Close() error {
	m.mu.Lock()
	first := !m.closed
	m.closed = true
	conns := make([]*conn, 0, len(m.conns))
	for c := range m.conns {
		conns = append(conns, c)
	}
	for nc := range m.strangers {
		nc.Close()
	}
	m.mu.Unlock()
	var err error
	if first && m.config.Listener != nil {
		err = m.config.Listener.Close()
	}
	for _, c := range conns {
		c.fail(ErrClosed)
	}
	m.cancel()
	m.wg.Wait()
	if err != nil {
		return fmt.Errorf("close the listener: %w", err)
	}
	return nil
}

// spawn runs f in a goroutine that Close waits for; false if the mux is closed.
func (m *Mux) spawn(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spawnLocked(f)
}

// spawnLocked is spawn for a caller that holds mu.
func (m *Mux) spawnLocked(f func()) bool {
	if m.closed {
		return false
	}
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		f()
	}()
	return true
}

// startLocked enters a connection into the table and starts its goroutines; on a
// closed mux it closes the connection instead.
func (m *Mux) startLocked(c *conn) {
	if m.closed {
		c.net.Close()
		c.cancel()
		return
	}
	m.conns[c] = struct{}{}
	m.listenLocked(c)
	c.noteHeard() // its handshake
	m.spawnLocked(c.read)
	m.spawnLocked(c.write)
}

// failSoon closes a connection from under mu, which conn.fail needs itself.
func (m *Mux) failSoon(c *conn, err error) {
	m.spawnLocked(func() { c.fail(err) })
}

// Call sends a request to a node on its connection of the class and returns the
// answer. The buffers of the body are sent one after the other without copying
// and must never be changed afterwards, not even when Call has failed.
//
// It fails at once with ErrPeerDown if the node cannot be reached (it waits for
// an attempt to dial that is under way, never for the next one), with
// ErrConnectionLost if the connection breaks before the answer, with ErrClosed
// when the mux closes, with ctx's error when that ends, with ErrTooLarge, and
// with the *RemoteError that the handler replied with. It has no time-out of its
// own beyond the 3 s after which a silent peer counts as down.
func (m *Mux) Call(ctx context.Context, node metadata.NodeID, class Class, method Method, body ...[]byte) ([]byte, error) {
	reply, err := m.callNode(ctx, node, class, method, body)
	if err != nil {
		return nil, fmt.Errorf("%v to node %d: %w", method, node, err)
	}
	return reply, nil
}

// callNode is Call without the context in its errors.
func (m *Mux) callNode(ctx context.Context, node metadata.NodeID, class Class, method Method, body [][]byte) ([]byte, error) {
	if err := m.checkBody(method, body); err != nil {
		return nil, err
	}
	c, err := m.connection(ctx, node, class)
	if err != nil {
		return nil, err
	}
	return c.call(ctx, method, body)
}

// checkBody refuses requests that the peer would close the connection for.
func (m *Mux) checkBody(method Method, body [][]byte) error {
	if size := totalLength(body); size > int64(m.config.MaxFrame) {
		return fmt.Errorf("%w: a request of %d bytes", ErrTooLarge, size)
	}
	if method == 0 {
		return errors.New("no method")
	}
	return nil
}

// CallAddress sends a request to whoever answers at an address, on a connection
// made for this call, and returns who that was (as far as known, also with an
// error; see RefusedError) and the answer. It is for times when ids are not
// known yet. A node that calls its own address gets its own Identity and its own
// handler's answer. It fails like Call.
func (m *Mux) CallAddress(ctx context.Context, address string, method Method, body ...[]byte) (Peer, []byte, error) {
	peer, reply, err := m.callAddress(ctx, address, method, body)
	if err != nil {
		return peer, nil, fmt.Errorf("%v to %s: %w", method, address, err)
	}
	return peer, reply, nil
}

// callAddress is CallAddress without the context in its errors.
func (m *Mux) callAddress(ctx context.Context, address string, method Method, body [][]byte) (Peer, []byte, error) {
	if err := m.checkBody(method, body); err != nil {
		return Peer{}, nil, err
	}
	m.mu.Lock()
	ready := m.started && !m.closed
	m.mu.Unlock()
	if !ready {
		return Peer{}, nil, ErrClosed
	}
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	c, peer, err := m.dialPeer(both, address, probe, anyNode)
	switch {
	case err != nil && ctx.Err() != nil:
		return peer, nil, ctx.Err()
	case err != nil && m.ctx.Err() != nil:
		return peer, nil, ErrClosed
	case err != nil:
		return peer, nil, downError(err)
	}
	m.mu.Lock()
	m.startLocked(c)
	closed := m.closed
	m.mu.Unlock()
	if closed {
		return peer, nil, ErrClosed
	}
	defer c.fail(errors.New("the call is over"))
	reply, err := c.call(ctx, method, body)
	return peer, reply, err
}
