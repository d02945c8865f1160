package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// Config says where a node is, who it is and whom it joins.
type Config struct {
	// FS is the file system of the data folder; vfs.OS() without.
	FS vfs.FS
	// DataDir is the data folder, made if absent.
	DataDir string
	// Node is the broker's id.
	Node metadata.NodeID
	// Listener accepts the other brokers. The host closes it.
	Listener net.Listener
	// Dial connects to a broker's RPC address; TCP without.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// RPCAddress is what other brokers dial to reach this one, host:port.
	RPCAddress string
	// KafkaAddress is what clients of other brokers are told, host:port.
	KafkaAddress string
	// Rack is the failure domain, empty for none.
	Rack string
	// Version is the program's version.
	Version string
	// Join are the RPC addresses of the cluster's brokers, this one included;
	// none for a single node.
	Join []string
	// FoundWithout is the address of a founder that will never come.
	FoundWithout string
	// MetaStores opens the metadata group's storage; raft-boltdb without.
	MetaStores StoreFactory
	// Timings are raft's clocks; zero values are the defaults.
	Timings Timings
	// Policy says how a topic's logs are cut into segments and what they keep; without,
	// segments have the topic's segment.bytes and everything is kept.
	Policy func(*metadata.Topic) Policy
	// RetentionInterval is how often retention looks for what has expired; 5 minutes
	// without.
	RetentionInterval time.Duration
	// RetentionWait is how long trims keep files for a member that acknowledges nothing;
	// then it is seeded when it is back. An hour without.
	RetentionWait time.Duration
	// SeedRate bounds, in bytes a second, what this node gives to replicas that are
	// seeded, and what it takes in for its own; 64 MiB without.
	SeedRate int64
	// CacheBytes bounds the node's tail cache; 64 MiB without.
	CacheBytes int64
	// OpenFiles bounds the sealed segments kept open; 1,024 without.
	OpenFiles int
	// Balance says when leadership goes back to preferred replicas; never without.
	Balance Balance
	// Logger is needed.
	Logger *slog.Logger
	// Fatal is called once, from any goroutine, when the disk can no longer be
	// trusted: the process must end without asking it again. It must not wait for
	// the host: Close waits for the goroutines that call it.
	Fatal func(error)
}

const (
	defaultCacheBytes    = 64 << 20
	defaultOpenFiles     = 1024
	defaultSeedRate      = 64 << 20
	defaultRetentionWait = time.Hour
)

// Host runs the replicas of one node and its part of the metadata group. All
// methods may be called concurrently.
type Host struct {
	config Config
	logger *slog.Logger
	node   *Node
	votes  *Votes
	disk   *diskState // of the partitions' folder
	mux    *transport.Mux
	router *transport.Router
	meta   *MetaGroup
	cache  *log.TailCache
	files  *log.FileCache

	detector *detector

	leaders  *leaderTable
	watchers watchers
	retainer *retainer
	seedsIn  *seedIntake

	mu         sync.RWMutex
	partitions map[transport.GroupID]*Partition
	failed     map[transport.GroupID]error // out of its group for good
	unmade     map[transport.GroupID]error // could not be made yet
	links      map[metadata.NodeID]*link

	speaking  metadata.Incarnation // of the running replicas; the reconciler's alone
	caughtUp  atomic.Bool
	settled   chan struct{} // closed when unknown folders were set aside once
	poke      chan struct{} // asks the reconciler to look again
	moving    chan struct{} // capacity 1: a leadership is on its way to another node
	context   context.Context
	cancel    context.CancelFunc
	stop      chan struct{}
	workers   sync.WaitGroup
	leaving   atomic.Bool // HandOverAll was called
	unsound   atomic.Bool // fatal was called
	fatalOnce sync.Once
	closeOnce sync.Once
}

// Open starts a node. It returns once the data folder is locked and read and the
// node listens; WaitReady tells when it can serve.
func Open(ctx context.Context, config Config) (*Host, error) {
	if config.FS == nil {
		config.FS = vfs.OS()
	}
	h := &Host{
		config: config, logger: config.Logger, leaders: newLeaderTable(),
		partitions: map[transport.GroupID]*Partition{},
		failed:     map[transport.GroupID]error{},
		unmade:     map[transport.GroupID]error{},
		links:      map[metadata.NodeID]*link{},
		settled:    make(chan struct{}),
		poke:       make(chan struct{}, 1),
		moving:     make(chan struct{}, 1),
		stop:       make(chan struct{}),
	}
	h.retainer = newRetainer(h)
	h.context, h.cancel = context.WithCancel(context.Background())
	if err := h.openParts(ctx); err != nil {
		h.cancel()
		return nil, errors.Join(err, h.closeParts(), h.closeNode())
	}
	h.workers.Go(h.detector.run)
	h.workers.Add(5)
	go h.retainer.run()
	go h.reconcileLoop()
	go h.followPeers()
	go h.watchInSync()
	go h.settle()
	h.workers.Go(h.balanceLoop)
	h.workers.Go(h.drainLoop)
	h.workers.Go(h.membershipLoop)
	return h, nil
}

