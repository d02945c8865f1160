//lint:file-ignore SA1019 raft reads Leader and Candidate where Addr is empty, so both are filled in.

package transport

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
)

// recorder keeps the AppendEntries that are sent, as they are sent: the receiver
// clamps the commit index.
type recorder struct {
	mu   sync.Mutex
	got  []raft.AppendEntriesRequest
	hold chan struct{} // if set, answers wait for it
}

// sent is what a fakeNetwork calls.
func (r *recorder) sent(_, _ metadata.NodeID, method Method, body []byte) {
	message := &wireReader{rest: body}
	e := readEnvelope(message)
	if a, _, err := decodeAppend(message, e.sender); method == MethodRaftAppend && err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, *a)
	}
}

// answer is the follower's raft.
func (r *recorder) answer(command any) any {
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return accepts(command)
}

// take returns what came since.
func (r *recorder) take() []raft.AppendEntriesRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

// nudged is a leader of term 5 whose follower on node 2 has acknowledged entry 3
// and knows of no commit.
func nudged(t *testing.T) (*endpoint, *fakeRaft, *recorder) {
	t.Helper()
	network := newFakeNetwork(t)
	a, instance := newEndpoint(t, network, 1, FacadeConfig{}), leading(5, 3)
	a.Bind(instance)
	r := &recorder{}
	network.sent = r.sent
	newEndpoint(t, network, 2, FacadeConfig{}).answer(t, r.answer)
	if _, err := a.appendTo(2, &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 3, PrevLogTerm: 4}); err != nil {
		t.Fatal(err)
	}
	r.take()
	return a, instance, r
}

// nudgeOf is the nudge that tells of a commit index.
func nudgeOf(commit uint64) raft.AppendEntriesRequest {
	id := testID(1)
	return raft.AppendEntriesRequest{RPCHeader: rpcHeader(id), Leader: []byte(id), Term: 5, PrevLogEntry: 3, PrevLogTerm: 4, LeaderCommitIndex: commit}
}

// TestNudge (DESIGN 4.3 b): an idle follower hears of a commit within 5 ms, once,
// and of no more than it has acknowledged.
func TestNudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, instance, r := nudged(t)
		for _, step := range []struct {
			commit uint64
			want   []raft.AppendEntriesRequest
		}{
			{2, []raft.AppendEntriesRequest{nudgeOf(2)}},
			{2, nil},
			{7, []raft.AppendEntriesRequest{nudgeOf(3)}},
			{8, nil},
		} {
			instance.change(func(r *fakeRaft) { r.commit = step.commit })
			a.CommitMoved()
			a.CommitMoved()
			<-time.After(5 * time.Millisecond)
			synctest.Wait()
			if diff := cmp.Diff(step.want, r.take()); diff != "" {
				t.Fatalf("commit index %d:\n%s", step.commit, diff)
			}
		}
	})
}

// TestNudgeOrder (DESIGN 4.3 b): a commit index that was learned after the
// leadership of term 5 ended is not sent in term 5, whatever moment it comes at.
func TestNudgeOrder(t *testing.T) {
	deposed := func(r *fakeRaft) { r.state, r.term, r.commit = raft.Follower, 6, 3 }
	for name, at := range map[string]func(*fakeRaft){
		"before":                     deposed,
		"elected again":              func(r *fakeRaft) { r.term, r.commit = 7, 3 },
		"after the term was read":    func(r *fakeRaft) { r.onTerm = deposed },
		"follower of the same term?": func(r *fakeRaft) { r.state, r.commit = raft.Follower, 3 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, instance, r := nudged(t)
				instance.change(func(r *fakeRaft) { r.commit = 1 })
				a.CommitMoved()
				instance.change(at)
				<-time.After(time.Second)
				synctest.Wait()
				for _, got := range r.take() {
					if got.LeaderCommitIndex > 1 {
						t.Fatalf("sent in term %d: commit index %d", got.Term, got.LeaderCommitIndex)
					}
				}
			})
		})
	}
}

// TestNoNudgeBesideAppend: while an AppendEntries is under way there is none; if
// that did not carry the commit index, one follows it.
func TestNoNudgeBesideAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, instance, r := nudged(t)
		r.hold = make(chan struct{})
		done := make(chan error, 1)
		go func() {
			_, err := a.appendTo(2, &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 3, PrevLogTerm: 4, LeaderCommitIndex: 1})
			done <- err
		}()
		synctest.Wait()
		r.take()
		instance.change(func(r *fakeRaft) { r.commit = 3 })
		a.CommitMoved()
		<-time.After(time.Second)
		if got := r.take(); len(got) > 0 {
			t.Fatalf("nudged beside an AppendEntries: %+v", got)
		}
		close(r.hold)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		<-time.After(5 * time.Millisecond)
		synctest.Wait()
		if diff := cmp.Diff([]raft.AppendEntriesRequest{nudgeOf(3)}, r.take()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestNoNudgeWithoutMatch: what a follower acknowledged to an earlier leader, or
// to this one in an earlier term, proves nothing about its log now.
func TestNoNudgeWithoutMatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, instance, r := nudged(t)
		instance.change(func(r *fakeRaft) { r.state = raft.Follower })
		a.LeadershipChanged()
		instance.change(func(r *fakeRaft) { r.state, r.term, r.commit = raft.Leader, 9, 3 })
		a.LeadershipChanged()
		if _, err := a.appendTo(2, &raft.AppendEntriesRequest{Term: 9}); err != nil { // a heartbeat
			t.Fatal(err)
		}
		r.take()
		a.CommitMoved()
		<-time.After(time.Second)
		if got := r.take(); len(got) > 0 {
			t.Fatalf("%+v", got)
		}
	})
}

// TestCloseJoinsNudges: Close waits for the round under way and stops the next.
func TestCloseJoinsNudges(t *testing.T) {
	for _, wait := range []time.Duration{0, nudgeDelay, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			a, instance, r := nudged(t)
			hold := make(chan struct{})
			r.hold = hold
			instance.change(func(r *fakeRaft) { r.commit = 3 })
			a.CommitMoved()
			<-time.After(wait)
			start := time.Now()
			a.Close()
			if took := time.Since(start); took > 0 {
				t.Errorf("Close took %v", took)
			}
			a.CommitMoved()
			close(hold)
		})
	}
}
