package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment/vfs"
)

// The metadata group, file by file:
//
//	metagroup.go     MetaGroup: its life, the view, waiting for it
//	metainstance.go  one run of raft, and the state machine behind it
//	metaleader.go    what the leader does: naming the cluster, keeping the members
//	metastuck.go     giving the leadership up when the disk hangs
//	forward.go       a change from any node, once; reading at the leader's index
//	quorum.go        how the members are, asked from any node
//	introduce.go     who nodes say they are, and how far their logs go
//	founding.go      an empty disk: found a cluster, or find one
//	join.go          being taken in, registering, becoming another disk
//	metastore.go     the files

// MetaConfig is what the metadata group needs of its node.
type MetaConfig struct {
	// FS is the file system of the data folder.
	FS vfs.FS
	// Dir is DATA/metadata.
	Dir string
	// Node is the identity of the data folder; the group writes into it.
	Node *Node
	// Mux connects the nodes. OpenMetaGroup starts it; its owner closes it, after
	// the group.
	Mux *transport.Mux
	// Router leads raft's requests to the group.
	Router *transport.Router
	// Stores opens the storage; BoltStores if nil.
	Stores StoreFactory
	// Join are the RPC addresses of the cluster's first brokers, this one's
	// included; none for a single node.
	Join []string
	// FoundWithout is an address of Join that will never come; empty for none.
	FoundWithout string
	// RPCAddress is what other brokers dial, host:port.
	RPCAddress string
	// KafkaAddress is what clients are told, host:port.
	KafkaAddress string
	// Rack is the failure domain, empty for none.
	Rack string
	// Version is the program's version.
	Version string
	// Timings are raft's clocks.
	Timings Timings
	// SnapshotEntries is how many log entries make raft write a snapshot, and how
	// many it keeps behind one; 8,192 if 0.
	SnapshotEntries uint64
	// Logger is needed.
	Logger *slog.Logger
	// Fatal is called when the node must stop: its disk cannot be trusted, or the
	// log holds a command of a newer version. Never with a lock held.
	Fatal func(error)
}

// MetaGroup is this node's part of the metadata group. All methods may be called
// concurrently.
type MetaGroup struct {
	config   MetaConfig
	logger   *slog.Logger
	node     *Node
	view     atomic.Pointer[metadata.View]
	calls    *callTable
	peers    upPeers
	disk     *diskState // of config.Dir
	watchers watchers   // of view and leader
	leaders  watchers   // of the leader alone
	ctx      context.Context
	cancel   context.CancelFunc
	work     sync.WaitGroup
	process  atomic.Uint64 // the session registered for this process
	replaced chan replaced // capacity 1: this disk must become another one
	asked    chan struct{} // capacity 1: a node that was never seen has introduced itself
	waiting  atomic.Pointer[string]
	stored   atomic.Pointer[[]raft.ServerID] // the voters on disk, before raft runs

	mu       sync.Mutex
	instance *metaInstance           // nil while this node is no member
	visitors map[transport.Peer]bool // who introduced itself while this node was no member
	moved    chan struct{}           // closed and replaced whenever the view changes
	closed   bool
}

// OpenMetaGroup starts this node's part of the metadata group. It returns once
// that is known to be possible: an error is about the data folder. Founding,
// joining and catching up go on behind it; CaughtUp tells when they are done. A
// node without a list founds a cluster of its own before this returns.
func OpenMetaGroup(ctx context.Context, config MetaConfig) (*MetaGroup, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if config.Stores == nil {
		config.Stores = BoltStores
	}
	if config.SnapshotEntries == 0 {
		config.SnapshotEntries = 8192
	}
	config.Timings = config.Timings.forMetadata()
	config.Join = normalize(config.Join)
	config.FoundWithout = strings.TrimSpace(config.FoundWithout)
	if len(config.Join) > metadata.MaxFounders {
		return nil, fmt.Errorf("%d --join addresses, at most %d", len(config.Join), metadata.MaxFounders)
	}
	if config.FoundWithout != "" && !slices.Contains(config.Join, config.FoundWithout) {
		return nil, fmt.Errorf("--found-without %s is none of the --join addresses %s", config.FoundWithout, orNone(config.Join))
	}
	m := &MetaGroup{config: config, logger: config.Logger, node: config.Node, calls: newCallTable(),
		replaced: make(chan replaced, 1), asked: make(chan struct{}, 1), visitors: map[transport.Peer]bool{}, moved: make(chan struct{})}
	m.disk = &diskState{folder: config.Dir, logger: config.Logger}
	m.process.Store(newSession())
	m.view.Store(&metadata.View{})
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.handle()
	config.Mux.Start()
	for _, p := range m.node.knownPeers() {
		config.Mux.SetAddress(p.Node, p.Address)
	}
	member := m.node.member()
	first, err := m.begin()
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	m.work.Go(m.followView)
	m.work.Go(m.raiseStartsHourly)
	m.work.Go(func() { m.run(first) })
	m.work.Go(m.complain)
	if config.FoundWithout != "" {
		m.work.Go(m.doWithout)
	}
	if member {
		m.work.Go(m.findStrangers)
	}
	return m, nil
}