func (h *Host) openParts(ctx context.Context) (err error) {
	c := &h.config
	if h.node, err = OpenNode(c.FS, c.DataDir, c.Node); err != nil {
		return err
	}
	if err := c.FS.MkdirAll(h.topicsDir()); err != nil {
		return fmt.Errorf("make the topics folder: %w", err)
	}
	h.disk = &diskState{folder: h.topicsDir(), logger: h.logger}
	if h.votes, err = OpenVotes(c.FS, filepath.Join(c.DataDir, "votes.log")); err != nil {
		return err
	}
	h.cache = log.NewTailCache(orDefault(c.CacheBytes, defaultCacheBytes))
	h.files = log.NewFileCache(orDefault(c.OpenFiles, defaultOpenFiles))
	h.mux = transport.New(transport.Config{
		Listener: c.Listener, Dial: c.Dial, Logger: h.logger, Identity: h.node.Identity,
	})
	h.router = transport.NewRouter(transport.RouterConfig{Server: h.mux, OnGroupUp: h.hearGroupUp})
	h.mux.Handle(transport.MethodGossip, h.handleGossip)
	h.mux.Handle(transport.MethodMoveLeader, h.handleMoveLeader)
	h.seedsIn = newSeedIntake(orDefault(c.SeedRate, defaultSeedRate))
	giveSeeds(h.mux.Handle, orDefault(c.SeedRate, defaultSeedRate), func(group transport.GroupID) *Partition {
		p, _ := h.Partition(group.Topic, group.Partition)
		return p
	})
	h.meta, err = OpenMetaGroup(ctx, MetaConfig{
		FS: c.FS, Dir: filepath.Join(c.DataDir, "metadata"), Node: h.node, Mux: h.mux, Router: h.router,
		Stores: c.MetaStores, Join: c.Join, FoundWithout: c.FoundWithout, RPCAddress: c.RPCAddress,
		KafkaAddress: c.KafkaAddress, Rack: c.Rack, Version: c.Version, Timings: c.Timings,
		Logger: h.logger, Fatal: h.fatal,
	})
	h.detector = newDetector(h.context, h.mux, h.electors, h.logger)
	return err
}

func orDefault[T int | int64 | time.Duration](n, otherwise T) T {
	if n == 0 {
		return otherwise
	}
	return n
}

// fatal reports the first error after which nothing may be acknowledged any more.
func (h *Host) fatal(err error) {
	h.unsound.Store(true)
	h.fatalOnce.Do(func() {
		h.logger.Error("storage failed: the broker stops", "err", err)
		h.config.Fatal(err)
	})
}

// Meta is the metadata group.
func (h *Host) Meta() *MetaGroup { return h.meta }

// Node is this broker's id.
func (h *Host) Node() metadata.NodeID { return h.node.ID() }

// ClusterID is the cluster's id, empty until this node belongs to one.
func (h *Host) ClusterID() string { return h.node.ClusterID() }

// Incarnation identifies this node's disk.
func (h *Host) Incarnation() metadata.Incarnation { return h.node.Incarnation() }

// Up reports whether a broker is connected; this one always is.
func (h *Host) Up(node metadata.NodeID) bool {
	return node == h.node.ID() || h.mux.Up(node)
}

// Partition returns this node's replica.
func (h *Host) Partition(id segment.TopicID, p int32) (*Partition, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	partition, ok := h.partitions[transport.GroupID{Topic: id, Partition: p}]
	return partition, ok
}

// ReplicaFailed says why this node's replica is out of its group, nil if it is not.
func (h *Host) ReplicaFailed(id segment.TopicID, p int32) error {
	group := transport.GroupID{Topic: id, Partition: p}
	h.mu.RLock()
	defer h.mu.RUnlock()
	if partition, ok := h.partitions[group]; ok {
		return partition.Failed()
	}
	return cmp.Or(h.failed[group], h.unmade[group])
}

