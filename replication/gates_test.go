package replication

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// deaf makes a node refuse one of the metadata group's methods until hear is called.
func (n *hostNode) deaf(method transport.Method) (hear func()) {
	n.host.mux.Handle(method, func(r *transport.Request) { r.ReplyError(errors.New("deaf")) })
	handler := n.host.meta.metaMethods()[method]
	return sync.OnceFunc(func() { n.host.mux.Handle(method, handler) })
}

// reconciled returns after the node has looked at its replicas at least once more:
// the poke has room for one, so the third is taken only when the loop is back from
// the look that the first one asked for.
func (n *hostNode) reconciled() {
	n.cluster.Helper()
	for range 3 {
		select {
		case n.host.poke <- struct{}{}:
		case <-time.After(testWait):
			n.cluster.Fatal("the node does not look at its replicas")
		}
	}
}

// TestReplicaIsSilentBeforeThisStartIsRegistered: the disk may be an old copy that
// has forgotten votes and acknowledgements. Only the registered start counter tells,
// so a view that knows the replica is not enough to let it speak.
func TestReplicaIsSilentBeforeThisStartIsRegistered(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n := c.nodes[2]
	n.hasReplica(topic, 0)
	n.stop()
	var hear []func()
	for _, peer := range c.nodes[:2] {
		hear = append(hear, peer.deaf(transport.MethodMetaChange))
	}
	n.start()
	eventually(t, "the metadata at the restarted node", func() bool {
		view := n.host.Meta().View()
		_, topicKnown := view.Topic(topic.ID)
		_, known := view.Broker(n.id)
		return topicKnown && known
	})
	if broker, _ := n.host.Meta().View().Broker(n.id); broker.Start >= n.host.node.Starts() {
		t.Fatalf("start %d is registered already: the test proves nothing", n.host.node.Starts())
	}
	n.reconciled()
	if _, runs := n.host.Partition(topic.ID, 0); runs {
		t.Error("a replica speaks before the metadata group knows of this start of its disk")
	}
	for _, h := range hear {
		h()
	}
	n.hasReplica(topic, 0)
}

// TestDiskThatBecomesAnotherEndsTheBroker: its replicas have spoken for the disk it
// was, and would go on doing so.
func TestDiskThatBecomesAnotherEndsTheBroker(t *testing.T) {
	c := newHosts(t, 1)
	n := c.nodes[0]
	c.produce(c.create("orders", 1), 0, 1)
	must(t, n.host.node.reincarnate())
	n.reconciled()
	if !n.logs.has("storage failed") || !n.logs.has(ErrReplacedDisk.Error()) {
		t.Error("the replicas of a disk that is another one now go on")
	}
}

// TestNothingIsRemovedBeforeTheNodeCaughtUp: of its metadata a node that starts has
// a part. What it does not know there is not garbage, and a delete record acts only
// once this start has heard the leader's commit index.
func TestNothingIsRemovedBeforeTheNodeCaughtUp(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n := c.nodes[2]
	n.hasReplica(topic, 0)
	n.stop()
	stranger := "/data/topics/orders/7-" + segment.NewTopicID().String()
	must(t, n.fs.MkdirAll(stranger))
	must(t, vfs.WriteFile(n.fs, stranger+"/manifest", []byte("somebody's data")))
	c.remove(topic)
	var hear []func()
	for _, peer := range c.nodes[:2] {
		hear = append(hear, peer.deaf(transport.MethodReadIndex))
	}
	n.start()
	eventually(t, "the delete record at a registered node", func() bool {
		view := n.host.Meta().View()
		_, deleted := view.Deletion(topic.ID)
		broker, ok := view.Broker(n.id)
		return deleted && ok && broker.Start >= n.host.node.Starts()
	})
	n.reconciled()
	for _, folder := range []string{n.folder(topic, 0), stranger} {
		if _, err := n.fs.Stat(folder); err != nil {
			t.Errorf("%s is gone before the node caught up: %v", folder, err)
		}
	}
	for _, h := range hear {
		h()
	}
	c.ready()
	for _, folder := range []string{n.folder(topic, 0), stranger} {
		if _, err := n.fs.Stat(folder); err == nil {
			t.Errorf("%s is still there", folder)
		}
	}
}

