package transport

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Times of the watch over connections.
const (
	// pingInterval is how often each side of a control connection sends a ping,
	// and how often silence is looked for.
	pingInterval = 100 * time.Millisecond
	// silenceLimit is how long a peer may be silent on a control connection
	// before it is taken as down and all connections with it are closed.
	silenceLimit = 3 * time.Second
	// idlePings is how many intervals lie between the pings of other connections,
	// and how many times the silence they are allowed is longer: they are watched
	// only in case a single connection breaks without a word.
	idlePings = 10
)

// errSilent is why connections of a silent peer are closed.
var errSilent = errors.New("peer is silent")

// watch is the goroutine that pings peers, closes connections to silent ones and
// those made under an identity that is no longer ours.
func (m *Mux) watch() {
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	last := m.now()
	for tick := 0; ; tick++ {
		select {
		case <-ticker.C:
		case <-m.ctx.Done():
			return
		}
		now := m.now()
		m.wake(now - last)
		last = now
		m.judgeAll()
		own := m.config.Identity()
		m.mu.Lock()
		conns := make([]*conn, 0, len(m.conns))
		for c := range m.conns {
			conns = append(conns, c)
		}
		m.mu.Unlock()
		for _, c := range conns {
			m.inspect(c, own, tick)
		}
	}
}

// inspect looks after one connection.
func (m *Mux) inspect(c *conn, own Identity, tick int) {
	limit, urgent := silenceLimit, c.class == Control
	if !urgent {
		limit *= idlePings
	}
	silence := c.silence()
	switch {
	case c.own != own:
		c.fail(errors.New("made before the cluster id was known"))
	case silence > limit && urgent:
		m.closePeer(c.peer, fmt.Errorf("%w for %v", errSilent, silence.Round(time.Millisecond)))
	case silence > limit:
		c.fail(fmt.Errorf("%w for %v", errSilent, silence.Round(time.Millisecond)))
	case urgent || tick%idlePings == 0:
		c.ping()
	}
}

// closePeer closes every connection with a peer, in both directions.
func (m *Mux) closePeer(p Peer, err error) {
	m.mu.Lock()
	var conns []*conn
	for c := range m.conns {
		if c.peer == p { // of that cluster, too: who names none ends no member's
			conns = append(conns, c)
		}
	}
	m.mu.Unlock()
	m.config.Logger.Warn("peer is silent; its connections are closed", "peer", int32(p.Node), "error", err)
	for _, c := range conns {
		c.fail(err)
	}
}

// noiseInterval is how often one kind of trouble with one peer is logged.
const noiseInterval = time.Minute

// maxNoise bounds what the limiter remembers.
const maxNoise = 1024

// noiseLimiter remembers when something was last logged.
type noiseLimiter struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// allow reports whether key was not allowed within the last interval.
func (n *noiseLimiter) allow(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if t, ok := n.last[key]; ok && now.Sub(t) < noiseInterval {
		return false
	}
	if n.last == nil || len(n.last) >= maxNoise {
		n.last = map[string]time.Time{}
	}
	n.last[key] = now
	return true
}

// complain logs trouble with a peer, or with a host whose node is not known, at
// most once a minute for each of them and each kind.
func (m *Mux) complain(what string, p Peer, class Class, nc net.Conn, err error) {
	address := ""
	if nc != nil && nc.RemoteAddr() != nil {
		address = nc.RemoteAddr().String()
	}
	if p.Incarnation == 0 { // no identity known: hosts are told apart by address
		p.Node = anyNode
	}
	host, _, splitErr := net.SplitHostPort(address)
	if splitErr != nil {
		host = address
	}
	kind := what
	var refused *RefusedError
	if errors.As(err, &refused) {
		kind += " " + refused.Reason.String()
	}
	if !m.noise.allow(fmt.Sprintf("%s/%d/%s", kind, p.Node, host)) {
		return
	}
	m.config.Logger.Warn("transport: "+what, "peer", int32(p.Node), "class", class.String(), "remote", address, "error", err)
}
