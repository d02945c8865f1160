package transport

import (
	"bufio"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"time"
)

// What a peer may cost depends on what is known of it. The port authenticates
// nobody, but it does not lend a stranger what a member needs.
//
//	standing    who                                    connections    body of a request  memory
//	stranger    has not finished its handshake         128, for 5 s   none               512 bytes
//	newcomer    names no cluster (or we know none),    64             256 KiB            32 KiB
//	            or calls an address
//	claimant    names our cluster, but the metadata    96             MaxFrame           4 MiB
//	            does not know its incarnation
//	registered  its incarnation is in the metadata     1 a class      MaxFrame           PeerMemory
//
// Memory is what one connection's requests may hold while they are handled
// (Config.PeerMemory). While bodies arrive, each connection may hold assuredBody,
// and what is larger shares a budget with the connections of the same class and
// standing: an append never waits for a claimant or a segment file, nor a vote for
// an append. One connection has one body under way, and one that is too slow is
// closed, so the budget comes round.
//
// When a limit of connections is reached, the host that has most of them loses its
// oldest: a flood closes its own connections first, and never those of members,
// which nothing here counts.
type standing uint8

const (
	newcomer standing = iota
	claimant
	registered
)

const (
	// maxStrangers is how many accepted connections may be in their handshake.
	maxStrangers = 128
	// maxNewcomers and maxClaimants are how many accepted connections of them may
	// stand. 96 are three classes of 32 nodes: a node that has joined and has not
	// caught up knows nobody's incarnation.
	maxNewcomers = 64
	maxClaimants = 96

	// introductionFrame is the largest body that a newcomer and we may send each
	// other; package replication's introductions are at most as long.
	introductionFrame = 256 << 10
	// newcomerMemory is Config.PeerMemory of a newcomer: eight requests.
	newcomerMemory = 8 * requestOverhead
	// claimantMemory is Config.PeerMemory of a claimant, if that is not less.
	claimantMemory = 4 << 20

	// memberReceipts and claimantReceipts are how many bodies of the largest size
	// may arrive at the same time in one class.
	memberReceipts   = 2
	claimantReceipts = 1

	// receiptGrace and receiptRate bound how long a body above assuredBody may take
	// to arrive: so long, and a second for so many bytes.
	receiptGrace = 30 * time.Second
	receiptRate  = 256 << 10
)

// limits is what a connection may cost.
type limits struct {
	frame       int   // largest body in bytes, in both directions
	memory      int64 // of requests being handled and of answers, in bytes
	connections int   // of this standing that may stand
}

// limitsOf is what connections of a standing may cost.
func (m *Mux) limitsOf(s standing) limits {
	frame, memory := m.config.MaxFrame, m.config.PeerMemory
	switch s {
	case newcomer:
		return limits{frame: min(frame, introductionFrame), memory: min(memory, newcomerMemory), connections: maxNewcomers}
	case claimant:
		return limits{frame: frame, memory: min(memory, claimantMemory), connections: maxClaimants}
	}
	return limits{frame: frame, memory: memory}
}

// acquainted is the standing that a handshake gives, the same on both sides.
func acquainted(own Identity, peer Peer, class Class) standing {
	if class == probe || own.Cluster == "" || peer.Cluster == "" {
		return newcomer
	}
	return claimant // else the handshake would have been refused
}

// standing is what is known of an accepted connection's peer by now.
func (c *conn) standing() standing {
	if c.member.Load() {
		return registered
	}
	return acquainted(c.own, c.peer, c.class)
}

// promoteLocked makes a claimant whose incarnation the metadata has a member.
func (m *Mux) promoteLocked(c *conn) {
	if c.dialed || c.standing() != claimant || m.current[c.peer.Node] != c.peer.Incarnation {
		return
	}
	c.member.Store(true)
	c.budget.raise(m.limitsOf(registered).memory)
}

// tooLarge is the error of a request that the peer would close the connection for.
// One that only our not knowing each other's cluster yet forbids counts as not
// sent: the connection is made anew once both do.
func (c *conn) tooLarge(size int64) error {
	err := fmt.Errorf("%w: a request of %d bytes to a node that names no cluster", ErrTooLarge, size)
	if c.class == probe {
		return err
	}
	return downError(err)
}

// receipts are the budgets of the bodies above assuredBody that arrive, by class.
type receipts struct{ members, claimants [classes]*budget }

// newReceipts is the budgets for bodies of at most maxFrame bytes.
func newReceipts(maxFrame int) receipts {
	var r receipts
	for class := range classes {
		r.members[class] = newBudget(memberReceipts * int64(maxFrame))
		r.claimants[class] = newBudget(claimantReceipts * int64(maxFrame))
	}
	return r
}

// of is the budget of a connection that takes bodies above assuredBody.
func (r *receipts) of(c *conn) *budget {
	if c.member.Load() {
		return r.members[c.class]
	}
	return r.claimants[c.class]
}

// receiveBody reads the body of a request. Beyond assuredBody it waits for all the
// memory it will need, not for a part: two that held parts could wait for each
// other. What it waits for depends on nothing but bytes on their way, and those
// that hold it up must come in time.
func (c *conn) receiveBody(r *bufio.Reader, h frameHeader) ([]byte, error) {
	size := int64(h.length)
	var shared *budget // once claimed
	claim := func() error {
		from := c.mux.receipts.of(c)
		if err := c.wait(from, size); err != nil {
			return err
		}
		shared = from
		return c.net.SetReadDeadline(time.Now().Add(receiptGrace + time.Duration(size)*time.Second/receiptRate))
	}
	body, err := readBody(r, h, claim)
	if shared == nil {
		return body, err
	}
	shared.give(size)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("a request of %d bytes comes too slowly: %w", size, err)
	}
	if err != nil {
		return nil, err
	}
	return body, c.net.SetReadDeadline(time.Time{})
}

// wait takes n bytes of a budget; its error is that of a connection which ended.
func (c *conn) wait(b *budget, n int64) error {
	c.stalled.Store(true)
	ok := b.take(n, c.done)
	c.noteHeard() // before stalled falls: the wait was not silence
	c.stalled.Store(false)
	if !ok {
		return c.err
	}
	return nil
}

// entrant is where an accepted connection came from.
type entrant struct {
	host  string
	order uint64 // of arrival, from 1
}

// hostOf is the host of a connection's other end.
func hostOf(nc net.Conn) string {
	address := nc.RemoteAddr()
	if address == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(address.String())
	if err != nil {
		return address.String()
	}
	return host
}

// crowdedOut picks the connection that is closed for a new one: the oldest of the
// host that has most of them.
func crowdedOut[K any](all iter.Seq2[K, entrant]) (victim K) {
	held := map[string]int{}
	for _, e := range all {
		held[e.host]++
	}
	var worst entrant
	for k, e := range all {
		more := held[e.host] - held[worst.host]
		if worst == (entrant{}) || more > 0 || (more == 0 && e.order < worst.order) {
			victim, worst = k, e
		}
	}
	return victim
}
