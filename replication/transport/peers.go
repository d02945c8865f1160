package transport

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/replication/metadata"
)

// Times of the connections to peers.
const (
	// dialTimeout bounds dialling and handshake of a connection we make.
	dialTimeout = 3 * time.Second
	// minBackoff and maxBackoff bound the wait between attempts to dial a peer;
	// it doubles from one to the other and ends at once when the peer dials us.
	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Second
	// stableAfter is how long a connection must have lived for the next attempt
	// to come without a wait: a peer that accepts and closes must not be dialled
	// in a loop.
	stableAfter = time.Second
)

// Peer is the identity of a node in a handshake. Values can be compared: a node
// that meets itself gets a Peer equal to its own Identity.
type Peer struct {
	// Node is the node's id.
	Node metadata.NodeID
	// Incarnation is that of the node's disk.
	Incarnation metadata.Incarnation
	// Cluster is the cluster id, at most 64 bytes, empty while the node knows none.
	Cluster string
}

// Identity is a Peer seen from inside: what this node says of itself.
type Identity = Peer

// anyNode is a dial that expects no particular node.
const anyNode metadata.NodeID = -1

// peer is a node with a known address. Everything in it is guarded by Mux.mu.
type peer struct {
	node    metadata.NodeID
	address string
	removed bool
	wake    chan struct{} // capacity 1: ends a wait of keepControl
	pulse   *pulse        // never changes
	verdict Verdict       // as last told to the watchers
	links   [classes]link
}

// link is our outgoing connection of one class to a peer: none, being dialled,
// or up. Guarded by Mux.mu.
type link struct {
	peer    *peer
	class   Class
	conn    *conn
	dialing *attempt
	err     error         // why the last attempt or connection failed
	backoff time.Duration // the last wait; 0 after a stable connection
	retryAt time.Time     // no attempt before
}

// attempt is one dial and handshake under way; calls wait for it together.
type attempt struct {
	address string
	done    chan struct{}
	conn    *conn // the result, readable after done
	err     error
}

// Status describes a peer, for logs and administration.
type Status struct {
	// Address is what is dialled.
	Address string
	// Up is whether the control connection to it stands.
	Up bool
	// Peer is who answered there, zero while not Up.
	Peer Peer
	// Silence is how long nothing came on the control connection, give or take the
	// 100 ms between two pings. Zero while not Up.
	Silence time.Duration
	// RTT is the round trip of the last answered ping, zero before the first.
	RTT time.Duration
	// Err is why it is not up: the last failure to dial, or of the connection.
	Err error
}

