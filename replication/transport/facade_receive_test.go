package transport

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// code is the code of a *RemoteError, 0 for anything else.
func code(err error) Code {
	var remote *RemoteError
	if errors.As(err, &remote) {
		return remote.Code
	}
	return 0
}

// TestDivergentSuffixIsNotApplied (DESIGN 4.3 a): a follower with entries of an
// old leader behind the point that a new leader has proved must not apply them,
// though the commit index is beyond. Raft alone applies them (raft.go:1591).
func TestDivergentSuffixIsNotApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		leader := newEndpoint(t, network, 2, FacadeConfig{Source: &memLog{}})
		follower := newMember(t, 1, network.node(1))
		follower.log = filled(t, 1, 2) // 1 to 3 of term 1
		for index := uint64(4); index <= 5; index++ {
			e := fresh("never committed")
			e.Index, e.Term = index, 2
			if err := follower.log.StoreLog(&e); err != nil {
				t.Fatal(err)
			}
		}
		if err := follower.stable.SetUint64([]byte("CurrentTerm"), 2); err != nil {
			t.Fatal(err)
		}
		follower.start()
		defer follower.router.Close()
		defer follower.stop()
		leader.Bind(leading(3, 10))
		resp, err := leader.appendTo(1, &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 3, PrevLogTerm: 1, LeaderCommitIndex: 5})
		if err != nil || !resp.Success {
			t.Fatal(resp, err)
		}
		eventually(t, time.Second, "what was proved is applied", func() bool { return follower.machine.has(3) })
		synctest.Wait()
		if follower.machine.has(4) || follower.machine.has(5) {
			t.Fatal("entries that were never committed were applied")
		}
		if got := follower.raft.CommitIndex(); got != 3 {
			t.Errorf("commit index %d", got)
		}
	})
}

// TestCommitIsClamped is the same on single requests.
func TestCommitIsClamped(t *testing.T) {
	log := filled(t, 1, 4)
	network := newFakeNetwork(t)
	leader := newEndpoint(t, network, 1, FacadeConfig{Source: log})
	leader.Bind(leading(1, 5))
	var got uint64
	var noted segment.Index
	follower := newEndpoint(t, network, 2, FacadeConfig{Source: log, OnCommitted: func(i segment.Index) { noted = i }})
	follower.answer(t, func(command any) any {
		got = command.(*raft.AppendEntriesRequest).LeaderCommitIndex
		return accepts(command)
	})
	for _, test := range []struct{ prev, entries, commit, want uint64 }{
		{1, 2, 9, 3}, {1, 2, 3, 3}, {1, 2, 2, 2}, {3, 0, 9, 3}, {0, 0, 9, 0}, {5, 0, 0, 0},
	} {
		args := &raft.AppendEntriesRequest{Term: 1, PrevLogEntry: test.prev, PrevLogTerm: min(test.prev, 1), LeaderCommitIndex: test.commit}
		args.Entries = log.raftEntries(t, test.prev+1, test.prev+test.entries)
		if _, err := leader.appendTo(2, args); err != nil {
			t.Fatal(err)
		}
		if got != test.want {
			t.Errorf("%+v: raft got commit index %d", test, got)
		}
		if noted != segment.Index(test.want) {
			t.Errorf("%+v: the log was told %d", test, noted)
		}
		noted = 0
	}
}

