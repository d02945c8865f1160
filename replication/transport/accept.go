package transport

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"time"
)

// Waits of the accept loop after an error, such as no free descriptors.
const (
	minAcceptBackoff = 5 * time.Millisecond
	maxAcceptBackoff = time.Second
)

// accept is the goroutine of the listener.
func (m *Mux) accept() {
	backoff := minAcceptBackoff
	for {
		nc, err := m.config.Listener.Accept()
		if err == nil {
			backoff = minAcceptBackoff
			m.admit(nc)
			continue
		}
		if m.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		m.complain("accept failed", Peer{}, Control, nil, err)
		timer := time.NewTimer(backoff)
		select {
		case <-timer.C:
		case <-m.ctx.Done():
		}
		timer.Stop()
		backoff = min(2*backoff, maxAcceptBackoff)
	}
}

// admit starts the handshake of an accepted connection. When too many are in
// theirs one is closed, see crowdedOut: a real peer is through in a few round trips.
func (m *Mux) admit(nc net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.strangers) >= maxStrangers {
		victim := crowdedOut(maps.All(m.strangers))
		delete(m.strangers, victim)
		victim.Close()
	}
	m.arrivals++
	from := entrant{host: hostOf(nc), order: m.arrivals}
	m.strangers[nc] = from
	if !m.spawnLocked(func() { m.meet(nc, from) }) {
		delete(m.strangers, nc)
		nc.Close()
	}
}

// meet makes the handshake of an accepted connection and lets it in.
func (m *Mux) meet(nc net.Conn, from entrant) {
	own := m.config.Identity()
	err := nc.SetDeadline(time.Now().Add(handshakeTimeout))
	var peer Peer
	var class Class
	if err == nil {
		peer, class, err = m.welcome(nc, own)
	}
	if err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.strangers, nc)
	if err != nil {
		nc.Close()
		if !m.closed && !errors.Is(err, io.EOF) {
			m.complain("handshake failed", peer, class, nc, err)
		}
		return
	}
	c := m.newConn(nc, peer, own, class, false)
	c.from = from
	m.acceptedLocked(c)
}

// acceptedLocked lets a connection in. It replaces the one the same peer had of
// that class (the peer has given that one up, or it would not have dialled), and
// is a reason to dial the peer at once.
func (m *Mux) acceptedLocked(c *conn) {
	if c.class != probe && !m.closed {
		key := c.acceptedKey()
		if old := m.accepted[key]; old != nil {
			m.evictLocked(old, fmt.Errorf("replaced by a later connection of node %d", c.peer.Node))
		}
		m.accepted[key] = c
	}
	m.promoteLocked(c)
	m.makeRoomLocked(c)
	m.startLocked(c)
	if p := m.peers[c.peer.Node]; p != nil && c.class != probe && p.links[Control].conn == nil {
		m.wakeLocked(p)
	}
}

// makeRoomLocked closes an accepted connection of c's standing if as many as may
// stand do: those of members always may.
func (m *Mux) makeRoomLocked(c *conn) {
	standing := c.standing()
	if standing == registered {
		return
	}
	peers := map[*conn]entrant{}
	for other := range m.conns {
		if !other.dialed && other.standing() == standing {
			peers[other] = other.from
		}
	}
	if len(peers) >= c.limits.connections {
		m.evictLocked(crowdedOut(maps.All(peers)), errors.New("too many connections of nodes that the metadata does not know"))
	}
}

// evictLocked closes a connection that counts no longer from now on.
func (m *Mux) evictLocked(c *conn, err error) {
	delete(m.conns, c)
	m.failSoon(c, err)
}