// SetAddress makes node known at address, or moves it there (connections to the
// old address are closed), or with an empty address forgets it. The control
// connection is dialled at once and kept. The mux's own id is ignored.
func (m *Mux) SetAddress(node metadata.NodeID, address string) {
	if node == m.config.Identity().Node {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[node]
	if m.closed || (p != nil && p.address == address) || (p == nil && address == "") {
		return
	}
	if p != nil {
		m.dropLocked(p, fmt.Errorf("the address of node %d changed from %s to %q", node, p.address, address))
	}
	if address == "" {
		p.removed = true
		delete(m.peers, node)
		wakeUp(p.wake)
		return
	}
	if p != nil {
		p.address = address
		m.wakeLocked(p)
		return
	}
	p = &peer{node: node, address: address, wake: make(chan struct{}, 1), pulse: m.newPulse()}
	for class := range p.links {
		p.links[class] = link{peer: p, class: Class(class)}
	}
	m.peers[node] = p
	for c := range m.conns {
		if c.peer.Node == node {
			m.listenLocked(c)
		}
	}
	if m.started {
		m.spawnLocked(func() { m.keepControl(p) })
	}
}

// SetIncarnation tells the incarnation that the metadata has for a node. The one
// it had before is retired: its connections are closed and its handshakes
// refused until the mux closes. Incarnations never heard of are let in, since a
// node with a new disk must be able to join.
func (m *Mux) SetIncarnation(node metadata.NodeID, incarnation metadata.Incarnation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.current[node]
	if before == incarnation {
		return
	}
	m.current[node] = incarnation
	delete(m.retired, incarnationKey{node, incarnation})
	for c := range m.conns {
		m.promoteLocked(c)
	}
	if before == 0 {
		return
	}
	if len(m.retired) >= maxRetired {
		clear(m.retired)
	}
	m.retired[incarnationKey{node, before}] = true
	for c := range m.conns {
		if c.peer.Node == node && c.peer.Incarnation == before {
			m.failSoon(c, fmt.Errorf("incarnation %v of node %d was replaced", before, node))
		}
	}
}

// incarnationKey names one incarnation of one node.
type incarnationKey struct {
	node        metadata.NodeID
	incarnation metadata.Incarnation
}

// maxRetired bounds the retired incarnations that are remembered.
const maxRetired = 4096

// isRetired reports whether the metadata has replaced this incarnation.
func (m *Mux) isRetired(p Peer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.retired[incarnationKey{p.Node, p.Incarnation}]
}

// Up reports whether our control connection to the node stands. Silence of 3 s
// ends it.
func (m *Mux) Up(node metadata.NodeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[node]
	return p != nil && p.links[Control].conn != nil
}

// Status describes a node; false if it has no address.
func (m *Mux) Status(node metadata.NodeID) (Status, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[node]
	if p == nil {
		return Status{}, false
	}
	l := &p.links[Control]
	s := Status{Address: p.address, Err: l.err}
	if l.conn != nil {
		s = Status{Address: p.address, Up: true, Peer: l.conn.peer, Silence: l.conn.silence(), RTT: time.Duration(l.conn.rtt.Load())}
	}
	return s, true
}

// WatchPeers sends on ch, without waiting, whenever Up or Verdict of any node
// changes; give it capacity 1 and look again at what matters. cancel ends it.
func (m *Mux) WatchPeers(ch chan<- struct{}) (cancel func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers[ch]++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.watchers[ch]--; m.watchers[ch] <= 0 {
			delete(m.watchers, ch)
		}
	}
}

// notifyLocked tells the watchers; the caller holds mu.
func (m *Mux) notifyLocked() {
	for ch := range m.watchers {
		wakeUp(ch)
	}
}

