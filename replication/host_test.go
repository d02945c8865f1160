package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/metamodel"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// hosts is a cluster of whole nodes in this process.
type hosts struct {
	*testing.T
	network *transporttest.Network
	nodes   []*hostNode
	timings Timings // of the nodes that start
	// policy and retentionInterval of all nodes, for starts to come.
	policy            func(*metadata.Topic) Policy
	retentionInterval time.Duration
	retentionWait     time.Duration
	balance           Balance
}

// hostNode is a disk, and the host that runs on it, if any.
type hostNode struct {
	cluster *hosts
	id      metadata.NodeID
	fs      *crashfs.FS
	logs    *logBuffer
	host    *Host
}

func hostAddress(id metadata.NodeID) string { return fmt.Sprintf("broker%d:1", id) }

func newHosts(t *testing.T, count int) *hosts {
	t.Helper()
	return newHostsOf(t, count, testTimings, Balance{})
}

// newHostsWith is newHosts with other clocks of raft.
func newHostsWith(t *testing.T, count int, timings Timings) *hosts {
	t.Helper()
	return newHostsOf(t, count, timings, Balance{})
}

func newHostsOf(t *testing.T, count int, timings Timings, balance Balance) *hosts {
	t.Helper()
	c := &hosts{T: t, network: transporttest.New(), timings: timings, balance: balance}
	for id := metadata.NodeID(1); id <= metadata.NodeID(count); id++ {
		c.nodes = append(c.nodes, &hostNode{cluster: c, id: id, fs: crashfs.New(int64(id)), logs: &logBuffer{}})
	}
	for _, n := range c.nodes {
		n.start()
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.stop()
			if t.Failed() {
				t.Logf("log of node %d:\n%s", n.id, n.logs.b.String())
			}
		}
	})
	c.ready()
	return c
}

