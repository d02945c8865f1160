package replication

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// An introduction is what two nodes tell each other whenever one of them starts:
// request and answer of MethodFounding have the same form. Node id, incarnation
// and cluster are in the handshake; the rest is here, as JSON, because it is sent
// seldom and newer versions add to it.
type introduction struct {
	// Address is where the sender is dialled.
	Address string `json:"address"`
	// List is the sender's --join list, sorted; empty for none.
	List []string `json:"list,omitempty"`
	// Member: the sender has its part of its cluster's metadata group.
	Member bool `json:"member,omitempty"`
	// You is what the sender knows of the receiver's registration.
	You *registered `json:"you,omitempty"`
	// Up is the sender's replica of the metadata group, nil while it does not run.
	Up *replicaUp `json:"up,omitempty"`
}

// registered is a broker as the metadata has it.
type registered struct {
	Incarnation hexNumber `json:"incarnation"`        // of the broker now
	Starts      uint64    `json:"starts"`             // its start counter
	Replaced    bool      `json:"replaced,omitempty"` // the receiver's incarnation was replaced by it
}

// replicaUp is transport.GroupUp of the metadata group.
type replicaUp struct {
	Replica   string `json:"replica"`
	LastTerm  uint64 `json:"last_term"`
	LastIndex uint64 `json:"last_index"`
	Leader    string `json:"leader,omitempty"` // raft id of the leader it knows
}

const (
	// maxIntroduction bounds an introduction in bytes.
	maxIntroduction = 256 << 10
	// introduceTimeout bounds one introduction.
	introduceTimeout = time.Second
	// upInterval is how often a replica without a leader, or that is no member yet,
	// introduces itself again, and the leader to who is no member yet.
	upInterval = 250 * time.Millisecond
)

func decodeIntroduction(b []byte) (introduction, error) {
	var i introduction
	if len(b) > maxIntroduction {
		return i, fmt.Errorf("introduction of %d bytes, at most %d", len(b), maxIntroduction)
	}
	if err := json.Unmarshal(b, &i); err != nil {
		return introduction{}, fmt.Errorf("decode introduction: %w", err)
	}
	return i, nil
}

// introduce is what this node says of itself to a node; to nobody in particular
// if that is unknown.
func (m *MetaGroup) introduction(to metadata.NodeID, incarnation metadata.Incarnation) ([]byte, error) {
	own := introduction{Address: m.config.RPCAddress, List: m.config.Join, Member: m.node.member(), You: m.knownOf(to, incarnation)}
	if in := m.current(); in != nil {
		if up, err := in.up(); err == nil {
			own.Up = &replicaUp{string(up.Replica), uint64(up.LastTerm), uint64(up.LastIndex), string(up.Leader)}
		}
	}
	return json.Marshal(own)
}

// knownOf is the registration of a broker as far as this node knows: in its view,
// or, before that is there, as saved.
func (m *MetaGroup) knownOf(node metadata.NodeID, incarnation metadata.Incarnation) *registered {
	if b, ok := m.View().Broker(node); ok {
		return &registered{hexNumber(b.Incarnation), b.Start, slices.Contains(b.Retired, incarnation) || m.View().Retired(incarnation)}
	}
	if m.View().Retired(incarnation) {
		return &registered{Replaced: true}
	}
	for _, p := range m.node.knownPeers() {
		if p.Node == node {
			return &registered{Incarnation: hexNumber(p.Incarnation), Starts: p.Starts}
		}
	}
	return nil
}

// handleIntroduction answers an introduction with this node's own.
func (m *MetaGroup) handleIntroduction(r *transport.Request) {
	theirs, err := decodeIntroduction(r.Body)
	if err != nil {
		r.ReplyError(&transport.RemoteError{Code: transport.CodeBadRequest, Message: err.Error()})
		return
	}
	m.meet(r.Peer, theirs)
	if !m.node.member() && r.Peer.Node != m.node.ID() {
		m.visited(r.Peer)
	}
	own, err := m.introduction(r.Peer.Node, r.Peer.Incarnation)
	if err != nil {
		r.ReplyError(err)
		return
	}
	r.Reply(own)
}

