package replication

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
)

// watched are nodes with real muxes and detectors over a network in memory, and
// replicas of which only what the detector looks at is there. Everything happens in
// virtual time.
type watched struct {
	t       *testing.T
	network *transporttest.Network
	nodes   []*watchedNode // of node 1 and on
	// wins says whether a replica that stands is elected.
	wins func(*watchedReplica) bool
	// hangs, unless nil, gets what is to be called when raft has begun.
	hangs func(begun func())

	mu    sync.Mutex // guards the replicas and what follows
	stood []candidacy
	asked int // messages
	began time.Time
}

// candidacy is one replica that stood for election.
type candidacy struct {
	node  metadata.NodeID
	group int32
	after time.Duration // since the fault
}

// watchedNode is a node.
type watchedNode struct {
	*transport.Mux
	cluster  *watched
	id       metadata.NodeID
	replicas []*watchedReplica
	cancel   context.CancelFunc
	ended    chan struct{}
}

// watchedReplica is a replica on a node.
type watchedReplica struct {
	node   *watchedNode
	state  standing
	silent bool // no vote, or not running
}

func watchedHost(id metadata.NodeID) string { return fmt.Sprintf("n%d", id) }

func watchedID(id metadata.NodeID) raft.ServerID { return transport.ServerID(id, uint64(id)) }

// newWatched starts nodes that all have a replica of each group; node 1 leads.
func newWatched(t *testing.T, count, groups int) *watched {
	w := &watched{t: t, network: transporttest.New(), wins: func(*watchedReplica) bool { return true }}
	for id := metadata.NodeID(1); id <= metadata.NodeID(count); id++ {
		w.start(id, count, groups)
	}
	for _, n := range w.nodes {
		for _, peer := range w.nodes {
			n.SetAddress(peer.id, watchedHost(peer.id)+":1")
		}
	}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			n.stop()
		}
	})
	w.pass(5 * time.Second)
	for _, n := range w.nodes {
		if got := n.Suspects(); got != nil {
			t.Fatalf("node %d suspects %v", n.id, got)
		}
	}
	return w
}

func (w *watched) start(id metadata.NodeID, count, groups int) {
	listener, err := w.network.Listen(watchedHost(id) + ":1")
	must(w.t, err)
	identity := transport.Identity{Cluster: "c", Node: id, Incarnation: metadata.Incarnation(id)}
	n := &watchedNode{cluster: w, id: id, ended: make(chan struct{})}
	n.Mux = transport.New(transport.Config{Listener: listener, Dial: w.network.Dialer(watchedHost(id)),
		Identity: func() transport.Identity { return identity }, Logger: slog.New(slog.DiscardHandler)})
	var voters []raft.ServerID
	for voter := range count {
		voters = append(voters, watchedID(metadata.NodeID(voter+1)))
	}
	for g := range int32(groups) {
		up := transport.GroupUp{Group: transport.GroupID{Partition: g}, Replica: watchedID(id), Leader: watchedID(1), LastTerm: 5, LastIndex: 9}
		n.replicas = append(n.replicas, &watchedReplica{node: n, state: standing{up, voters, watchedID(1)}})
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	d := newDetector(ctx, n, n.electors, slog.New(slog.DiscardHandler))
	w.t.Cleanup(func() { // after the node was stopped
		if waiting := len(d.campaigns); waiting > 0 {
			w.t.Errorf("%d campaigns count as not begun for ever", waiting)
		}
	})
	go func() {
		defer close(n.ended)
		d.run()
	}()
	n.Start()
	w.nodes = append(w.nodes, n)
}

func (n *watchedNode) stop() {
	n.cancel()
	<-n.ended
	n.Close()
}

// Call counts the questions.
func (n *watchedNode) Call(ctx context.Context, node metadata.NodeID, class transport.Class, method transport.Method, body ...[]byte) ([]byte, error) {
	n.cluster.mu.Lock()
	n.cluster.asked++
	n.cluster.mu.Unlock()
	return n.Mux.Call(ctx, node, class, method, body...)
}

func (n *watchedNode) electors(group *transport.GroupID) []elector {
	var found []elector
	for _, r := range n.replicas {
		if group == nil || *group == r.state.Group {
			found = append(found, r)
		}
	}
	return found
}

func (r *watchedReplica) standing() (standing, bool) {
	r.node.cluster.mu.Lock()
	defer r.node.cluster.mu.Unlock()
	return r.state, !r.silent
}

func (r *watchedReplica) stand(begun func()) {
	w := r.node.cluster
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hangs == nil {
		defer begun()
	} else {
		w.hangs(begun)
	}
	w.stood = append(w.stood, candidacy{r.node.id, r.state.Group.Partition, time.Since(w.began)})
	won := w.wins(r)
	for _, n := range w.nodes {
		other := n.replicas[r.state.Group.Partition]
		if other.silent {
			continue
		}
		other.state.Leader = "" // it is in the next term
		if won {
			other.state.Leader = r.state.Replica
		}
	}
}

// pass lets virtual time pass.
func (w *watched) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// fault begins to count.
func (w *watched) fault(f func()) {
	w.mu.Lock()
	w.stood, w.asked, w.began = nil, 0, time.Now()
	w.mu.Unlock()
	f()
}

// kill ends the process of a node.
func (w *watched) kill(id metadata.NodeID) {
	w.network.Kill(watchedHost(id))
	w.nodes[id-1].stop()
}

// log sets where the log of a node's replicas ends.
func (w *watched) log(id metadata.NodeID, term segment.Term, index segment.Index) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.nodes[id-1].replicas {
		r.state.LastTerm, r.state.LastIndex = term, index
	}
}

