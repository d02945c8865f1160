package simulation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cmd/internal/durability"
	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/metamodel"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

const (
	// members is how many nodes a cluster has, each with a replica of everything.
	members = 3
	dataDir = "/data"
	topic   = "events"
)

// timings of raft, short enough that a run sees many elections.
var timings = replication.Timings{Heartbeat: 500 * time.Millisecond, Commit: 50 * time.Millisecond}

// cluster is whole nodes in this process.
type cluster struct {
	trace   *trace
	faults  *durability.Faults
	network *transporttest.Network
	nodes   []*node
	topic   *metadata.Topic
}

// node is a machine: its disk, and the process that runs on it, if any.
type node struct {
	cluster *cluster
	id      metadata.NodeID
	disk    *crashfs.FS
	full    atomic.Bool // its disk has no space: a process may give up for that
	lost    bool        // its replica of a partition was taken away: it is out of the group

	mu      sync.Mutex
	process *process
}

// process is one run of a broker's replication.
type process struct {
	host   *replication.Host
	groups *coordinators
	log    *logBuffer
	logger *slog.Logger
	dead   atomic.Bool // the machine or the process is gone: nobody hears of it any more

	failed atomic.Bool // it cannot go on for lack of space: a broker would have ended
}

// logBuffer keeps the warnings of a process.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// maxLog bounds what is kept of a process's log in bytes.
const maxLog = 64 << 10

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() < maxLog {
		l.b.Write(p)
	}
	return len(p), nil
}

// String is what was written.
func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (n *node) host() string { return fmt.Sprintf("broker%d", n.id) }

func (n *node) address() string { return n.host() + ":1" }

// String names the node in traces.
func (n *node) String() string { return fmt.Sprintf("node %d", n.id) }

// newCluster makes the machines, with empty disks.
func newCluster(seed uint64, tr *trace, faults *durability.Faults) *cluster {
	c := &cluster{trace: tr, faults: faults, network: transporttest.New()}
	for id := metadata.NodeID(1); id <= members; id++ {
		c.nodes = append(c.nodes, &node{cluster: c, id: id, disk: crashfs.New(int64(seed)*members + int64(id))})
	}
	return c
}

// current is the process that runs, nil without one.
func (n *node) current() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process
}

// start runs a process on what the disk holds.
func (n *node) start() error {
	if n.current() != nil {
		return nil
	}
	listener, err := n.cluster.network.Listen(n.address())
	if err != nil {
		return err
	}
	p := &process{log: &logBuffer{}}
	p.logger = slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var list []string
	for _, peer := range n.cluster.nodes {
		list = append(list, peer.address())
	}
	p.host, err = replication.Open(context.Background(), replication.Config{
		FS: n.disk.Mount(), DataDir: dataDir, Node: n.id, Listener: listener, Dial: n.dialer(p),
		RPCAddress: n.address(), KafkaAddress: n.host() + ":9092", Join: list,
		MetaStores: func(fsys vfs.FS, dir string) (replication.MetaStores, error) { return metamodel.Open(fsys, dir) },
		Timings:    timings,
		Logger:     p.logger,
		Fatal: func(err error) {
			switch {
			case p.dead.Load():
			case n.full.Load() && errors.Is(err, vfs.ErrNoSpace):
				n.cluster.trace.add("%s gives up for lack of space: %v", n, err)
				p.failed.Store(true)
			default:
				n.cluster.trace.add("%s: storage failed: %v", n, err)
				n.cluster.faults.Add(durability.CE, "%s gave up though its disk was not touched: %v", n, err)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", n, err)
	}
	p.groups = n.coordinate(p)
	n.mu.Lock()
	n.process = p
	n.mu.Unlock()
	n.cluster.trace.add("%s starts", n)
	return nil
}

// dialer is how a process reaches others: not at all once it is dead, which its
// goroutines may not have noticed.
func (n *node) dialer(p *process) func(context.Context, string) (net.Conn, error) {
	dial := n.cluster.network.Dialer(n.host())
	return func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dial(ctx, address)
		if err == nil && p.dead.Load() {
			_ = conn.Close()
			err = errors.New("this machine is off")
		}
		return conn, err
	}
}

// crash ends the process, and leaves of what was not synced what the options say.
// It is silent from this moment on; its goroutines are joined before crash returns.
func (n *node) crash(o crashfs.CrashOptions) {
	p := n.stopHearing()
	if p == nil {
		return
	}
	n.cluster.network.Kill(n.host())
	n.disk.Crash(o)
	p.close()
}

// close joins what the process began. Its disk is gone, and everything fails.
func (p *process) close() {
	p.groups.end()
	_ = p.host.Close()
}

// stopHearing takes the process from the node and marks it dead.
func (n *node) stopHearing() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.process
	n.process = nil
	if p != nil {
		p.dead.Store(true)
	}
	return p
}

// shutdown stops the process gracefully.
func (n *node) shutdown() error {
	n.mu.Lock()
	p := n.process
	n.process = nil
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	p.groups.end()
	err := p.host.Shutdown(ctx)
	p.dead.Store(true)
	n.cluster.network.Kill(n.host())
	return err
}

// ready waits until all running processes can serve.
func (c *cluster) ready(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for _, n := range c.nodes {
		p := n.current()
		if p == nil {
			continue
		}
		if err := p.host.WaitReady(ctx); err != nil {
			return fmt.Errorf("%s is not ready after %v: %w (%s)", n, limit, err, p.host.Meta().Waiting())
		}
	}
	return nil
}

// create makes a topic, with a replica of each partition on every node.
func (c *cluster) create(name string, partitions int, configs map[string]string, incarnation func() uint64) (*metadata.Topic, error) {
	meta := c.nodes[0].current().host.Meta()
	cmd := &metadata.CreateTopic{Name: name, ID: segment.NewTopicID(), Configs: configs}
	for p := range partitions {
		var replicas []metadata.Replica
		for i := range c.nodes {
			broker, ok := meta.View().Broker(c.nodes[(p+i)%len(c.nodes)].id)
			if !ok {
				return nil, fmt.Errorf("broker %d is not registered", c.nodes[(p+i)%len(c.nodes)].id)
			}
			replicas = append(replicas, metadata.Replica{Node: broker.Node, Incarnation: incarnation(), NodeIncarnation: broker.Incarnation})
		}
		cmd.Partitions = append(cmd.Partitions, metadata.Partition{Replicas: replicas})
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, _, err := meta.Change(ctx, cmd); err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	created, ok := meta.View().TopicNamed(name)
	if !ok {
		return nil, fmt.Errorf("%s is not there after its creation", name)
	}
	return created, nil
}

// replica is a node's replica, nil if it does not run.
func (n *node) replica(partition int32) (*replication.Partition, *process) {
	p := n.current()
	if p == nil {
		return nil, nil
	}
	here, ok := p.host.Partition(n.cluster.topic.ID, partition)
	if !ok {
		return nil, nil
	}
	return here, p
}

// leader is a node whose replica believes to lead, nil if none does.
func (c *cluster) leader(partition int32) *node {
	var best *node
	var term segment.Term
	for _, n := range c.nodes {
		if r, _ := n.replica(partition); r != nil {
			if l := r.Leadership(); l.Leader && (best == nil || l.Term > term) {
				best, term = n, l.Term
			}
		}
	}
	return best
}
