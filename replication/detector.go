package replication

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
)

// The failure detector (DESIGN 4.3 f). Raft's followers wait for their leader, each
// group for itself, until a time-out that must be long, because it is paid for with
// heartbeats. A node that has died is one fact about all groups it led, and the mux
// knows it within milliseconds (transport/verdict.go). But that is one node's view:
// a link may be broken and the leader be well. So peers are asked, which stands for
// the pre-vote that a campaign at will leaves out:
//
//	verdict on node 1 ──> which groups does it lead? ──> ask their other voters:
//	  "group, leader" of up to 4,096 groups a message <──> "I agree; my log ends at (term, index)"
//	──> a majority of a group's voters, this one included, agrees: of those that
//	    agree the longest log campaigns now, ties in the order of the configuration,
//	    the second 300 ms later (and 2 ms for each group that is asked about) if the
//	    first has come to nothing, and so on
//
// Nothing is remembered of what peers said: each round asks anew, so that an old
// opinion of a link that has healed counts for nothing. Rounds go on, less and less
// often, for as long as the node is not heard and groups have no other leader; a
// node that comes to the same verdict later asks too, and is the reason to ask it
// again at once. Should an election be mistaken all the same, it costs a change of
// leader and no record: who wins it is for raft's votes to say.

const (
	// askTimeout bounds one round of questions: a peer that does not answer has no
	// opinion.
	askTimeout = 250 * time.Millisecond
	// askSoon and askLate bound the wait between two rounds; it doubles from one to
	// the other.
	askSoon = 50 * time.Millisecond
	askLate = 2 * time.Second
	// campaignAgain is how long a replica waits for the outcome of its election
	// before it stands again.
	campaignAgain = time.Second
	// electionCost is how much longer an election may take for each other that begins
	// with it, since their votes and first entries wait for the same disks: so much
	// later comes the second choice, which would overtake it and begin anew.
	electionCost = 2 * time.Millisecond
	// maxCampaigns bounds the campaigns of this node that were asked for and that raft
	// has not begun: it may sit in a sync.
	maxCampaigns = 256
)

// codeStranger is the answer to a question of who is no broker of the cluster.
const codeStranger = transport.FirstHostCode + 3

// peerNetwork is what the detector needs of the mux; *transport.Mux is one.
type peerNetwork interface {
	Call(ctx context.Context, node metadata.NodeID, class transport.Class, method transport.Method, body ...[]byte) ([]byte, error)
	Handle(method transport.Method, handler transport.Handler)
	WatchPeers(ch chan<- struct{}) (cancel func())
	Verdict(node metadata.NodeID) transport.Verdict
	Suspects() []metadata.NodeID
	Status(node metadata.NodeID) (status transport.Status, known bool)
}

// elector is a replica of this node, of a partition or of the metadata group.
type elector interface {
	// standing is what the replica knows; false for one that does not run, or has
	// no vote, or whose votes are withheld: it neither campaigns nor agrees.
	standing() (standing, bool)
	// stand has the replica campaign, without waiting for raft, and calls begun once
	// raft has begun, or will not.
	stand(begun func())
}

// standing is a replica with a vote.
type standing struct {
	transport.GroupUp
	voters []raft.ServerID // of the latest configuration, in its order
	last   raft.ServerID   // the leader it followed last, now or before its time-out
}

// electors finds the replicas of a node: that of a group, or with nil all.
type electors func(group *transport.GroupID) []elector

// detector watches the other nodes. run is its only goroutine, with one for each
// node that is missed and those of its questions, all of which it joins.
type detector struct {
	network  peerNetwork
	electors electors
	logger   *slog.Logger
	ctx      context.Context

	campaigns chan struct{} // one for each that has not begun, at most maxCampaigns

	mu        sync.Mutex
	inquiries map[metadata.NodeID]*inquiry
	missed    map[transport.GroupID]raft.ServerID // the leaders that this node agreed to miss
}

func newDetector(ctx context.Context, network peerNetwork, electors electors, logger *slog.Logger) *detector {
	return &detector{network: network, electors: electors, logger: logger, ctx: ctx,
		campaigns: make(chan struct{}, maxCampaigns), inquiries: map[metadata.NodeID]*inquiry{}, missed: map[transport.GroupID]raft.ServerID{}}
}