// follow has everybody follow a node's replicas.
func (w *watched) follow(id metadata.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		for _, r := range n.replicas {
			r.state.Leader = watchedID(id)
		}
	}
}

// stand wants exactly these nodes to have stood for group 0, each within 60 ms of
// its time.
func (w *watched) wantStood(nodes []metadata.NodeID, after ...time.Duration) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	ok := len(w.stood) == len(nodes)
	for i := 0; ok && i < len(nodes); i++ {
		late := w.stood[i].after - after[i]
		ok = w.stood[i].node == nodes[i] && late >= 0 && late <= 60*time.Millisecond
	}
	if !ok {
		w.t.Errorf("stood: %+v, want %v after %v", w.stood, nodes, after)
	}
}

// inBubble runs a test of watched nodes in virtual time.
func inBubble(t *testing.T, count, groups int, f func(w *watched)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(newWatched(t, count, groups)) })
}

// TestDeadLeaderIsReplacedByTheLongestLog: at once, and ties in the order of the
// configuration.
func TestDeadLeaderIsReplacedByTheLongestLog(t *testing.T) {
	type end struct {
		term  segment.Term
		index segment.Index
	}
	for _, c := range []struct {
		two, three end
		first      metadata.NodeID
	}{
		{end{5, 9}, end{5, 9}, 2},
		{end{5, 9}, end{5, 10}, 3},
		{end{5, 99}, end{6, 10}, 3},
		{end{6, 9}, end{5, 10}, 2},
	} {
		inBubble(t, 3, 1, func(w *watched) {
			w.log(2, c.two.term, c.two.index)
			w.log(3, c.three.term, c.three.index)
			w.fault(func() { w.kill(1) })
			w.pass(time.Minute)
			w.wantStood([]metadata.NodeID{c.first}, 0)
		})
	}
}

