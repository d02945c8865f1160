package replication

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestProduceReplicates: what is acknowledged is on all replicas, at dense
// offsets from 0, though raft's own entries are in the same files.
func TestProduceReplicates(t *testing.T) {
	g := newTrio(t)
	g.leader()
	w := startWorkload(g, 2, 1)
	w.progress(500)
	w.finish()
}

// TestNewGroupElectsItsPreferredReplica: no time-out is waited for, and ties go
// to the first replica.
func TestNewGroupElectsItsPreferredReplica(t *testing.T) {
	g := newTrio(t)
	if n := g.leader(); n.id != 1 {
		t.Errorf("node %d leads a new group; the preferred replica is on node 1", n.id)
	}
}

// TestTransfersUnderLoad: raft refuses one Apply during a transfer and accepts a
// later one in the same term, and commits proposals queued in one term in the
// next. Judged at append, no sequence is lost, doubled or reordered; nor the first
// ones of producers that begin in the middle of a transfer.
func TestTransfersUnderLoad(t *testing.T) {
	const newcomers = 30
	g := newTrio(t)
	g.leader()
	w := startWorkload(g, 3, 2)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 12 {
		w.progress(20)
		n := g.ready()
		if n == nil {
			continue
		}
		in := n.partition.current()
		if in == nil {
			continue
		}
		target := g.nodes[random.IntN(len(g.nodes))]
		if round%3 == 2 { // a target that cannot be reached
			g.network.Cut(transporttest.Host(n.address), transporttest.Host(target.address))
		}
		for newcomer := range int64(newcomers) {
			w.wait.Go(func() {
				<-time.After(time.Duration(newcomer) * time.Millisecond)
				w.produceSome(100+newcomers*int64(round)+newcomer, 2*inFlight)
			})
		}
		id := string(g.replicaID(target))
		_ = in.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(id)).Error()
		<-time.After(200 * time.Millisecond)
		g.network.RestoreAll()
	}
	w.finish()
}

func (g *trio) replicaID(n *trioNode) raft.ServerID {
	return transport.ServerID(n.replica.Node, n.replica.Incarnation)
}

// TestTransferMovesLeadership: the way leadership is moved in production.
func TestTransferMovesLeadership(t *testing.T) {
	g := newTrio(t)
	w := startWorkload(g, 2, 0)
	for range 4 {
		from := g.leader()
		w.progress(50)
		ctx, cancel := context.WithTimeout(context.Background(), testWait)
		err := from.partition.Transfer(ctx, NoLeader, from.mux.Up)
		cancel()
		if err != nil && !errors.Is(err, ErrNoSuccessor) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("transfer from node %d: %v", from.id, err)
		}
		w.progress(50)
	}
	w.finish()
}

// TestFailedAppendWithElection: one StoreLogs fails for lack of space while
// another replica campaigns. The poisoned instance says nothing any more, the
// log is as it was, and a new instance takes part again.
func TestFailedAppendWithElection(t *testing.T) {
	g := newTrio(t)
	w := startWorkload(g, 3, 2)
	for round := range 3 {
		n := g.leader()
		w.progress(50)
		n.fs.Inject(crashfs.Fault{Op: crashfs.OpWrite, PathContains: "/topics/", Err: vfs.ErrNoSpace, Nth: 1})
		other := g.nodes[(int(n.id)+round)%3]
		if in := other.partition.current(); in != nil && other != n {
			_ = in.facade.Campaign(t.Context())
		}
		w.progress(50)
	}
	w.finish()
}

// TestPowerCutOfTheLeader: what was acknowledged is on a majority's disks.
func TestPowerCutOfTheLeader(t *testing.T) {
	g := newTrio(t)
	w := startWorkload(g, 3, 2)
	for range 5 {
		n := g.leader()
		w.progress(100)
		n.powerCut()
		w.progress(20)
		n.start()
	}
	w.finish()
}

