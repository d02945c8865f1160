package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/replication/metadata"
)

func TestMetaSingleNode(t *testing.T) {
	net := newMetaNet(t)
	began := time.Now()
	n := net.add(1).start()
	n.serves()
	t.Logf("founded and registered after %v", time.Since(began))
	cluster := n.node.ClusterID()
	if cluster == "" || n.group.View().ClusterID() != cluster {
		t.Fatalf("cluster %q on disk, %q in the metadata", cluster, n.group.View().ClusterID())
	}
	n.create("a")
	n.stop().start().serves()
	if _, ok := n.group.View().TopicNamed("a"); !ok || n.node.ClusterID() != cluster {
		t.Fatal("the restarted node has forgotten its metadata")
	}
	b, _ := n.group.View().Broker(1)
	if b.Start != 2 || b.KafkaAddress != "khost1:1" {
		t.Errorf("registered as %+v", b)
	}
	n.kill().start().serves()
	if _, ok := n.group.View().TopicNamed("a"); !ok {
		t.Fatal("a power cut lost the metadata")
	}
}

func TestMetaTrioFoundsAndRestarts(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range []int{2, 0, 1} {
		nodes[n].start()
	}
	net.settled()
	for i, n := range nodes {
		n.create(fmt.Sprint("t", i))
	}
	net.sameState()
	cluster := nodes[0].node.ClusterID()
	for _, n := range nodes {
		n.kill()
	}
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	for _, n := range nodes {
		if n.node.ClusterID() != cluster || n.group.View().TopicCount() != 3 {
			t.Errorf("node %d: cluster %s with %d topics", n.id, n.node.ClusterID(), n.group.View().TopicCount())
		}
	}
	net.sameState()
}

func TestMetaFiveVotersOthersFollow(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(7)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	voters, others := net.leader().voters()
	if len(voters) != 5 || len(others) != 2 {
		t.Fatalf("%d voters, %d others", len(voters), len(others))
	}
	for _, n := range nodes {
		n.create(fmt.Sprint("t", n.id))
	}
	net.sameState()
}

// TestMetaLeaderKills changes the metadata through all nodes while leaders die
// under them: each change takes effect once, and what was acknowledged stays.
func TestMetaLeaderKills(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	var mu sync.Mutex
	blocks := map[int64]bool{}
	for round := range 3 {
		victim := net.leader()
		var work sync.WaitGroup
		for _, n := range nodes {
			if n == victim {
				continue
			}
			group, id := n.group, n.id
			work.Go(func() {
				for range 20 {
					ctx, cancel := context.WithTimeout(context.Background(), testWait)
					r, _, err := group.Change(ctx, &metadata.AllocateProducerIDs{Node: id, Count: 10})
					cancel()
					if err != nil {
						t.Errorf("round %d, node %d: %v", round, id, err)
						return
					}
					mu.Lock()
					if blocks[r.FirstID] {
						t.Errorf("block %d was given twice", r.FirstID)
					}
					blocks[r.FirstID] = true
					mu.Unlock()
				}
			})
		}
		victim.kill()
		work.Wait()
		victim.start()
		net.settled()
	}
	if next := net.leader().group.View().NextProducerID(); next != int64(10*len(blocks)) {
		t.Errorf("%d blocks were answered, but %d ids are gone: a change took effect twice", len(blocks), next)
	}
	net.sameState()
}

// TestMetaChangeOnceOverLostAnswers lets the leader apply a forwarded change while
// its answers are lost.
func TestMetaChangeOnceOverLostAnswers(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	leader := net.leader()
	var other *metaNode
	for _, n := range nodes {
		if n != leader {
			other = n
		}
	}
	from, to := fmt.Sprintf("host%d", leader.id), fmt.Sprintf("host%d", other.id)
	before := leader.group.View().NextProducerID()
	answered := make(chan error, 1)
	net.network.Drop(from, to) // requests arrive, answers do not
	go func() {
		_, err := other.change(&metadata.AllocateProducerIDs{Node: other.id, Count: 10})
		answered <- err
	}()
	eventually(t, "the change at the leader", func() bool { return leader.group.View().NextProducerID() > before })
	net.network.Cut(from, to) // the answer is lost for good, the change is sent again
	net.network.Restore(from, to)
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if got := net.leader().group.View().NextProducerID() - before; got != 10 {
		t.Errorf("%d ids were taken for one block of 10", got)
	}
}

func TestMetaRefusalIsTyped(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	nodes[1].create("a")
	for _, n := range nodes {
		_, err := n.change(&metadata.CreateTopic{Name: "a", ID: [16]byte{9}})
		var refusal *metadata.Refusal
		if !errors.As(err, &refusal) || refusal.Code != metadata.TopicExists {
			t.Errorf("node %d: %v", n.id, err)
		}
	}
}

func TestMetaChangeWithoutQuorum(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	nodes[1].stop()
	nodes[2].stop()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, _, err := nodes[0].group.Change(ctx, &metadata.AllocateProducerIDs{Node: 1, Count: 1})
	if !errors.Is(err, ErrMetadataUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("change: %v", err)
	}
	if err := nodes[0].group.CaughtUp(ctx); !errors.Is(err, ErrMetadataUnavailable) {
		t.Errorf("caught up: %v", err)
	}
}

// TestMetaSnapshot drives the group over the snapshot threshold; a node that was
// away then gets the snapshot, and all restart from theirs.
func TestMetaSnapshot(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	nodes[2].stop()
	for range 100 {
		if _, err := nodes[0].change(&metadata.AllocateProducerIDs{Node: 1, Count: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes[:2] {
		if err := n.group.current().raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		if _, err := nodes[1].change(&metadata.AllocateProducerIDs{Node: 2, Count: 1}); err != nil {
			t.Fatal(err)
		}
	}
	nodes[2].start()
	net.settled()
	net.sameState()
	for _, n := range nodes {
		n.kill()
	}
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	if got := nodes[2].group.View().NextProducerID(); got != 105 {
		t.Errorf("next producer id %d", got)
	}
	net.sameState()
}

func TestMetaWatch(t *testing.T) {
	net := newMetaNet(t)
	n := net.add(1).start()
	n.serves()
	changed := make(chan struct{}, 1)
	cancel := n.group.Watch(changed)
	n.create("a")
	<-changed
	cancel()
	select {
	case <-changed:
	default:
	}
	n.create("b")
	select {
	case <-changed:
		t.Error("a cancelled watch fires")
	default:
	}
}

// TestMetaSaysThatTheLeaderIsGone: a member that has registered long ago must not
// be silent when the group loses its quorum.
func TestMetaSaysThatTheLeaderIsGone(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	nodes[0].kill()
	nodes[1].kill()
	eventually(t, "a line about the quorum", func() bool {
		return nodes[2].logs.has("no quorum: 1 of 3 voters are up, missing: node 1 at host1:1, node 2 at host2:1")
	})
}