// TestSecondChoiceAfter300ms: who should have won died in that moment, say. And
// again, since raft's own time-outs may be far away.
func TestSecondChoiceAfter300ms(t *testing.T) {
	inBubble(t, 5, 1, func(w *watched) {
		w.log(4, 5, 12)
		w.log(3, 5, 11)
		w.log(2, 5, 10)
		w.wins = func(r *watchedReplica) bool { return r.node.id == 2 }
		w.fault(func() { w.kill(1) })
		w.pass(time.Minute)
		// Three of five agree before the fourth has noticed, so which of the two that
		// do not win is first is open.
		if n := len(w.stood); n != 3 || w.stood[2].node != 2 || w.stood[2].after > 2*secondChoice+2*askSoon {
			t.Errorf("stood: %+v", w.stood)
		}
	})
	inBubble(t, 3, 1, func(w *watched) {
		var stood int
		w.wins = func(r *watchedReplica) bool { stood++; return stood == 4 }
		w.fault(func() { w.kill(1) })
		w.pass(time.Minute)
		w.wantStood([]metadata.NodeID{2, 3, 2, 3}, 0, secondChoice, campaignAgain, campaignAgain+secondChoice)
	})
}

// TestOneNodesOpinionElectsNobody: the leader is well, and one follower has lost its
// link to it, in one direction or both; nor do messages pile up over it.
func TestOneNodesOpinionElectsNobody(t *testing.T) {
	one, two := watchedHost(1), watchedHost(2)
	for name, fault := range map[string]func(*transporttest.Network){
		"cut":                     func(n *transporttest.Network) { n.Cut(one, two); n.Cut(two, one) },
		"silent":                  func(n *transporttest.Network) { n.Isolate(two, one) },
		"deaf to the leader":      func(n *transporttest.Network) { n.Drop(one, two) },
		"not heard by the leader": func(n *transporttest.Network) { n.Drop(two, one) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, 1, func(w *watched) {
				w.log(2, 5, 99) // it would be elected
				w.fault(func() { fault(w.network) })
				w.pass(time.Minute)
				w.wantStood(nil)
				if w.asked == 0 && name != "not heard by the leader" {
					t.Error("it did not even ask: the test shows nothing")
				}
				if most := int(time.Minute/askLate) + 10; w.asked > most {
					t.Errorf("%d messages in a minute, at most %d", w.asked, most)
				}
			})
		})
	}
}

// TestOneWayLossOfTheLeader: it hears its followers and they do not hear it.
func TestOneWayLossOfTheLeader(t *testing.T) {
	inBubble(t, 3, 1, func(w *watched) {
		w.fault(func() {
			w.network.Drop(watchedHost(1), watchedHost(2))
			w.network.Drop(watchedHost(1), watchedHost(3))
		})
		w.pass(1500 * time.Millisecond)
		if len(w.stood) != 1 || w.stood[0].node != 2 {
			t.Errorf("stood: %+v", w.stood)
		}
		w.pass(time.Minute)
		if len(w.stood) != 1 {
			t.Errorf("stood: %+v", w.stood)
		}
	})
}

// TestMinorityElectsNobody: two of five miss the leader.
func TestMinorityElectsNobody(t *testing.T) {
	inBubble(t, 5, 1, func(w *watched) {
		w.fault(func() {
			w.network.Isolate(watchedHost(1), watchedHost(2), watchedHost(3))
		})
		w.pass(time.Minute)
		w.wantStood(nil)
		if most := 3 * 2 * (int(time.Minute/askLate) + 10); w.asked > most {
			t.Errorf("%d messages in a minute, at most %d", w.asked, most)
		}
	})
}

// TestLaterVerdictIsHeardAtOnce: the longest log has long asked in vain when the
// other follower misses the leader too, each time.
func TestLaterVerdictIsHeardAtOnce(t *testing.T) {
	inBubble(t, 3, 1, func(w *watched) {
		w.log(2, 5, 99)
		w.network.Cut(watchedHost(1), watchedHost(2))
		for range 2 {
			w.pass(time.Minute + 100*time.Millisecond)
			w.fault(func() { w.network.Cut(watchedHost(1), watchedHost(3)) })
			w.pass(time.Second)
			w.wantStood([]metadata.NodeID{2}, 0)
			w.network.Restore(watchedHost(1), watchedHost(3))
			w.network.Restore(watchedHost(3), watchedHost(1))
			w.pass(3 * time.Second)
			w.follow(1)
		}
	})
}

