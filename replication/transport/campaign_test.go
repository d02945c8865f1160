package transport

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
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

// TestOvertakenRecall: while raft was slow to end the candidate's election, another
// replica was elected, or this one, or it began the next by itself.
func TestOvertakenRecall(t *testing.T) {
	for _, c := range []struct {
		state raft.RaftState
		term  uint64
		err   error
	}{
		{raft.Follower, 7, ErrStaleTerm},
		{raft.Candidate, 7, nil},
		{raft.Leader, 7, nil},
	} {
		instance := &fakeRaft{state: raft.Candidate, term: 5, servers: testConfiguration(3).Servers}
		e := newEndpoint(t, newFakeNetwork(t), 1, FacadeConfig{})
		e.Bind(instance)
		commands := 0
		e.answer(t, func(any) any {
			commands++
			instance.change(func(r *fakeRaft) { r.state, r.term = c.state, c.term })
			return &raft.AppendEntriesResponse{}
		})
		if err := e.Campaign(t.Context()); !errors.Is(err, c.err) || commands != 1 {
			t.Errorf("%v in term %d: %v, raft got %d commands", c.state, c.term, err, commands)
		}
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
	// By the time of the request the sender follows that leader, too: a disk that hung
	// came back.
	a.Bind(&fakeRaft{state: raft.Follower, term: 6, servers: testConfiguration(3).Servers})
	b := newEndpoint(t, network, 2, FacadeConfig{})
	b.Bind(&fakeRaft{state: raft.Follower, term: 6, servers: testConfiguration(3).Servers})
	b.answer(t, func(command any) any {
		t.Errorf("raft got %T", command)
		return nil
	})
	if err := a.RequestCampaign(t.Context(), testID(2), 5); code(err) != CodeStaleRequest {
		t.Fatalf("error %v", err)
	}
}

// handedOver has one replica ask another to campaign and says after which time raft
// was told to, each time.
func handedOver(t *testing.T, wait, busy time.Duration, deliveries func(Method) []time.Duration) (begun []time.Duration) {
	network := newFakeNetwork(t)
	network.deliveries = func(_, _ metadata.NodeID, method Method) []time.Duration { return deliveries(method) }
	a, b := newEndpoint(t, network, 1, FacadeConfig{}), newEndpoint(t, network, 2, FacadeConfig{})
	a.Bind(leading(5, 10))
	b.Bind(&fakeRaft{state: raft.Follower, term: 5, servers: testConfiguration(3).Servers})
	start := time.Now()
	time.AfterFunc(busy, func() {
		b.answer(t, func(any) any {
			begun = append(begun, time.Since(start))
			return &raft.TimeoutNowResponse{}
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	err := a.RequestCampaign(ctx, testID(2), 5)
	if len(begun) == 0 && err == nil {
		t.Error("no campaign, and no error")
	}
	<-time.After(10 * time.Second)
	return begun
}

// TestNoCampaignBehindTheWait: the leader that hands over waits for half a second and
// goes on. Whatever the network and raft make late, no campaign begins then.
func TestNoCampaignBehindTheWait(t *testing.T) {
	const wait = 500 * time.Millisecond
	times := []time.Duration{0, 50 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 600 * time.Millisecond, 3 * time.Second}
	for _, first := range times {
		for _, second := range times {
			for _, busy := range times {
				synctest.Test(t, func(t *testing.T) {
					requests := 0
					begun := handedOver(t, wait, busy, func(Method) []time.Duration {
						requests++
						return []time.Duration{[]time.Duration{first, second}[min(requests, 2)-1]}
					})
					inTime := max(first+second, busy) <= wait/2
					if len(begun) > 1 || len(begun) == 1 && begun[0] >= wait || len(begun) == 0 && inTime {
						t.Errorf("requests took %v and %v, raft was busy for %v: campaigns after %v", first, second, busy, begun)
					}
				})
			}
		}
	}
}

// TestMarkCountsOnce: a request that comes twice, and one whose mark another leader's
// has ended.
func TestMarkCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if begun := handedOver(t, time.Second, 0, func(Method) []time.Duration { return []time.Duration{0, 10 * time.Millisecond} }); len(begun) > 1 {
			t.Errorf("campaigns after %v", begun)
		}
	})
	e := newEndpoint(t, newFakeNetwork(t), 2, FacadeConfig{})
	first, second := e.giveMark(), e.giveMark()
	if _, ok := e.takeMark(first); ok || first == second {
		t.Error("the first mark counts, though a second was given out")
	}
	if _, ok := e.takeMark(second); !ok {
		t.Error("the second mark does not count")
	}
}

// TestOlderBroker: it knows the old request only, and sends that.
func TestOlderBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a, b := newEndpoint(t, network, 1, FacadeConfig{}), newEndpoint(t, network, 2, FacadeConfig{})
		b.node.Handle(MethodRaftHandOver, nil)
		a.Bind(leading(5, 10))
		b.Bind(&fakeRaft{state: raft.Follower, term: 5, servers: testConfiguration(3).Servers})
		old := encodeTimeoutNow(a.envelope(testID(2)), 5)
		start := time.Now()
		if _, err := a.call(2, MethodRaftTimeoutNow, old); err == nil || time.Since(start) > olderWait {
			t.Errorf("while raft is busy: %v after %v", err, time.Since(start))
		}
		reached := 0
		b.answer(t, func(any) any {
			reached++
			return &raft.TimeoutNowResponse{}
		})
		if err := a.RequestCampaign(t.Context(), testID(2), 5); err != nil {
			t.Error(err)
		}
		if _, err := a.call(2, MethodRaftTimeoutNow, old); err != nil || reached != 2 {
			t.Errorf("%d campaigns, %v", reached, err)
		}
	})
}

// TestLateCampaign: a request to campaign that raft was too busy to take is not
// taken once nobody waits for it any more.
func TestLateCampaign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a := newEndpoint(t, network, 1, FacadeConfig{VoteTimeout: time.Second})
		b := newEndpoint(t, network, 2, FacadeConfig{VoteTimeout: time.Second})
		b.Bind(&fakeRaft{state: raft.Follower, servers: testConfiguration(3).Servers})
		if err := a.RequestCampaign(t.Context(), testID(2), 0); err == nil {
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
