package replication

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
)

const (
	// gossipDelay gathers what changed into one message a peer.
	gossipDelay = 10 * time.Millisecond
	// gossipTimeout bounds one message; a peer that misses one gets the newest
	// state with the next.
	gossipTimeout = 2 * time.Second
	// inSyncInterval is how often leaders look at who is in sync, inSyncSoon how
	// often they do for partitions where somebody is not: after a creation or a
	// restart the followers are in step within milliseconds.
	inSyncInterval = 500 * time.Millisecond
	inSyncSoon     = 50 * time.Millisecond
	// inSyncLag is how long a follower may have been behind and still count as
	// in sync (Kafka's replica.lag.time.max.ms is 30 s; a broker that is down is
	// not in sync at once).
	inSyncLag = 10 * time.Second
)

// link sends one peer what changed here: leadership and replicas that started.
// Messages to a peer are in order, so that the last one is the newest.
type link struct {
	host *Host
	peer metadata.NodeID
	wake chan struct{}
	stop chan struct{}

	mu      sync.Mutex
	reports map[transport.GroupID]bool
	ups     map[transport.GroupID]bool
}

func newLink(h *Host, peer metadata.NodeID) *link {
	return &link{host: h, peer: peer, wake: make(chan struct{}, 1), stop: make(chan struct{}),
		reports: map[transport.GroupID]bool{}, ups: map[transport.GroupID]bool{}}
}

// report marks a group's leadership as news for the peer; up its replica here.
func (l *link) report(groups ...transport.GroupID) { l.mark(&l.reports, groups) }
func (l *link) up(groups ...transport.GroupID)     { l.mark(&l.ups, groups) }

