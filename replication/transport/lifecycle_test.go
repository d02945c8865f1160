package transport

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
)

// countRequests counts the requests of a method to a node from now on.
func countRequests(n *fakeNetwork, method Method, to metadata.NodeID) func() int {
	var mu sync.Mutex
	count := 0
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent = func(_, node metadata.NodeID, m Method, _ []byte) {
		mu.Lock()
		defer mu.Unlock()
		if m == method && node == to {
			count++
		}
	}
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}

// TestCloseEndsCalls (DESIGN 4.3 g): closing fails what this group has under way,
// outstanding, held and incoming, and nothing of another group; again does no harm.
func TestCloseEndsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a := newEndpoint(t, network, 1, FacadeConfig{})
		a.Bind(leading(5, 10))
		b := newEndpoint(t, network, 2, FacadeConfig{})
		b.answer(t, func(any) any { return nil })
		network.node(3)
		network.setLink(1, 3, false)
		other, err := NewFacade(FacadeConfig{Group: GroupID{Partition: 1}, LocalID: testID(1), Network: a.node})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()

		results := make(chan error, 4)
		call := func(f func() error) { go func() { results <- f() }() }
		args := func() *raft.AppendEntriesRequest {
			return &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 3, PrevLogTerm: 5}
		}
		call(func() error { _, err := a.appendTo(2, args()); return err }) // not answered
		call(func() error { _, err := a.appendTo(3, args()); return err }) // held
		call(func() error {
			return a.RequestVote(testID(2), "", &raft.RequestVoteRequest{Term: 5}, &raft.RequestVoteResponse{})
		})
		call(func() error { return a.Campaign(context.Background()) }) // a leader: nil
		if err := <-results; err != nil {
			t.Fatal(err)
		}
		otherDone := make(chan error, 1)
		go func() {
			otherDone <- other.AppendEntries(testID(3), "", args(), &raft.AppendEntriesResponse{})
		}()
		synctest.Wait()
		if err := errors.Join(a.Close(), a.Close()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := <-results; !errors.Is(err, ErrGroupClosed) {
				t.Errorf("error %v", err)
			}
		}
		if _, err := a.appendTo(2, args()); !errors.Is(err, ErrGroupClosed) {
			t.Errorf("a call after Close: %v", err)
		}
		synctest.Wait()
		select {
		case err := <-otherDone:
			t.Errorf("another group's call ended: %v", err)
		default:
		}
	})
}

// TestShutdownClosesFacade: raft calls Close itself, after it has waited for
// goroutines that sit in the facade's calls.
func TestShutdownClosesFacade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		defer g.stop() // stops it again
		m := g.elect(0)
		g.network.isolate(m.node, false)
		start := time.Now()
		done := m.raft.Shutdown()
		m.facade.Close()
		if err := done.Error(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("shutdown took %v", took)
		}
	})
}

// TestSilence: an instance whose append failed answers as if it were gone, also
// where its raft had just said yes, and sends nothing more.
func TestSilence(t *testing.T) {
	network := newFakeNetwork(t)
	a := newEndpoint(t, network, 1, FacadeConfig{})
	b := newEndpoint(t, network, 2, FacadeConfig{})
	b.Bind(leading(5, 10))
	b.answer(t, func(command any) any {
		b.Silence() // in raft's main goroutine, as a failing StoreLogs does
		return &raft.RequestVoteResponse{Term: 5, Granted: true}
	})
	ask := func(from, to *endpoint) error {
		return from.RequestVote(to.config.LocalID, "", &raft.RequestVoteRequest{Term: 5}, &raft.RequestVoteResponse{})
	}
	for range 2 {
		if err := ask(a, b); code(err) != CodeGroupUnknown {
			t.Errorf("error %v", err)
		}
	}
	if err := ask(b, a); !errors.Is(err, ErrGroupClosed) {
		t.Errorf("error %v", err)
	}
	if _, err := b.appendTo(1, &raft.AppendEntriesRequest{Term: 5}); !errors.Is(err, ErrGroupClosed) {
		t.Errorf("error %v", err)
	}
}

// TestNextInstance: a group's place is free once its facade is closed, and only
// then; a late Close of the old one does not take the new one's place away.
func TestNextInstance(t *testing.T) {
	network := newFakeNetwork(t)
	a := newEndpoint(t, network, 1, FacadeConfig{})
	next, err := NewFacade(a.config)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := a.router.Register(next); !errors.Is(err, ErrGroupRegistered) {
		t.Fatalf("error %v", err)
	}
	a.Close()
	if err := a.router.Register(a.Facade); !errors.Is(err, ErrGroupClosed) {
		t.Fatalf("error %v", err)
	}
	if err := a.router.Register(next); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if a.router.facade(testGroup) != next {
		t.Error("the new facade was taken out")
	}
}

// TestConfigIsChecked: a server id that names no node cannot be called.
func TestConfigIsChecked(t *testing.T) {
	for _, id := range []raft.ServerID{"", "1", "node/00000000000000a1", "1/a1", "-1/00000000000000a1", "01/00000000000000a1", "1/00000000000000A1"} {
		if _, err := NewFacade(FacadeConfig{LocalID: id}); !errors.Is(err, ErrServerID) {
			t.Errorf("%q: %v", id, err)
		}
	}
	node, incarnation, err := ParseServerID(ServerID(2147483647, 1<<63))
	if node != 2147483647 || incarnation != 1<<63 || err != nil {
		t.Error(node, incarnation, err)
	}
}
