package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/metamodel"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// metaNet is a number of nodes with nothing but their part of the metadata group,
// in one process, over a network in memory and on crashing file systems.
type metaNet struct {
	*testing.T
	network *transporttest.Network
	timings Timings
	nodes   map[metadata.NodeID]*metaNode
}

// metaNode is one of them: its disk, and the process that runs on it, if any.
type metaNode struct {
	net     *metaNet
	id      metadata.NodeID
	address string
	fs      *crashfs.FS
	list    []string     // --join
	without string       // --found-without
	stores  StoreFactory // modelStores without
	logs    *logBuffer

	mu     sync.Mutex
	node   *Node
	mux    *transport.Mux
	router *transport.Router
	group  *MetaGroup
	fatal  error
}

// logBuffer keeps what a node logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

func (l *logBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func newMetaNet(t *testing.T) *metaNet {
	net := &metaNet{T: t, network: transporttest.New(), timings: Timings{Heartbeat: 250 * time.Millisecond, Commit: 50 * time.Millisecond}, nodes: map[metadata.NodeID]*metaNode{}}
	t.Cleanup(func() {
		for _, n := range net.nodes {
			n.stop()
		}
		if !t.Failed() {
			return
		}
		for _, n := range net.nodes {
			t.Logf("log of node %d:\n%s", n.id, n.logs.b.String())
		}
	})
	return net
}

// add makes a node with an empty disk.
func (net *metaNet) add(id metadata.NodeID, list ...string) *metaNode {
	n := &metaNode{net: net, id: id, address: metaAddress(id), list: list, logs: &logBuffer{}}
	n.wipe()
	net.nodes[id] = n
	return n
}

// founders makes nodes 1 to count with the same list.
func (net *metaNet) founders(count int) []*metaNode {
	var list []string
	for id := 1; id <= count; id++ {
		list = append(list, metaAddress(metadata.NodeID(id)))
	}
	var nodes []*metaNode
	for id := 1; id <= count; id++ {
		nodes = append(nodes, net.add(metadata.NodeID(id), list...))
	}
	return nodes
}

func metaAddress(id metadata.NodeID) string { return fmt.Sprintf("host%d:1", id) }

// wipe gives the node an empty disk.
func (n *metaNode) wipe() { n.fs = crashfs.New(int64(n.id)) }

func modelStores(fsys vfs.FS, dir string) (MetaStores, error) { return metamodel.Open(fsys, dir) }

func (n *metaNode) start() *metaNode {
	n.net.Helper()
	if err := n.tryStart(); err != nil {
		n.net.Fatal(err)
	}
	return n
}

func (n *metaNode) tryStart() (err error) {
	logger := slog.New(slog.NewTextHandler(n.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	fsys := n.fs.Mount() // of this boot: what a crash leaves behind of this process touches no later one
	node, err := openNode(fsys, "/data", n.id, "boot")
	if err != nil {
		return err
	}
	listener, err := n.net.network.Listen(n.address)
	if err != nil {
		return errors.Join(err, node.Close())
	}
	mux := transport.New(transport.Config{Listener: listener, Dial: n.net.network.Dialer(transporttest.Host(n.address)), Identity: node.Identity, Logger: logger})
	router := transport.NewRouter(transport.RouterConfig{Server: mux})
	stores := n.stores
	if stores == nil {
		stores = modelStores
	}
	group, err := OpenMetaGroup(context.Background(), MetaConfig{
		FS: fsys, Dir: "/data/metadata", Node: node, Mux: mux, Router: router, Stores: stores, Join: n.list, FoundWithout: n.without,
		RPCAddress: n.address, KafkaAddress: "k" + n.address, Version: "test", SnapshotEntries: 64,
		Timings: n.net.timings, Logger: logger, Fatal: n.failed,
	})
	if err != nil {
		return errors.Join(err, mux.Close(), router.Close(), node.Close())
	}
	n.mu.Lock()
	n.node, n.mux, n.router, n.group, n.fatal = node, mux, router, group, nil
	n.mu.Unlock()
	return nil
}

func (n *metaNode) failed(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fatal == nil {
		n.fatal = err
	}
}

func (n *metaNode) fatalError() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fatal
}

// stop ends the process; the disk stays as it is.
func (n *metaNode) stop() *metaNode {
	n.mu.Lock()
	node, mux, router, group := n.node, n.mux, n.router, n.group
	n.node, n.mux, n.router, n.group = nil, nil, nil, nil
	n.mu.Unlock()
	if group == nil {
		return n
	}
	_ = group.Close() // on a crashed disk everything fails
	_ = mux.Close()
	_ = router.Close()
	_ = node.Close()
	return n
}

// kill ends the process without a word: first its connections break, so that it
// cannot hand anything over, and what its disk has not synced is lost.
func (n *metaNode) kill() *metaNode {
	for _, other := range n.net.nodes {
		n.net.network.Cut(transporttest.Host(n.address), transporttest.Host(other.address))
		n.net.network.Cut(transporttest.Host(other.address), transporttest.Host(n.address))
	}
	n.fs.Crash(crashfs.CrashOptions{})
	n.stop()
	for _, other := range n.net.nodes {
		n.net.network.Restore(transporttest.Host(n.address), transporttest.Host(other.address))
		n.net.network.Restore(transporttest.Host(other.address), transporttest.Host(n.address))
	}
	return n
}

// serves waits until the node is registered and caught up.
func (n *metaNode) serves() {
	n.net.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	err := n.group.waitView(ctx, func(v *metadata.View) bool { return v.HasSession(n.id, n.group.process.Load()) })
	if err == nil {
		err = n.group.CaughtUp(ctx)
	}
	if err != nil {
		n.net.Fatalf("node %d does not serve: %v (waiting: %s)", n.id, err, n.group.Waiting())
	}
}

// change makes a change through this node.
func (n *metaNode) change(cmd metadata.Command) (metadata.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	result, _, err := n.group.Change(ctx, cmd)
	return result, err
}

func (n *metaNode) create(name string) segment.TopicID {
	n.net.Helper()
	id := segment.NewTopicID()
	own := metadata.Replica{Node: n.id, Incarnation: 7, NodeIncarnation: n.node.Incarnation()}
	_, err := n.change(&metadata.CreateTopic{Name: name, ID: id, Partitions: []metadata.Partition{{Replicas: []metadata.Replica{own}}}})
	if err != nil {
		n.net.Fatalf("create %s through node %d: %v", name, n.id, err)
	}
	if _, ok := n.group.View().TopicNamed(name); !ok {
		n.net.Fatalf("node %d created %s and does not see it", n.id, name)
	}
	return id
}

func (n *metaNode) voters() (voters, others []raft.ServerID) {
	for _, s := range n.group.current().raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, s.ID)
		} else {
			others = append(others, s.ID)
		}
	}
	return voters, others
}

