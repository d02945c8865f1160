package durability

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metamodel"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
	"github.com/millrace/millrace/server"
)

const (
	testTopic      = "events"
	testPartitions = 3
	dataDir        = "/data"
	// waitLimit bounds every wait of these tests; it is no verdict.
	waitLimit = 60 * time.Second
)

// quick makes elections quick, for many rounds in little time.
var quick = replication.Timings{Heartbeat: 300 * time.Millisecond, Commit: 30 * time.Millisecond}

// cluster is three whole brokers in this process, each on a disk that can lose
// power, over a network in memory.
type cluster struct {
	t       *testing.T
	seed    int64
	network *transporttest.Network
	nodes   []*node
	mount   func(bootFS) vfs.FS // what the brokers see of their disks
	faults  *Faults
}

// node is one machine.
type node struct {
	cluster *cluster
	id      int
	disk    *crashfs.FS
	boots   int
	broker  *server.Broker
	logs    lockedBuffer
	// expected: it was ended by the test.
	expected *atomic.Bool
}

// bootFS names the boot of the machine that a disk is mounted in.
type bootFS struct {
	*crashfs.Mount
	boot string
}

// BootID changes with each power cut.
func (b bootFS) BootID() string { return b.boot }

// newCluster starts three brokers and makes the topic.
func newCluster(t *testing.T, seed int64, mount func(bootFS) vfs.FS, faults *Faults) *cluster {
	t.Helper()
	c := &cluster{t: t, seed: seed, network: transporttest.New(), mount: mount, faults: faults}
	for id := 1; id <= 3; id++ {
		c.nodes = append(c.nodes, &node{cluster: c, id: id, disk: crashfs.New(seed*10 + int64(id))})
	}
	t.Cleanup(c.stop)
	for _, n := range c.nodes {
		n.start()
	}
	for _, n := range c.nodes {
		n.awaitReady()
	}
	client, err := kgo.NewClient(append(c.dial(), kgo.SeedBrokers(c.seeds()...))...)
	must(t, err)
	defer client.Close()
	configs := map[string]*string{"segment.bytes": kadm.StringPtr("1048576"), "max.message.bytes": kadm.StringPtr("65536"), "millrace.compression": kadm.StringPtr("none")}
	resp, err := kadm.NewClient(client).CreateTopic(t.Context(), testPartitions, 3, configs, testTopic)
	must(t, errors.Join(err, resp.Err))
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// seeds are the Kafka addresses.
func (c *cluster) seeds() []string {
	var seeds []string
	for _, n := range c.nodes {
		seeds = append(seeds, n.kafka())
	}
	return seeds
}

// dial lets clients into the network.
func (c *cluster) dial() []kgo.Opt {
	dial := c.network.Dialer("client")
	return []kgo.Opt{kgo.Dialer(func(ctx context.Context, _, address string) (net.Conn, error) {
		conn, err := dial(ctx, address)
		if err != nil {
			return nil, socketError("dial", err)
		}
		return socket{conn}, nil
	})}
}

// socket gives the errors of real sockets, which clients tell apart.
type socket struct{ net.Conn }

// Read implements net.Conn.
func (s socket) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	return n, socketError("read", err)
}

// Write implements net.Conn.
func (s socket) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	return n, socketError("write", err)
}

func socketError(op string, err error) error {
	switch {
	case errors.Is(err, transporttest.ErrRefused):
		err = syscall.ECONNREFUSED
	case errors.Is(err, transporttest.ErrReset):
		err = syscall.ECONNRESET
	default:
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, err)}
}

// target is the load's.
func (c *cluster) target() Target {
	return Target{Seeds: c.seeds(), Dial: c.dial(), Topic: testTopic, Partitions: testPartitions, ValueBytes: 300, MaxMessageBytes: 65536, Rate: 6000}
}

func (n *node) host() string  { return fmt.Sprintf("n%d", n.id) }
func (n *node) kafka() string { return n.host() + ":9092" }
func (n *node) rpc() string   { return n.host() + ":33145" }

// start runs a broker on what the disk holds.
func (n *node) start() {
	n.cluster.t.Helper()
	must(n.cluster.t, n.tryStart())
}

func (n *node) tryStart() error {
	var join []string
	for _, other := range n.cluster.nodes {
		join = append(join, other.rpc())
	}
	expected := &atomic.Bool{}
	n.expected = expected
	broker, err := server.Open(context.Background(), server.Config{
		DataDir: dataDir, NodeID: int32(n.id), KafkaAddr: n.kafka(), RPCAddr: n.rpc(), HTTPAddr: "none", Join: join,
		Settings: map[string]string{"offsets.topic.num.partitions": "2", "group.initial.rebalance.delay.ms": "0"},
		FS:       n.cluster.mount(bootFS{n.disk.Mount(), fmt.Sprintf("boot %d", n.boots)}),
		Listen:   func(_, address string) (net.Listener, error) { return n.cluster.network.Listen(address) },
		Dial:     n.cluster.network.Dialer(n.host()), Timings: quick,
		MetaStores: func(fsys vfs.FS, dir string) (replication.MetaStores, error) {
			stores, err := metamodel.Open(fsys, dir)
			if err != nil {
				return nil, err
			}
			return stores, nil
		},
		Logger: slog.New(slog.NewTextHandler(&n.logs, &slog.HandlerOptions{ReplaceAttr: brief})).With("node", n.id),
		OnFatal: func(err error) {
			if !expected.Load() {
				n.cluster.faults.Add(CE, "broker %d stopped by itself: %v", n.id, err)
			}
		},
	})
	n.broker = broker
	return err
}