func (n *hostNode) start() {
	t := n.cluster
	t.Helper()
	var list []string
	for _, peer := range t.nodes {
		list = append(list, hostAddress(peer.id))
	}
	if len(list) == 1 {
		list = nil
	}
	listener, err := t.network.Listen(hostAddress(n.id))
	must(t, err)
	n.host, err = Open(t.Context(), Config{
		FS: n.fs.Mount(), DataDir: "/data", Node: n.id, Listener: listener, Dial: t.network.Dialer(transporttest.Host(hostAddress(n.id))),
		RPCAddress: hostAddress(n.id), KafkaAddress: fmt.Sprintf("broker%d:9092", n.id), Join: list,
		MetaStores: func(fsys vfs.FS, dir string) (MetaStores, error) { return metamodel.Open(fsys, dir) },
		Timings:    t.timings, Balance: t.balance,
		Policy: t.policy, RetentionInterval: t.retentionInterval, RetentionWait: t.retentionWait,
		Logger: slog.New(slog.NewTextHandler(n.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Fatal:  func(err error) { t.Logf("node %d: fatal: %v", n.id, err) },
	})
	must(t, err)
}

// stop ends the node without saying goodbye.
func (n *hostNode) stop() {
	if n.host != nil {
		_ = n.host.Close() // a disk that crashed fails it
		n.host = nil
	}
}

// ready waits until every running node can serve.
func (c *hosts) ready() {
	c.Helper()
	for _, n := range c.nodes {
		if n.host == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(c.Context(), testWait)
		err := n.host.WaitReady(ctx)
		cancel()
		if err != nil {
			c.Fatalf("node %d is not ready: %v (%s)", n.id, err, n.host.Meta().Waiting())
		}
	}
}

// create makes a topic with a replica on every node.
func (c *hosts) create(name string, partitions int) *metadata.Topic {
	c.Helper()
	host := c.running().host
	cmd := &metadata.CreateTopic{Name: name, ID: segment.NewTopicID(), Internal: strings.HasPrefix(name, "__")}
	for p := range partitions {
		var replicas []metadata.Replica
		for i := range c.nodes {
			broker, ok := host.Meta().View().Broker(c.nodes[(p+i)%len(c.nodes)].id)
			if !ok {
				c.Fatalf("broker %d is not registered", c.nodes[(p+i)%len(c.nodes)].id)
			}
			replicas = append(replicas, metadata.Replica{Node: broker.Node, Incarnation: uint64(newIncarnation()), NodeIncarnation: broker.Incarnation})
		}
		cmd.Partitions = append(cmd.Partitions, metadata.Partition{Replicas: replicas})
	}
	ctx, cancel := context.WithTimeout(c.Context(), testWait)
	defer cancel()
	_, _, err := host.Meta().Change(ctx, cmd)
	must(c, err)
	topic, ok := host.Meta().View().TopicNamed(name)
	if !ok {
		c.Fatalf("topic %s is not there after its creation", name)
	}
	return topic
}

func (c *hosts) remove(topic *metadata.Topic) {
	c.Helper()
	host := c.running().host
	ctx, cancel := context.WithTimeout(c.Context(), testWait)
	defer cancel()
	_, _, err := host.Meta().Change(ctx, &metadata.DeleteTopic{ID: topic.ID, LastTerm: uint64(host.LastTerm(topic.ID, 0))})
	must(c, err)
}

// running is the first node that runs.
func (c *hosts) running() *hostNode {
	for _, n := range c.nodes {
		if n.host != nil {
			return n
		}
	}
	c.Fatal("no node runs")
	return nil
}

// leader waits for a ready leader of a partition and returns its replica.
func (c *hosts) leader(topic *metadata.Topic, p int32) *Partition {
	c.Helper()
	var found *Partition
	eventually(c.T, "a leader of "+topic.Name, func() bool {
		for _, n := range c.nodes {
			if n.host == nil {
				continue
			}
			if here, ok := n.host.Partition(topic.ID, p); ok && here.Leadership().Ready {
				found = here
				return true
			}
		}
		return false
	})
	return found
}

// produce appends one value and waits until it is acknowledged.
func (c *hosts) produce(topic *metadata.Topic, p int32, v uint64) segment.Offset {
	c.Helper()
	var base segment.Offset
	eventually(c.T, "an acknowledgement", func() bool {
		ctx, cancel := context.WithTimeout(c.Context(), testWait)
		defer cancel()
		result, err := await(ctx, c.leader(topic, p).Propose(ctx, batch(-1, -1, -1, v), Guard{}))
		base = result.Base
		return err == nil
	})
	return base
}

// failedWith waits until a node says why its replica is out of its group.
func (n *hostNode) failedWith(topic *metadata.Topic, p int32, want error) {
	n.cluster.Helper()
	eventually(n.cluster.T, "a replica to be out of its group", func() bool {
		return errors.Is(n.host.ReplicaFailed(topic.ID, p), want)
	})
}

// hasReplica waits until a node runs its replica.
func (n *hostNode) hasReplica(topic *metadata.Topic, p int32) {
	n.cluster.Helper()
	eventually(n.cluster.T, "a replica to run", func() bool {
		_, ok := n.host.Partition(topic.ID, p)
		return ok
	})
}

func (n *hostNode) folder(topic *metadata.Topic, p int32) string {
	return filepath.Join("/data/topics", topic.Name, fmt.Sprintf("%d-%s", p, topic.ID))
}

// preferredLead requires that preferred replicas lead a topic. An election in which a
// connection broke may have gone to another, so other new topics may show it instead.
func (c *hosts) preferredLead(topic *metadata.Topic) {
	c.Helper()
	for range 2 {
		if len(c.astray(topic)) == 0 {
			return
		}
		topic = c.create(topic.Name+"-again", len(topic.Partitions))
	}
	if led := c.astray(topic); len(led) > 0 {
		c.Fatalf("preferred replicas do not win the first election: %s", led)
	}
}

// astray waits for the leaders of a topic and tells those that are not preferred.
func (c *hosts) astray(topic *metadata.Topic) (led []string) {
	c.Helper()
	for p, partition := range topic.Partitions {
		preferred := partition.Replicas[0]
		if got, want := c.leader(topic, int32(p)).local, transport.ServerID(preferred.Node, preferred.Incarnation); got != want {
			led = append(led, fmt.Sprintf("partition %d is led by %s, preferred is %s", p, got, want))
		}
	}
	return led
}

func TestTopicIsServedByAllItsReplicas(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 3)
	for p := range int32(3) {
		c.produce(topic, p, uint64(p))
	}
	c.preferredLead(topic)
	for _, n := range c.nodes {
		eventually(t, "gossip of all leaders", func() bool {
			for p := range int32(3) {
				info, ok := n.host.Leader(topic.ID, p)
				if !ok || len(info.InSync) != 3 {
					return false
				}
			}
			return true
		})
	}
}

func TestWholeClusterRestartKeepsEverything(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	for v := range uint64(20) {
		c.produce(topic, 0, v)
	}
	for range 3 {
		for _, n := range c.nodes {
			n.fs.Crash(crashfs.CrashOptions{})
		}
		for _, n := range c.nodes {
			n.stop()
		}
		for _, n := range c.nodes {
			n.start()
		}
		c.ready()
		if got := values(t, c.leader(topic, 0).Log()); len(got) != 20 {
			t.Fatalf("%d values after a power cut of all, want 20", len(got))
		}
	}
}

func TestLostFolderStaysOutOfItsGroup(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n := c.nodes[1]
	n.hasReplica(topic, 0)
	n.stop()
	must(t, n.fs.RemoveAll(n.folder(topic, 0)))
	n.start()
	n.failedWith(topic, 0, ErrLostReplica)
	c.produce(topic, 0, 2)
	if _, err := n.fs.Stat(n.folder(topic, 0)); err == nil {
		t.Error("the lost replica was made anew under its old incarnation")
	}
}

func TestLostVoteRecordStaysOutOfItsGroup(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n := c.nodes[1]
	n.hasReplica(topic, 0)
	n.stop()
	must(t, n.fs.Remove("/data/votes.log"))
	n.start()
	n.failedWith(topic, 0, ErrLostReplica)
	if _, err := n.fs.Stat(n.folder(topic, 0)); err != nil {
		t.Errorf("the folder of the lost replica is gone: %v", err)
	}
	c.produce(topic, 0, 2)
}

// TestWipedNodeIsNotItsOldSelf: one follower is away, the other's disk is wiped.
// If the wiped one voted or acknowledged as its old self, the leader could commit
// without anybody else holding what was acknowledged before.
func TestWipedNodeIsNotItsOldSelf(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	c.nodes[1].hasReplica(topic, 0)
	before := c.nodes[1].host.Incarnation()
	c.nodes[1].stop()
	c.nodes[1].fs = crashfs.New(99)
	c.nodes[1].start()
	c.ready()
	if c.nodes[1].host.Incarnation() == before {
		t.Fatal("a wiped node kept its incarnation")
	}
	c.nodes[1].failedWith(topic, 0, ErrLostReplica)
	c.produce(topic, 0, 2)
	c.nodes[2].stop()
	eventually(t, "the leader to stand down: it has no majority", func() bool {
		here, ok := c.nodes[0].host.Partition(topic.ID, 0)
		return ok && !here.Leadership().Leader
	})
	c.nodes[2].start()
	c.produce(topic, 0, 3)
}

func TestUnknownFolderIsKept(t *testing.T) {
	c := newHosts(t, 1)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n := c.nodes[0]
	n.stop()
	stranger := "/data/topics/orders/7-" + segment.NewTopicID().String()
	must(t, n.fs.MkdirAll(stranger))
	must(t, vfs.WriteFile(n.fs, stranger+"/manifest", []byte("somebody's data")))
	n.start()
	c.ready()
	kept, err := n.fs.List("/data/quarantine")
	must(t, err)
	if len(kept) != 1 || !strings.HasPrefix(kept[0], "orders-7-") {
		t.Errorf("quarantine holds %v, want the unknown folder", kept)
	}
	if !n.logs.has("set aside a folder") {
		t.Error("nothing was said about it")
	}
	c.produce(topic, 0, 2)
}

// TestHalfMadeReplicaIsMadeAnew: the power goes between the replica's folder and
// the metadata index that says it exists.
func TestHalfMadeReplicaIsMadeAnew(t *testing.T) {
	for _, step := range []string{"votes.log", "node.json", "manifest", "checkpoint"} {
		t.Run(step, func(t *testing.T) {
			c := newHosts(t, 3)
			n := c.nodes[2]
			var cut atomic.Bool
			n.fs.Inject(crashfs.Fault{Op: crashfs.OpChange, PathContains: step, Do: func() {
				n.fs.Crash(crashfs.CrashOptions{})
				cut.Store(true)
			}})
			topic := c.create("orders", 1)
			c.produce(topic, 0, 1)
			eventually(t, "the power cut", cut.Load)
			n.stop()
			n.start()
			c.ready()
			if err := n.host.ReplicaFailed(topic.ID, 0); err != nil {
				t.Errorf("after a crash at %s the replica is out of its group: %v", step, err)
			}
		})
	}
}

func TestDeletedTopicLeavesNothing(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 2)
	c.produce(topic, 0, 1)
	away := c.nodes[2]
	away.stop()
	c.remove(topic)
	again := c.create("orders", 1)
	if again.StartTerm <= uint64(topic.StartTerm) {
		t.Errorf("the new topic starts at term %d, the old one began at %d", again.StartTerm, topic.StartTerm)
	}
	c.produce(again, 0, 2)
	away.start()
	c.ready()
	for _, n := range c.nodes {
		eventually(t, "the old folders to go", func() bool {
			_, err := n.fs.Stat(n.folder(topic, 0))
			return err != nil
		})
	}
	eventually(t, "the delete record to go", func() bool {
		_, there := c.nodes[0].host.Meta().View().Deletion(topic.ID)
		return !there
	})
	if got := values(t, c.leader(again, 0).Log()); len(got) != 1 || got[0] != 2 {
		t.Errorf("the new topic holds %v, want value 2 alone", got)
	}
}

