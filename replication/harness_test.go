package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// testWait bounds every wait of these tests.
const testWait = time.Minute

// eventually polls until done says so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(testWait)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
		<-tick.C
	}
}

// trio is one partition group of three replicas in this process: real adapters,
// a network that can be cut, and a crashing file system under each.
type trio struct {
	t       *testing.T
	network *transporttest.Network
	group   transport.GroupID
	topic   *metadata.Topic
	nodes   []*trioNode
	// segmentBytes is the size of a segment.
	segmentBytes int64
	timings      Timings
	// patience is how long trims wait for a member; an hour without.
	patience time.Duration
}

// trioNode is one of the three.
type trioNode struct {
	trio    *trio
	id      metadata.NodeID
	address string
	fs      *crashfs.FS
	replica metadata.Replica

	mu        sync.Mutex
	mux       *transport.Mux
	router    *transport.Router
	votes     *Votes
	partition *Partition
	fatal     error
	logs      *logBuffer // of the partition, if set before the start
	// announce is called for each change of role, if set before the start.
	announce func(*Partition)
}

// announced does what a host does: it looks at the partition.
func (n *trioNode) announced(p *Partition) {
	_ = p.current()
	if n.announce != nil {
		n.announce(p)
	}
}

// died is the error that would have ended this node's process.
func (n *trioNode) died() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fatal
}

// testTimings make elections quick.
var testTimings = Timings{Heartbeat: 250 * time.Millisecond, Commit: 20 * time.Millisecond}

func newTrio(t *testing.T) *trio {
	t.Helper()
	return newTrioWith(t, 1<<20, testTimings)
}

// newTrioOf is newTrio with segments of a size.
func newTrioOf(t *testing.T, segmentBytes int64) *trio {
	t.Helper()
	return newTrioWith(t, segmentBytes, testTimings)
}

// newTimedTrio is newTrio with other clocks.
func newTimedTrio(t *testing.T, timings Timings) *trio {
	t.Helper()
	return newTrioWith(t, 1<<20, timings)
}

func newTrioWith(t *testing.T, segmentBytes int64, timings Timings) *trio {
	t.Helper()
	g := &trio{t: t, segmentBytes: segmentBytes, timings: timings, network: transporttest.New(), topic: &metadata.Topic{Name: "events", ID: segment.NewTopicID(), StartTerm: 1}}
	g.group = transport.GroupID{Topic: g.topic.ID}
	var replicas []metadata.Replica
	for id := metadata.NodeID(1); id <= 3; id++ {
		replicas = append(replicas, metadata.Replica{Node: id, Incarnation: uint64(id) * 0x1111, NodeIncarnation: metadata.Incarnation(id)})
	}
	g.topic.Partitions = []metadata.Partition{{Replicas: replicas}}
	for i, r := range replicas {
		n := &trioNode{trio: g, id: r.Node, address: fmt.Sprintf("node%d:1", r.Node), fs: crashfs.New(int64(i + 1)), replica: r}
		g.nodes = append(g.nodes, n)
		n.create()
	}
	for _, n := range g.nodes {
		n.start()
	}
	t.Cleanup(g.stop)
	return g
}

func (g *trio) stop() {
	for _, n := range g.nodes {
		n.stop()
	}
}

func (n *trioNode) assignment() assignment {
	return assignment{topic: n.trio.topic, replica: n.replica}
}

func (n *trioNode) logOptions(disk vfs.FS) log.Options {
	return log.Options{FS: disk, Dir: "/data/topics/events/0", SegmentBytes: n.trio.segmentBytes, SameBoot: false,
		Identity: log.Identity{Cluster: "c", Topic: "events", TopicID: n.trio.topic.ID, Incarnation: n.replica.Incarnation}}
}

// create makes the replica as a host does.
func (n *trioNode) create() {
	t := n.trio.t
	t.Helper()
	must(t, n.fs.MkdirAll("/data/topics/events"))
	for _, dir := range []string{"/", "/data", "/data/topics"} {
		must(t, n.fs.SyncDir(dir))
	}
	l, err := log.Create(n.logOptions(n.fs))
	must(t, err)
	votes, err := OpenVotes(n.fs, "/data/votes.log")
	must(t, err)
	must(t, votes.Register(n.trio.group, n.replica.Incarnation))
	must(t, bootstrap(l, votes.Group(n.trio.group), n.assignment()))
	must(t, errors.Join(l.Close(), votes.Close()))
}

// start runs the replica on what its disk holds.
func (n *trioNode) start() {
	t := n.trio.t
	t.Helper()
	listener, err := n.trio.network.Listen(n.address)
	must(t, err)
	disk := n.fs.Mount() // dead once the power was cut, whoever still holds it
	votes, err := OpenVotes(disk, "/data/votes.log")
	must(t, err)
	l, err := log.Open(n.logOptions(disk))
	must(t, err)
	identity := transport.Identity{Cluster: "c", Node: n.id, Incarnation: n.replica.NodeIncarnation}
	mux := transport.New(transport.Config{Listener: listener, Dial: n.trio.network.Dialer(transporttest.Host(n.address)),
		Identity: func() transport.Identity { return identity }, Logger: slog.New(slog.DiscardHandler)})
	router := transport.NewRouter(transport.RouterConfig{Server: mux, OnGroupUp: n.heard})
	giveSeeds(mux.Handle, 1<<30, func(transport.GroupID) *Partition {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.partition
	})
	logger := slog.New(slog.DiscardHandler)
	if n.logs != nil {
		logger = slog.New(slog.NewTextHandler(n.logs, nil))
	}
	p, err := startPartition(partitionConfig{
		group: n.trio.group, topic: "events", local: transport.ServerID(n.id, n.replica.Incarnation),
		replicas: n.trio.topic.Partitions[0].Replicas, opened: l, options: n.logOptions(disk), stable: votes.Group(n.trio.group),
		timings: n.trio.timings.withDefaults(), logger: logger, network: mux, patience: orDefault(n.trio.patience, time.Hour), intake: newSeedIntake(1 << 30),
		register: router.Register,
		fatal: func(err error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.fatal = err
		},
		announce:  n.announced,
		up:        mux.Up,
		restarted: func(*Partition) { n.tellAll() },
	})
	must(t, err)
	n.mu.Lock()
	n.mux, n.router, n.votes, n.partition, n.fatal = mux, router, votes, p, nil
	n.mu.Unlock()
	for _, peer := range n.trio.nodes {
		if peer != n {
			mux.SetAddress(peer.id, peer.address)
		}
	}
	mux.Start()
	n.tellAll()
}