func (l *link) mark(set *map[transport.GroupID]bool, groups []transport.GroupID) {
	l.mu.Lock()
	for _, g := range groups {
		(*set)[g] = true
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *link) take(set *map[transport.GroupID]bool) []transport.GroupID {
	l.mu.Lock()
	defer l.mu.Unlock()
	groups := make([]transport.GroupID, 0, len(*set))
	for g := range *set {
		groups = append(groups, g)
	}
	*set = map[transport.GroupID]bool{}
	return groups
}

// run sends until stop is closed. What cannot be sent because the peer is down
// is dropped: everything is sent anew when it comes back.
func (l *link) run() {
	defer l.host.workers.Done()
	for {
		select {
		case <-l.stop:
			return
		case <-l.host.stop:
			return
		case <-l.wake:
		}
		if ups := l.take(&l.ups); len(ups) > 0 {
			l.sendUps(ups)
		}
		select {
		case <-l.host.stop:
			return
		case <-time.After(gossipDelay):
		}
		if reports := l.take(&l.reports); len(reports) > 0 {
			l.sendReports(reports)
		}
	}
}

func (l *link) call(method transport.Method, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(l.host.context, gossipTimeout)
	defer cancel()
	return l.host.mux.Call(ctx, l.peer, transport.Control, method, body)
}

func (l *link) sendReports(groups []transport.GroupID) {
	var reports []leaderReport
	for _, g := range groups {
		// Only what this node itself says: it leads, or led and stepped down.
		if report, own := l.host.leaders.saidBy(l.host.node.ID(), g); own {
			reports = append(reports, report)
		}
	}
	if _, err := l.call(transport.MethodGossip, encodeReports(reports)); err != nil {
		l.retry(err, func() { l.report(groups...) })
	}
}

func (l *link) sendUps(groups []transport.GroupID) {
	var ups []transport.GroupUp
	for _, g := range groups {
		if p, ok := l.host.Partition(g.Topic, g.Partition); ok {
			if up, running := p.status(); running {
				ups = append(ups, up)
			}
		}
	}
	ctx, cancel := context.WithTimeout(l.host.context, gossipTimeout)
	defer cancel()
	if err := l.host.router.Announce(ctx, l.peer, ups...); err != nil {
		l.retry(err, func() { l.up(groups...) })
	}
}

// retry marks the groups again if the peer is there; if it is not, its return
// marks everything.
func (l *link) retry(err error, mark func()) {
	if !l.host.mux.Up(l.peer) {
		return
	}
	l.host.logger.Debug("gossip failed", "peer", l.peer, "err", err)
	select {
	case <-l.host.stop:
	case <-time.After(10 * gossipDelay):
		mark()
	}
}

// hearGroupUp takes what a peer's replica says of itself. If that was news the
// peer hears of this node's replica too, since it may have started later; what it
// then says is not news, so this ends.
func (h *Host) hearGroupUp(from metadata.NodeID, up transport.GroupUp) {
	p, ok := h.Partition(up.Group.Topic, up.Group.Partition)
	if !ok || !p.peerUp(up) {
		return
	}
	if link := h.linkTo(from); link != nil {
		link.up(up.Group)
	}
}

// handleGossip takes a peer's reports, all of them or none.
func (h *Host) handleGossip(r *transport.Request) {
	reports, err := decodeReports(r.Body)
	for _, report := range reports {
		if !report.mayCome(r.Peer.Node) {
			err = fmt.Errorf("%w: node %d says that node %d leads %s", errGossip, r.Peer.Node, report.info.Node, report.group)
		}
	}
	if err != nil {
		r.ReplyError(&transport.RemoteError{Code: transport.CodeBadRequest, Message: err.Error()})
		return
	}
	for _, report := range reports {
		h.leaders.learn(r.Peer.Node, report)
	}
	h.notifyLeaders()
	r.Reply()
}

// announce publishes what this node has to say about a partition it leads or
// led: to itself at once, to the others with the next message.
func (h *Host) announce(p *Partition) {
	if !h.announceHere(p) {
		return
	}
	h.notifyLeaders()
	for _, link := range h.allLinks() {
		link.report(p.group)
	}
}

// announceHere looks at the partition's role and writes it into the table in one
// step: between the two another goroutine might announce that the role was lost,
// and the leadership written after that would stay until somebody else is elected.
func (h *Host) announceHere(p *Partition) bool {
	p.announcing.Lock()
	defer p.announcing.Unlock()
	l := p.Leadership()
	info := LeaderInfo{Node: h.node.ID(), Term: l.Term}
	switch {
	case l.Ready:
		info.InSync = p.inSync(h.mux.Up)
		p.short.Store(len(info.InSync) < len(p.assigned()))
	case !l.Leader:
		known, own := h.leaders.saidBy(h.node.ID(), p.group)
		if !own {
			return false
		}
		info = LeaderInfo{Node: NoLeader, Term: known.info.Term}
	default:
		return false
	}
	return h.leaders.announce(h.node.ID(), p.group, info)
}

// watchInSync looks at the in-sync sets of the partitions led here.
func (h *Host) watchInSync() {
	defer h.workers.Done()
	tick := time.NewTicker(inSyncSoon)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-h.stop:
			return
		case <-tick.C:
		}
		all := n%int(inSyncInterval/inSyncSoon) == 0
		for _, p := range h.allPartitions() {
			if p.Leadership().Ready && (all || p.short.Load()) {
				h.announce(p)
			}
		}
	}
}

// inSync lists the nodes of replicas that hold everything acknowledged, as far
// as this leader knows: itself, and followers that are connected and had all
// there was within inSyncLag.
func (p *Partition) inSync(up func(metadata.NodeID) bool) []metadata.NodeID {
	in := p.current()
	if in == nil {
		return nil
	}
	var nodes []metadata.NodeID
	matches := in.facade.Matches(p.Leadership().Term)
	for _, r := range p.voters() {
		id := transport.ServerID(r.Node, r.Incarnation)
		if id == p.local {
			nodes = append(nodes, r.Node)
			continue
		}
		match, known := matches[id]
		if known && up(r.Node) && time.Since(match.CaughtUpAt) < inSyncLag {
			nodes = append(nodes, r.Node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// InSync counts the replicas in sync, zero unless this node leads.
func (p *Partition) InSync(up func(metadata.NodeID) bool) int {
	if !p.Leadership().Leader {
		return 0
	}
	return len(p.inSync(up))
}