// TestNoCleanStopAfterAFailure: a graceful stop that is faster than the end of the
// process, after a sync of the metadata store failed. Taken for clean, the next start
// would believe what it finds in the page cache.
func TestNoCleanStopAfterAFailure(t *testing.T) {
	c := newHosts(t, 1)
	n := c.nodes[0]
	c.ready()
	n.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: "/metadata"})
	ctx, cancel := context.WithCancel(t.Context())
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		_, _, _ = n.host.Meta().Change(ctx, &metadata.AllocateProducerIDs{Node: 1, Count: 10})
	}()
	eventually(t, "the failure to be told", func() bool { return n.host.unsound.Load() })
	cancel()
	<-changed
	_ = n.host.Shutdown(t.Context())
	n.host = nil
	node, err := openNode(n.fs.Mount(), "/data", 1, "boot")
	must(t, err)
	if node.CleanStop() {
		t.Error("the stop counts as clean")
	}
	must(t, node.Close())
}

// TestCleanStopMarkComesLast: what is written behind the mark and lost in a power cut,
// or fails there, would be taken for what a graceful stop had on the disk.
func TestCleanStopMarkComesLast(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	for _, n := range c.nodes {
		n.hasReplica(topic, 0)
	}
	var leader *hostNode
	eventually(t, "a leader of the metadata group", func() bool {
		for _, n := range c.nodes {
			if id, ok := n.host.Meta().Leader(); ok {
				leader = c.nodes[id-1]
			}
		}
		return leader != nil
	})
	c.ready()
	trace := leader.fs.Trace() // the one that writes most: it hands the group's leadership over
	must(t, leader.host.Shutdown(t.Context()))
	leader.host = nil
	var after []string // what became durable behind the last writing of node.json
	marked := false
	for _, e := range trace.Stop() {
		switch node := strings.Contains(e.Path, "node.json") || e.Path == "/data"; {
		case e.Op == crashfs.OpRename && node:
			marked, after = true, nil
		case !node && (e.Op == crashfs.OpWrite || e.Op == crashfs.OpSync || e.Op == crashfs.OpSyncDir || e.Op == crashfs.OpRename):
			after = append(after, fmt.Sprint(e.Op, " ", e.Path))
		}
	}
	if !marked || len(after) > 0 {
		t.Errorf("mark written: %v, and behind it: %q", marked, after)
	}
}
