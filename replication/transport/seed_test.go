package transport

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// seedArgs are those of raft's InstallSnapshot for a partition.
func seedArgs() *raft.InstallSnapshotRequest {
	return &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 4, LastLogIndex: 70, LastLogTerm: 3,
		Configuration: raft.EncodeConfiguration(raft.Configuration{})}
}

// seeds makes a leader of term 4 and a follower in a term, which is seeded by f.
func seeds(t *testing.T, term uint64, f func(context.Context, SeedRequest) error) (leader, follower *endpoint) {
	network := newFakeNetwork(t)
	leader = newEndpoint(t, network, 1, FacadeConfig{Source: &memLog{}})
	leader.Bind(leading(4, 100))
	follower = newEndpoint(t, network, 2, FacadeConfig{Source: &memLog{}, Seed: f})
	follower.Bind(&fakeRaft{state: raft.Follower, term: term})
	follower.answer(t, func(command any) any {
		t.Errorf("raft got %T", command)
		return nil
	})
	return leader, follower
}

func askSeed(leader *endpoint) (raft.InstallSnapshotResponse, error) {
	var resp raft.InstallSnapshotResponse
	err := leader.InstallSnapshot(testID(2), "", seedArgs(), &resp, strings.NewReader(""))
	return resp, err
}

// TestSeedRequest: what a leader asks for reaches who seeds, and not raft; success is
// counted as a match.
func TestSeedRequest(t *testing.T) {
	var got []SeedRequest
	leader, _ := seeds(t, 3, func(_ context.Context, r SeedRequest) error { got = append(got, r); return nil })
	resp, err := askSeed(leader)
	want := SeedRequest{Leader: testID(1), Node: 1, Term: 4, Index: 70, IndexTerm: 3}
	if err != nil || !resp.Success || resp.Term != 4 || len(got) != 1 || got[0] != want {
		t.Fatalf("%+v, %v, asked for %+v", resp, err, got)
	}
	if m := leader.Matches(4)[testID(2)]; m.Index != 70 || m.Term != 3 {
		t.Errorf("match %+v", m)
	}
}

// TestSeedOfAnOlderTerm is refused with the present one, also when that came while the
// copy was under way; and a seed that failed is no success.
func TestSeedOfAnOlderTerm(t *testing.T) {
	leader, _ := seeds(t, 5, func(context.Context, SeedRequest) error { t.Error("asked"); return nil })
	if resp, err := askSeed(leader); err != nil || resp.Success || resp.Term != 5 {
		t.Errorf("%+v, %v", resp, err)
	}
	var follower *endpoint
	leader, follower = seeds(t, 4, func(context.Context, SeedRequest) error {
		follower.instance().(*fakeRaft).change(func(r *fakeRaft) { r.term = 9 })
		return nil
	})
	if resp, err := askSeed(leader); err != nil || resp.Success || resp.Term != 9 {
		t.Errorf("%+v, %v", resp, err)
	}
	leader, _ = seeds(t, 4, func(context.Context, SeedRequest) error { return errors.New("no space") })
	if resp, err := askSeed(leader); err == nil || resp.Success || len(leader.Matches(4)) != 0 {
		t.Errorf("%+v, %v", resp, err)
	}
}

// TestSeedIsAskedForAgain: a follower that starts a new raft instance on what it got
// answers as a group that is not here, and the leader asks the next one, without an
// error that would put its raft to sleep.
func TestSeedIsAskedForAgain(t *testing.T) {
	asked := 0
	var follower *endpoint
	leader, follower := seeds(t, 4, nil)
	next := make(chan struct{})
	follower.config.Seed = func(ctx context.Context, _ SeedRequest) error {
		asked++
		follower.Silence()
		close(next)
		<-ctx.Done()
		return ctx.Err()
	}
	answered := make(chan error, 1)
	go func() {
		resp, err := askSeed(leader)
		if err == nil && !resp.Success {
			err = errors.New("no success")
		}
		answered <- err
	}()
	<-next
	follower.Close()
	again, err := NewFacade(FacadeConfig{Group: testGroup, LocalID: testID(2), Network: follower.node, Source: &memLog{}, Logger: quiet,
		Seed: func(context.Context, SeedRequest) error { asked++; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	again.Bind(&fakeRaft{state: raft.Follower, term: 4})
	if err := follower.router.Register(again); err != nil {
		t.Fatal(err)
	}
	leader.groupUp(testID(2))
	if err := <-answered; err != nil || asked != 2 {
		t.Errorf("%v, asked %d times", err, asked)
	}
}

// TestSeedRefusesWhatIsNone: entry 0, a term above the leader's, content.
func TestSeedRefusesWhatIsNone(t *testing.T) {
	leader, _ := seeds(t, 4, func(context.Context, SeedRequest) error { t.Error("asked"); return nil })
	for _, spoil := range []func(*raft.InstallSnapshotRequest){
		func(r *raft.InstallSnapshotRequest) { r.LastLogIndex = 0 },
		func(r *raft.InstallSnapshotRequest) { r.LastLogTerm = 0 },
		func(r *raft.InstallSnapshotRequest) { r.LastLogTerm = 5 },
	} {
		args := seedArgs()
		spoil(args)
		if err := leader.InstallSnapshot(testID(2), "", args, &raft.InstallSnapshotResponse{}, strings.NewReader("")); code(err) != CodeBadRequest {
			t.Errorf("%+v: %v", args, err)
		}
	}
}