// TestOldOpinionsCountForNothing: first the one follower loses its link and gets it
// back, then the other.
func TestOldOpinionsCountForNothing(t *testing.T) {
	inBubble(t, 3, 1, func(w *watched) {
		w.fault(func() { w.network.Cut(watchedHost(1), watchedHost(3)) })
		w.pass(5 * time.Second)
		w.network.RestoreAll()
		w.pass(2 * time.Second)
		w.network.Cut(watchedHost(1), watchedHost(2))
		w.pass(time.Minute)
		w.wantStood(nil)
	})
}

// TestWhoAgrees: with the leader dead, what the other follower is decides.
func TestWhoAgrees(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *watchedReplica)
		stands bool
	}{
		"a voter":                     {func(*watchedReplica) {}, true},
		"in no term with a leader":    {func(r *watchedReplica) { r.state.Leader = "" }, true},
		"without a vote":              {func(r *watchedReplica) { r.silent = true }, false},
		"under another leader":        {func(r *watchedReplica) { r.state.Leader = watchedID(3) }, false},
		"another disk than the voter": {func(r *watchedReplica) { r.state.Replica = transport.ServerID(3, 99) }, false},
		"speaks for a third":          {func(r *watchedReplica) { r.state.Replica = watchedID(1) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, 1, func(w *watched) {
				w.mu.Lock()
				c.change(w.nodes[2].replicas[0])
				w.nodes[2].replicas[0].state.LastIndex-- // it is no first choice
				w.mu.Unlock()
				w.fault(func() { w.kill(1) })
				w.pass(2 * secondChoice)
				if stands := len(w.stood) > 0 && w.stood[0].node == 2; stands != c.stands {
					t.Errorf("stood: %+v", w.stood)
				}
			})
		})
	}
}

// TestElectedWhileAsking: the leader was replaced between the question and the
// answers.
func TestElectedWhileAsking(t *testing.T) {
	inBubble(t, 3, 1, func(w *watched) {
		w.network.Delay(watchedHost(3), watchedHost(2), 100*time.Millisecond)
		w.log(2, 5, 99)
		w.fault(func() { w.kill(1) })
		w.pass(50 * time.Millisecond)
		w.mu.Lock()
		w.nodes[1].replicas[0].state.Leader = watchedID(3)
		w.mu.Unlock()
		w.pass(time.Minute)
		w.wantStood(nil)
	})
}

// TestBackWhileAsking: the leader was heard again between the question and the answers.
func TestBackWhileAsking(t *testing.T) {
	for _, back := range []bool{false, true} {
		inBubble(t, 3, 1, func(w *watched) {
			w.network.Delay(watchedHost(3), watchedHost(2), 200*time.Millisecond)
			w.pass(5 * time.Second)
			w.log(2, 5, 99)
			w.fault(func() {
				w.network.Cut(watchedHost(1), watchedHost(2))
				w.network.Cut(watchedHost(1), watchedHost(3))
			})
			w.pass(60 * time.Millisecond)
			if back {
				w.network.Restore(watchedHost(1), watchedHost(2))
				w.network.Restore(watchedHost(2), watchedHost(1))
			}
			w.pass(190 * time.Millisecond)
			if stood := len(w.stood) > 0; stood == back {
				t.Errorf("stood: %+v, and the leader came back: %v", w.stood, back)
			}
		})
	}
}

