// Package transporttest is a network in memory for tests of what talks over
// net.Conn, with faults on each directed link between two hosts.
//
// It needs no sockets, so it runs in a testing/synctest bubble. An address is
// "host:anything"; the host part names the machine, and the pair (from, to) of
// machines names a link. What is said of links takes hosts, and panics when it is
// given an address. Connections behave like TCP: bytes arrive in order and
// whole or not at all, a reader sees what was sent before the end, a full
// window makes the writer wait.
//
// Faults, which also act on connections that stand:
//
//	Drop     packets of the link vanish: bytes stay in the window until Restore
//	         (TCP would send them again), a dial hangs until its context ends
//	Cut      the link is refused: connections are reset, dials fail at once
//	Delay    bytes of the link arrive so much later
//	Corrupt  one bit of the next bytes of the link is flipped
package transporttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// window is how many bytes of one direction of a connection may be under way.
const window = 256 << 10

// backlog is how many connections wait for Accept before dials hang.
const backlog = 64

// Errors of connections, besides io.EOF, net.ErrClosed and os.ErrDeadlineExceeded.
var (
	// ErrReset is a connection that Cut has broken.
	ErrReset = errors.New("connection reset by peer")
	// ErrRefused is a dial to an address where nobody listens, or over a link
	// that is cut.
	ErrRefused = fmt.Errorf("%w", syscall.ECONNREFUSED)
)

// Network is a set of hosts and the links between them. All methods may be
// called concurrently.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	links     map[linkKey]*fault
	conns     map[*conn]struct{} // both ends of each
	changed   chan struct{}      // closed and replaced whenever a fault changes
	ports     int
}

// linkKey names a directed link.
type linkKey struct{ from, to string }

// fault is what is wrong with a link.
type fault struct {
	drop    bool
	cut     bool
	delay   time.Duration
	corrupt bool
}

// New is a network without faults.
func New() *Network {
	return &Network{
		listeners: map[string]*listener{}, links: map[linkKey]*fault{}, conns: map[*conn]struct{}{},
		changed: make(chan struct{}),
	}
}

// Host is the part of an address that names the machine.
func Host(address string) string {
	host, _, _ := strings.Cut(address, ":")
	return host
}

// Listen makes a listener at an address ("host:port", any text for the port).
func (n *Network) Listen(address string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] != nil {
		return nil, fmt.Errorf("listen %s: address already in use", address)
	}
	l := &listener{network: n, address: addr(address), queue: make(chan net.Conn, backlog), done: make(chan struct{})}
	n.listeners[address] = l
	return l, nil
}

// host panics if name is the address of a host instead: a fault of a link that
// nobody uses would make a test pass that tested nothing.
func host(name string) string {
	if Host(name) != name {
		panic(fmt.Sprintf("transporttest: %q is an address, not a host", name))
	}
	return name
}

// Dialer returns the dial function of a host.
func (n *Network) Dialer(from string) func(ctx context.Context, address string) (net.Conn, error) {
	host(from)
	return func(ctx context.Context, address string) (net.Conn, error) {
		c, err := n.Dial(ctx, from, address)
		if err != nil { // not a typed nil in the interface
			return nil, fmt.Errorf("dial %s: %w", address, err)
		}
		return c, nil
	}
}

// Dial connects from a host to an address.
func (n *Network) Dial(ctx context.Context, from, address string) (net.Conn, error) {
	out, back := linkKey{from, Host(address)}, linkKey{Host(address), from}
	for {
		n.mu.Lock()
		changed, drop, cut := n.changed, n.fault(out).drop || n.fault(back).drop, n.fault(out).cut || n.fault(back).cut
		l := n.listeners[address]
		delay := n.fault(out).delay + n.fault(back).delay
		n.mu.Unlock()
		switch {
		case drop:
			if err := wait(ctx, changed); err != nil {
				return nil, err
			}
			continue
		case cut || l == nil:
			return nil, ErrRefused
		}
		if err := pause(ctx, delay); err != nil { // the SYN's round trip
			return nil, err
		}
		return n.connect(ctx, l, from, address)
	}
}