// TestPoisonedFollowerSaysNothing: after a failed append raft's idea of its last entry
// may be wrong, so whatever it acknowledges or votes until it was started anew must
// not reach a peer, though raft itself goes on answering.
func TestPoisonedFollowerSaysNothing(t *testing.T) {
	g := newTrio(t)
	leader := g.leader()
	follower := g.nodes[int(leader.id)%3]
	in := follower.partition.current()
	if !in.enter() { // keeps raft running behind the failure, for as long as close waits
		t.Fatal("the instance is closing")
	}
	leave := sync.OnceFunc(in.leave)
	t.Cleanup(leave)
	follower.fs.Inject(crashfs.Fault{Op: crashfs.OpWrite, PathContains: "/topics/", Err: vfs.ErrNoSpace, Nth: 1})
	leader.partition.Propose(t.Context(), batch(-1, -1, -1, 1), Guard{})
	eventually(t, "the follower's append to fail", func() bool { return in.failure.Load() != nil })

	facade, id := leader.partition.current().facade, g.replicaID(follower)
	term := uint64(leader.role().Term)
	header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte(leader.partition.local), Addr: []byte(leader.partition.local)}
	var vote raft.RequestVoteResponse
	var remote *transport.RemoteError
	err := facade.RequestVote(id, raft.ServerAddress(id), &raft.RequestVoteRequest{RPCHeader: header, Term: term}, &vote)
	if !errors.As(err, &remote) || remote.Code != transport.CodeGroupUnknown {
		t.Errorf("a vote of the poisoned follower: %+v, %v, want the answer of a group that is not here", vote, err)
	}
	var preVote raft.RequestPreVoteResponse
	err = facade.RequestPreVote(id, raft.ServerAddress(id), &raft.RequestPreVoteRequest{RPCHeader: header, Term: term + 1}, &preVote)
	if !errors.As(err, &remote) || remote.Code != transport.CodeGroupUnknown {
		t.Errorf("a pre-vote of the poisoned follower: %+v, %v", preVote, err)
	}
	acknowledged := make(chan error, 1)
	go func() { // it is held until the next instance is there
		var resp raft.AppendEntriesResponse
		acknowledged <- facade.AppendEntries(id, raft.ServerAddress(id), &raft.AppendEntriesRequest{RPCHeader: header, Term: term}, &resp)
	}()
	select {
	case err := <-acknowledged:
		t.Fatalf("the poisoned follower acknowledged a request (%v)", err)
	case <-time.After(200 * time.Millisecond): // raft answers within microseconds
	}
	leave()
	must(t, <-acknowledged)
	g.inStep()
}

// TestRoleOfAnInstanceThatIsNotTheCurrentOneWaits: raft may win an election before
// the instance is the replica's current one. The barrier that makes the leader ready
// goes nowhere before that, and no other follows: the leader would never be ready.
func TestRoleOfAnInstanceThatIsNotTheCurrentOneWaits(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	p := n.partition
	p.replaceInstance(nil)
	p.restarts.Wait()
	in, err := p.newInstance()
	must(t, err)
	eventually(t, "raft to lead", func() bool {
		_ = in.facade.Campaign(t.Context())
		return in.raft.State() == raft.Leader
	})
	for range 20 { // a watch that has begun too early hears of it, and its barrier goes
		pause()
	}
	p.run(in)
	eventually(t, "a ready leader", func() bool { return n.role().Ready })
	g.inStep()
}

// TestReplicaOfAFormerIncarnationStaysOut: a node that lost its part of the metadata
// group is another one, whose replicas, complete as they are with folder and vote, may
// be as old as what it lost.
func TestReplicaOfAFormerIncarnationStaysOut(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n := c.nodes[1]
	n.hasReplica(topic, 0)
	before := n.host.Incarnation()
	n.stop()
	must(t, n.fs.RemoveAll("/data/metadata"))
	n.start()
	c.ready()
	if n.host.Incarnation() == before {
		t.Fatal("the node is who it was: the test proves nothing")
	}
	if err := n.host.ReplicaFailed(topic.ID, 0); !errors.Is(err, ErrLostReplica) {
		t.Errorf("out of its group because of %v, want %v", err, ErrLostReplica)
	}
	c.produce(topic, 0, 2)
}
