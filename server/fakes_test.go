package server

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// fakeCluster is a cluster with the real state machine of the metadata and
// partitions in memory: node 1 is this broker, the others are only registered.
type fakeCluster struct {
	t     testing.TB
	state *metadata.State

	mu         sync.Mutex
	index      uint64
	changeErr  error
	moveErr    error // of MoveLeader
	moves      int   // leaderships moved
	quorum     replication.Quorum
	quorumErr  error
	alive      map[metadata.NodeID]bool
	leaders    map[string]replication.LeaderInfo
	partitions map[string]*fakePartition
	watchers   map[chan<- struct{}]struct{}
}

func newFakeCluster(t testing.TB, brokers int) *fakeCluster {
	c := &fakeCluster{t: t, state: metadata.NewState(), alive: map[metadata.NodeID]bool{},
		leaders: map[string]replication.LeaderInfo{}, partitions: map[string]*fakePartition{}, watchers: map[chan<- struct{}]struct{}{}}
	c.mustChange(&metadata.Found{ClusterID: "test-cluster"})
	for i := 1; i <= brokers; i++ {
		c.mustChange(&metadata.RegisterBroker{Node: metadata.NodeID(i), Incarnation: metadata.Incarnation(i), Session: uint64(i), Start: 1,
			RPCAddress: fmt.Sprintf("host%d:33145", i), KafkaAddress: fmt.Sprintf("host%d:9092", i)})
		c.alive[metadata.NodeID(i)] = true
	}
	return c
}

func partitionName(topic segment.TopicID, number int32) string {
	return fmt.Sprintf("%s/%d", topic, number)
}

func (c *fakeCluster) mustChange(cmd metadata.Command) metadata.Result {
	c.t.Helper()
	r, err := c.Change(context.Background(), cmd)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

func (c *fakeCluster) Node() metadata.NodeID { return 1 }
func (c *fakeCluster) ClusterID() string     { return c.View().ClusterID() }
func (c *fakeCluster) View() *metadata.View  { return c.state.View() }

func (c *fakeCluster) Controller() (metadata.NodeID, bool) { return 1, true }

func (c *fakeCluster) Leader(topic segment.TopicID, number int32) (replication.LeaderInfo, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.leaders[partitionName(topic, number)]
	return l, ok
}

func (c *fakeCluster) Alive(node metadata.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alive[node]
}

func (c *fakeCluster) Partition(topic segment.TopicID, number int32) (partition, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.partitions[partitionName(topic, number)]
	return p, ok
}

func (c *fakeCluster) ReplicaFailed(topic segment.TopicID, number int32) error {
	p, ok := c.Partition(topic, number)
	if !ok {
		return nil
	}
	fake := p.(*fakePartition)
	fake.mu.Lock()
	defer fake.mu.Unlock()
	return fake.failed
}

// Change applies the command, and makes this node the ready leader of every
// partition of a new topic whose preferred leader it is.
func (c *fakeCluster) Change(ctx context.Context, cmd metadata.Command) (metadata.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changeErr != nil {
		return metadata.Result{}, c.changeErr
	}
	if err := ctx.Err(); err != nil {
		return metadata.Result{}, err
	}
	encoded, err := metadata.EncodeCommand(metadata.Origin{Node: 1}, cmd)
	if err != nil {
		return metadata.Result{}, err
	}
	c.index++
	r, err := c.state.Apply(c.index, encoded)
	if err != nil {
		return r, err
	}
	if create, ok := cmd.(*metadata.CreateTopic); ok && r.Err() == nil {
		c.leadLocked(create)
	}
	for ch := range c.watchers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
	return r, r.Err()
}

func (c *fakeCluster) leadLocked(t *metadata.CreateTopic) {
	for i, p := range t.Partitions {
		name := partitionName(t.ID, int32(i))
		var inSync []metadata.NodeID
		for _, r := range p.Replicas {
			inSync = append(inSync, r.Node)
			if r.Node == 1 {
				fp := &fakePartition{log: newFakeLog()}
				fp.leadership.Store(&replication.Leadership{Leader: p.Replicas[0].Node == 1, Ready: p.Replicas[0].Node == 1, Term: 5})
				fp.inSync.Store(int32(len(p.Replicas)))
				c.partitions[name] = fp
			}
		}
		c.leaders[name] = replication.LeaderInfo{Node: p.Replicas[0].Node, Term: 5, InSync: inSync}
	}
}

func (c *fakeCluster) watch(ch chan<- struct{}) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers[ch] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, ch)
	}
}

// MoveLeader makes another node lead in the next term.
func (c *fakeCluster) MoveLeader(ctx context.Context, topic segment.TopicID, number int32, to metadata.NodeID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.moveErr != nil || ctx.Err() != nil {
		return cmp.Or(c.moveErr, ctx.Err())
	}
	info := c.leaders[partitionName(topic, number)]
	info.Node, info.Term = to, info.Term+1
	c.leaders[partitionName(topic, number)] = info
	c.moves++
	return nil
}

