package replication

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// stuckReplaced is how soon a leader with a hung disk must be replaced (issue 4, item 3).
const stuckReplaced = 3 * time.Second

// longTimings leave elections to those that are asked for (DESIGN 4.3 b).
var longTimings = Timings{Heartbeat: 5 * time.Second, Commit: 2 * time.Second}

// hang makes every write and sync of a node's partitions hang until release.
func (n *trioNode) hang() (release func()) { return stall(n.trio.t, n.fs, "/topics/") }

// stall makes what changes the files whose paths contain a text hang until release.
func stall(t *testing.T, fsys *crashfs.FS, path string) (release func()) {
	back := make(chan struct{})
	fault := fsys.Inject(crashfs.Fault{Op: crashfs.OpChange, PathContains: path, Repeat: true, Stall: back})
	release = sync.OnceFunc(func() {
		fault.Remove()
		close(back)
	})
	t.Cleanup(release) // or the replica could not be stopped
	return release
}

// others are the nodes but one.
func (g *trio) others(one *trioNode) []*trioNode {
	first := int(one.id) % len(g.nodes)
	return []*trioNode{g.nodes[first], g.nodes[(first+1)%len(g.nodes)]}
}

// append proposes one value and waits for what comes of it.
func (n *trioNode) append(v uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	_, err := await(ctx, n.partition.Propose(ctx, batch(-1, -1, -1, v), Guard{}))
	return err
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

// TestLeaderWithHungDiskIsReplaced (D15): its process is alive, its connections
// answer pings, and raft's heartbeats would go on for ever.
func TestLeaderWithHungDiskIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newTimedTrio(t, longTimings)
		old := g.leader()
		must(t, old.append(1))
		term := old.role().Term
		release := old.hang()
		began := time.Now()
		const offered = 3 * maxAppendEntries // more than raft takes before it stores
		var proposals []*Proposal
		for i := range uint64(offered) {
			proposals = append(proposals, old.partition.Propose(t.Context(), batch(-1, -1, -1, 100+i), Guard{}))
		}
		next := old
		eventually(t, "the next leader", func() bool { next = g.ready(); return next != nil && next != old })
		if took := time.Since(began); took >= stuckReplaced || took < stuckLimit {
			t.Errorf("the leader with the hung disk was replaced after %v", took)
		}
		refused := 0
		for i, p := range proposals {
			select {
			case <-p.Done():
			default:
				t.Fatalf("batch %d waits for the disk", i)
			}
			_, err := p.Result()
			switch {
			case errors.Is(err, ErrNotLeader):
				refused++
			case !errors.Is(err, ErrUnknownOutcome), refused > 0:
				t.Fatalf("batch %d: %v, behind %d that were refused", i, err, refused)
			}
		}
		if refused == 0 || refused == offered {
			t.Errorf("%d of %d batches were never appended", refused, offered)
		}
		if err := old.append(2); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a batch for the leader that gave up: %v, want %v", err, ErrNotLeader)
		}
		must(t, next.append(3))
		<-time.After(time.Minute)
		if l := next.role(); !l.Ready || l.Term != term+1 {
			t.Errorf("while one disk hangs there was more than one election: %+v after term %d", l, term)
		}
		release()
		g.inStep()
		for _, n := range g.nodes {
			if read := values(t, n.partition.Log()); len(read) != 2 || read[0] != 1 || read[1] != 3 {
				t.Errorf("node %d has %v, want what was acknowledged", n.id, read)
			}
			if err := n.partition.Failed(); err != nil || n.died() != nil {
				t.Errorf("node %d is out of its group: %v, %v", n.id, err, n.died())
			}
		}
		must(t, next.append(4))
	})
}

// TestHeartbeatsOfHungLeaderAreWithheld: nobody hears the request to campaign, and the
// followers find out by themselves.
func TestHeartbeatsOfHungLeaderAreWithheld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newTrio(t)
		old := g.leader()
		for _, n := range g.others(old) {
			n.mux.Handle(transport.MethodRaftHandOver, func(r *transport.Request) { r.ReplyError(errors.New("deaf")) })
		}
		release := old.hang()
		began := time.Now()
		old.partition.Propose(t.Context(), batch(-1, -1, -1, 1), Guard{})
		eventually(t, "the next leader", func() bool { next := g.ready(); return next != nil && next != old })
		if took := time.Since(began); took >= stuckReplaced {
			t.Errorf("the leader with the hung disk was replaced after %v", took)
		}
		release()
		g.inStep()
	})
}

// TestFirstSuccessorFails: the follower that holds most cannot be made to campaign.
func TestFirstSuccessorFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newTimedTrio(t, longTimings)
		old := g.leader()
		must(t, old.append(1))
		var first raft.ServerID
		eventually(t, "both followers to have acknowledged everything", func() bool {
			matches := old.partition.current().facade.Matches(old.role().Term)
			first = old.partition.successors(matches)[0]
			a, b := matches[g.replicaID(g.others(old)[0])], matches[g.replicaID(g.others(old)[1])]
			return a.Index == b.Index && a.Index == old.partition.Log().LastIndex()
		})
		for _, n := range g.others(old) {
			if g.replicaID(n) == first {
				n.mux.Handle(transport.MethodRaftHandOver, func(r *transport.Request) { r.ReplyError(errors.New("deaf")) })
			}
		}
		release := old.hang()
		began := time.Now()
		old.partition.Propose(t.Context(), batch(-1, -1, -1, 1), Guard{})
		eventually(t, "the next leader", func() bool { next := g.ready(); return next != nil && next != old })
		if took := time.Since(began); took >= stuckReplaced {
			t.Errorf("the leader with the hung disk was replaced after %v", took)
		}
		release()
		g.inStep()
	})
}

// TestLongestFirst: a successor that lacks something is refused by those that have it.
func TestLongestFirst(t *testing.T) {
	ids := []raft.ServerID{"unknown", "short", "long", "longer", "as long"}
	longestFirst(ids, map[raft.ServerID]transport.Match{"short": {Index: 5}, "long": {Index: 7}, "longer": {Index: 9}, "as long": {Index: 7}})
	if want := []raft.ServerID{"longer", "long", "as long", "short", "unknown"}; !slices.Equal(ids, want) {
		t.Errorf("asked in the order %v, want %v", ids, want)
	}
}

// TestHungDiskComesBackBeforeTheElection: nobody was elected meanwhile. The term that
// was given up is over all the same, and the group goes on in a later one.
func TestHungDiskComesBackBeforeTheElection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newTimedTrio(t, longTimings)
		old := g.leader()
		term := old.role().Term
		for _, n := range g.others(old) {
			n.mux.Handle(transport.MethodRaftHandOver, func(r *transport.Request) { r.ReplyError(errors.New("deaf")) })
		}
		release := old.hang()
		old.partition.Propose(t.Context(), batch(-1, -1, -1, 1), Guard{})
		eventually(t, "the leader to give up", func() bool { return !old.role().Leader })
		release()
		if err := old.append(2); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a batch in the term that was given up: %v, want %v", err, ErrNotLeader)
		}
		late := newProposal(batch(-1, -1, -1, 3), segment.Header{}, Guard{}) // offered when it still led
		must(t, old.partition.queue.add(t.Context(), late))
		<-late.Done()
		if _, err := late.Result(); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a batch that was queued in the term that was given up: %v, want %v", err, ErrNotLeader)
		}
		if next := g.leader(); next.role().Term <= term {
			t.Errorf("term %d leads again, it was given up", next.role().Term)
		}
		g.inStep()
	})
}

// TestHungDiskComesBackBehindTheElection: by the time the second follower is asked to
// campaign, the first leads, and this replica follows it.
func TestHungDiskComesBackBehindTheElection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newTimedTrio(t, longTimings)
		old := g.leader()
		must(t, old.append(1))
		term := old.role().Term
		release := old.hang()
		hung := old.partition.Propose(t.Context(), batch(-1, -1, -1, 2), Guard{})
		next := old
		eventually(t, "the next leader", func() bool { next = g.ready(); return next != nil && next != old })
		began := time.Now()
		release()
		must(t, next.append(3))
		eventually(t, "the old leader to follow", func() bool { return old.partition.current().raft.CurrentTerm() == uint64(term)+1 })
		if time.Since(began) >= secondChoice {
			t.Fatal("the second follower was asked before")
		}
		<-time.After(time.Minute)
		if l := next.role(); !l.Ready || l.Term != term+1 {
			t.Errorf("the leader that was elected is %+v, after term %d", l, term)
		}
		if _, err := hung.Result(); !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("the batch that waited for the disk: %v", err)
		}
		g.inStep()
	})
}