// tellAll announces this node's replica to both peers.
func (n *trioNode) tellAll() {
	for _, peer := range n.trio.nodes {
		n.tell(peer)
	}
}

// tell announces this node's replica to a peer, which may not be there.
func (n *trioNode) tell(peer *trioNode) {
	n.mu.Lock()
	p, router := n.partition, n.router
	n.mu.Unlock()
	if p == nil || peer == n {
		return
	}
	if up, running := p.status(); running {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = router.Announce(ctx, peer.id, up)
	}
}

// heard is what a host does with an announcement.
func (n *trioNode) heard(from metadata.NodeID, up transport.GroupUp) {
	n.mu.Lock()
	p := n.partition
	n.mu.Unlock()
	if p != nil && p.peerUp(up) {
		n.tell(n.trio.nodes[from-1])
	}
}

// stop closes the replica; its disk stays.
func (n *trioNode) stop() {
	n.mu.Lock()
	p, mux, router, votes := n.partition, n.mux, n.router, n.votes
	n.partition, n.mux, n.votes = nil, nil, nil
	n.mu.Unlock()
	if p == nil {
		return
	}
	_ = p.Close() // a crashed disk fails it, which is the point
	_ = router.Close()
	_ = mux.Close()
	_ = votes.Close()
}

// powerCut drops or tears what this node has not synced, and stops it.
func (n *trioNode) powerCut() {
	n.fs.Crash(crashfs.CrashOptions{})
	n.stop()
}

func (n *trioNode) role() Leadership {
	n.mu.Lock()
	p := n.partition
	n.mu.Unlock()
	if p == nil {
		return Leadership{}
	}
	return p.Leadership()
}

// leader waits for a ready one.
func (g *trio) leader() *trioNode {
	g.t.Helper()
	var found *trioNode
	eventually(g.t, "a ready leader", func() bool {
		found = g.ready()
		return found != nil
	})
	return found
}

// ready is the ready leader of the highest term, nil if there is none.
func (g *trio) ready() *trioNode {
	var found *trioNode
	for _, n := range g.nodes {
		if l := n.role(); l.Ready && (found == nil || l.Term > found.role().Term) {
			found = n
		}
	}
	return found
}

// inStep waits until all running replicas have applied the same entries.
func (g *trio) inStep() {
	g.t.Helper()
	eventually(g.t, "all replicas to be in step", func() bool {
		var index segment.Index
		for i, n := range g.nodes {
			n.mu.Lock()
			p := n.partition
			n.mu.Unlock()
			if p == nil {
				continue
			}
			last := p.Log().LastIndex()
			if i > 0 && index != 0 && last != index {
				return false
			}
			if !appliedAll(p.Log()) {
				return false
			}
			index = last
		}
		return true
	})
}

// appliedAll reports whether a replica has applied all of its log that the state
// machine sees, trims and voids included, which the high watermark does not show: raft
// applies no-ops, configurations and barriers alone.
func appliedAll(l *log.Log) bool {
	for i := l.LastIndex(); i > l.Applied(); i-- {
		info, err := l.Info(i)
		if err != nil {
			return false
		}
		switch info.Kind {
		case segment.KindRecords, segment.KindVoid, segment.KindTrim:
			return false
		}
	}
	return true
}

// batch builds a batch of one record that holds value.
func batch(producer int64, epoch int16, sequence int32, value uint64) []byte {
	var options segment.BuildOptions
	if producer >= 0 {
		options.Producer = &segment.Producer{ID: producer, Epoch: epoch, Sequence: sequence}
	}
	return segment.Build([]segment.Record{{Value: binary.BigEndian.AppendUint64(nil, value)}}, options)
}

// values reads every record of a replica up to its high watermark.
func values(t *testing.T, l *log.Log) map[segment.Offset]uint64 {
	t.Helper()
	found := map[segment.Offset]uint64{}
	for from, end := l.StartOffset(), l.HighWatermark(); from < end; {
		slice, err := l.Read(from, end, 1<<20, true)
		must(t, err)
		data := slice.Bytes
		if slice.File != nil {
			data = make([]byte, slice.Length)
			_, err := slice.File.ReadAt(data, slice.Position)
			must(t, err)
		}
		for len(data) > 0 {
			header, err := segment.DecodeHeader(data)
			must(t, err)
			records, err := segment.Records(data[:header.FrameSize()], 1<<20)
			must(t, err)
			for _, r := range records {
				found[r.Offset] = binary.BigEndian.Uint64(r.Value)
			}
			data = data[header.FrameSize():]
		}
		if slice.Next <= from {
			t.Fatalf("a read at offset %d made no progress", from)
		}
		from = slice.Next
		slice.Release()
	}
	return found
}

var (
	_ vfs.FS           = (*crashfs.FS)(nil)
	_ raft.StableStore = (*GroupVotes)(nil)
)
