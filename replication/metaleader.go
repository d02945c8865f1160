package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

const (
	// maxVoters is how many brokers vote in the metadata group; all others follow.
	maxVoters = 5
	// leaderInterval is how often the leader looks at its members, beside when the
	// view or a peer changed.
	leaderInterval = 100 * time.Millisecond
	// foundingInterval is the same while the cluster is being founded, which needs
	// several steps one after the other, and everybody waits for them.
	foundingInterval = 10 * time.Millisecond
	// memberTimeout bounds one change of the members.
	memberTimeout = 5 * time.Second
	// handOverTimeout bounds the search for a successor at a stop.
	handOverTimeout = 500 * time.Millisecond
)

// watchLeadership does the leader's work whenever this instance leads.
func (m *MetaGroup) watchLeadership(in *metaInstance) {
	for {
		select {
		case <-in.stopped:
			return
		case leads := <-in.raft.LeaderCh():
			if leads {
				m.lead(in)
			}
		}
	}
}

// lead works until the leadership of this term ends. The barrier comes first: the
// state machine never sees raft's no-op, and until it has applied everything of
// earlier terms this leader knows less than was acknowledged.
func (m *MetaGroup) lead(in *metaInstance) {
	term := in.raft.CurrentTerm()
	if err := m.becomeReady(in); err != nil || in.raft.CurrentTerm() != term {
		m.logger.Debug("metadata leader", "term", term, "err", err)
		return
	}
	in.readyTerm.Store(term)
	defer in.readyTerm.CompareAndSwap(term, 0)
	m.logger.Info("this node leads the metadata group", "term", term)
	m.leaderMoved()
	changed := make(chan struct{}, 1)
	defer m.Watch(changed)()
	defer m.config.Mux.WatchPeers(changed)()
	for in.leads() {
		if err := m.leadOnce(in, term); err != nil {
			m.logger.Debug("metadata leader", "term", term, "err", err)
		}
		interval := leaderInterval
		if m.View().Founders() > 0 {
			interval = foundingInterval
		}
		select {
		case <-in.stopped:
			return
		case <-changed:
		case <-time.After(interval):
		}
	}
}

// becomeReady returns when everything of earlier terms is applied here, and the
// cluster has its name. The name is a command of this term, so it is as good as a
// barrier; it was in node.json before this group had a leader, so a crash in
// between names no other cluster. A later leader that has not applied anything yet
// writes it once more, which changes nothing.
func (m *MetaGroup) becomeReady(in *metaInstance) error {
	if m.View().ClusterID() != "" {
		return in.await(m.ctx, in.raft.Barrier(0))
	}
	identity, err := readIdentity(in.stores)
	if err != nil {
		return fmt.Errorf("read the number of founders: %w", err)
	}
	command, err := metadata.EncodeCommand(metadata.Origin{}, &metadata.Found{ClusterID: m.node.ClusterID(), Founders: uint32(identity.Founders)})
	if err != nil {
		return err
	}
	result, err := m.apply(m.ctx, in, command)
	if err != nil {
		return fmt.Errorf("name the cluster: %w", err)
	}
	return result.Err()
}

// leadOnce takes the next step, if there is one.
func (m *MetaGroup) leadOnce(in *metaInstance, term uint64) error {
	ctx, cancel := context.WithTimeout(m.ctx, memberTimeout)
	defer cancel()
	future := in.raft.GetConfiguration()
	if err := in.await(ctx, future); err != nil {
		return fmt.Errorf("read the members: %w", err)
	}
	members := groupMembers{
		own: in.id, servers: future.Configuration().Servers, view: m.View(), matches: in.facade.Matches(segment.Term(term)),
		commit: segment.Index(in.raft.CommitIndex()), answers: m.answers, runs: m.peers.has,
	}
	step := members.next()
	if step == nil {
		return m.endFounding(ctx, in, &members)
	}
	m.logger.Info("metadata group: "+step.what, "server", step.id)
	if err := in.await(ctx, step.run(in.raft, future.Index())); err != nil {
		return fmt.Errorf("%s %s: %w", step.what, step.id, err)
	}
	return nil
}