// connect makes the two ends and hands one to the listener.
func (n *Network) connect(ctx context.Context, l *listener, from, address string) (net.Conn, error) {
	n.mu.Lock()
	n.ports++
	local := addr(fmt.Sprintf("%s:dial%d", from, n.ports))
	there := newStream(n, linkKey{from, Host(address)})
	back := newStream(n, linkKey{Host(address), from})
	mine := &conn{network: n, local: local, remote: l.address, in: back, out: there}
	theirs := &conn{network: n, local: l.address, remote: local, in: there, out: back}
	mine.other, theirs.other = theirs, mine
	n.conns[mine], n.conns[theirs] = struct{}{}, struct{}{}
	n.mu.Unlock()
	var err error
	select {
	case l.queue <- theirs:
		return mine, nil
	case <-l.done:
		err = ErrRefused
	case <-ctx.Done():
		err = ctx.Err()
	}
	mine.Close()
	theirs.Close()
	return nil, err
}

// fault is the state of a link; the caller holds mu.
func (n *Network) fault(k linkKey) *fault {
	f := n.links[k]
	if f == nil {
		f = &fault{}
		n.links[k] = f
	}
	return f
}

// change changes a link and tells everybody.
func (n *Network) change(from, to string, f func(*fault)) {
	link := linkKey{host(from), host(to)}
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n.fault(link))
	n.announce()
}

// announce wakes all that wait for a link; the caller holds mu.
func (n *Network) announce() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Drop makes the packets of a directed link vanish until Restore.
func (n *Network) Drop(from, to string) { n.change(from, to, func(f *fault) { f.drop = true }) }

// Delay makes bytes sent over a directed link from now on arrive d later.
func (n *Network) Delay(from, to string, d time.Duration) {
	n.change(from, to, func(f *fault) { f.delay = d })
}

// Corrupt flips one bit in the middle of the next write over a directed link.
func (n *Network) Corrupt(from, to string) { n.change(from, to, func(f *fault) { f.corrupt = true }) }

// Cut refuses a directed link until Restore, and resets the connections between
// the two hosts.
func (n *Network) Cut(from, to string) {
	n.change(from, to, func(f *fault) { f.cut = true })
	n.Reset(from, to)
}

// Reset breaks the connections that stand between two hosts; new ones can be made.
func (n *Network) Reset(a, b string) {
	out, back := linkKey{host(a), host(b)}, linkKey{host(b), host(a)}
	n.mu.Lock()
	var broken []*conn
	for c := range n.conns {
		if c.in.link == out || c.in.link == back {
			broken = append(broken, c)
		}
	}
	n.mu.Unlock()
	for _, c := range broken {
		c.in.fail(ErrReset)
	}
}

// Isolate drops all packets from and to a host until Restore or RestoreAll.
func (n *Network) Isolate(name string, others ...string) {
	for _, other := range others {
		n.Drop(name, other)
		n.Drop(other, name)
	}
}

// Restore ends the faults of a directed link.
func (n *Network) Restore(from, to string) { n.change(from, to, func(f *fault) { *f = fault{} }) }

// RestoreAll ends all faults.
func (n *Network) RestoreAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.links)
	n.announce()
}

// Kill is the end of a host's process: its listeners close and its connections
// are reset, as the kernel does for it.
func (n *Network) Kill(name string) {
	dead := host(name)
	n.mu.Lock()
	var listeners []*listener
	for address, l := range n.listeners {
		if Host(address) == dead {
			listeners = append(listeners, l)
		}
	}
	var broken []*conn
	for c := range n.conns {
		if c.in.link.from == dead || c.in.link.to == dead {
			broken = append(broken, c)
		}
	}
	n.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
	for _, c := range broken {
		c.in.fail(ErrReset)
	}
}

// Connections is the number of connections that stand.
func (n *Network) Connections() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns) / 2
}

// wait waits for a channel or the end of ctx.
func wait(ctx context.Context, ch <-chan struct{}) error {
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// addr is an address of the network.
type addr string

// Network implements net.Addr.
func (a addr) Network() string { return "memory" }

// String implements net.Addr.
func (a addr) String() string { return string(a) }

// listener implements net.Listener.
type listener struct {
	network *Network
	address addr
	queue   chan net.Conn
	once    sync.Once
	done    chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "memory", Addr: l.address, Err: net.ErrClosed}
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.network.mu.Lock()
		delete(l.network.listeners, string(l.address))
		l.network.mu.Unlock()
		for len(l.queue) > 0 {
			(<-l.queue).Close()
		}
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.address }

// errTimeout is what a deadline gives, as os and net do.
var errTimeout = os.ErrDeadlineExceeded