// begin does what needs no other node.
func (m *MetaGroup) begin() (start, error) {
	switch {
	case m.node.member():
		return m.openMember()
	case m.node.ClusterID() == "" && len(m.config.Join) == 0:
		return start{}, m.found(1)
	}
	return start{}, nil
}

// start is what run begins with.
type start struct {
	stores MetaStores // of a member whose instance may not run before a peer was asked
	lost   error      // a member's stores are gone: nothing may run as this incarnation
}

func newSession() uint64 {
	for {
		if s := rand.Uint64(); s != 0 {
			return s
		}
	}
}

// run brings this node into the group and keeps it registered, until Close. When
// the disk turns out to be an old copy, or to have lost its part of the group, it
// becomes another disk and begins again.
func (m *MetaGroup) run(first start) {
	for m.ctx.Err() == nil {
		err := m.live(first)
		first = start{}
		if m.ctx.Err() != nil {
			return
		}
		if !errors.Is(err, errOtherDisk) {
			m.config.Fatal(fmt.Errorf("metadata group: %w", err))
			return
		}
		m.logger.Warn("this disk is no longer the broker it was: it joins again as a new incarnation", "reason", err, "incarnation", m.node.Incarnation())
		if err := m.becomeOther(); err != nil {
			m.config.Fatal(fmt.Errorf("metadata group: %w", err))
			return
		}
	}
}

// live takes part until ctx ends or an error.
func (m *MetaGroup) live(first start) error {
	if first.lost != nil {
		return first.lost
	}
	if first.stores != nil {
		if err := m.askBeforeStart(first.stores); err != nil {
			return errors.Join(err, first.stores.Close())
		}
		if err := m.startInstance(first.stores); err != nil {
			return err
		}
	}
	if m.current() == nil {
		if err := m.enter(); err != nil {
			return err
		}
	}
	for {
		if err := m.register(); err != nil {
			return err
		}
		select {
		case r := <-m.replaced:
			if r.incarnation == m.node.Incarnation() {
				return r.err
			}
		case <-m.ctx.Done():
			return m.ctx.Err()
		}
	}
}

// replaced is an incarnation of this disk that the cluster has replaced, and how
// that was noticed. By the time it is heard the disk may be the next one.
type replaced struct {
	incarnation metadata.Incarnation
	err         error
}

// current is the running instance, nil while there is none.
func (m *MetaGroup) current() *metaInstance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.instance
}

// View is the metadata as this node knows it.
func (m *MetaGroup) View() *metadata.View { return m.view.Load() }

// Watch makes a non-blocking send on ch whenever the view or the leader changed.
func (m *MetaGroup) Watch(ch chan<- struct{}) (cancel func()) { return m.watchers.add(ch) }

// publish shows a view to everybody, and wakes who waits for it. Views never go
// back: an instance that begins again with an empty log, on a disk that became
// another one, shows nothing until it has caught up with what was shown before.
func (m *MetaGroup) publish(view *metadata.View) {
	m.mu.Lock()
	if view.Index() < m.view.Load().Index() {
		m.mu.Unlock()
		return
	}
	m.view.Store(view)
	close(m.moved)
	m.moved = make(chan struct{})
	m.mu.Unlock()
	m.watchers.notify()
}

// leaderMoved tells everybody who waits for a leader. It is called in raft's own
// goroutines and does not wait.
func (m *MetaGroup) leaderMoved() {
	m.leaders.notify()
	m.watchers.notify()
}

// waitView waits until the view is as wanted.
func (m *MetaGroup) waitView(ctx context.Context, wanted func(*metadata.View) bool) error {
	for {
		m.mu.Lock()
		moved := m.moved
		m.mu.Unlock()
		if wanted(m.View()) {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-m.ctx.Done():
			return ErrClosed
		}
	}
}

// Leader is the broker that leads the metadata group, Kafka's controller, as far
// as this node knows.
func (m *MetaGroup) Leader() (metadata.NodeID, bool) {
	in := m.current()
	if in == nil {
		return NoLeader, false
	}
	node, _, err := transport.ParseServerID(in.leader())
	if err != nil {
		return NoLeader, false
	}
	return node, true
}

// Waiting says in one line what keeps this node from taking part, empty if
// nothing does. It is logged each 5 s.
func (m *MetaGroup) Waiting() string {
	if text := m.waiting.Load(); text != nil {
		return *text
	}
	return ""
}

func (m *MetaGroup) waitFor(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	m.waiting.Store(&text)
}