// TestPowerCutOfAll: every node at once, torn writes and all.
func TestPowerCutOfAll(t *testing.T) {
	g := newTrio(t)
	w := startWorkload(g, 3, 2)
	for range 5 {
		g.leader()
		w.progress(100)
		for _, n := range g.nodes {
			n.fs.Crash(crashfs.CrashOptions{})
		}
		for _, n := range g.nodes {
			n.stop()
		}
		for _, n := range g.nodes {
			n.start()
		}
	}
	w.finish()
}

// TestFollowerReturns: a follower that was away gets what it missed at once, not
// after the sleep of up to 10 s that raft's failures earn.
func TestFollowerReturns(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	follower := g.nodes[int(n.id)%3]
	follower.stop()
	w := startWorkload(g, 2, 0)
	w.progress(300)
	follower.start()
	back := time.Now()
	eventually(t, "the follower to catch up", func() bool {
		return follower.partition.Log().HighWatermark()+50 > n.partition.Log().HighWatermark()
	})
	t.Logf("caught up %v after its start", time.Since(back).Round(time.Millisecond))
	w.finish()
}

// TestGuardOfATerm: what a coordinator decided in one term is refused in the next.
func TestGuardOfATerm(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	term := n.role().Term
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	if _, err := await(ctx, n.partition.Propose(ctx, batch(-1, -1, -1, 1), Guard{Term: term})); err != nil {
		t.Errorf("proposal of the leader's own term: %v", err)
	}
	_, err := await(ctx, n.partition.Propose(ctx, batch(-1, -1, -1, 2), Guard{Term: term - 1}))
	var void *VoidError
	if !errors.As(err, &void) || void.Void.Code != segment.VoidStaleTerm {
		t.Errorf("proposal of an older term: %v, want a void for the stale term", err)
	}
	if got := values(t, n.partition.Log()); len(got) != 1 || got[0] != 1 {
		t.Errorf("the log holds %v, want only value 1 at offset 0", got)
	}
}

// TestDuplicateIsAnsweredAfterItsOriginal: the duplicate's answer names the first
// copy's offset, and comes through a void that commits after it.
func TestDuplicateIsAnsweredAfterItsOriginal(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	first := n.partition.Propose(ctx, batch(7, 0, 0, 1), Guard{})
	second := n.partition.Propose(ctx, batch(7, 0, 0, 1), Guard{})
	gap := n.partition.Propose(ctx, batch(7, 0, 5, 2), Guard{})
	r2, err := await(ctx, second)
	must(t, err)
	select {
	case <-first.Done():
	default:
		t.Error("the duplicate was answered before its original")
	}
	r1, err := await(ctx, first)
	must(t, err)
	if r1.Base != r2.Base || r1.Duplicate || !r2.Duplicate {
		t.Errorf("original %+v, duplicate %+v", r1, r2)
	}
	_, err = await(ctx, gap)
	var void *VoidError
	if !errors.As(err, &void) || void.Void.Code != segment.VoidOutOfOrderSequence {
		t.Errorf("sequence gap: %v, want a void", err)
	}
}

// TestReadyOnlyAfterTheNoOp: a new leader that cannot commit its no-op does not
// know what was acknowledged before it, and must not answer reads.
func TestReadyOnlyAfterTheNoOp(t *testing.T) {
	g := newTrio(t)
	old := g.leader()
	next := g.nodes[int(old.id)%3]
	release := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn) // before the nodes stop, which waits for their writes
	var stalls []*crashfs.Injected
	for _, n := range g.nodes {
		if n != next { // votes go to another file, entries wait
			stalls = append(stalls, n.fs.Inject(crashfs.Fault{Op: crashfs.OpWrite, PathContains: "/topics/", Repeat: true, Stall: release}))
		}
	}
	before := old.role().Term
	eventually(t, "another leader", func() bool {
		if in := next.partition.current(); in != nil {
			_ = in.facade.Campaign(t.Context())
		}
		return next.role().Leader
	})
	for range 50 {
		if l := next.role(); l.Ready {
			t.Fatalf("ready in term %d (before: %d), though nothing of it can be committed", l.Term, before)
		}
		pause()
	}
	for _, s := range stalls {
		s.Remove()
	}
	goOn()
	g.leader()
}