// wakeUp sends without waiting.
func wakeUp(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// wakeLocked forgets the waits of a peer's links: it has shown that it lives, or
// has a new address.
func (m *Mux) wakeLocked(p *peer) {
	for i := range p.links {
		p.links[i].backoff = 0
		p.links[i].retryAt = time.Time{}
	}
	wakeUp(p.wake)
}

// dropLocked closes all our connections to a peer.
func (m *Mux) dropLocked(p *peer, err error) {
	for i := range p.links {
		if c := p.links[i].conn; c != nil {
			m.failSoon(c, err)
		}
	}
}

// keepControl keeps the control connection to a peer up, until the peer is
// forgotten or the mux closes.
func (m *Mux) keepControl(p *peer) {
	for {
		m.mu.Lock()
		if m.closed || p.removed {
			m.mu.Unlock()
			return
		}
		l := &p.links[Control]
		wait := time.Until(l.retryAt)
		var changed <-chan struct{}
		switch {
		case l.conn != nil:
			changed = l.conn.done
		case l.dialing != nil:
			changed = l.dialing.done
		case wait <= 0:
			changed = m.dialLocked(l).done
		}
		m.mu.Unlock()
		if changed != nil {
			select {
			case <-changed:
			case <-p.wake:
			case <-m.ctx.Done():
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-p.wake:
		case <-m.ctx.Done():
		}
		timer.Stop()
	}
}

// connection returns the connection of a class to a node, dialling it if need be.
// It fails at once if the last attempt failed.
func (m *Mux) connection(ctx context.Context, node metadata.NodeID, class Class) (*conn, error) {
	m.mu.Lock()
	l, err := m.linkLocked(node, class)
	if err != nil || l.conn != nil {
		defer m.mu.Unlock()
		if err != nil {
			return nil, err
		}
		return l.conn, nil
	}
	a := l.dialing
	if a == nil {
		a = m.dialLocked(l)
	}
	m.mu.Unlock()
	select {
	case <-a.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if a.err != nil {
		return nil, downError(a.err)
	}
	return a.conn, nil
}

// linkLocked finds a link that is up, being dialled, or may be dialled now.
func (m *Mux) linkLocked(node metadata.NodeID, class Class) (*link, error) {
	p := m.peers[node]
	switch {
	case m.closed:
		return nil, ErrClosed
	case !m.started:
		return nil, downError(errors.New("the transport has not started"))
	case class >= classes:
		return nil, fmt.Errorf("%w: no class %d", ErrPeerDown, class)
	case p == nil:
		return nil, downError(errors.New("no address known"))
	}
	l, control := &p.links[class], &p.links[Control]
	if l.conn != nil {
		return l, nil
	}
	// Dialling a host that has vanished takes seconds, so a call waits for the
	// first attempt only, not for a repeated one; and a peer whose control
	// connection cannot be made is not tried on the others.
	for _, tried := range []*link{control, l} {
		if tried.conn == nil && tried.backoff > 0 && (tried.dialing != nil || tried == control || time.Now().Before(tried.retryAt)) {
			return nil, downError(tried.err)
		}
	}
	return l, nil
}

// downError is ErrPeerDown with its cause.
func downError(cause error) error {
	if errors.Is(cause, ErrClosed) {
		return cause
	}
	return fmt.Errorf("%w: %w", ErrPeerDown, cause)
}

// dialLocked starts an attempt in a goroutine of its own.
func (m *Mux) dialLocked(l *link) *attempt {
	a := &attempt{address: l.peer.address, done: make(chan struct{})}
	l.dialing = a
	if !m.spawnLocked(func() { m.attempt(l, a) }) {
		l.dialing = nil
		a.err = ErrClosed
		close(a.done)
	}
	return a
}

// attempt dials a link and publishes the result.
func (m *Mux) attempt(l *link, a *attempt) {
	c, err := m.dial(m.ctx, a.address, l.class, l.peer.node)
	m.mu.Lock()
	defer m.mu.Unlock()
	defer close(a.done)
	l.dialing = nil
	current := !m.closed && !l.peer.removed && l.peer.address == a.address
	if err == nil && !current {
		c.net.Close()
		c.cancel()
		err = fmt.Errorf("node %d was moved or forgotten while it was dialled", l.peer.node)
	}
	if err != nil {
		if m.closed {
			err = ErrClosed
		}
		a.err, l.err = err, err
		if current {
			l.delayLocked()
			m.judgeLocked(l.peer)
		}
		return
	}
	a.conn, c.link = c, l
	l.conn, l.err = c, nil
	m.startLocked(c)
	if l.class == Control {
		m.notifyLocked()
	}
}

// delayLocked puts the next attempt off, longer each time.
func (l *link) delayLocked() {
	l.backoff = min(max(2*l.backoff, minBackoff), maxBackoff)
	l.retryAt = time.Now().Add(l.backoff)
}

// dial makes a connection and its handshake. want is the node expected there.
func (m *Mux) dial(ctx context.Context, address string, class Class, want metadata.NodeID) (*conn, error) {
	c, _, err := m.dialPeer(ctx, address, class, want)
	return c, err
}

// dialPeer is dial that also tells who answered, as soon as that is known, also
// with an error.
func (m *Mux) dialPeer(ctx context.Context, address string, class Class, want metadata.NodeID) (*conn, Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := m.config.Dial(ctx, address)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("dial %s: %w", address, err)
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	own := m.config.Identity()
	peer, err := m.greet(nc, class, own, want)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		err = fmt.Errorf("handshake with %s: %w", address, err)
		if errors.Is(err, ErrRefusedIdentity) || errors.Is(err, ErrFrame) {
			m.complain("handshake failed", peer, class, nc, err)
		}
		return nil, peer, err
	}
	return m.newConn(nc, peer, own, class, true), peer, nil
}

// forgetConn takes a failed connection out of the tables.
func (m *Mux) forgetConn(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, c)
	if m.accepted[c.acceptedKey()] == c {
		delete(m.accepted, c.acceptedKey())
	}
	if p := m.peers[c.peer.Node]; p != nil {
		defer m.judgeLocked(p)
	}
	l := c.link
	if l == nil || l.conn != c {
		return
	}
	l.conn, l.err = nil, c.err
	if time.Since(c.born) < stableAfter || errors.Is(c.err, errSilent) {
		l.delayLocked()
	} else {
		l.backoff, l.retryAt = 0, time.Time{}
	}
	if l.class == Control {
		m.notifyLocked()
	}
}
