package replication

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// loseEnd cuts a node's power and flips a bit in the last frame of its log, which was
// synced and acknowledged: a next start cuts it, and cannot tell it from a torn one.
func (n *trioNode) loseEnd() {
	t := n.trio.t
	t.Helper()
	n.mu.Lock()
	end := n.partition.Log().Size()
	n.mu.Unlock()
	n.fs.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	n.stop()
	must(t, n.fs.FlipBit("/data/topics/events/0/"+segment.LogName(0), (end-10)*8))
}

// onProbation reports whether the node's replica gives no votes.
func (n *trioNode) onProbation() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.partition != nil && n.partition.probation.withholds()
}

// store produces a value and waits until it is acknowledged.
func (g *trio) store(sequence int32, value uint64) {
	g.t.Helper()
	eventually(g.t, "an acknowledgement", func() bool {
		n := g.ready()
		if n == nil {
			return false
		}
		proposal := n.partition.Propose(g.t.Context(), batch(7, 0, sequence, value), Guard{})
		<-proposal.Done()
		_, err := proposal.Result()
		return err == nil
	})
}

// holds reports whether a node's log holds a value.
func (n *trioNode) holds(value uint64) bool {
	n.mu.Lock()
	p := n.partition
	n.mu.Unlock()
	for _, v := range values(n.trio.t, p.Log()) {
		if v == value {
			return true
		}
	}
	return false
}

// keepsFor watches that something stays as it is.
func keepsFor(t *testing.T, d time.Duration, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		if !holds() {
			t.Fatalf("no longer: %s", what)
		}
	}
}

// probationTest runs three replicas on virtual time, leader first.
func probationTest(t *testing.T, play func(t *testing.T, g *trio, leader, second, third *trioNode)) {
	synctest.Test(t, func(t *testing.T) {
		g := newTrio(t)
		leader := g.leader()
		var others []*trioNode
		for _, n := range g.nodes {
			n.logs = &logBuffer{}
			if n != leader {
				others = append(others, n)
			}
		}
		g.store(0, 100)
		g.inStep()
		play(t, g, leader, others[0], others[1])
		g.stop() // inside of the bubble
	})
}

// TestProbationEndsWithALaterTerm: a replica that lost what it acknowledged gets it
// again, from a leader that was elected without it, and then votes.
func TestProbationEndsWithALaterTerm(t *testing.T) {
	probationTest(t, func(t *testing.T, g *trio, leader, second, _ *trioNode) {
		before := leader.role().Term
		second.loseEnd()
		second.start()
		if !second.onProbation() {
			t.Fatal("the replica votes although the end of its log is in doubt")
		}
		eventually(t, "the end of the probation", func() bool { return !second.onProbation() })
		if term := g.leader().role().Term; term <= before {
			t.Errorf("it ended under a leader of term %d, which had believed it before (term %d)", term, before)
		}
		eventually(t, "what it had lost", func() bool { return second.holds(100) })
		if !second.logs.has("has brought it up to date") || second.logs.has("may be lost") {
			t.Error("the log does not say how it ended, or speaks of a loss")
		}
		second.powerCut()
		second.start()
		if second.onProbation() {
			t.Error("it is on probation again at the next start")
		}
	})
}

// TestProbationKeepsItsVote: the record is on two replicas, of which one loses it and
// the other is down. The third must not be elected with the vote of the second.
func TestProbationKeepsItsVote(t *testing.T) {
	probationTest(t, func(t *testing.T, g *trio, leader, second, third *trioNode) {
		third.powerCut()
		g.store(1, 200)
		second.loseEnd()
		leader.powerCut()
		second.start()
		third.start()
		keepsFor(t, time.Minute, "two replicas without the record elect nobody", func() bool {
			return second.onProbation() && !second.role().Leader && !third.role().Leader
		})
		leader.start()
		eventually(t, "the record on all replicas", func() bool { return leader.holds(200) && second.holds(200) && third.holds(200) })
		eventually(t, "the end of the probation", func() bool { return !second.onProbation() })
	})
}

// TestProbationDoesNotTrustAnOldLeader: the leader that believes a replica to hold
// what it lost cannot end its probation, whatever it commits.
func TestProbationDoesNotTrustAnOldLeader(t *testing.T) {
	probationTest(t, func(t *testing.T, g *trio, leader, second, third *trioNode) {
		third.powerCut()
		g.store(1, 200)
		second.loseEnd()
		second.start()
		eventually(t, "what it had lost", func() bool { return second.holds(200) })
		g.store(2, 300)
		keepsFor(t, time.Minute, "on probation under the leader that believed it", func() bool {
			return second.onProbation() && leader.role().Leader
		})
		third.start()
		eventually(t, "the end of the probation", func() bool { return !second.onProbation() })
		if g.leader() == leader {
			t.Error("the old leader leads still")
		}
	})
}

// TestAllOnProbation: nobody is left who could elect a leader, so after a while they
// vote all the same, and say what that may have cost.
func TestAllOnProbation(t *testing.T) {
	probationTest(t, func(t *testing.T, g *trio, leader, second, third *trioNode) {
		for _, n := range g.nodes {
			n.loseEnd()
		}
		began := time.Now()
		second.start()
		third.start()
		keepsFor(t, leaderlessLimit-time.Second, "both wait for a leader", func() bool { return second.onProbation() && third.onProbation() })
		eventually(t, "a leader", func() bool { return second.role().Ready || third.role().Ready })
		if took := time.Since(began); took > leaderlessLimit+5*time.Second {
			t.Errorf("a leader after %s", took)
		}
		eventually(t, "a word of a possible loss", func() bool { return second.logs.has("may be lost") || third.logs.has("may be lost") })
		leader.start()
		g.store(1, 200)
		eventually(t, "the end of all doubt", func() bool {
			return leader.partition.probation.doubt()+second.partition.probation.doubt()+third.partition.probation.doubt() == 0
		})
	})
}

// TestNobodyElse: who must be there before a replica on probation may give up hope.
func TestNobodyElse(t *testing.T) {
	ids := []raft.ServerID{"1/a", "2/b", "3/c", "4/d", "5/e"}
	for _, test := range []struct {
		name    string
		members int
		peers   map[raft.ServerID]segment.Term // their probation
		want    [2]int
	}{
		{"alone", 3, nil, [2]int{0, 0}},
		{"one that votes", 3, map[raft.ServerID]segment.Term{"2/b": 0}, [2]int{1, 0}},
		{"one that does not", 3, map[raft.ServerID]segment.Term{"2/b": 4}, [2]int{1, 1}},
		{"itself and a stranger", 3, map[raft.ServerID]segment.Term{"1/a": 4, "9/f": 4}, [2]int{0, 0}},
		{"of five", 5, map[raft.ServerID]segment.Term{"2/b": 4, "3/c": 4, "5/e": 0}, [2]int{3, 2}},
	} {
		var u upPeers
		for id, probation := range test.peers {
			u.heard(transport.GroupUp{Replica: id, Probation: probation})
		}
		present, doubtful := u.present(ids[:test.members], "1/a")
		if got := [2]int{present, doubtful}; got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}
