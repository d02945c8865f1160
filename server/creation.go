package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

const (
	// offsetsTopic holds the state of the groups.
	offsetsTopic = "__consumer_offsets"
	// transactionsTopic will hold the state of transactions.
	transactionsTopic = "__transaction_state"
	// maxPartitions is the most partitions of a topic.
	maxPartitions = metadata.MaxPartitions
	// defaultFactor is the replication factor of a topic in a cluster that is
	// large enough.
	defaultFactor = 3
	// createTries is how often a creation is placed anew when a broker's disk was
	// replaced, or it was drained, in between.
	createTries = 3
	// leadersWait bounds how long a creation waits for the new partitions' leaders,
	// so that a client that writes at once finds them.
	leadersWait = 5 * time.Second
	// automaticWait bounds a creation that a client did not ask for by itself.
	automaticWait = 10 * time.Second
	// offsetsWarning is the time between two warnings that __consumer_offsets
	// cannot be created: every client of every group asks several times a second.
	offsetsWarning = 10 * time.Second
)

// internalTopic reports a name that is the system's own.
func internalTopic(name string) bool { return name == offsetsTopic || name == transactionsTopic }

// topicSpec is a topic to create; -1 stands for the broker's default.
type topicSpec struct {
	name       string
	partitions int32
	factor     int16
	assignment [][]metadata.NodeID // instead of both, by partition
	configs    map[string]string
	needed     bool // by the broker itself, which cannot do without
}

// plan checks a topic against the cluster and places its replicas.
func (n *node) plan(view *metadata.View, spec *topicSpec) (*metadata.CreateTopic, *failure) {
	if err := metadata.CheckTopicName(spec.name); err != nil {
		return nil, fail(kerr.InvalidTopicException, err.Error())
	}
	if _, ok := view.TopicNamed(spec.name); ok {
		return nil, fail(kerr.TopicAlreadyExists, fmt.Sprintf("topic %s exists", spec.name))
	}
	// Retriable, because it passes by itself: the brokers that are there would get
	// the replicas of all, for good.
	if progress, founding := view.Founding(); founding {
		return nil, fail(kerr.LeaderNotAvailable, progress+"; topics can be created after that")
	}
	for _, name := range sortedKeys(spec.configs) {
		if err := checkTopicConfig(name, spec.configs[name]); err != nil {
			return nil, fail(kerr.InvalidConfig, err.Error())
		}
	}
	placed, failure := n.place(view, spec)
	if failure != nil {
		return nil, failure
	}
	// Where topics have used the descriptors up, groups still have to work: their
	// topic, of few partitions, takes from what is reserved.
	if !spec.needed {
		if failure := n.checkFiles(view, placed); failure != nil {
			return nil, failure
		}
	}
	cmd := &metadata.CreateTopic{Name: spec.name, ID: segment.NewTopicID(), Configs: spec.configs, Internal: internalTopic(spec.name)}
	for _, nodes := range placed {
		var p metadata.Partition
		for _, id := range nodes {
			b, ok := view.Broker(id)
			if !ok {
				return nil, fail(kerr.InvalidReplicaAssignment, fmt.Sprintf("there is no broker %d", id))
			}
			p.Replicas = append(p.Replicas, metadata.Replica{Node: id, Incarnation: newIncarnation(), NodeIncarnation: b.Incarnation})
		}
		cmd.Partitions = append(cmd.Partitions, p)
	}
	return cmd, nil
}

// newIncarnation draws the identity of a replica: 64 random bits, not zero.
func newIncarnation() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails since Go 1.24
		if v := binary.BigEndian.Uint64(b[:]); v != 0 {
			return v
		}
	}
}

// place chooses brokers for the replicas, or takes the ones that were given.
func (n *node) place(view *metadata.View, spec *topicSpec) ([][]metadata.NodeID, *failure) {
	if spec.assignment != nil {
		return spec.assignment, nil
	}
	partitions, factor := spec.partitions, int(spec.factor)
	if partitions == -1 {
		partitions = n.settings.partitions
	}
	if factor == -1 {
		factor = n.defaultFactor(view)
	}
	switch {
	case partitions < 1 || partitions > maxPartitions:
		return nil, fail(kerr.InvalidPartitions, fmt.Sprintf("%d partitions; 1 to %d are possible", partitions, maxPartitions))
	case factor < 1 || factor > view.BrokerCount():
		return nil, fail(kerr.InvalidReplicationFactor, fmt.Sprintf("%d replicas of each partition; the cluster has %d brokers", factor, view.BrokerCount()))
	case factor > placeable(view):
		return nil, fail(kerr.InvalidReplicationFactor, fmt.Sprintf("%d replicas of each partition; of the cluster's %d brokers %d are drained and get none",
			factor, view.BrokerCount(), view.BrokerCount()-placeable(view)))
	}
	var alive, all []*metadata.Broker
	for b := range view.Brokers() {
		if b.Drained {
			continue
		}
		all = append(all, b)
		if b.Node == n.cluster.Node() || n.cluster.Alive(b.Node) {
			alive = append(alive, b)
		}
	}
	if len(alive) < factor {
		alive = all // a broker that restarts gets its replicas when it is back
	}
	placed, err := metadata.Place(metadata.Placement{Partitions: int(partitions), Factor: factor, Brokers: alive,
		Leaders: view.PreferredLeaders(), Replicas: view.ReplicaCounts(), Random: n.random})
	if err != nil {
		return nil, fail(kerr.InvalidReplicationFactor, err.Error())
	}
	return placed, nil
}