// run works until the context ends.
func (d *detector) run() {
	var inquiries sync.WaitGroup
	defer inquiries.Wait()
	changed := make(chan struct{}, 1)
	defer d.network.WatchPeers(changed)()
	d.network.Handle(transport.MethodSuspect, d.handle)
	defer d.network.Handle(transport.MethodSuspect, nil)
	for {
		for _, node := range d.network.Suspects() {
			if q := d.begin(node); q != nil {
				inquiries.Go(q.run)
			}
		}
		select {
		case <-changed:
		case <-d.ctx.Done():
			return
		}
	}
}

// begin makes the inquiry about a node; nil if it is under way.
func (d *detector) begin(node metadata.NodeID) *inquiry {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inquiries[node] != nil {
		return nil
	}
	q := &inquiry{detector: d, node: node, soon: make(chan struct{}, 1), heard: map[metadata.NodeID]time.Time{}, turns: map[transport.GroupID]time.Time{}}
	d.inquiries[node] = q
	return q
}

// end drops an inquiry whose node is present, and says whether it is over: a
// verdict that fell in the meantime found the inquiry here and began no other.
func (d *detector) end(q *inquiry) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() == nil && d.network.Verdict(q.node) != transport.Present {
		return false
	}
	delete(d.inquiries, q.node)
	for group, leader := range d.missed {
		if runsOn(leader, q.node) {
			delete(d.missed, group)
		}
	}
	return true
}

// handle answers a peer that misses a leader. One that is no broker of this cluster, as
// far as is known here, has no replica that could follow anybody; and what is
// remembered of who asked stays as small as the cluster.
func (d *detector) handle(r *transport.Request) {
	if _, known := d.network.Status(r.Peer.Node); !known || r.Peer.Cluster == "" {
		r.ReplyError(&transport.RemoteError{Code: codeStranger, Message: fmt.Sprintf("node %d is no broker that is known here", r.Peer.Node)})
		return
	}
	suspicions, err := transport.DecodeSuspicions(r.Body)
	if err != nil {
		r.ReplyError(&transport.RemoteError{Code: transport.CodeBadRequest, Message: err.Error()})
		return
	}
	r.Reply(transport.EncodeAgreements(d.agreements(r.Peer.Node, suspicions)))
}

// agreements are the answers of this node's replicas to a peer.
func (d *detector) agreements(from metadata.NodeID, suspicions []transport.Suspicion) []transport.Agreement {
	agreed := make([]transport.Agreement, 0, len(suspicions))
	verdicts := map[metadata.NodeID]transport.Verdict{}
	for _, s := range suspicions {
		node, _, err := transport.ParseServerID(s.Leader)
		if err != nil {
			continue
		}
		if _, known := verdicts[node]; !known {
			verdicts[node] = d.network.Verdict(node)
			d.wake(node, from)
		}
		if verdicts[node] == transport.Present {
			continue
		}
		for _, e := range d.electors(&s.Group) {
			if st, ok := e.standing(); ok && st.misses(s.Leader) {
				d.miss(s.Group, s.Leader)
				agreed = append(agreed, transport.Agreement{Group: s.Group, Replica: st.Replica, LastTerm: st.LastTerm, LastIndex: st.LastIndex})
			}
		}
	}
	return agreed
}

// misses reports whether the replica has no leader but that one.
func (st standing) misses(leader raft.ServerID) bool {
	return st.Leader == leader || st.Leader == ""
}

// miss remembers the leader that a group misses. The first choice may campaign before
// this node's own inquiry has looked at the group, whose replica here then knows of
// no leader; it is the second choice all the same.
func (d *detector) miss(group transport.GroupID, leader raft.ServerID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.missed[group] = leader
}

// missing is the leader that a replica misses or follows. Raft's own time-out may
// have come before the verdict on a silent node; the replica then stands in vain for
// as long as the others follow that leader.
func (d *detector) missing(st standing) raft.ServerID {
	d.mu.Lock()
	defer d.mu.Unlock()
	if st.Leader != "" {
		delete(d.missed, st.Group)
		return st.Leader
	}
	return cmp.Or(d.missed[st.Group], st.last)
}