// TestRefusedRequestProvesNoCommit: the log must not refuse to cut what a request named
// that raft did not accept; this replica's entries up to there may be others.
func TestRefusedRequestProvesNoCommit(t *testing.T) {
	network := newFakeNetwork(t)
	leader := newEndpoint(t, network, 1, FacadeConfig{Source: &memLog{}})
	leader.Bind(leading(7, 5))
	follower := newEndpoint(t, network, 2, FacadeConfig{Source: &memLog{}, OnCommitted: func(i segment.Index) {
		t.Errorf("the log was told that %d is committed", i)
	}})
	answers := []raft.AppendEntriesResponse{
		{Term: 7, Success: false, LastLog: 5}, // the entry before is another
		{Term: 8, Success: false, LastLog: 5}, // of an earlier term
		{Term: 8, Success: true, LastLog: 5},
	}
	next := 0
	follower.answer(t, func(any) any { next++; return &answers[next-1] })
	for range answers {
		if _, err := leader.appendTo(2, &raft.AppendEntriesRequest{Term: 7, PrevLogEntry: 4, PrevLogTerm: 6, LeaderCommitIndex: 4}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHint (DESIGN 4.3 j): a refusal tells the leader up to where the logs agree.
func TestHint(t *testing.T) {
	for _, test := range []struct {
		name                                string
		commit, applied, checkpoint         uint64
		prev, last, term, requestTerm, want uint64
		success                             bool
	}{
		{name: "commit index", commit: 40, applied: 30, checkpoint: 20, prev: 90, last: 100, want: 40},
		{name: "checkpoint after a start", applied: 10, checkpoint: 20, prev: 90, last: 100, want: 20},
		{name: "what a start applied", applied: 25, checkpoint: 20, prev: 90, last: 100, want: 25},
		{name: "log is shorter", commit: 40, prev: 120, last: 100, want: 100},
		{name: "log ends there", commit: 40, prev: 100, last: 100, want: 40},
		{name: "later term", commit: 40, prev: 90, last: 100, term: 8, want: 100},
		{name: "success", commit: 40, prev: 90, last: 100, success: true, want: 100},
		{name: "never raised", commit: 120, prev: 90, last: 100, want: 100},
	} {
		t.Run(test.name, func(t *testing.T) {
			network := newFakeNetwork(t)
			leader := newEndpoint(t, network, 1, FacadeConfig{})
			leader.Bind(leading(7, 200))
			follower := newEndpoint(t, network, 2, FacadeConfig{LastKnownCommitted: func() segment.Index { return segment.Index(test.checkpoint) }})
			follower.Bind(&fakeRaft{commit: test.commit, applied: test.applied, last: test.last})
			follower.answer(t, func(any) any {
				return &raft.AppendEntriesResponse{Term: max(test.term, 7), Success: test.success, LastLog: test.last}
			})
			resp, err := leader.appendTo(2, &raft.AppendEntriesRequest{Term: 7, PrevLogEntry: test.prev, PrevLogTerm: 7})
			if err != nil || resp.LastLog != test.want {
				t.Fatalf("last log %d, want %d (%v)", resp.LastLog, test.want, err)
			}
		})
	}
}

// TestHintKeepsToTheBase: a leader does not go below what it still has, which every
// member holds, unless the follower says that it does not.
func TestHintKeepsToTheBase(t *testing.T) {
	for name, test := range map[string]struct {
		base, prev, last uint64
		success          bool
		want             uint64
	}{
		"above the base":         {base: 30, prev: 90, last: 40, want: 40},
		"below the base":         {base: 30, prev: 90, last: 20, want: 30},
		"does not hold the base": {base: 30, prev: 30, last: 20, want: 20},
		"accepted":               {base: 30, prev: 90, last: 20, success: true, want: 20},
	} {
		network := newFakeNetwork(t)
		leader := newEndpoint(t, network, 1, FacadeConfig{Base: func() segment.Index { return segment.Index(test.base) }})
		leader.Bind(leading(7, 200))
		newEndpoint(t, network, 2, FacadeConfig{}).answer(t, func(any) any {
			return &raft.AppendEntriesResponse{Term: 7, Success: test.success, LastLog: test.last}
		})
		resp, err := leader.appendTo(2, &raft.AppendEntriesRequest{Term: 7, PrevLogEntry: test.prev, PrevLogTerm: 7})
		if err != nil || resp.LastLog != test.want {
			t.Errorf("%s: last log %d, want %d (%v)", name, resp.LastLog, test.want, err)
		}
	}
}

// TestLeaderJumpsToHint: with three real instances, a follower with a long
// divergent tail is brought in step in a few requests, not one for each entry.
func TestLeaderJumpsToHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		defer g.stop()
		old := g.elect(0)
		old.propose(0, 5)
		g.level(5, time.Second)
		g.network.isolate(old.node, false)
		for range 500 {
			old.raft.ApplyLog(fresh("lost"), 0)
		}
		<-time.After(5 * time.Second)
		eventually(t, 30*time.Second, "the others elect", func() bool { return g.leader() != nil && g.leader() != old })
		leader := g.leader()
		if err := leader.raft.Barrier(0).Error(); err != nil {
			t.Fatal(err)
		}
		leader.propose(5, 300)
		// Another one leads from here on, so that what it sends first is an entry
		// that the old leader has in another term.
		next := g.members[1]
		if next == leader {
			next = g.members[2]
		}
		eventually(t, time.Second, "the next leader has everything", func() bool { return next.log.last() == leader.log.last() })
		if err := next.facade.Campaign(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "it leads", func() bool { return next.raft.State() == raft.Leader })
		if err := next.raft.Barrier(0).Error(); err != nil {
			t.Fatal(err)
		}
		requests := countRequests(g.network, MethodRaftAppend, old.node)
		g.network.isolate(old.node, true)
		g.level(305, 3*time.Second)
		if n := requests(); n > 20 {
			t.Errorf("%d requests", n)
		}
		g.same()
	})
}

