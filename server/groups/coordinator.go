package groups

import (
	"context"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// Coordinator serves the groups of every partition of __consumer_offsets that
// this node leads. All methods may be called at any time from any goroutine.
type Coordinator struct {
	cfg    Config
	timers *timers
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // the goroutines of the shards

	mu struct {
		sync.Mutex
		shards map[int32]*shard
		closed bool
	}
}

// ClientInfo says who sent a request.
type ClientInfo struct {
	// ID is the client id of the request header.
	ID string
	// Host is the address the client is connected from, as Kafka prints it
	// ("/127.0.0.1").
	Host string
}

// New makes a coordinator that leads nothing yet. Config.Store and
// Config.Partitions must be set.
func New(cfg Config) *Coordinator {
	cfg = cfg.withDefaults()
	c := &Coordinator{cfg: cfg, timers: newTimers(cfg.Now)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.mu.shards = make(map[int32]*shard)
	c.scheduleSweep()
	return c
}

// Lead says that this node is the ready leader of a partition in term (DESIGN 6:
// its no-op is applied). The state is loaded in the background; until then
// requests are answered COORDINATOR_LOAD_IN_PROGRESS. A term that is not above
// the one already led changes nothing.
func (c *Coordinator) Lead(partition int32, term segment.Term) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return
	}
	old := c.mu.shards[partition]
	if old != nil {
		if old.term >= term {
			return
		}
		old.close()
	}
	s := newShard(c, partition, term)
	c.mu.shards[partition] = s
	c.work.Go(s.run)
}

// Resign says that this node does not lead a partition any more: its state is
// dropped, and everything that waits is answered NOT_COORDINATOR. It does not
// wait for an Append or Load under way.
func (c *Coordinator) Resign(partition int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.mu.shards[partition]; s != nil {
		s.close()
		delete(c.mu.shards, partition)
	}
}

// Close resigns every partition and waits for all goroutines, so also for Append
// and Load calls, whose context it ends. It is idempotent.
func (c *Coordinator) Close() error {
	c.mu.Lock()
	closed := c.mu.closed
	c.mu.closed = true
	for _, s := range c.mu.shards {
		s.close()
	}
	clear(c.mu.shards)
	c.mu.Unlock()
	c.cancel()
	c.work.Wait()
	if !closed {
		c.timers.close()
	}
	return nil
}

// TopicDeleted says that the topic name whose Created is at most created was
// deleted: every committed position of it is given a tombstone, in the partitions
// led now and in those loading. It does not wait for that. Positions of a later
// topic of the same name stay.
func (c *Coordinator) TopicDeleted(name string, created uint64) {
	for _, s := range c.all() {
		s.topicDeleted(name, created)
	}
}

// all is a copy of the shards, in no order.
func (c *Coordinator) all() []*shard {
	c.mu.Lock()
	defer c.mu.Unlock()
	shards := make([]*shard, 0, len(c.mu.shards))
	for _, s := range c.mu.shards {
		shards = append(shards, s)
	}
	return shards
}

// lock returns the shard of a group, loaded and with its lock held; or nil and
// the code that says why not.
func (c *Coordinator) lock(id string) (*shard, int16) {
	n := c.cfg.Partitions()
	if n < 1 {
		return nil, codeNotAvailable
	}
	c.mu.Lock()
	s := c.mu.shards[PartitionFor(id, n)]
	c.mu.Unlock()
	if s == nil {
		return nil, codeNotCoordinator
	}
	s.mu.Lock()
	switch s.state {
	case shardActive:
		return s, codeNone
	case shardLoading:
		s.mu.Unlock()
		return nil, codeLoading
	default:
		s.mu.Unlock()
		return nil, codeNotCoordinator
	}
}

// Handle answers one request of the group APIs: JoinGroup 0-9, SyncGroup 0-5,
// Heartbeat 0-4, LeaveGroup 0-5, OffsetCommit 0-9, OffsetFetch 0-9, OffsetDelete
// 0, ListGroups 0-5, DescribeGroups 0-6 and DeleteGroups 0-2. The response has the
// request's version; for any other request it is nil. Handle blocks while a join
// waits for other members, a sync for its leader, and a write for its disks; when
// ctx ends, it returns at once with a retriable code, and what was begun goes on.
// It keeps no byte of the request.
func (c *Coordinator) Handle(ctx context.Context, request kmsg.Request, client ClientInfo) kmsg.Response {
	switch r := request.(type) {
	case *kmsg.OffsetCommitRequest:
		return c.offsetCommit(ctx, r)
	case *kmsg.OffsetFetchRequest:
		return c.offsetFetch(ctx, r)
	case *kmsg.JoinGroupRequest:
		return c.joinGroup(ctx, r, client)
	case *kmsg.HeartbeatRequest:
		return c.heartbeat(r)
	case *kmsg.LeaveGroupRequest:
		return c.leaveGroup(r)
	case *kmsg.SyncGroupRequest:
		return c.syncGroup(ctx, r)
	case *kmsg.DescribeGroupsRequest:
		return c.describeGroups(r)
	case *kmsg.ListGroupsRequest:
		return c.listGroups(r)
	case *kmsg.DeleteGroupsRequest:
		return c.deleteGroups(ctx, r)
	case *kmsg.OffsetDeleteRequest:
		return c.offsetDelete(ctx, r)
	}
	return nil
}