// runsOn reports whether a replica is one of the node's.
func runsOn(id raft.ServerID, node metadata.NodeID) bool {
	on, _, err := transport.ParseServerID(id)
	return err == nil && on == node
}

// wake has the inquiry about a node ask a peer again that did not agree before and
// now asks itself, for the first time in a while: of two that never agree, since each
// misses the leader of a group in which the other has no vote, say, each would answer
// every question with another, as fast as the network is.
func (d *detector) wake(node, peer metadata.NodeID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.inquiries[node]
	if q == nil {
		return
	}
	before, asked := q.heard[peer]
	q.heard[peer] = time.Now()
	if !q.agreed[peer] && (!asked || time.Since(before) > 2*askLate) {
		select {
		case q.soon <- struct{}{}:
		default:
		}
	}
}

// inquiry is what the detector does about one node that it misses.
type inquiry struct {
	detector *detector
	node     metadata.NodeID
	soon     chan struct{}                    // capacity 1: ask again at once
	agreed   map[metadata.NodeID]bool         // peers that agreed to something in the last round; guarded by detector.mu
	heard    map[metadata.NodeID]time.Time    // when peers last asked about the node; guarded by detector.mu
	turns    map[transport.GroupID]time.Time  // when the first choice campaigns (again), of groups whose majority agreed in the last round or that have stood
	asked    map[transport.GroupID]*suspected // of the round under way
}

// suspected is a group in a round of questions.
type suspected struct {
	elector elector
	standing
	leader  raft.ServerID         // that is missed
	choices []transport.Agreement // this replica, and those that agree
}

// run asks until the node is heard again.
func (q *inquiry) run() {
	d := q.detector
	for wait := askSoon; ; wait = min(2*wait, askLate) {
		next := q.round(wait)
		timer := time.NewTimer(next)
		select {
		case <-d.ctx.Done():
		case <-q.soon:
			wait = askSoon / 2 // doubled right away
		case <-timer.C:
		}
		timer.Stop()
		if (d.ctx.Err() != nil || d.network.Verdict(q.node) == transport.Present) && d.end(q) {
			return
		}
	}
}

// round asks about each group once and campaigns where it is this node's turn. It
// returns how long the next may wait, at most wait.
func (q *inquiry) round(wait time.Duration) time.Duration {
	q.suspect()
	if len(q.asked) == 0 {
		return wait
	}
	first := len(q.turns) == 0
	q.ask()
	elections, others := 0, time.Duration(len(q.asked)-1)*electionCost
	for group, s := range q.asked {
		rank, majority := s.rank()
		if !majority {
			if time.Until(q.turns[group]) <= 0 { // else it has stood, and a busy peer did not answer since
				delete(q.turns, group)
			}
			continue
		}
		if _, known := q.turns[group]; !known {
			q.turns[group] = time.Now()
		}
		turn := time.Duration(rank) * (secondChoice + others)
		if left := time.Until(q.turns[group].Add(turn)); left > 0 {
			wait = min(wait, left)
			continue
		}
		if q.stand(s) {
			elections++
		}
		q.turns[group] = time.Now().Add(campaignAgain + others - turn)
	}
	if elections > 0 || first && len(q.turns) > 0 {
		q.detector.logger.Info("a broker that led groups is down", "node", int32(q.node), "verdict", q.detector.network.Verdict(q.node).String(),
			"groups", len(q.asked), "agreed", len(q.turns), "elections", elections)
	}
	return wait
}

// stand has a replica campaign, if nobody was elected while we asked, and the old leader
// has not come back. It waits while many others have yet to begin.
func (q *inquiry) stand(s *suspected) bool {
	d := q.detector
	select {
	case d.campaigns <- struct{}{}:
	case <-d.ctx.Done():
		return false
	}
	now, ok := s.elector.standing()
	if !ok || !now.misses(s.leader) || d.network.Verdict(q.node) == transport.Present {
		<-d.campaigns
		return false
	}
	s.elector.stand(func() { <-d.campaigns })
	return true
}