// leader waits for a node that leads.
func (net *metaNet) leader() *metaNode {
	net.Helper()
	var found *metaNode
	eventually(net.T, "a metadata leader", func() bool {
		for _, n := range net.nodes {
			if n.group == nil {
				continue
			}
			if in := n.group.current(); in != nil && in.leads() {
				found = n
			}
		}
		return found != nil
	})
	return found
}

// settled waits until all running nodes are members, as many as possible with a
// vote, and nobody else is, and all know it: what only the leader knows may yet be
// undone.
func (net *metaNet) settled() {
	net.Helper()
	running := 0
	for _, n := range net.nodes {
		if n.group != nil {
			n.serves()
			running++
		}
	}
	for _, n := range net.nodes {
		if n.group == nil {
			continue
		}
		eventually(net.T, fmt.Sprintf("the members to settle as node %d sees it", n.id), func() bool {
			founders, want := n.group.View().Founders(), min(running, maxVoters)
			if founders > 0 && running >= founders {
				return false
			}
			if founders > 2 && running < 3 {
				want = 1 // the second voter waits for the third
			}
			voters, others := n.voters()
			return len(voters) == want && len(others) == running-len(voters)
		})
	}
}

// sameState requires that all running nodes come to hold the same bytes.
func (net *metaNet) sameState() {
	net.Helper()
	leader := net.leader()
	for _, n := range net.nodes {
		if n.group == nil {
			continue
		}
		eventually(net.T, fmt.Sprintf("node %d to hold what the leader holds", n.id), func() bool {
			return n.group.View().Index() >= leader.group.View().Index()
		})
		if a, b := viewBytes(net.T, n.group.View()), viewBytes(net.T, leader.group.View()); !bytes.Equal(a, b) && n.group.View().Index() == leader.group.View().Index() {
			net.Fatalf("nodes %d and %d hold different metadata at index %d", n.id, leader.id, n.group.View().Index())
		}
	}
}

func viewBytes(t *testing.T, v *metadata.View) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := v.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// discard is a logger for what a test does not look at.
func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }
