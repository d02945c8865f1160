//lint:file-ignore SA1019 raft reads Leader and Candidate where Addr is empty, so both are filled in.

package transport

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
)

// Raft tries again what was lost after its CommitTimeout, which is long for partitions.
// Nobody may have to wait for that.

// failing has a node answer requests of a method with an error for as long as fails
// says so.
func (n *fakeNetwork) failing(node metadata.NodeID, method Method, fails func() bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	target := n.nodes[node]
	handler := target.handlers[method]
	target.handlers[method] = func(r *Request) {
		if fails() {
			r.ReplyError(&RemoteError{Code: CodeGroupBusy, Message: "test"})
			return
		}
		handler(r)
	}
}

// TestLostNudgeIsSentAgain: whether the follower answered with an error, or its
// connection was lost and is back.
func TestLostNudgeIsSentAgain(t *testing.T) {
	for name, lose := range map[string]func(*fakeNetwork, *recorder){
		"error": func(n *fakeNetwork, _ *recorder) {
			var tries atomic.Int32
			n.failing(2, MethodRaftAppend, func() bool { return tries.Add(1) <= 3 })
		},
		"connection": func(n *fakeNetwork, r *recorder) {
			hold := make(chan struct{})
			r.mu.Lock()
			r.hold = hold
			r.mu.Unlock()
			n.work.Go(func() {
				<-time.After(50 * time.Millisecond)
				n.setLink(1, 2, false)
				r.mu.Lock()
				r.hold = nil
				r.mu.Unlock()
				close(hold)
				<-time.After(50 * time.Millisecond)
				n.setLink(1, 2, true)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, instance, r := nudged(t)
				lose(a.node.network, r)
				instance.change(func(r *fakeRaft) { r.commit = 3 })
				a.CommitMoved()
				<-time.After(200 * time.Millisecond)
				synctest.Wait()
				got := r.take()
				if len(got) == 0 {
					t.Fatal("no nudge was sent")
				}
				if diff := cmp.Diff(nudgeOf(3), got[len(got)-1]); diff != "" {
					t.Fatal(diff)
				}
				a.mu.Lock()
				heard := a.replicas[testID(2)].progress.commit
				a.mu.Unlock()
				if heard != 3 {
					t.Errorf("the follower has heard of commit index %d, not 3", heard)
				}
			})
		})
	}
}

// TestRestartedFollowerIsNudged: what its former instance knew to be committed, the new
// one does not.
func TestRestartedFollowerIsNudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, instance, r := nudged(t)
		instance.change(func(r *fakeRaft) { r.commit = 3 })
		a.CommitMoved()
		<-time.After(50 * time.Millisecond)
		if got := r.take(); len(got) != 1 {
			t.Fatalf("%d nudges before the restart", len(got))
		}
		a.groupUp(testID(2))
		<-time.After(50 * time.Millisecond)
		synctest.Wait()
		if diff := cmp.Diff([]raft.AppendEntriesRequest{nudgeOf(3)}, r.take()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestEntriesAreSentAgain: raft does not hear of an error that passes soon, and hears
// of one that does not.
func TestEntriesAreSentAgain(t *testing.T) {
	for name, row := range map[string]struct {
		errors int32
		within time.Duration
		passes bool
	}{
		"passes":  {3, 100 * time.Millisecond, true},
		"remains": {1000, 2 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _, _ := nudged(t)
				var tries atomic.Int32
				a.node.network.failing(2, MethodRaftAppend, func() bool { return tries.Add(1) <= row.errors })
				began := time.Now()
				_, err := a.appendTo(2, &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 3, PrevLogTerm: 4, LeaderCommitIndex: 1})
				if (err == nil) != row.passes {
					t.Errorf("sent: %v", err)
				}
				if took := time.Since(began); took > row.within {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// TestHeartbeatsTravelTogether: they wait for the same tick.
func TestHeartbeatsTravelTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, _ := nudged(t)
		for i, row := range []struct {
			tick, waits time.Duration
		}{{0, 0}, {50 * time.Millisecond, 36 * time.Millisecond}, {50 * time.Millisecond, 43 * time.Millisecond}} {
			<-time.After(7 * time.Millisecond)
			a.config.HeartbeatTick = row.tick
			began := time.Now()
			if _, err := a.appendTo(2, &raft.AppendEntriesRequest{Term: 5}); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took != row.waits {
				t.Errorf("heartbeat %d waited %v, not %v", i, took, row.waits)
			}
		}
	})
}