// TestUnknownGroup: a node without the group says so, with a code of its own.
func TestUnknownGroup(t *testing.T) {
	network := newFakeNetwork(t)
	a := newEndpoint(t, network, 1, FacadeConfig{})
	b := newEndpoint(t, network, 2, FacadeConfig{})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	var resp raft.RequestVoteResponse
	err := a.RequestVote(testID(2), "", &raft.RequestVoteRequest{Term: 1}, &resp)
	if code(err) != CodeGroupUnknown {
		t.Fatalf("error %v", err)
	}
}

// TestOtherIncarnation (DESIGN 4.4): a request for the replica that lost its disk
// is not answered by the one that took its place.
func TestOtherIncarnation(t *testing.T) {
	network := newFakeNetwork(t)
	a := newEndpoint(t, network, 1, FacadeConfig{})
	b := newEndpoint(t, network, 2, FacadeConfig{LocalID: ServerID(2, 0xbeef)})
	b.answer(t, func(command any) any {
		t.Errorf("raft got %T", command)
		return nil
	})
	var vote raft.RequestVoteResponse
	if err := a.RequestVote(testID(2), "", &raft.RequestVoteRequest{Term: 1}, &vote); code(err) != CodeOtherReplica {
		t.Fatalf("vote: %v", err)
	}
	if _, err := a.call(2, MethodRaftAppend, encodeAppend(a.envelope(testID(2)), &raft.AppendEntriesRequest{Term: 1}, formData, nil)); code(err) != CodeOtherReplica {
		t.Fatalf("append: %v", err)
	}
}

// TestSenderMustBeItsNode: a node cannot speak for another one's replica.
func TestSenderMustBeItsNode(t *testing.T) {
	network := newFakeNetwork(t)
	a := newEndpoint(t, network, 1, FacadeConfig{})
	newEndpoint(t, network, 2, FacadeConfig{})
	for _, sender := range []raft.ServerID{testID(3), testID(2), "", "1", "nonsense/"} {
		e := envelope{group: testGroup, target: testID(2), sender: sender}
		if _, err := a.call(2, MethodRaftVote, encodeVote(e, 1, 1, 1, false)); code(err) != CodeBadRequest {
			t.Errorf("sender %q: %v", sender, err)
		}
		up := encodeGroupUps([]GroupUp{{Group: testGroup, Replica: sender}})
		if _, err := a.call(2, MethodGroupUp, up); code(err) != CodeBadRequest {
			t.Errorf("group up of %q: %v", sender, err)
		}
	}
}

// TestVotesWithheld (DESIGN 4.4): a replica on probation neither gives nor asks
// for votes, and is not made to campaign.
func TestVotesWithheld(t *testing.T) {
	network := newFakeNetwork(t)
	a := newEndpoint(t, network, 1, FacadeConfig{})
	b := newEndpoint(t, network, 2, FacadeConfig{})
	reached := 0
	b.answer(t, func(command any) any {
		reached++
		switch command.(type) {
		case *raft.RequestVoteRequest:
			return &raft.RequestVoteResponse{Term: 4, Granted: true}
		case *raft.RequestPreVoteRequest:
			return &raft.RequestPreVoteResponse{Term: 4, Granted: true}
		}
		return &raft.TimeoutNowResponse{}
	})
	instance := leading(4, 10)
	instance.state = raft.Follower
	b.Bind(instance)
	ask := func(from, to *endpoint) []error {
		votes := make([]error, 3)
		id := to.config.LocalID
		votes[0] = from.RequestVote(id, "", &raft.RequestVoteRequest{Term: 4}, &raft.RequestVoteResponse{})
		votes[1] = from.RequestPreVote(id, "", &raft.RequestPreVoteRequest{Term: 4}, &raft.RequestPreVoteResponse{})
		votes[2] = from.RequestCampaign(t.Context(), id, 0)
		return votes
	}
	instance.term = 0 // as the sender, which is not bound
	if err := errors.Join(ask(a, b)...); err != nil || reached != 3 {
		t.Fatal(err, reached)
	}
	b.WithholdVotes(true)
	for i, err := range ask(a, b) {
		if code(err) != CodeVotesWithheld {
			t.Errorf("%d, asked: %v", i, err)
		}
	}
	for i, err := range ask(b, a)[:2] {
		if !errors.Is(err, ErrVotesWithheld) {
			t.Errorf("%d, asking: %v", i, err)
		}
	}
	if err := b.Campaign(t.Context()); !errors.Is(err, ErrVotesWithheld) {
		t.Errorf("campaign: %v", err)
	}
	if reached != 3 {
		t.Errorf("raft was asked %d times", reached)
	}
	b.WithholdVotes(false)
	if err := errors.Join(ask(a, b)...); err != nil {
		t.Fatal(err)
	}
}