// TestThousandGroupsAreOneQuestion: it is the node that is down.
func TestThousandGroupsAreOneQuestion(t *testing.T) {
	inBubble(t, 3, 1000, func(w *watched) {
		w.fault(func() { w.kill(1) })
		w.pass(time.Minute)
		if len(w.stood) != 1000 || w.stood[999].after > 60*time.Millisecond {
			t.Errorf("%d elections, the last after %v", len(w.stood), w.stood[len(w.stood)-1].after)
		}
		if w.asked > 4 {
			t.Errorf("%d messages", w.asked)
		}
	})
}

// TestMoreGroupsThanAMessageHolds: they are asked about in several.
func TestMoreGroupsThanAMessageHolds(t *testing.T) {
	groups := transport.MaxSuspicions + 1
	inBubble(t, 3, groups, func(w *watched) {
		w.fault(func() { w.kill(1) })
		w.pass(time.Second)
		if len(w.stood) != groups {
			t.Errorf("%d elections of %d", len(w.stood), groups)
		}
	})
}

// TestNodeThatDiesAgain: an inquiry that has ended does not keep the next one from
// beginning.
func TestNodeThatDiesAgain(t *testing.T) {
	inBubble(t, 3, 1, func(w *watched) {
		cut := func() {
			w.network.Cut(watchedHost(1), watchedHost(2))
			w.network.Cut(watchedHost(1), watchedHost(3))
		}
		for range 3 {
			w.fault(cut)
			w.pass(5 * time.Second)
			w.wantStood([]metadata.NodeID{2}, 0)
			w.network.RestoreAll()
			w.pass(3 * time.Second)
			w.follow(1)
		}
	})
}

// TestAVoterCountsOnce: a peer that lists its replica twice is no majority.
func TestAVoterCountsOnce(t *testing.T) {
	s := &suspected{standing: standing{voters: []raft.ServerID{watchedID(2), watchedID(3)}}}
	agreement := transport.Agreement{Replica: watchedID(3)}
	if !s.counts(3, agreement) || s.counts(4, agreement) {
		t.Error("it speaks for the replica of another node, or not for its own")
	}
	s.choices = append(s.choices, agreement)
	if s.counts(3, agreement) {
		t.Error("it counts twice")
	}
}

// TestOnlyVotersStand: a replica on probation, or without a vote, neither campaigns
// nor agrees.
func TestOnlyVotersStand(t *testing.T) {
	g := newTrio(t)
	replica := g.leader()
	stands := func() bool {
		_, ok := replica.partition.standing()
		return ok
	}
	if !stands() {
		t.Fatal("a leader has no vote")
	}
	facade := replica.partition.current().facade
	facade.WithholdVotes(true)
	if stands() {
		t.Error("it stands on probation")
	}
	facade.WithholdVotes(false)
	if !stands() {
		t.Error("it does not stand off probation")
	}
	eventually(t, "a follower without a vote", func() bool { // the leader may change
		leader := g.leader()
		for _, n := range g.nodes {
			if n != leader {
				replica = n
			}
		}
		return leader.partition.current().raft.DemoteVoter(g.replicaID(replica), 0, testWait).Error() == nil
	})
	eventually(t, "it knows that it has no vote", func() bool { return !stands() })
}

// TestTimeOutBeforeTheVerdict: raft's own time-outs ended the leader's term in the
// eyes of some followers, or of all, before the silence was long enough.
func TestTimeOutBeforeTheVerdict(t *testing.T) {
	for _, followers := range [][]int{{1}, {2}, {1, 2}} {
		inBubble(t, 3, 1, func(w *watched) {
			w.fault(func() { w.network.Isolate(watchedHost(1), watchedHost(2), watchedHost(3)) })
			w.pass(900 * time.Millisecond)
			w.mu.Lock()
			for _, f := range followers {
				w.nodes[f].replicas[0].state.Leader = ""
			}
			w.mu.Unlock()
			w.pass(600 * time.Millisecond)
			if len(w.stood) != 1 || w.stood[0].node != 2 {
				t.Errorf("stood: %+v, of whom %v knew no leader", w.stood, followers)
			}
		})
	}
}
