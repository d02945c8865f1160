package transport

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// proving is an AppendEntries of a term that proves entry 3.
func proving(term uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{Term: term, PrevLogEntry: 3, PrevLogTerm: min(term, 5)}
}

// TestAnnouncementOvertakesRefusal: "group up" travels on another connection than
// the answer "no such group"; one that came in between must not be waited for
// again, since there will be no other.
func TestAnnouncementOvertakesRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a := newEndpoint(t, network, 1, FacadeConfig{})
		a.Bind(leading(5, 10))
		node := network.node(2)
		refused := false
		node.Handle(MethodRaftAppend, func(req *Request) {
			if !refused {
				refused = true
				a.groupUp(testID(2)) // the instance starts and says so before this answer arrives
				req.ReplyError(unknownGroup(testGroup))
				return
			}
			req.Reply(encodeAppendReply(&raft.AppendEntriesResponse{Term: 5, Success: true}))
		})
		start := time.Now()
		if _, err := a.appendTo(2, proving(5)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 10*time.Millisecond {
			t.Errorf("held for %v", took)
		}
	})
}

// TestOldAnnouncement: a "group up" from before the call says nothing about the
// instance that is gone now; the call waits for the next one.
func TestOldAnnouncement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a := newEndpoint(t, network, 1, FacadeConfig{})
		a.Bind(leading(5, 10))
		node, attempts := network.node(2), 0
		node.Handle(MethodRaftAppend, func(req *Request) {
			switch attempts++; attempts {
			case 1:
				req.ReplyError(unknownGroup(testGroup))
				return
			case 2: // a node that is just starting
				req.ReplyError(&RemoteError{Code: CodeUnknownMethod})
				return
			}
			req.Reply(encodeAppendReply(&raft.AppendEntriesResponse{Term: 5, Success: true}))
		})
		done := make(chan error, 1)
		go func() {
			_, err := a.appendTo(2, proving(5))
			done <- err
		}()
		for n := 1; n <= 3; n++ {
			<-time.After(unknownRecheck / 2)
			synctest.Wait()
			if attempts != n {
				t.Fatalf("%d attempts after %d announcements", attempts, n-1)
			}
			a.groupUp(testID(2))
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// TestHeldUntilPeerLeaves (DESIGN 4.3 h): raft cannot end the replication to a
// removed member while that sits in a call.
func TestHeldUntilPeerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a, instance := newEndpoint(t, network, 1, FacadeConfig{}), leading(5, 10)
		a.Bind(instance)
		network.node(2)
		network.setLink(1, 2, false)
		done := make(chan error, 1)
		go func() {
			_, err := a.appendTo(2, proving(5))
			done <- err
		}()
		<-time.After(time.Hour)
		select {
		case err := <-done:
			t.Fatalf("the call ended: %v", err)
		default:
		}
		instance.change(func(r *fakeRaft) { r.servers = append(r.servers[:1:1], r.servers[2]) })
		a.observe(&raft.Observation{Data: raft.PeerObservation{Removed: true}})
		if err := <-done; !errors.Is(err, ErrPeerLeft) {
			t.Fatalf("error %v", err)
		}
		// The last attempt that raft makes for a removed member is made, not held.
		if _, err := a.appendTo(2, proving(5)); !errors.Is(err, ErrPeerLeft) {
			t.Fatalf("error %v", err)
		}
	})
}

// TestRemovedMember is the same with raft itself: it shuts down, and a member that
// was removed while it was away leaves no call behind.
func TestRemovedMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		defer g.stop()
		leader, gone := g.elect(0), g.members[2]
		g.network.isolate(gone.node, false)
		leader.propose(0, 3)
		if err := leader.raft.RemoveServer(testID(gone.node), 0, time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "nothing is held", func() bool {
			leader.facade.mu.Lock()
			defer leader.facade.mu.Unlock()
			return leader.facade.waiters == 0
		})
	})
}

// TestFlappingPeer: a connection that breaks under each request, though the peer
// counts as up, is tried again and again, but not in a busy loop.
func TestFlappingPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a := newEndpoint(t, network, 1, FacadeConfig{})
		a.Bind(leading(5, 10))
		node, broken := network.node(2), 0
		node.Handle(MethodRaftAppend, func(req *Request) {
			if broken++; time.Since(bubbleStart) < 10*time.Second {
				network.setLink(1, 2, false)
				network.setLink(1, 2, true)
				req.ReplyError(errors.New("never heard"))
				return
			}
			req.Reply(encodeAppendReply(&raft.AppendEntriesResponse{Term: 5, Success: true}))
		})
		if _, err := a.appendTo(2, proving(5)); err != nil {
			t.Fatal(err)
		}
		if broken < 10 || broken > 40 {
			t.Errorf("%d attempts in ten seconds", broken)
		}
	})
}

// bubbleStart is when the clock of every bubble begins.
var bubbleStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// TestOtherIncarnationIsHeld: entries for a replica that lost its disk wait until
// the group has replaced it. Nothing is read from the log for a node that is down.
func TestOtherIncarnationIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, log := newFakeNetwork(t), filled(t, 5, 3)
		a, instance := newEndpoint(t, network, 1, FacadeConfig{Source: log}), leading(5, 4)
		a.Bind(instance)
		newEndpoint(t, network, 2, FacadeConfig{LocalID: ServerID(2, 0xbeef), Source: log})
		network.setLink(1, 2, false)
		done := make(chan error, 1)
		go func() {
			_, err := a.appendTo(2, &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 1, PrevLogTerm: 1, Entries: log.raftEntries(t, 2, 4)})
			done <- err
		}()
		<-time.After(time.Hour)
		if len(log.reads) > 0 {
			t.Errorf("%d reads for a node that is down", len(log.reads))
		}
		network.setLink(1, 2, true)
		<-time.After(time.Hour)
		if len(done) > 0 {
			t.Fatal(<-done)
		}
		instance.change(func(r *fakeRaft) { r.servers = append(r.servers[:1:1], r.servers[2]) })
		a.LeadershipChanged()
		if err := <-done; !errors.Is(err, ErrPeerLeft) {
			t.Fatalf("error %v", err)
		}
	})
}

// TestHeartbeatIsHeldToo: heartbeats to a peer that is away wait like entries do,
// and go on when it is back.
func TestHeartbeatIsHeldToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a := newEndpoint(t, network, 1, FacadeConfig{})
		a.Bind(leading(5, 10))
		newEndpoint(t, network, 2, FacadeConfig{}).answer(t, accepts)
		network.setLink(1, 2, false)
		done := make(chan error, 1)
		go func() {
			_, err := a.appendTo(2, &raft.AppendEntriesRequest{Term: 5})
			done <- err
		}()
		<-time.After(time.Minute)
		network.setLink(1, 2, true)
		synctest.Wait()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatal("still held")
		}
	})
}