// meet learns from an introduction: where a broker is now, which may be another
// place than the metadata has, and how far its log goes.
func (m *MetaGroup) meet(peer transport.Peer, theirs introduction) {
	own := m.node.Identity()
	if peer.Cluster == "" || peer.Cluster != own.Cluster || peer.Node == own.Node {
		return
	}
	known, registered := m.View().Broker(peer.Node)
	if theirs.Address != "" && (!registered || known.Incarnation == peer.Incarnation) {
		m.config.Mux.SetAddress(peer.Node, theirs.Address)
	}
	if theirs.Up == nil || theirs.Up.Replica != string(transport.ServerID(peer.Node, uint64(peer.Incarnation))) {
		return
	}
	news := m.peers.heard(transport.GroupUp{Replica: raft.ServerID(theirs.Up.Replica), LastTerm: segment.Term(theirs.Up.LastTerm),
		LastIndex: segment.Index(theirs.Up.LastIndex), Leader: raft.ServerID(theirs.Up.Leader)})
	if in := m.current(); in != nil && news {
		in.look()
	}
}

// up is this replica's own line.
func (in *metaInstance) up() (transport.GroupUp, error) {
	last := in.raft.LastIndex()
	term, err := in.termOf(last)
	if err != nil {
		return transport.GroupUp{}, err
	}
	return transport.GroupUp{Replica: in.id, LastTerm: segment.Term(term), LastIndex: segment.Index(last),
		Term: segment.Term(in.raft.CurrentTerm()), Leader: in.leader()}, nil
}

// termOf is the term of an entry, which a snapshot may have replaced.
func (in *metaInstance) termOf(index uint64) (uint64, error) {
	if index == 0 {
		return 0, nil
	}
	var entry raft.Log
	err := in.stores.GetLog(index, &entry)
	if err == nil {
		return entry.Term, nil
	}
	snapshots, listErr := in.stores.Snapshots().List()
	if listErr != nil || len(snapshots) == 0 || snapshots[0].Index != index {
		return 0, err
	}
	return snapshots[0].Term, nil
}

// look makes sayUp look again.
func (in *metaInstance) look() {
	select {
	case in.poke <- struct{}{}:
	default:
	}
}

// sayUp tells the others that this replica runs, which ends the waiting of calls
// that their transports hold for it, and lets the longest log campaign as soon as
// a majority is up and nobody knows a leader (DESIGN 4.3 i).
func (m *MetaGroup) sayUp(in *metaInstance) {
	changed := make(chan struct{}, 1)
	defer m.Watch(changed)()
	defer m.config.Mux.WatchPeers(changed)()
	tick := time.NewTicker(upInterval)
	defer tick.Stop()
	told := map[metadata.NodeID]transport.Peer{}
	var campaigned time.Time
	for {
		m.forgetGone()
		due := m.tellPeers(in, told)
		if time.Since(campaigned) > m.config.Timings.Election && m.campaignIfFirst(in) {
			campaigned = time.Now()
		}
		ticks := tick.C
		if !due {
			ticks = nil
		}
		select {
		case <-in.stopped:
			return
		case <-changed:
		case <-in.poke:
		case <-ticks:
		}
	}
}

// has reports whether the replica was heard of since it was last gone.
func (u *upPeers) has(id raft.ServerID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.statuses[id]
	return ok
}

// all are the replicas that were heard of.
func (u *upPeers) all() []raft.ServerID {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Collect(maps.Keys(u.statuses))
}

// forgetGone forgets what peers said that are no longer connected.
func (m *MetaGroup) forgetGone() {
	for _, id := range m.peers.all() {
		if !m.answers(id) {
			m.peers.gone(id)
		}
	}
}

