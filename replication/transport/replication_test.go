package transport

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// TestGroupReplicates: three real raft instances, 2,000 records, equal frames on
// all replicas, the commit index at the followers without CommitTimeout.
func TestGroupReplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		defer g.stop()
		start := time.Now()
		leader := g.elect(1)
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("campaign took %v", took)
		}
		leader.propose(0, 2000)
		g.level(2000, time.Second)
		g.same()

		leader.propose(2000, 1)
		g.level(2001, 5*time.Millisecond)
	})
}

// TestElectionByTimeout: without anybody campaigning, raft's own pre-votes and
// votes elect a leader.
func TestElectionByTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		defer g.stop()
		eventually(t, 30*time.Second, "a leader", func() bool { return g.leader() != nil })
	})
}

// leader is the replica that leads, nil for none.
func (g *group) leader() *member {
	for _, m := range g.members {
		if m.raft.State() == raft.Leader {
			return m
		}
	}
	return nil
}

// TestHeldWhilePeerIsDown (DESIGN 4.3 h): a follower whose node was away for
// minutes gets its entries at once when it is back. Raft by itself would sleep up
// to 10.24 s after that many failures.
func TestHeldWhilePeerIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		defer g.stop()
		leader, away := g.elect(0), g.members[2]
		leader.propose(0, 10)
		g.level(10, time.Second)
		g.network.isolate(away.node, false)
		for i := range 20 {
			leader.propose(10+i, 1)
			<-time.After(6 * time.Second)
		}
		if got := away.machine.count(); got != 10 {
			t.Fatalf("%d records reached a node that is away", got)
		}
		g.network.isolate(away.node, true)
		g.level(30, 200*time.Millisecond)
		g.same()
	})
}

// TestHeldWhileGroupIsUnknown: a follower whose raft instance was stopped gets its
// entries at once when the next one says "group up".
func TestHeldWhileGroupIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		defer g.stop()
		leader, away := g.elect(0), g.members[2]
		away.stop()
		leader.propose(0, 50)
		<-time.After(95 * time.Second) // not a multiple of the recheck
		away.start()
		away.announce(g.members...)
		g.level(50, 200*time.Millisecond)
		g.same()
	})
}

// TestLostAnnouncement: without "group up" the held call looks again by itself.
func TestLostAnnouncement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		defer g.stop()
		leader, away := g.elect(0), g.members[2]
		away.stop()
		leader.propose(0, 50)
		away.start()
		g.level(50, unknownRecheck+time.Second)
	})
}

// TestLeaderChange: leadership moves to and fro while records are written; nothing
// acknowledged is missing.
func TestLeaderChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		defer g.stop()
		leader, written := g.elect(0), 0
		for round := range 12 {
			leader.propose(written, 20)
			written += 20
			next := g.members[(round+1)%3]
			term, last := segment.Term(leader.raft.CurrentTerm()), segment.Index(leader.raft.LastIndex())
			eventually(t, 200*time.Millisecond, "the target has the last entry", func() bool {
				return leader.facade.Matches(term)[testID(next.node)].Index == last
			})
			if err := leader.facade.RequestCampaign(t.Context(), testID(next.node), term); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Second, "the target leads", func() bool { return next.raft.State() == raft.Leader })
			if err := next.raft.Barrier(0).Error(); err != nil {
				t.Fatal(err)
			}
			leader = next
		}
		leader.propose(written, 1)
		g.level(written+1, time.Second)
		g.same()
	})
}

// TestIsolatedLeader: a leader that is cut off loses its calls and its uncommitted
// tail; what the others committed meanwhile replaces it.
func TestIsolatedLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		defer g.stop()
		old := g.elect(0)
		old.propose(0, 5)
		g.network.isolate(old.node, false)
		var lost []raft.ApplyFuture
		for i := range 7 {
			lost = append(lost, old.raft.ApplyLog(fresh(fmt.Sprint("lost ", i)), 0))
		}
		<-time.After(3 * time.Second)
		for _, f := range lost {
			if f.Error() == nil {
				t.Fatal("acknowledged without a majority")
			}
		}
		eventually(t, 30*time.Second, "the others elect", func() bool { return g.leader() != nil && g.leader() != old })
		leader := g.leader()
		if err := leader.raft.Barrier(0).Error(); err != nil {
			t.Fatal(err)
		}
		leader.propose(5, 5)
		g.network.isolate(old.node, true)
		g.level(10, 3*time.Second)
		g.same()
	})
}

// TestDuplicatedAndReordered: requests arrive twice and late, behind later ones,
// while leaders change; logs and state machines agree all the same.
func TestDuplicatedAndReordered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(7, 11))
		g := newGroup(t)
		defer g.stop()
		g.network.deliveries = func(_, _ metadata.NodeID, method Method) []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			times := []time.Duration{time.Duration(random.IntN(3)) * time.Millisecond}
			for method == MethodRaftAppend && random.IntN(2) == 0 {
				times = append(times, time.Duration(random.IntN(2000))*time.Millisecond)
			}
			return times
		}
		written := 0
		for round := range 6 {
			leader := g.elect(round % 3)
			for range 10 {
				leader.propose(written, 10)
				written += 10
				<-time.After(20 * time.Millisecond)
			}
		}
		g.level(written, 3*time.Second)
		<-time.After(5 * time.Second) // late duplicates
		g.same()
	})
}
