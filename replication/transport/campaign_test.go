package transport

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
)

// injected is what raft is given by a campaign of an instance in a state.
func injected(t *testing.T, instance *fakeRaft) (commands []any, err error) {
	t.Helper()
	e := newEndpoint(t, newFakeNetwork(t), 1, FacadeConfig{})
	e.Bind(instance)
	e.answer(t, func(command any) any {
		commands = append(commands, command)
		if a, ok := command.(*raft.AppendEntriesRequest); ok {
			instance.change(func(r *fakeRaft) { r.state, r.term = raft.Follower, a.Term })
			return &raft.AppendEntriesResponse{Term: a.Term, Success: true}
		}
		return &raft.TimeoutNowResponse{}
	})
	err = e.Campaign(t.Context())
	return commands, err
}

// TestCampaign (DESIGN 4.3 e): what each role is given.
func TestCampaign(t *testing.T) {
	header := raft.RPCHeader{ProtocolVersion: 3}
	timeoutNow := &raft.TimeoutNowRequest{RPCHeader: header}
	servers := testConfiguration(3).Servers
	nonvoter := append([]raft.Server{{ID: testID(1), Suffrage: raft.Nonvoter}}, servers[1:]...)
	for _, test := range []struct {
		name    string
		state   raft.RaftState
		servers []raft.Server
		want    []any
		err     error
	}{
		{"follower", raft.Follower, servers, []any{timeoutNow}, nil},
		{"candidate", raft.Candidate, servers, []any{&raft.AppendEntriesRequest{RPCHeader: header, Term: 6}, timeoutNow}, nil},
		{"leader", raft.Leader, servers, nil, nil},
		{"non-voter", raft.Follower, nonvoter, nil, ErrNotVoter},
		{"removed", raft.Follower, servers[1:], nil, ErrNotVoter},
		{"not configured", raft.Follower, nil, nil, ErrNotVoter},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := injected(t, &fakeRaft{state: test.state, term: 5, servers: test.servers})
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

// TestCampaignOfCandidate: with raft itself. Two of three replicas are candidates
// that lost each other's election; a campaign does not wait for their time-out.
func TestCampaignOfCandidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		defer g.stop()
		for _, m := range g.members {
			g.network.isolate(m.node, false)
		}
		m := g.members[0]
		eventually(t, 10*time.Second, "a candidate", func() bool { return m.raft.State() == raft.Candidate })
		for _, m := range g.members {
			g.network.isolate(m.node, true)
		}
		if err := m.facade.Campaign(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, 50*time.Millisecond, "it leads", func() bool { return m.raft.State() == raft.Leader })
	})
}

// TestCampaignBeforeBind: there is nothing to look at yet.
func TestCampaignBeforeBind(t *testing.T) {
	e := newEndpoint(t, newFakeNetwork(t), 1, FacadeConfig{})
	if err := e.Campaign(t.Context()); !errors.Is(err, ErrNotStarted) {
		t.Fatalf("error %v", err)
	}
}

// TestOvertakenRequest: a request to campaign that an election overtook must not
// depose the leader that was elected.
func TestOvertakenRequest(t *testing.T) {
	network := newFakeNetwork(t)
	a := newEndpoint(t, network, 1, FacadeConfig{})
	a.Bind(leading(5, 10))
	b := newEndpoint(t, network, 2, FacadeConfig{})
	b.Bind(&fakeRaft{state: raft.Follower, term: 6, servers: testConfiguration(3).Servers})
	b.answer(t, func(command any) any {
		t.Errorf("raft got %T", command)
		return nil
	})
	if err := a.RequestCampaign(t.Context(), testID(2)); code(err) != CodeStaleRequest {
		t.Fatalf("error %v", err)
	}
}

// TestLateCampaign: a request to campaign that raft was too busy to take is not
// taken once nobody waits for it any more.
func TestLateCampaign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a := newEndpoint(t, network, 1, FacadeConfig{VoteTimeout: time.Second})
		b := newEndpoint(t, network, 2, FacadeConfig{VoteTimeout: time.Second})
		b.Bind(&fakeRaft{state: raft.Follower, servers: testConfiguration(3).Servers})
		if err := a.RequestCampaign(t.Context(), testID(2)); err == nil {
			t.Fatal("raft was never asked")
		}
		synctest.Wait()
		select {
		case rpc := <-b.Consumer():
			t.Fatalf("raft got %T", rpc.Command)
		default:
		}
	})
}

// TestCampaignEnds: with its context, where raft does not take it, and with the
// facade, where raft never answers.
func TestCampaignEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(t, newFakeNetwork(t), 1, FacadeConfig{})
		e.Bind(&fakeRaft{state: raft.Follower, term: 5, servers: testConfiguration(3).Servers})
		done := make(chan error, 1)
		go func() { done <- e.Campaign(t.Context()) }()
		<-e.Consumer()
		synctest.Wait()
		e.Close()
		if err := <-done; !errors.Is(err, ErrGroupClosed) {
			t.Fatalf("error %v", err)
		}
	})
}