func (c *fakeCluster) Quorum(context.Context) (replication.Quorum, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.quorum, c.quorumErr
}

func (c *fakeCluster) WatchLeaders(ch chan<- struct{}) func()  { return c.watch(ch) }
func (c *fakeCluster) WatchMetadata(ch chan<- struct{}) func() { return c.watch(ch) }

// partition returns the local replica of a topic's partition.
func (c *fakeCluster) partition(topic string, number int32) *fakePartition {
	c.t.Helper()
	t, ok := c.View().TopicNamed(topic)
	if !ok {
		c.t.Fatalf("no topic %s", topic)
	}
	p, ok := c.Partition(t.ID, number)
	if !ok {
		c.t.Fatalf("no replica of %s/%d", topic, number)
	}
	return p.(*fakePartition)
}

// fakePartition is a replica in memory. propose, when set, decides about a batch.
type fakePartition struct {
	leadership atomic.Pointer[replication.Leadership]
	inSync     atomic.Int32
	failed     error
	overtaken  atomic.Bool  // Confirm fails
	confirmed  atomic.Int32 // how often it was asked
	log        *fakeLog
	trim       error // of every Trim
	propose    func(frame []byte, p *fakeProposal) bool
	mu         sync.Mutex
	frames     [][]byte
	guards     []replication.Guard // of the frames
}

func (p *fakePartition) Leadership() replication.Leadership { return *p.leadership.Load() }
func (p *fakePartition) InSync() int                        { return int(p.inSync.Load()) }
func (p *fakePartition) Log() partitionLog                  { return p.log }

// Confirm implements partition.
func (p *fakePartition) Confirm(_ context.Context, term segment.Term) error {
	p.confirmed.Add(1)
	if l := p.Leadership(); p.overtaken.Load() || !l.Ready || l.Term != term {
		return replication.ErrNotLeader
	}
	return nil
}

func (p *fakePartition) Propose(_ context.Context, frame []byte, guard replication.Guard) proposal {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frames, p.guards = append(p.frames, frame), append(p.guards, guard)
	result := &fakeProposal{done: make(chan struct{})}
	if p.propose != nil && p.propose(frame, result) {
		return result
	}
	result.resolve(replication.Result{Base: p.log.append(frame, p.Leadership().Term)}, nil)
	return result
}

// Trim implements partition.
func (p *fakePartition) Trim(_ context.Context, start segment.Offset) (segment.Offset, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	if p.trim != nil {
		return 0, p.trim
	}
	p.log.start = max(p.log.start, start)
	return p.log.start, nil
}

// set changes the fake while connections use it.
func (p *fakePartition) set(change func(*fakePartition)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	change(p)
}

// decide makes propose answer every batch that follows.
func (p *fakePartition) decide(propose func(frame []byte, p *fakeProposal) bool) {
	p.set(func(p *fakePartition) { p.propose = propose })
}

// stored is what is in the log.
func (l *fakeLog) stored() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.frames)
}

// waited reports whether a fetch waits for the log.
func (l *fakeLog) waited() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.watchers) > 0
}

type fakeProposal struct {
	done   chan struct{}
	result replication.Result
	err    error
}

func (p *fakeProposal) resolve(r replication.Result, err error) {
	p.result, p.err = r, err
	close(p.done)
}
func (p *fakeProposal) Done() <-chan struct{}               { return p.done }
func (p *fakeProposal) Result() (replication.Result, error) { return p.result, p.err }

// fakeLog is a log in memory; with a file, its frames are in that too.
type fakeLog struct {
	mu       sync.Mutex
	start    segment.Offset
	next     segment.Offset
	hidden   segment.Offset // records below the end that are not committed
	frames   [][]byte
	file     vfs.File
	size     int64
	readErr  error
	watchers map[chan<- struct{}]struct{}
}

func newFakeLog() *fakeLog { return &fakeLog{watchers: map[chan<- struct{}]struct{}{}} }

// inFile keeps the frames that follow in a real file, so that they are sent from it.
func (l *fakeLog) inFile(t testing.TB, n *testNode) {
	f, err := vfs.OS().Create(filepath.Join(t.TempDir(), "segment.log"))
	if err != nil {
		t.Fatal(err)
	}
	n.opened = append(n.opened, f)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file = f
}

func (l *fakeLog) append(frame []byte, term segment.Term) segment.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := segment.DecodeHeader(frame)
	if err != nil {
		panic(err)
	}
	base := l.next
	segment.Stamp(frame, base, term)
	l.frames = append(l.frames, frame)
	if l.file != nil {
		if _, err := l.file.WriteAt(frame, l.size); err != nil {
			panic(err)
		}
	}
	l.size += int64(len(frame))
	l.next += segment.Offset(h.LastOffsetDelta) + 1
	for ch := range l.watchers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
	return base
}