func (m *MetaGroup) waitNoMore() { m.waiting.Store(nil) }

const (
	// complaintInterval is how often a node that cannot go on says why, after the
	// first second.
	complaintInterval = 5
	// leaderlessGrace is how many seconds a member may be without a leader, or the
	// cluster without some of its founders, before it says so: an election is no
	// trouble.
	leaderlessGrace = 3
)

// complain logs what the node waits for.
func (m *MetaGroup) complain() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	waited := 0 // seconds
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-ticker.C:
		}
		text, grace := m.Waiting(), 1
		if text == "" && m.leaderless() {
			text, grace = m.quorum(), leaderlessGrace
		}
		if text == "" {
			text, grace = m.founding(), leaderlessGrace
		}
		if text == "" {
			waited = 0
			continue
		}
		waited++
		if waited >= grace && (waited-grace)%complaintInterval == 0 {
			m.logger.Warn("waiting: " + text)
		}
	}
}

// leaderless reports whether this node is a member and knows no leader that is
// there.
func (m *MetaGroup) leaderless() bool {
	if m.current() == nil {
		return false
	}
	_, known := m.liveLeader()
	return !known
}

// liveLeader is Leader, if that very incarnation is connected or this node: after
// a crash of the leader raft names it for a while, and another disk may answer in
// its place.
func (m *MetaGroup) liveLeader() (metadata.NodeID, bool) {
	in := m.current()
	if in == nil {
		return NoLeader, false
	}
	id := in.leader()
	node, _, err := transport.ParseServerID(id)
	if err != nil || !m.answers(id) {
		return NoLeader, false
	}
	return node, true
}

// followView keeps the mux and node.json in step with the brokers that the
// metadata lists.
func (m *MetaGroup) followView() {
	changed := make(chan struct{}, 1)
	defer m.Watch(changed)()
	seen := map[metadata.NodeID]uint64{} // index of the registration last acted on
	failed := false
	for {
		var retry <-chan time.Time
		switch err := m.followBrokers(m.View(), seen); {
		case err == nil:
			failed = false
		case mayPass(err): // what is saved is as old as after a crash a moment ago
			if !failed {
				m.logger.Warn("the brokers' addresses are not saved yet", "err", err)
			}
			failed, retry = true, time.After(saveRetry)
		default:
			m.config.Fatal(fmt.Errorf("metadata group: save the brokers' addresses: %w", err))
			return
		}
		select {
		case <-changed:
		case <-retry:
		case <-m.ctx.Done():
			return
		}
	}
}

// saveRetry is how long to wait before node.json is written again that had no space.
const saveRetry = time.Second

func (m *MetaGroup) followBrokers(view *metadata.View, seen map[metadata.NodeID]uint64) error {
	peers := make([]peerEntry, 0, view.BrokerCount())
	for b := range view.Brokers() {
		if b.Node == m.node.ID() {
			m.checkOwn(b)
			continue
		}
		if seen[b.Node] != b.Index {
			seen[b.Node] = b.Index
			m.config.Mux.SetAddress(b.Node, b.RPCAddress)
			m.config.Mux.SetIncarnation(b.Node, b.Incarnation)
		}
		peers = append(peers, peerEntry{b.Node, b.Incarnation, b.RPCAddress, b.Start})
	}
	if len(peers) == 0 { // nothing known yet; what is saved is better
		return nil
	}
	return m.node.setPeers(peers)
}

// checkOwn notices that another incarnation has taken over this node's id.
func (m *MetaGroup) checkOwn(own *metadata.Broker) {
	if incarnation := m.node.Incarnation(); slices.Contains(own.Retired, incarnation) {
		m.mustBecomeOther(incarnation, fmt.Errorf("%w: node id %d was taken over by the broker at %s (incarnation %s)", errOtherDisk, own.Node, own.RPCAddress, own.Incarnation))
	}
}

func (m *MetaGroup) mustBecomeOther(incarnation metadata.Incarnation, err error) {
	select {
	case m.replaced <- replaced{incarnation, err}:
	default:
	}
}

// Close stops this node's part. The leadership of the group is handed over first
// if another member can take it at once.
func (m *MetaGroup) Close() error {
	m.mu.Lock()
	first := !m.closed
	m.closed = true
	m.mu.Unlock()
	if !first {
		return nil
	}
	m.handOver()
	m.unhandle()
	m.cancel()
	err := m.stopInstance()
	m.work.Wait()
	return errors.Join(err, m.stopInstance()) // run may have started one meanwhile
}

// dataDir is the folder that DATA/metadata is in.
func (m *MetaGroup) dataDir() string { return filepath.Dir(m.config.Dir) }

// serverID is this node as a member of the group.
func (m *MetaGroup) serverID() raft.ServerID {
	return transport.ServerID(m.node.ID(), uint64(m.node.Incarnation()))
}