// readied is when the broker was ready; it waits for that.
func (n *node) awaitReady() time.Time {
	n.cluster.t.Helper()
	select {
	case <-n.broker.Ready():
	case <-n.broker.Stopped():
		n.cluster.t.Fatalf("broker %d stopped by itself", n.id)
	case <-time.After(waitLimit):
		n.cluster.dump()
		n.cluster.t.Fatalf("broker %d is not ready after %s", n.id, waitLimit)
	}
	return time.Now()
}

// freeze ends a machine or a process at this instant, as far as its disk can tell:
// nothing is stored any more. What was not synced survives as keep says.
func (n *node) freeze(keep crashfs.Keep) {
	n.expected.Store(true)
	n.disk.Crash(crashfs.CrashOptions{Keep: keep})
	if keep != crashfs.KeepEverything {
		n.boots++
	}
}

// bury ends what is left of a node whose disk is frozen.
func (n *node) bury() {
	n.cluster.network.Kill(n.host())
	_ = n.broker.Kill() // its disk is gone, which it may say
	n.broker = nil
}

// stopGracefully is SIGTERM.
func (n *node) stopGracefully() {
	if err := n.broker.Close(); err != nil {
		n.cluster.faults.Add(CE, "broker %d: graceful stop: %v", n.id, err)
	}
	n.expected.Store(true)
	n.cluster.network.Kill(n.host())
	n.broker = nil
}

// stop ends what runs.
func (c *cluster) stop() {
	var ending sync.WaitGroup
	for _, n := range c.nodes {
		if n.broker != nil {
			n.expected.Store(true)
			ending.Go(func() { _ = n.broker.Kill() })
		}
	}
	ending.Wait()
}

// dump puts the brokers' logs into the test's.
func (c *cluster) dump() {
	c.t.Helper()
	for _, n := range c.nodes {
		c.t.Logf("log of broker %d:\n%s", n.id, n.logs.tail(6000))
	}
}

// leader is the node that leads a partition, as clients are told.
func (c *cluster) leader(partition int32) *node {
	client, err := kgo.NewClient(append(c.dial(), kgo.SeedBrokers(c.seeds()...), kgo.MetadataMinAge(10*time.Millisecond))...)
	must(c.t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	for {
		topics, err := kadm.NewClient(client).ListTopics(ctx, testTopic)
		if err == nil {
			if leader := topics[testTopic].Partitions[partition].Leader; leader >= 1 && c.nodes[leader-1].broker != nil {
				return c.nodes[leader-1]
			}
		}
		if !rest(ctx, 20*time.Millisecond) {
			c.t.Fatalf("partition %d has no leader after %s: %v", partition, waitLimit, err)
		}
	}
}

// restart starts nodes that are down, in random order, waits until all are ready,
// and returns when a majority was.
func (c *cluster) restart(rng *rand.Rand, down []*node) (majority time.Time) {
	c.t.Helper()
	begin := time.Now()
	for _, i := range rng.Perm(len(down)) {
		down[i].start()
	}
	times := make([]time.Time, len(down))
	var waiting sync.WaitGroup
	for i, n := range down {
		broker := n.broker
		waiting.Go(func() {
			select {
			case <-broker.Ready():
				times[i] = time.Now()
			case <-broker.Stopped():
			case <-time.After(waitLimit):
			}
		})
	}
	waiting.Wait()
	for i, n := range down {
		if times[i].IsZero() {
			c.dump()
			c.t.Fatalf("broker %d is not ready: %v", n.id, c.faults.Err())
		}
	}
	if len(down) < 3 {
		return begin
	}
	slices.SortFunc(times, time.Time.Compare)
	return times[1]
}

// replicas are the folders of the topic's partitions on all disks, by partition.
func (c *cluster) replicas(disk func(n *node) vfs.FS) map[int32][]Replica {
	c.t.Helper()
	found := map[int32][]Replica{}
	for p := range int32(testPartitions) {
		found[p] = nil // so that one without any replica is looked for, too
	}
	for _, n := range c.nodes {
		replicas, err := FindReplicas(disk(n), dataDir, n.id, testTopic)
		must(c.t, err)
		for _, r := range replicas {
			found[r.Partition] = append(found[r.Partition], r)
		}
	}
	return found
}

// recovered opens and closes the replicas of copies of the disks, as a start would,
// and leaves the disks alone.
func (c *cluster) recovered() map[int32][]Replica {
	c.t.Helper()
	copies := map[*node]*crashfs.FS{}
	for _, n := range c.nodes {
		copies[n] = n.disk.Clone(c.seed)
	}
	found := c.replicas(func(n *node) vfs.FS { return copies[n] })
	for _, replicas := range found {
		for _, r := range replicas {
			l, err := log.Open(log.Options{FS: r.FS, Dir: r.Dir, SegmentBytes: 1 << 20})
			if err != nil {
				c.t.Logf("recovery of %s: %v", r, err)
				continue
			}
			must(c.t, l.Close())
		}
	}
	return found
}

// brief drops what is noise in a log of three brokers.
func brief(_ []string, a slog.Attr) slog.Attr {
	if a.Key == "client" {
		return slog.Attr{}
	}
	if a.Key == slog.TimeKey {
		return slog.String(a.Key, a.Value.Time().Format("05.000"))
	}
	return a
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// tail is the end of it.
func (b *lockedBuffer) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.buf.Bytes()
	return strings.TrimSpace(string(text[max(0, len(text)-n):]))
}