// endFounding says that the cluster is founded, when it is.
func (m *MetaGroup) endFounding(ctx context.Context, in *metaInstance, members *groupMembers) error {
	if !members.founded() {
		return nil
	}
	command, err := metadata.EncodeCommand(metadata.Origin{}, &metadata.EndFounding{})
	if err != nil {
		return err
	}
	result, err := m.apply(ctx, in, command)
	if err == nil {
		err = result.Err()
	}
	if err != nil {
		return fmt.Errorf("end the founding of the cluster: %w", err)
	}
	m.logger.Info("the cluster is founded", "brokers", m.View().BrokerCount())
	return nil
}

// answers reports whether this very incarnation of a broker is connected.
func (m *MetaGroup) answers(id raft.ServerID) bool {
	node, incarnation, err := transport.ParseServerID(id)
	if err != nil {
		return false
	}
	if node == m.node.ID() {
		return metadata.Incarnation(incarnation) == m.node.Incarnation()
	}
	status, ok := m.config.Mux.Status(node)
	return ok && status.Up && uint64(status.Peer.Incarnation) == incarnation
}

// groupMembers is what the leader decides the next change of the members by. The
// raft configuration is the fact, the registered brokers are the intent; one
// change at a time leads from one to the other, and each can be repeated.
type groupMembers struct {
	own     raft.ServerID
	servers []raft.Server // in order of the configuration
	view    *metadata.View
	matches map[raft.ServerID]transport.Match
	commit  segment.Index
	answers func(raft.ServerID) bool // this incarnation of the broker is connected
	runs    func(raft.ServerID) bool // and has said that its replica of the group runs
}

// memberStep is one change.
type memberStep struct {
	what string
	id   raft.ServerID
	run  func(r *raft.Raft, previous uint64) raft.IndexFuture
}

// caughtUp: the server answers and holds all that is committed.
func (g *groupMembers) caughtUp(id raft.ServerID) bool {
	if id == g.own {
		return true
	}
	match, ok := g.matches[id]
	return ok && match.Index >= g.commit && g.answers(id)
}

// safe: with these voters, a majority is there and caught up.
func (g *groupMembers) safe(voters []raft.ServerID) bool {
	ready := 0
	for _, id := range voters {
		if g.caughtUp(id) {
			ready++
		}
	}
	return ready > len(voters)/2
}

// next is the change to make now, nil for none:
// a broker that is no member becomes one without a vote, once its replica runs; a
// member whose disk was replaced goes, when its successor is caught up, and one that
// was unregistered when a quorum is there without it; members
// that are caught up get a vote, up to maxVoters.
func (g *groupMembers) next() *memberStep {
	present := map[raft.ServerID]bool{}
	var voters []raft.ServerID
	for _, s := range g.servers {
		present[s.ID] = true
		if s.Suffrage == raft.Voter {
			voters = append(voters, s.ID)
		}
	}
	for b := range g.view.Brokers() {
		if id := brokerID(b); !present[id] && g.runs(id) && g.answers(id) {
			return &memberStep{"taking in", id, func(r *raft.Raft, previous uint64) raft.IndexFuture {
				return r.AddNonvoter(id, raft.ServerAddress(id), previous, memberTimeout)
			}}
		}
	}
	if step := g.removal(voters); step != nil {
		return step
	}
	return g.promotion(voters)
}

// founded: the cluster is still being founded, and need not be any more. All its
// founders have registered, and as many vote, so that the loss of any minority of
// them leaves a quorum from the first acknowledgement on.
func (g *groupMembers) founded() bool {
	founders, voters := g.view.Founders(), 0
	for _, s := range g.servers {
		if s.Suffrage == raft.Voter && g.registered(s.ID) {
			voters++
		}
	}
	return founders > 0 && g.view.BrokerCount() >= founders && voters >= min(founders, maxVoters)
}

func (g *groupMembers) removal(voters []raft.ServerID) *memberStep {
	for _, s := range g.servers {
		node, incarnation, err := transport.ParseServerID(s.ID)
		if err != nil || s.ID == g.own {
			continue
		}
		successor, registered := g.view.Broker(node)
		replaced := registered && uint64(successor.Incarnation) != incarnation
		unregistered := g.view.Retired(metadata.Incarnation(incarnation))
		if !replaced && !unregistered {
			continue
		}
		rest := without(voters, s.ID)
		if s.Suffrage == raft.Voter && (replaced && !g.caughtUp(brokerID(successor)) || !g.safe(rest)) {
			continue
		}
		id, what := s.ID, "removing the replaced disk"
		if unregistered {
			what = "removing the unregistered broker"
		}
		return &memberStep{what, id, func(r *raft.Raft, previous uint64) raft.IndexFuture {
			return r.RemoveServer(id, previous, memberTimeout)
		}}
	}
	return nil
}

func (g *groupMembers) promotion(voters []raft.ServerID) *memberStep {
	if len(voters) >= maxVoters || len(voters) == 1 && g.view.Founders() > 2 && g.waiting() < 2 {
		return nil
	}
	for _, s := range g.servers {
		id := s.ID
		if s.Suffrage == raft.Voter || !g.registered(id) || !g.caughtUp(id) || !g.safe(append(without(voters, id), id)) {
			continue
		}
		return &memberStep{"giving a vote to", id, func(r *raft.Raft, previous uint64) raft.IndexFuture {
			return r.AddVoter(id, raft.ServerAddress(id), previous, memberTimeout)
		}}
	}
	return nil
}

// waiting counts the members that could be given a vote. While a cluster of three or
// more is founded the second voter waits for the third: two voters have no quorum
// without each other, so a disk that is wiped in that moment would end the founding.
func (g *groupMembers) waiting() int {
	count := 0
	for _, s := range g.servers {
		if s.Suffrage != raft.Voter && g.registered(s.ID) && g.caughtUp(s.ID) {
			count++
		}
	}
	return count
}

// brokerID is a broker as a member of the metadata group, which is its incarnation.
func brokerID(b *metadata.Broker) raft.ServerID {
	return transport.ServerID(b.Node, uint64(b.Incarnation))
}

func (g *groupMembers) registered(id raft.ServerID) bool {
	node, _, err := transport.ParseServerID(id)
	b, ok := g.view.Broker(node)
	return err == nil && ok && brokerID(b) == id
}

func without(ids []raft.ServerID, gone raft.ServerID) []raft.ServerID {
	var rest []raft.ServerID
	for _, id := range ids {
		if id != gone {
			rest = append(rest, id)
		}
	}
	return rest
}

// handOver moves the leadership to a voter that holds everything, so that a
// rolling restart costs no election time-out.
func (m *MetaGroup) handOver() {
	in := m.current()
	if in == nil || in.raft.State() != raft.Leader {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, handOverTimeout)
	defer cancel()
	term, last := segment.Term(in.raft.CurrentTerm()), segment.Index(in.raft.LastIndex())
	for _, s := range in.raft.GetConfiguration().Configuration().Servers {
		match, ok := in.facade.Matches(term)[s.ID]
		if s.ID == in.id || s.Suffrage != raft.Voter || !ok || match.Index < last || !m.answers(s.ID) {
			continue
		}
		err := in.facade.RequestCampaign(ctx, s.ID, term)
		if err == nil {
			err = poll(ctx, func() bool { return in.raft.State() != raft.Leader })
		}
		if err == nil {
			return
		}
		m.logger.Debug("metadata leadership stays until the stop", "successor", s.ID, "err", err)
	}
}

var errNoMetaLeader = errors.New("the metadata group has no leader that this node knows")