// suspect finds the groups that the node leads, as far as this one knows, and those
// that have no leader since this node agreed to miss one there.
func (q *inquiry) suspect() {
	q.asked = map[transport.GroupID]*suspected{}
	for _, e := range q.detector.electors(nil) {
		st, ok := e.standing()
		if !ok {
			continue
		}
		leader := q.detector.missing(st)
		if !runsOn(leader, q.node) {
			continue
		}
		q.detector.miss(st.Group, leader)
		own := transport.Agreement{Group: st.Group, Replica: st.Replica, LastTerm: st.LastTerm, LastIndex: st.LastIndex}
		q.asked[st.Group] = &suspected{elector: e, standing: st, leader: leader, choices: []transport.Agreement{own}}
	}
	maps.DeleteFunc(q.turns, func(group transport.GroupID, _ time.Time) bool { return q.asked[group] == nil })
}

// ask asks the other voters of the groups, each node at the same time, and gathers
// who agrees.
func (q *inquiry) ask() {
	questions := map[metadata.NodeID][]transport.Suspicion{}
	own := func(s *suspected, voter raft.ServerID) bool { return voter == s.Replica || voter == s.leader }
	for _, s := range q.asked {
		for _, voter := range s.voters {
			if node, _, err := transport.ParseServerID(voter); err == nil && !own(s, voter) {
				questions[node] = append(questions[node], transport.Suspicion{Group: s.Group, Leader: s.leader})
			}
		}
	}
	ctx, cancel := context.WithTimeout(q.detector.ctx, askTimeout)
	defer cancel()
	var mu sync.Mutex
	var work sync.WaitGroup
	agreed := map[metadata.NodeID]bool{}
	for node, suspicions := range questions {
		if q.detector.network.Verdict(node) != transport.Present {
			continue // no answer would come, and the round would wait for it
		}
		for part := range slices.Chunk(suspicions, transport.MaxSuspicions) {
			work.Go(func() {
				agreements := q.askNode(ctx, node, part)
				mu.Lock()
				defer mu.Unlock()
				for _, a := range agreements {
					if s := q.asked[a.Group]; s != nil && s.counts(node, a) {
						s.choices = append(s.choices, a)
						agreed[node] = true
					}
				}
			})
		}
	}
	work.Wait()
	q.detector.mu.Lock()
	defer q.detector.mu.Unlock()
	q.agreed = agreed
}

// askNode asks one peer.
func (q *inquiry) askNode(ctx context.Context, node metadata.NodeID, suspicions []transport.Suspicion) []transport.Agreement {
	d := q.detector
	reply, err := d.network.Call(ctx, node, transport.Control, transport.MethodSuspect, transport.EncodeSuspicions(suspicions))
	if err != nil {
		d.logger.Debug("no opinion of a leader", "peer", int32(node), "about", int32(q.node), "groups", len(suspicions), "err", err)
		return nil
	}
	agreements, err := transport.DecodeAgreements(reply)
	if err != nil {
		d.logger.Warn("a peer's opinion of a leader is malformed", "peer", int32(node), "err", err)
		return nil
	}
	return agreements
}

// counts reports whether an agreement is one voter's own, and its first: a replica
// that lost its disk does not speak for the voter it was.
func (s *suspected) counts(from metadata.NodeID, a transport.Agreement) bool {
	node, _, err := transport.ParseServerID(a.Replica)
	said := slices.ContainsFunc(s.choices, func(c transport.Agreement) bool { return c.Replica == a.Replica })
	return err == nil && node == from && slices.Contains(s.voters, a.Replica) && !said
}

// rank is this replica's place among those that agree, 0 for the first choice, and
// whether they are a majority of the voters.
func (s *suspected) rank() (rank int, majority bool) {
	own := s.choices[0]
	place := func(id raft.ServerID) int { return slices.Index(s.voters, id) }
	for _, other := range s.choices[1:] {
		if ahead(other, own) || !ahead(own, other) && place(other.Replica) < place(own.Replica) {
			rank++
		}
	}
	return rank, len(s.choices) > len(s.voters)/2
}

// ahead reports whether a's log is longer than b's, as longer does.
func ahead(a, b transport.Agreement) bool {
	return longer(transport.GroupUp{LastTerm: a.LastTerm, LastIndex: a.LastIndex}, transport.GroupUp{LastTerm: b.LastTerm, LastIndex: b.LastIndex})
}