// TestNobodyElseToLead: giving up would leave the group without any leader.
func TestNobodyElseToLead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newTimedTrio(t, longTimings)
		old := g.leader()
		must(t, old.append(1))
		away := g.others(old)[0]
		for _, n := range g.nodes {
			if n != away {
				g.network.Isolate(transporttest.Host(away.address), transporttest.Host(n.address))
			}
		}
		eventually(t, "the follower to be gone", func() bool { return !old.mux.Up(away.id) })
		release := old.hang()
		hung := old.partition.Propose(t.Context(), batch(-1, -1, -1, 2), Guard{})
		<-time.After(2 * stuckReplaced)
		if !old.role().Ready {
			t.Error("the leader gave up, and no other can be elected")
		}
		release()
		<-hung.Done()
		if _, err := hung.Result(); err != nil {
			t.Errorf("the batch that waited for the disk: %v", err)
		}
		g.network.RestoreAll()
		g.inStep()
	})
}

// TestFollowerWithHungDisk (D16): the writers go on, and it catches up when the disk
// is back, with the same leader.
func TestFollowerWithHungDisk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newTimedTrio(t, longTimings)
		leader := g.leader()
		term := leader.role().Term
		hung := g.others(leader)[0]
		release := hung.hang()
		for i := range uint64(60) {
			began := time.Now()
			must(t, leader.append(i))
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Fatalf("batch %d took %v", i, took)
			}
			<-time.After(time.Second)
		}
		release()
		began := time.Now()
		g.inStep()
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("the follower was in step %v after its disk came back", took)
		}
		if l := leader.role(); !l.Ready || l.Term != term {
			t.Errorf("the leader is %+v, was ready in term %d", l, term)
		}
	})
}

// TestSlowDiskDoesNotHang: a StoreLogs that writes and syncs again and again may take
// as long as it likes.
func TestSlowDiskDoesNotHang(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var steps uint64
		var hung []time.Time
		w := newStoreWatch(nil, func() uint64 { return steps }, func() { hung = append(hung, time.Now()) })
		for range 3 {
			w.begin()
			for range 10 {
				<-time.After(stuckLimit - 2*stuckInterval)
				w.mu.Lock()
				steps++
				w.mu.Unlock()
			}
			w.end()
			<-time.After(10 * stuckLimit) // nothing is under way
		}
		if len(hung) > 0 {
			t.Fatalf("a slow disk hangs, it is said %d times", len(hung))
		}
		w.begin()
		began := time.Now()
		<-time.After(2 * stuckLimit)
		w.end()
		calls := len(hung)
		if calls < 2 || hung[0].Sub(began) < stuckLimit || hung[0].Sub(began) > stuckLimit+stuckInterval {
			t.Errorf("a disk that hangs since %v: %v", began, hung)
		}
		<-time.After(10 * stuckLimit)
		if len(hung) != calls {
			t.Error("a call that is over is said to hang")
		}
	})
}

// TestHungDiskIsNamedOnce: many groups hang with their disk. The log names the folder,
// since when, and the end, once each.
func TestHungDiskIsNamedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var logs logBuffer
		d := &diskState{folder: "/data/topics", logger: slog.New(slog.NewTextHandler(&logs, nil))}
		var steps atomic.Uint64
		began := time.Now()
		var watches []*storeWatch
		for range 100 {
			w := newStoreWatch(d, steps.Load, func() {})
			w.begin()
			watches = append(watches, w)
			<-time.After(time.Millisecond)
		}
		<-time.After(2 * stuckLimit)
		if hung, is := d.hung(); !is || hung != (HungDisk{"/data/topics", began}) {
			t.Errorf("hung since %v: %+v, %v", began, hung, is)
		}
		for _, w := range watches[1:] {
			w.end()
		}
		if _, is := d.hung(); !is || logs.count("answers again") != 0 {
			t.Error("one call hangs on, and the disk is said to answer")
		}
		steps.Add(1) // it was the first of several
		<-time.After(2 * stuckInterval)
		if _, is := d.hung(); is || logs.count("answers again") != 1 {
			t.Error("a call that makes progress hangs, it is said")
		}
		<-time.After(2 * stuckLimit)
		if hung, is := d.hung(); !is || hung.Since.Before(began.Add(2*stuckLimit)) {
			t.Errorf("it hung a second time, and that is said: %+v, %v", hung, is)
		}
		watches[0].end()
		if _, is := d.hung(); is {
			t.Error("what has ended hangs, it is said")
		}
		if logs.count("the disk hangs") != 2 || logs.count("answers again") != 2 || !logs.has("folder=/data/topics since="+began.UTC().Format(time.RFC3339Nano)) {
			t.Errorf("logged:\n%s", logs.b.String())
		}
	})
}