func (l *fakeLog) Read(from, limit segment.Offset, maxBytes int64, minOne bool) (log.Slice, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.readErr != nil {
		return log.Slice{}, l.readErr
	}
	s := log.Slice{First: from, Next: from}
	var position, size int64
	var bytes []byte
	for _, frame := range l.frames {
		h, _ := segment.DecodeHeader(frame)
		if h.LastOffset() < from {
			position += int64(len(frame))
			continue
		}
		if h.BaseOffset >= limit || size+int64(len(frame)) > maxBytes && !(minOne && size == 0) {
			break
		}
		bytes = append(bytes, frame...)
		size += int64(len(frame))
		s.Next = h.LastOffset() + 1
	}
	if l.file != nil {
		s.File, s.Position, s.Length = l.file, position, size
	} else {
		s.Bytes = bytes
	}
	return s, nil
}

func (l *fakeLog) HighWatermark() segment.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next - l.hidden
}

func (l *fakeLog) StartOffset() segment.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.start
}

func (l *fakeLog) NextOffset() segment.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

func (l *fakeLog) Subscribe(ch chan<- struct{}) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers[ch] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, ch)
	}
}

func (l *fakeLog) OffsetForTime(ts int64, limit segment.Offset) (segment.Offset, int64, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, frame := range l.frames {
		records, err := segment.Records(frame, 1<<20)
		if err != nil {
			return 0, 0, false, err
		}
		for _, r := range records {
			if r.Timestamp >= ts && r.Offset < limit {
				return r.Offset, r.Timestamp, true, nil
			}
		}
	}
	return 0, 0, false, nil
}

func (l *fakeLog) MaxTimestamp(segment.Offset) (segment.Offset, int64, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.frames) == 0 {
		return 0, 0, false, nil
	}
	h, _ := segment.DecodeHeader(l.frames[len(l.frames)-1])
	return h.LastOffset(), h.MaxTimestamp, true, nil
}

func (l *fakeLog) OffsetForTerm(term segment.Term) (segment.Term, segment.Offset, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if term < 3 {
		return 0, 0, false
	}
	return 3, 1, true
}

func (l *fakeLog) Size() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.size }
func (l *fakeLog) Dir() string { return "fake" }

// testNode is a node over a fake cluster, with a listener on loopback.
type testNode struct {
	*node
	cluster *fakeCluster
	addr    string
	ln      *listener
	stop    context.CancelFunc
	opened  []vfs.File // closed when no connection uses them any more
}

// newTestNode starts a node; settings are broker configurations.
func newTestNode(t testing.TB, brokers int, settings map[string]string) *testNode {
	t.Helper()
	parsed, err := newBrokerSettings(settings)
	if err != nil {
		t.Fatal(err)
	}
	c := newFakeCluster(t, brokers)
	n := newNode(c, parsed, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(context.Background())
	n.stopping = ctx
	n.groups = newGroupService(n)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := newListener(n, l)
	ln.start()
	test := &testNode{node: n, cluster: c, addr: l.Addr().String(), ln: ln, stop: stop}
	var workers sync.WaitGroup
	workers.Go(func() { n.leaders.run(c, ctx.Done()) })
	workers.Go(func() { n.groups.follow(n, ctx.Done()) })
	t.Cleanup(func() {
		stop()
		ln.drain(5 * time.Second)
		ln.wg.Wait()
		workers.Wait()
		for _, f := range test.opened {
			f.Close()
		}
		if err := n.groups.close(); err != nil {
			t.Error(err)
		}
		for _, b := range []*budget{n.budget, n.decoding} {
			if used := b.inUse(); used != 0 {
				t.Errorf("%d bytes of request memory were never given back", used)
			}
		}
	})
	return test
}

// topic makes a topic with replicas on the given nodes, the first leading.
func (n *testNode) topic(t testing.TB, name string, partitions int, configs map[string]string, nodes ...metadata.NodeID) *metadata.Topic {
	t.Helper()
	if len(nodes) == 0 {
		nodes = []metadata.NodeID{1}
	}
	spec := &topicSpec{name: name, configs: configs}
	for range partitions {
		spec.assignment = append(spec.assignment, nodes)
	}
	topic, failure := n.create(context.Background(), spec)
	if failure != nil {
		t.Fatal(failure)
	}
	return topic
}

// call runs an ordinary request through decoding, handler and encoding, at the
// version it is set to.
func (n *testNode) call(t testing.TB, req kmsg.Request) kmsg.Response {
	t.Helper()
	c := dial(t, n.addr)
	defer c.close()
	return c.request(t, req)
}

// contended reports whether anybody waits for memory.
func (b *budget) contended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting.Len() > 0 || b.growing.Len() > 0
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
		<-time.After(time.Millisecond)
	}
}