// tellPeers introduces this replica to the brokers it has not told yet, as who
// they are now, to all while it has no leader or is no member, and as the leader to
// each that is no member yet. It reports whether it must do so again without being
// asked.
func (m *MetaGroup) tellPeers(in *metaInstance, told map[metadata.NodeID]transport.Peer) (again bool) {
	servers := in.raft.GetConfiguration().Configuration().Servers
	_, led := m.Leader()
	toAll := !led || !isMember(servers, in.id)
	again = toAll
	var work sync.WaitGroup
	for node := range m.otherNodes(servers) {
		status, ok := m.config.Mux.Status(node)
		if !ok || !status.Up {
			delete(told, node)
			continue
		}
		outside := m.leftOutside(in, servers, status.Peer)
		again = again || outside
		first := told[node] != status.Peer
		if !first && !toAll && !outside {
			continue
		}
		told[node] = status.Peer
		work.Go(func() { m.introduceTo(in, status.Peer, first) })
	}
	work.Wait()
	return again
}

// leftOutside reports whether this node leads and a broker is registered and no
// member yet. Its replica may have begun to run after the leader introduced itself,
// and may know others only, since a follower had it registered: nobody but the
// leader knows who waits for whom.
func (m *MetaGroup) leftOutside(in *metaInstance, servers []raft.Server, peer transport.Peer) bool {
	b, ok := m.View().Broker(peer.Node)
	return ok && b.Incarnation == peer.Incarnation && in.raft.State() == raft.Leader && !isMember(servers, brokerID(b))
}

func isMember(servers []raft.Server, id raft.ServerID) bool {
	return slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID == id })
}

// otherNodes are all brokers that this one knows of.
func (m *MetaGroup) otherNodes(servers []raft.Server) map[metadata.NodeID]bool {
	nodes := map[metadata.NodeID]bool{}
	for _, s := range servers {
		if node, _, err := transport.ParseServerID(s.ID); err == nil {
			nodes[node] = true
		}
	}
	for b := range m.View().Brokers() {
		nodes[b.Node] = true
	}
	for _, p := range m.node.knownPeers() {
		nodes[p.Node] = true
	}
	for _, id := range m.peers.all() { // whoever has introduced itself
		if node, _, err := transport.ParseServerID(id); err == nil {
			nodes[node] = true
		}
	}
	delete(nodes, m.node.ID())
	return nodes
}

// introduceTo introduces this replica to a connected broker; announce also ends
// the waiting of what is held there.
func (m *MetaGroup) introduceTo(in *metaInstance, peer transport.Peer, announce bool) {
	ctx, cancel := context.WithTimeout(m.ctx, introduceTimeout)
	defer cancel()
	own, err := m.introduction(peer.Node, peer.Incarnation)
	if err != nil {
		return
	}
	if up, err := in.up(); err == nil && announce {
		if err := m.config.Router.Announce(ctx, peer.Node, up); err != nil {
			m.logger.Debug("metadata replica not announced", "node", peer.Node, "err", err)
		}
	}
	reply, err := m.config.Mux.Call(ctx, peer.Node, transport.Control, transport.MethodFounding, own)
	if err != nil {
		return
	}
	if theirs, err := decodeIntroduction(reply); err == nil {
		m.meet(peer, theirs)
	}
}

// campaignIfFirst starts an election if this replica is the one to win it; a
// single voter always is. It reports whether it did. A node that is stopping has
// just handed its leadership over, and what it knows of the others is old: the term
// of its election would stay on its disk and depose its successor at the next start.
func (m *MetaGroup) campaignIfFirst(in *metaInstance) bool {
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if closed {
		return false
	}
	own, err := in.up()
	if err != nil {
		return false
	}
	var voters []raft.ServerID
	for _, s := range in.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, s.ID)
		}
	}
	if !m.peers.shouldCampaign(own, voters, func(raft.ServerID) bool { return false }) {
		return false
	}
	m.campaign(in)
	return true
}
