package transport

import (
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/replication/metadata"
)

// Verdict is what a mux has seen of another node's process (DESIGN 4.3 f). It is
// one node's view: a link may be broken and the node be well, so that nobody may
// be deposed for it before others were asked.
type Verdict uint8

const (
	// Present is a node that is heard, or was until a moment ago, or that this mux
	// has not known for long enough to miss.
	Present Verdict = iota
	// Gone is a process that has ended: its connections broke, and nobody listens
	// at its address.
	Gone
	// Silent is a node of which nothing was heard on any control connection for
	// longer than its frames usually take, and for a second at least: a machine or
	// a link that is down, or a process that is stopped.
	Silent
)

// String names the verdict in logs.
func (v Verdict) String() string {
	switch v {
	case Present:
		return "present"
	case Gone:
		return "gone"
	case Silent:
		return "silent"
	}
	return "unknown"
}

const (
	// silenceFloor is the least silence after which a node counts as silent: ten
	// pings that did not come.
	silenceFloor = time.Second
	// silenceDeviations is how many mean deviations above their mean the gaps
	// between frames are still no silence.
	silenceDeviations = 8
	// gapWeight is the weight of the past in mean and deviation: the last
	// one and a half seconds of pings count most.
	gapWeight = 16
)

// pulse is when a node was heard on its control connections, in both directions.
// It outlives them. Silence is measured in awake time, see Mux.awake.
type pulse struct {
	mu        sync.Mutex
	heard     time.Duration // in mux time
	awake     time.Duration // the same moment, in awake time
	mean, dev time.Duration // of the gaps between frames, as RFC 6298 smooths round trips
}

// beat notes that bytes came. What comes within half a ping of the last is of the
// same burst, and says nothing about how long the next one takes.
// A gap above the floor was a fault, and counts as no more: the next would be found late.
func (p *pulse) beat(now, awake time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if gap := min(now-p.heard, silenceFloor); gap >= pingInterval/2 {
		p.dev += ((gap - p.mean).Abs() - p.dev) / gapWeight
		p.mean += (gap - p.mean) / gapWeight
	}
	p.heard, p.awake = now, awake
}

// silent reports whether the node has missed its time.
func (p *pulse) silent(awake time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := min(max(silenceFloor, p.mean+silenceDeviations*p.dev), silenceLimit)
	return awake-p.awake > limit
}

// wake advances the awake clock: the time in which this process could have heard
// anybody. A process that was stopped, or got no processor, for a minute finds
// pings to read afterwards, and must not take its peers for dead before it has
// read them: that minute counts as two pings.
func (m *Mux) wake(elapsed time.Duration) {
	m.awake.Add(int64(min(elapsed, 2*pingInterval)))
}

// newPulse begins to listen for a node; what it does not say counts from now on.
func (m *Mux) newPulse() *pulse {
	return &pulse{heard: m.now(), awake: time.Duration(m.awake.Load()), mean: pingInterval}
}

// listenLocked has a control connection count for its node. One of a node that
// names no cluster does not: its disk is empty, so whatever ran on it is gone.
func (m *Mux) listenLocked(c *conn) {
	if p := m.peers[c.peer.Node]; p != nil && c.class == Control && c.peer.Cluster != "" {
		c.pulse.Store(p.pulse)
	}
}

// Verdict is what this mux has seen of a node; Present for one without an address.
func (m *Mux) Verdict(node metadata.NodeID) Verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[node]
	if p == nil {
		return Present
	}
	m.judgeLocked(p)
	return p.verdict
}

// Suspects are the nodes that are not Present. WatchPeers tells when they change.
func (m *Mux) Suspects() []metadata.NodeID {
	m.mu.Lock()
	defer m.mu.Unlock()
	var nodes []metadata.NodeID
	for node, p := range m.peers {
		if p.verdict != Present {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// judgeAll looks at every peer, each pingInterval.
func (m *Mux) judgeAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		m.judgeLocked(p)
	}
}

// judgeLocked looks at a peer and tells the watchers of a new verdict.
func (m *Mux) judgeLocked(p *peer) {
	if v := m.verdictLocked(p); v != p.verdict {
		p.verdict = v
		m.notifyLocked()
	}
}

// verdictLocked looks at both directions: a node whose address is wrong, or is
// behind a firewall, refuses us, and is heard all the same.
func (m *Mux) verdictLocked(p *peer) Verdict {
	connected := false
	for c := range m.conns {
		if c.pulse.Load() != p.pulse {
			continue
		}
		if c.stalled.Load() {
			return Present // it is we who do not read
		}
		connected = true
	}
	switch {
	case !connected && isRefused(p.links[Control].err):
		return Gone
	case p.pulse.silent(time.Duration(m.awake.Load())):
		return Silent
	}
	return Present
}

// wsaConnectionRefused is the error of Windows, for which package syscall has no name.
const wsaConnectionRefused = syscall.Errno(10061)

// isRefused reports whether a dial failed because nobody listens.
func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaConnectionRefused)
}
