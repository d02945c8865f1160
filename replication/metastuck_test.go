package replication

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
)

// hang makes every write and sync of the node's metadata log hang until release.
func (n *metaNode) hang() (release func()) {
	return stall(n.net.T, n.fs, "raft.model")
}

// longMetaTrio is metaTrio with clocks that leave elections to those who are asked to.
func longMetaTrio(t *testing.T) (net *metaNet, leader *metaNode, others []*metaNode) {
	net = newMetaNet(t)
	net.timings.Heartbeat = longTimings.Heartbeat
	return net.trio()
}

// createSoon starts to make a topic through the node, and says how that ends.
func (n *metaNode) createSoon(ctx context.Context, name string) <-chan error {
	done := make(chan error, 1)
	replica := metadata.Replica{Node: n.id, Incarnation: 7, NodeIncarnation: n.node.Incarnation()}
	go func() {
		_, _, err := n.group.Change(ctx, &metadata.CreateTopic{Name: name, ID: segment.NewTopicID(), Partitions: []metadata.Partition{{Replicas: []metadata.Replica{replica}}}})
		done <- err
	}()
	return done
}

// replacedIn waits for another leader and says how long that took.
func (net *metaNet) replacedIn(old *metaNode) (next *metaNode, took time.Duration) {
	began := time.Now()
	eventually(net.T, "the next metadata leader", func() bool {
		for _, n := range net.nodes {
			if in := n.group.current(); n != old && in.leads() {
				next = n
			}
		}
		return next != nil
	})
	return next, time.Since(began)
}

// TestMetaLeaderWithHungDiskIsReplaced (D15): by heartbeats alone it would lead for
// ever, and no change of the metadata would be made in the whole cluster.
func TestMetaLeaderWithHungDiskIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		net, old, others := longMetaTrio(t)
		term := old.group.current().raft.CurrentTerm()
		release, began := old.hang(), time.Now()
		first, second := others[0].createSoon(t.Context(), "first"), old.createSoon(t.Context(), "second")
		<-time.After(stuckReplaced - attemptTimeout)
		late := others[1].createSoon(t.Context(), "late")
		next, _ := net.replacedIn(old)
		if took := time.Since(began); took >= stuckReplaced || took < stuckLimit {
			t.Errorf("the leader with the hung disk was replaced after %v", took)
		}
		if err := <-second; !errors.Is(err, ErrControllerResigned) {
			t.Errorf("a change through the node whose disk hung: %v, want that another is asked", err)
		}
		if err := errors.Join(<-first, <-late); err != nil {
			t.Errorf("changes that the leader with the hung disk had: %v", err)
		}
		if took := time.Since(began); took >= stuckReplaced {
			t.Errorf("the changes that the leader with the hung disk had took %v", took)
		}
		if _, known := old.group.liveLeader(); known || old.group.current().leads() {
			t.Error("the node whose disk hangs knows a leader, which can be none but itself")
		}
		if up, err := old.group.current().up(); err != nil || up.Leader != "" {
			t.Errorf("the node whose disk hangs tells its peers that %s leads, %v", up.Leader, err)
		}
		began = time.Now()
		if err := <-old.createSoon(t.Context(), "third"); !errors.Is(err, ErrControllerResigned) || time.Since(began) > 0 {
			t.Errorf("a change through the node whose disk hangs: %v after %v", err, time.Since(began))
		}
		<-time.After(time.Minute)
		if in := next.group.current(); !in.leads() || in.raft.CurrentTerm() != term+1 {
			t.Errorf("while one disk hangs there was more than one election: term %d after %d", in.raft.CurrentTerm(), term)
		}
		release()
		net.settled()
		net.sameState()
		for _, name := range []string{"first", "late"} {
			if _, ok := old.group.View().TopicNamed(name); !ok {
				t.Errorf("the node whose disk hung does not know topic %s", name)
			}
		}
		for _, n := range net.nodes {
			if err := n.fatalError(); err != nil {
				t.Errorf("node %d stopped: %v", n.id, err)
			}
		}
	})
}

// TestHungMetaLeaderWaitsForVoters: while no majority of the others is there, nobody
// could lead instead. It gives up when they are.
func TestHungMetaLeaderWaitsForVoters(t *testing.T) {
	bubble(t, func(t *testing.T) {
		net, old, others := longMetaTrio(t)
		host := func(n *metaNode) string { return transporttest.Host(n.address) }
		net.network.Isolate(host(others[1]), host(old), host(others[0]))
		eventually(t, "the follower to be gone", func() bool { return !old.mux.Up(others[1].id) })
		release := old.hang()
		change := others[0].createSoon(t.Context(), "orders")
		<-time.After(2 * stuckReplaced)
		if !old.group.current().leads() {
			t.Error("the leader gave up, and no other can be elected")
		}
		net.network.RestoreAll()
		net.replacedIn(old) // later than otherwise, if the others reach each other last
		if err := <-change; err != nil {
			t.Error(err)
		}
		release()
		net.settled()
		net.sameState()
	})
}

// TestMetaSuccessors: when the first voter that is asked fails, the next one is.
func TestMetaSuccessors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		net, old, others := longMetaTrio(t)
		in := old.group.current()
		eventually(t, "both followers to have acknowledged everything", func() bool {
			matches, last := in.facade.Matches(segment.Term(in.raft.CurrentTerm())), segment.Index(in.raft.LastIndex())
			return matches[others[0].group.serverID()].Index == last && matches[others[1].group.serverID()].Index == last
		})
		deaf, voters := others[0], voterIDs(in.raft.GetConfiguration().Configuration().Servers)
		if slices.Index(voters, deaf.group.serverID()) > slices.Index(voters, others[1].group.serverID()) {
			deaf = others[1]
		}
		asked := 0
		deaf.mux.Handle(transport.MethodRaftHandOver, func(r *transport.Request) {
			asked++
			r.ReplyError(errors.New("deaf"))
		})
		release := old.hang()
		change := old.createSoon(t.Context(), "orders")
		next, took := net.replacedIn(old)
		if next == deaf || asked == 0 || took >= stuckReplaced {
			t.Errorf("node %d leads after %v, node %d was asked %d times", next.id, took, deaf.id, asked)
		}
		release()
		if err := <-change; !errors.Is(err, ErrControllerResigned) {
			t.Error(err)
		}
		net.settled()
	})
}

// TestHungMetaStore: both calls that store entries are watched, whatever the files.
func TestHungMetaStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hung := 0
		s := &failStop{MetaStores: slowStores{}, watch: newStoreWatch(nil, func() uint64 { return 0 }, func() { hung++ })}
		must(t, s.StoreLog(&raft.Log{}))
		if hung == 0 {
			t.Error("StoreLog hung, and nobody noticed")
		}
		hung = 0
		must(t, s.StoreLogs(nil))
		if hung == 0 {
			t.Error("StoreLogs hung, and nobody noticed")
		}
	})
}

// slowStores store entries in twice the time that is allowed.
type slowStores struct{ MetaStores }

func (slowStores) StoreLog(*raft.Log) error {
	<-time.After(2 * stuckLimit)
	return nil
}

func (s slowStores) StoreLogs([]*raft.Log) error { return s.StoreLog(nil) }