// Leader is what is known of a partition's leadership. It is absent when no
// leader is ready, as far as this node knows, or the leader is not connected.
func (h *Host) Leader(id segment.TopicID, p int32) (LeaderInfo, bool) {
	info, ok := h.leaders.get(transport.GroupID{Topic: id, Partition: p})
	if !ok || info.Node == NoLeader || !h.Up(info.Node) {
		return info, false
	}
	return info, true
}

// LastTerm is the highest leader epoch known of a partition.
func (h *Host) LastTerm(id segment.TopicID, p int32) segment.Term {
	info, _ := h.leaders.get(transport.GroupID{Topic: id, Partition: p})
	return info.Term
}

// WatchLeaders makes a non-blocking send on ch whenever some leadership changed.
func (h *Host) WatchLeaders(ch chan<- struct{}) (cancel func()) { return h.watchers.add(ch) }

func (h *Host) notifyLeaders() { h.watchers.notify() }

// WaitReady returns when the metadata is caught up, all founders of the cluster
// have joined it, and every local replica is recovered (or is known to be out of
// its group) and has a known leader.
func (h *Host) WaitReady(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	defer h.WatchLeaders(changed)()
	defer h.meta.Watch(changed)()
	select {
	case <-h.settled:
	case <-ctx.Done():
		return ctx.Err()
	}
	// Recovery of a replica is not announced by itself; look again now and then.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !h.ready() {
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (h *Host) ready() bool {
	view := h.meta.View()
	if _, founding := view.Founding(); founding {
		return false
	}
	for topic := range view.Topics() {
		for i, p := range topic.Partitions {
			for _, r := range p.Replicas {
				if r.Node == h.node.ID() && !h.replicaReady(transport.GroupID{Topic: topic.ID, Partition: int32(i)}) {
					return false
				}
			}
		}
	}
	return true
}

func (h *Host) replicaReady(group transport.GroupID) bool {
	if h.ReplicaFailed(group.Topic, group.Partition) != nil {
		return true
	}
	if !h.has(group) {
		return false
	}
	_, known := h.Leader(group.Topic, group.Partition)
	return known
}

// settle waits for the metadata leader's commit index of this start, and only
// then lets delete records act and sets unknown folders aside.
func (h *Host) settle() {
	defer h.workers.Done()
	for h.meta.CaughtUp(h.context) != nil {
		select {
		case <-h.stop:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	h.caughtUp.Store(true)
	select {
	case h.poke <- struct{}{}:
	default:
	}
}

// Shutdown moves leadership away (HandOverAll), as far as that works until ctx ends, and
// closes the node with its clean-stop mark.
func (h *Host) Shutdown(ctx context.Context) error {
	h.HandOverAll(ctx)
	return h.close(true)
}

// Close stops the node at once, as a crash would but for open files.
func (h *Host) Close() error { return h.close(false) }

func (h *Host) close(clean bool) (err error) {
	h.closeOnce.Do(func() {
		h.cancel()
		close(h.stop)
		h.workers.Wait()
		partitions := h.allPartitions()
		errs := parallel(partitions, func(p *Partition) error { return p.Close() })
		err = errors.Join(errors.Join(errs...), h.closeParts())
		// The last durable thing: what was written behind the mark, or failed there,
		// would count as stopped cleanly. Nor is it clean where storage failed and the
		// stop was faster: the next start must not believe what it finds in the page
		// cache.
		if clean && err == nil && !h.unsound.Load() && (h.recovered() || h.node.CleanStop()) {
			err = h.node.MarkClean()
		}
		err = errors.Join(err, h.closeNode())
	})
	return err
}

// recovered reports whether this start opened every replica of the node. If it
// did not, the end of one may be as a crash left it, and no stop is clean.
func (h *Host) recovered() bool {
	select {
	case <-h.settled:
	default:
		return false
	}
	return len(h.failedReplicas()) == 0
}

// closeParts closes everything but the identity of the data folder.
func (h *Host) closeParts() error {
	var errs []error
	if h.meta != nil {
		errs = append(errs, h.meta.Close())
	}
	if h.router != nil {
		errs = append(errs, h.router.Close())
	}
	switch {
	case h.mux != nil:
		errs = append(errs, h.mux.Close())
	case h.config.Listener != nil:
		errs = append(errs, h.config.Listener.Close())
	}
	if h.votes != nil {
		errs = append(errs, h.votes.Close())
	}
	return errors.Join(errs...)
}

// closeNode unlocks the data folder.
func (h *Host) closeNode() error {
	if h.node == nil {
		return nil
	}
	return h.node.Close()
}