// TestWithheldWhileAsked: a vote that raft gave while votes were being withheld
// does not leave the node.
func TestWithheldWhileAsked(t *testing.T) {
	network := newFakeNetwork(t)
	a := newEndpoint(t, network, 1, FacadeConfig{})
	b := newEndpoint(t, network, 2, FacadeConfig{})
	b.answer(t, func(any) any {
		b.WithholdVotes(true)
		return &raft.RequestVoteResponse{Term: 4, Granted: true}
	})
	if err := a.RequestVote(testID(2), "", &raft.RequestVoteRequest{Term: 4}, &raft.RequestVoteResponse{}); code(err) != CodeVotesWithheld {
		t.Fatalf("error %v", err)
	}
}

// TestPreVoteErrorIsNoVote: raft counts a pre-vote whose error contains
// "unexpected command" as granted; a peer must not be able to say that.
func TestPreVoteErrorIsNoVote(t *testing.T) {
	network := newFakeNetwork(t)
	a := newEndpoint(t, network, 1, FacadeConfig{})
	newEndpoint(t, network, 2, FacadeConfig{}).answer(t, func(any) any { return errors.New("unexpected command") })
	err := a.RequestPreVote(testID(2), "", &raft.RequestPreVoteRequest{Term: 4}, &raft.RequestPreVoteResponse{})
	if err == nil || strings.Contains(err.Error(), "unexpected command") {
		t.Fatalf("error %v", err)
	}
	if code(err) != CodeInternal {
		t.Errorf("code %d", code(err))
	}
}

// TestVotesFailAtOnce (DESIGN 4.3 h): nobody waits for the vote of a dead peer;
// one that does not answer is given up.
func TestVotesFailAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a := newEndpoint(t, network, 1, FacadeConfig{VoteTimeout: 3 * time.Second})
		newEndpoint(t, network, 2, FacadeConfig{}).answer(t, func(any) any { return nil })
		ask := func() (time.Duration, error) {
			start := time.Now()
			err := a.RequestVote(testID(2), "", &raft.RequestVoteRequest{Term: 4}, &raft.RequestVoteResponse{})
			return time.Since(start), err
		}
		if took, err := ask(); err == nil || took != 3*time.Second {
			t.Fatalf("%v after %v", err, took)
		}
		network.setLink(1, 2, false)
		if took, err := ask(); !errors.Is(err, ErrPeerDown) || took != 0 {
			t.Fatalf("%v after %v", err, took)
		}
		if err := a.TimeoutNow(testID(2), "", &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{}); !errors.Is(err, ErrPeerDown) {
			t.Fatal(err)
		}
	})
}

// TestBusyGroup: requests do not pile up without bound behind a raft instance that
// sits in a sync.
func TestBusyGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a := newEndpoint(t, network, 1, FacadeConfig{})
		b := newEndpoint(t, network, 2, FacadeConfig{}) // nobody consumes
		results := make(chan error, 2*maxArriving)
		for range 2 * maxArriving {
			go func() {
				results <- a.RequestVote(testID(2), "", &raft.RequestVoteRequest{Term: 4}, &raft.RequestVoteResponse{})
			}()
		}
		synctest.Wait()
		if len(results) != maxArriving {
			t.Fatalf("%d refused", len(results))
		}
		for range maxArriving {
			if err := <-results; code(err) != CodeGroupBusy {
				t.Errorf("error %v", err)
			}
		}
		b.Close()
		for range maxArriving {
			if err := <-results; code(err) != CodeGroupUnknown {
				t.Errorf("after close: %v", err)
			}
		}
	})
}

// TestPartitionTakesNoSnapshot: raft never sees one, and never sends one.
func TestPartitionTakesNoSnapshot(t *testing.T) {
	network := newFakeNetwork(t)
	meta := newEndpoint(t, network, 1, FacadeConfig{})
	partition := newEndpoint(t, network, 2, FacadeConfig{Source: &memLog{}})
	partition.answer(t, func(command any) any {
		t.Errorf("raft got %T", command)
		return nil
	})
	args := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 4, Size: 3, Configuration: raft.EncodeConfiguration(testConfiguration(3))}
	if err := meta.InstallSnapshot(testID(2), "", args, &raft.InstallSnapshotResponse{}, strings.NewReader("abc")); code(err) != CodeSnapshotRefused {
		t.Fatalf("error %v", err)
	}
	if err := partition.InstallSnapshot(testID(1), "", args, &raft.InstallSnapshotResponse{}, strings.NewReader("abc")); !errors.Is(err, ErrSnapshotRefused) {
		t.Fatalf("error %v", err)
	}
}