// defaultFactor is the replication factor of a topic that is created without one.
// Brokers that are drained count: while too few others are left a topic is refused,
// rather than to have fewer replicas for good.
func (n *node) defaultFactor(view *metadata.View) int {
	if n.settings.replication > 0 {
		return int(n.settings.replication)
	}
	return max(min(defaultFactor, view.BrokerCount()), 1)
}

// placeable is how many brokers can be given replicas.
func placeable(view *metadata.View) (count int) {
	for b := range view.Brokers() {
		if !b.Drained {
			count++
		}
	}
	return count
}

// create makes a topic; its leaders are known a moment later, see awaitLeaders.
func (n *node) create(ctx context.Context, spec *topicSpec) (*metadata.Topic, *failure) {
	var cmd *metadata.CreateTopic
	for try := 0; ; try++ {
		var f *failure
		if cmd, f = n.plan(n.cluster.View(), spec); f != nil {
			return nil, f
		}
		_, err := n.cluster.Change(ctx, cmd)
		if err == nil {
			break
		}
		var refused *metadata.Refusal
		if try+1 < createTries && errors.As(err, &refused) && (refused.Code == metadata.StaleBroker || refused.Code == metadata.DrainedBroker) {
			continue
		}
		return nil, changeFailure(err)
	}
	t, ok := n.cluster.View().Topic(cmd.ID)
	if !ok {
		return nil, fail(kerr.UnknownTopicOrPartition, "the topic was deleted as soon as it was created")
	}
	return t, nil
}

// awaitLeaders waits, for a bounded time, until every partition has a ready
// leader that is known here.
func (n *node) awaitLeaders(ctx context.Context, t *metadata.Topic) {
	changed := make(chan struct{}, 1)
	defer n.leaders.watch(changed)()
	for next := 0; next < len(t.Partitions); {
		if l, ok := n.cluster.Leader(t.ID, int32(next)); ok && l.Node != replication.NoLeader {
			next++
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-n.stopping.Done():
			return
		}
	}
}

// creations lets one request at a time create a topic that many ask for at once.
type creations struct {
	mu    sync.Mutex
	under map[string]chan struct{} // closed when the creation of that name is over
	// warned is when it was last logged that there is no __consumer_offsets.
	warned time.Time
}

func newCreations() *creations { return &creations{under: map[string]chan struct{}{}} }

// automatic creates a topic with default settings because a client named it.
func (c *creations) automatic(ctx context.Context, n *node, name string) (*metadata.Topic, *failure) {
	return c.once(ctx, n, &topicSpec{name: name, partitions: -1, factor: -1})
}

// offsets returns __consumer_offsets, and creates it if there is none.
func (c *creations) offsets(ctx context.Context, n *node) (*metadata.Topic, *failure) {
	if t, ok := n.cluster.View().TopicNamed(offsetsTopic); ok {
		return t, nil
	}
	return c.once(ctx, n, &topicSpec{name: offsetsTopic, partitions: n.settings.offsetPartitions, factor: n.settings.offsetReplicas, needed: true,
		configs: map[string]string{"cleanup.policy": "compact", "compression.type": "producer", "segment.bytes": "104857600"}})
}

// warn logs, now and then, why __consumer_offsets cannot be created: most clients
// show nothing of the answer and ask for their coordinator for ever.
func (c *creations) warn(n *node, failure *failure) {
	now := n.now()
	c.mu.Lock()
	due := c.warned.IsZero() || now.Sub(c.warned) >= offsetsWarning
	if due {
		c.warned = now
	}
	c.mu.Unlock()
	if due {
		n.logger.Warn("no consumer group can be served, since their topic cannot be created", "topic", offsetsTopic,
			"err", failure)
	}
}

// once creates a topic unless it exists, and waits for a creation under way.
func (c *creations) once(ctx context.Context, n *node, spec *topicSpec) (*metadata.Topic, *failure) {
	ctx, cancel := context.WithTimeout(ctx, automaticWait)
	defer cancel()
	for {
		c.mu.Lock()
		busy, ok := c.under[spec.name]
		if !ok {
			break
		}
		c.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, fail(kerr.LeaderNotAvailable, "")
		}
	}
	done := make(chan struct{})
	c.under[spec.name] = done
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.under, spec.name)
		close(done)
	}()
	if t, ok := n.cluster.View().TopicNamed(spec.name); ok {
		return t, nil
	}
	t, failure := n.create(ctx, spec)
	if failure == nil {
		waiting, cancel := context.WithTimeout(ctx, leadersWait)
		defer cancel()
		n.awaitLeaders(waiting, t)
	}
	if failure != nil && failure.code == kerr.TopicAlreadyExists.Code { // another broker was faster
		if t, ok := n.cluster.View().TopicNamed(spec.name); ok {
			return t, nil
		}
		return nil, fail(kerr.LeaderNotAvailable, "")
	}
	if failure != nil && failure.code == kerr.NotController.Code { // the client did not ask for the controller
		return nil, fail(kerr.LeaderNotAvailable, "")
	}
	return t, failure
}
