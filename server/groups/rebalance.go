package groups

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// canOffer says whether a member with these protocols fits: a group without
// members takes any, another one those of its type that leave at least one
// protocol which every member has.
func (g *group) canOffer(protocolType string, protocols []protocol) bool {
	if protocolType == "" || len(protocols) == 0 {
		return false
	}
	if len(g.members) == 0 {
		return true
	}
	if g.protocolType != protocolType {
		return false
	}
	counts := g.protocolCounts()
	for _, p := range protocols {
		if counts[p.name] == len(g.members) {
			return true
		}
	}
	return false
}

// protocolCounts is the number of members that offer each protocol.
func (g *group) protocolCounts() map[string]int {
	counts := make(map[string]int)
	for _, m := range g.members {
		seen := make(map[string]bool, len(m.protocols))
		for _, p := range m.protocols {
			if !seen[p.name] {
				seen[p.name] = true
				counts[p.name]++
			}
		}
	}
	return counts
}

// vote chooses the protocol: each member votes for the first in its list that all
// have. Where votes are equal, the one that earlier members prefer wins.
func (g *group) vote() string {
	counts := g.protocolCounts()
	votes := make(map[string]int)
	var order []string
	for _, m := range g.ordered() {
		for _, p := range m.protocols {
			if counts[p.name] == len(g.members) {
				if votes[p.name]++; votes[p.name] == 1 {
					order = append(order, p.name)
				}
				break
			}
		}
	}
	best := ""
	for _, name := range order {
		if best == "" || votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

// rebalanceTimeout is how long members have to join again: the longest any asks.
func (g *group) rebalanceTimeout() time.Duration {
	var d time.Duration
	for _, m := range g.members {
		d = max(d, m.rebalance)
	}
	return d
}

// maybePrepareRebalance begins a rebalance unless one is waiting for members.
func (g *group) maybePrepareRebalance(reason string) {
	if g.state != Preparing {
		g.prepareRebalance(reason)
	}
}

// prepareRebalance asks every member to join again: through its next heartbeat,
// or through the answer to its sync.
func (g *group) prepareRebalance(reason string) {
	g.s.log.Info("rebalance begins", "group", g.id, "generation", g.generation, "members", len(g.members), "reason", reason)
	if g.state == Completing {
		g.failSyncs(codeRebalance)
	}
	g.stopTimer(&g.syncTimer)
	first := g.state == Empty
	g.setState(Preparing)
	if first {
		delay := g.s.c.cfg.InitialRebalanceDelay
		g.collect(delay, max(g.rebalanceTimeout()-delay, 0))
		return
	}
	g.awaitMembers()
	g.maybeCompleteJoin()
}

// awaitMembers gives members the rebalance time-out to join.
func (g *group) awaitMembers() {
	g.stopTimer(&g.joinTimer)
	g.joinTimer = g.s.c.timers.start(g.rebalanceTimeout(), func(t *timer) {
		g.s.mu.Lock()
		defer g.s.mu.Unlock()
		if g.joinTimer == t {
			g.joinTimer = nil
			g.completeJoin()
		}
	})
}

// collect waits for the members of a new group, which mostly start together; each
// newcomer prolongs the wait, up to the rebalance time-out (KIP-134).
func (g *group) collect(delay, left time.Duration) {
	g.collecting, g.newcomer = true, false
	g.joinTimer = g.s.c.timers.start(delay, func(t *timer) {
		g.s.mu.Lock()
		defer g.s.mu.Unlock()
		if g.joinTimer != t {
			return
		}
		g.joinTimer = nil
		if g.newcomer && left > 0 {
			next := min(g.s.c.cfg.InitialRebalanceDelay, left)
			g.collect(next, left-next)
			return
		}
		g.completeJoin()
	})
}

// maybeCompleteJoin ends Preparing once every member has joined again and nobody
// with a fresh member id is on the way.
func (g *group) maybeCompleteJoin() {
	if g.state == Preparing && !g.collecting && g.awaiting == len(g.members) && len(g.pending) == 0 {
		g.completeJoin()
	}
}

// completeJoin fixes the members of the next generation. Dynamic members that did
// not join are out; static ones stay, for their session still runs.
func (g *group) completeJoin() {
	g.stopTimer(&g.joinTimer)
	g.collecting = false
	for _, m := range g.ordered() {
		if m.join == nil && m.instance == nil {
			g.remove(m, codeUnknownMember)
		}
	}
	if len(g.members) > 0 && !g.electLeader() {
		// Only static members, all away: wait on until one joins or its session ends.
		g.awaitMembers()
		return
	}
	g.generation++
	g.storing = false
	clear(g.pendingSync)
	if len(g.members) == 0 {
		g.becomeEmpty()
		return
	}
	g.protocol = g.vote()
	g.setState(Completing)
	for _, m := range g.ordered() {
		m.assignment = nil
		g.answerJoin(m, g.generationFor(m, g.isLeader(m)))
		m.isNew = false
		g.touch(m)
		g.pendingSync[m.id] = struct{}{}
	}
	g.awaitSyncs()
	g.s.log.Info("generation begins", "group", g.id, "generation", g.generation,
		"members", len(g.members), "protocol", g.protocol, "leader", g.leader)
}

// becomeEmpty is the end of a group's last rebalance, stored so that a later
// coordinator does not wait for members that are gone. When that write fails, it
// waits for them until their sessions end, which harms nobody.
func (g *group) becomeEmpty() {
	g.protocol, g.leader = "", ""
	g.setState(Empty)
	err := g.store(func(*member) []byte { return nil }, func(error) {})
	g.s.log.Info("group is empty", "group", g.id, "generation", g.generation, "err", err)
}

func (g *group) isLeader(m *member) bool { return g.leader == m.id }

// electLeader keeps a leader that has joined; otherwise the first member that has
// joined leads.
func (g *group) electLeader() bool {
	if m := g.members[g.leader]; m != nil && m.join != nil {
		return true
	}
	for _, m := range g.ordered() {
		if m.join != nil {
			g.leader = m.id
			return true
		}
	}
	return false
}

// generationFor is the answer to a join of the current generation.
func (g *group) generationFor(m *member, withMembers bool) joinResult {
	r := joinResult{
		memberID: m.id, generation: g.generation, protocolType: g.protocolType,
		protocol: g.protocol, leader: g.leader,
	}
	if !withMembers {
		return r
	}
	for _, other := range g.ordered() {
		r.members = append(r.members, kmsg.JoinGroupResponseMember{
			MemberID: other.id, InstanceID: other.instance, ProtocolMetadata: other.metadata(g.protocol),
		})
	}
	return r
}

// awaitSyncs removes members that joined and then do not sync within the
// rebalance time-out, although they send heartbeats.
func (g *group) awaitSyncs() {
	g.stopTimer(&g.syncTimer)
	g.syncTimer = g.s.c.timers.start(g.rebalanceTimeout(), func(t *timer) {
		g.s.mu.Lock()
		defer g.s.mu.Unlock()
		if g.syncTimer != t {
			return
		}
		g.syncTimer = nil
		if (g.state != Completing && g.state != Stable) || len(g.pendingSync) == 0 {
			return
		}
		for _, m := range g.ordered() {
			if _, missing := g.pendingSync[m.id]; missing {
				g.remove(m, codeUnknownMember)
			}
		}
		g.prepareRebalance("members did not sync")
	})
}

// failSyncs forgets the assignments of a generation that does not come about.
func (g *group) failSyncs(code int16) {
	for _, m := range g.ordered() {
		m.assignment = nil
		if m.sync != nil {
			g.touch(m) // its session may have run out while it waited
			m.answerSync(syncResult{code: code})
		}
	}
}
