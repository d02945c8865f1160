package server

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// sendfileSlots bounds the sendfile calls under way on a node.
const sendfileSlots = 64

// node is what all handlers of a broker share. Its fields are set before the
// first connection and then only read; each points at a type that guards itself.
type node struct {
	cluster  cluster
	settings *brokerSettings
	logger   *slog.Logger
	now      func() time.Time
	random   func(n int) int
	// advertised is what clients are told as this broker's address; empty: the
	// address at which their connection arrived.
	advertised string
	rack       string
	listen     string // where clients connect, host:port
	dataDir    string
	apis       []api // what is announced and dispatched
	fileLimit  int64 // how many files this process may open; 0: not known

	loopback sync.Once // the warning about addresses that remote clients cannot use

	budget    *budget // frames of requests, and what is inflated for answers
	decoding  *budget // requests once decoded
	sendSlots chan struct{}
	processor chan struct{} // slots for checking and compressing batches
	topics    *topicCache
	refusals  *refusals
	sessions  *sessionCache
	ids       *producerIDs
	leaders   *pulse
	creating  *creations
	groups    groupService
	// stopping is done when the broker begins to stop; it ends waits that would
	// only delay that (long polls, members that wait for a rebalance).
	stopping context.Context
	files    atomic.Int64 // record bytes sent from files by sendfile
	copied   atomic.Int64 // record bytes of files that were read and written
}

// newNode makes a node over a cluster; the caller sets groups and stopping.
func newNode(c cluster, settings *brokerSettings, logger *slog.Logger) *node {
	n := &node{
		cluster: c, settings: settings, logger: logger, now: time.Now, random: rand.IntN,
		budget: newBudget(settings.requestMemory), decoding: newBudget(settings.requestMemory),
		sendSlots: make(chan struct{}, sendfileSlots),
		processor: make(chan struct{}, runtime.GOMAXPROCS(0)),
		topics:    newTopicCache(settings),
		sessions:  newSessionCache(settings.sessionSlots),
		leaders:   newPulse(),
		creating:  newCreations(),
		apis:      table[:],
		fileLimit: fileLimit(),
	}
	n.refusals = newRefusals(func() time.Time { return n.now() })
	n.ids = newProducerIDs(c)
	return n
}

// topicRef names a topic as a request does: by name, or by id in newer versions.
type topicRef struct {
	name string
	id   segment.TopicID
}

// topic resolves a reference against one view.
func (n *node) topic(view *metadata.View, ref topicRef) (*metadata.Topic, *failure) {
	if !ref.id.IsZero() {
		if t, ok := view.Topic(ref.id); ok {
			return t, nil
		}
		return nil, fail(kerr.UnknownTopicID, "")
	}
	if t, ok := view.TopicNamed(ref.name); ok {
		return t, nil
	}
	return nil, fail(kerr.UnknownTopicOrPartition, "")
}

// leading returns the local replica if it leads and is ready to serve. A client
// that names a leader epoch is told when either side is behind.
func (n *node) leading(topic *metadata.Topic, number, epoch int32) (partition, replication.Leadership, *failure) {
	var none replication.Leadership
	if number < 0 || int(number) >= len(topic.Partitions) {
		return nil, none, fail(kerr.UnknownTopicOrPartition, "")
	}
	if n.cluster.ReplicaFailed(topic.ID, number) != nil {
		return nil, none, fail(kerr.KafkaStorageError, "the replica on this broker stays out of its group: see the broker's log")
	}
	p, ok := n.cluster.Partition(topic.ID, number)
	if !ok {
		return nil, none, fail(kerr.NotLeaderForPartition, "")
	}
	l := p.Leadership()
	switch {
	case epoch >= 0 && segment.Term(epoch) < l.Term:
		return nil, l, fail(kerr.FencedLeaderEpoch, "")
	case epoch >= 0 && segment.Term(epoch) > l.Term:
		return nil, l, fail(kerr.UnknownLeaderEpoch, "")
	case !l.Leader:
		return nil, l, fail(kerr.NotLeaderForPartition, "")
	}
	return p, l, nil
}

// address is how a client reaches a broker.
type address struct {
	node metadata.NodeID
	host string
	port int32
	rack *string
}

// addressOf is what the client at the other end of c is told about a broker:
// this broker's own entry, unless --advertise says otherwise, is the address at
// which the client's connection arrived here. That is right on a machine with
// several addresses, however the client named it. Where addresses or ports are
// translated on the way (NAT, a container's published port, a proxy or a tunnel) it
// is the inner address, which the client cannot reach: there --advertise is needed.
func (n *node) addressOf(b *metadata.Broker, c *client) address {
	text := b.KafkaAddress
	if b.Node == n.cluster.Node() {
		text = n.advertised
		if text == "" {
			text = c.local
		}
	}
	a := address{node: b.Node}
	host, port, err := net.SplitHostPort(text)
	if err == nil {
		number, _ := strconv.ParseUint(port, 10, 16)
		a.host, a.port = host, int32(number)
	}
	if isLoopback(host) && !isLoopback(c.host()) {
		n.loopback.Do(func() {
			n.logger.Warn("a remote client is told a loopback address, which it cannot reach; set --advertise", "broker", b.Node, "address", text, "client", c.remote)
		})
	}
	if b.Rack != "" {
		a.rack = &b.Rack
	}
	return a
}

// isLoopback reports a host that only this machine reaches.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// alive reports whether a broker serves clients, as far as known here; this one does.
func (n *node) alive(id metadata.NodeID) bool {
	return id == n.cluster.Node() || n.cluster.Alive(id)
}

// fenced are the registered brokers of which clients are not told: those that are
// not alive. In Kafka the controller fences brokers, and needs a quorum for it; here
// each broker judges for itself, and one that misses half of the others or more may
// be the one that is cut off. It fences nobody: clients that started with it need
// the addresses of the others to get away from it.
func (n *node) fenced(view *metadata.View) map[metadata.NodeID]bool {
	fenced := map[metadata.NodeID]bool{}
	for b := range view.Brokers() {
		if !n.alive(b.Node) {
			fenced[b.Node] = true
		}
	}
	if 2*len(fenced) >= view.BrokerCount() {
		return nil
	}
	return fenced
}

// addresses lists every registered broker.
func (n *node) addresses(view *metadata.View, c *client) []address {
	all := make([]address, 0, view.BrokerCount())
	for b := range view.Brokers() {
		all = append(all, n.addressOf(b, c))
	}
	return all
}

// leaderHint is the present leader of a partition for an answer that refuses, so
// that the client need not ask for metadata first (KIP-951).
type leaderHint struct {
	node  int32
	epoch int32
}

// hint returns what is known of a partition's leader; -1, -1 if nothing.
func (n *node) hint(topic segment.TopicID, number int32) leaderHint {
	l, ok := n.cluster.Leader(topic, number)
	if !ok || l.Node == replication.NoLeader {
		return leaderHint{-1, -1}
	}
	return leaderHint{int32(l.Node), int32(l.Term)}
}

// hintsFor reports whether an error is one that carries the present leader.
func hintsFor(code int16) bool {
	return code == kerr.NotLeaderForPartition.Code || code == kerr.FencedLeaderEpoch.Code
}

// endpoints lists the addresses of the hinted leaders, each once.
func (n *node) endpoints(view *metadata.View, c *client, hints map[int32]struct{}) []address {
	var all []address
	for b := range view.Brokers() {
		if _, ok := hints[int32(b.Node)]; ok {
			all = append(all, n.addressOf(b, c))
		}
	}
	return all
}

// bounded derives a context for a client's time-out, within the broker's own
// bounds, and one that is over when the broker stops.
func bounded(ctx context.Context, timeoutMillis int32, limit time.Duration) (context.Context, context.CancelFunc) {
	d := time.Duration(timeoutMillis) * time.Millisecond
	return context.WithTimeout(ctx, min(max(d, 100*time.Millisecond), limit))
}

// topicCache keeps the parsed settings of topics. A topic in a View never
// changes: a change of configuration makes another one, and with it a new entry.
type topicCache struct {
	broker *brokerSettings
	mu     sync.RWMutex
	byID   map[segment.TopicID]cachedTopic
}

type cachedTopic struct {
	topic    *metadata.Topic
	settings *topicSettings
}

func newTopicCache(broker *brokerSettings) *topicCache {
	return &topicCache{broker: broker, byID: map[segment.TopicID]cachedTopic{}}
}

// get returns the settings of a topic.
func (c *topicCache) get(t *metadata.Topic) *topicSettings {
	c.mu.RLock()
	entry := c.byID[t.ID]
	c.mu.RUnlock()
	if entry.topic == t {
		return entry.settings
	}
	settings := settingsOf(t.Configs, t.Internal, c.broker)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byID[t.ID] = cachedTopic{t, settings}
	return settings
}

// prune forgets topics that are gone.
func (c *topicCache) prune(view *metadata.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.byID {
		if _, ok := view.Topic(id); !ok {
			delete(c.byID, id)
		}
	}
}

// pulse wakes everybody who waits for something that may have changed.
type pulse struct {
	mu       sync.Mutex
	channels map[chan struct{}]struct{}
}

func newPulse() *pulse { return &pulse{channels: map[chan struct{}]struct{}{}} }

// watch adds a channel with room for one signal.
func (p *pulse) watch(ch chan struct{}) (cancel func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.channels[ch] = struct{}{}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.channels, ch)
	}
}

// beat wakes all watchers.
func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ch := range p.channels {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// run beats whenever the leadership of some partition may have changed, until
// stop.
func (p *pulse) run(c cluster, stop <-chan struct{}) {
	changed := make(chan struct{}, 1)
	defer c.WatchLeaders(changed)()
	for {
		select {
		case <-changed:
			p.beat()
		case <-stop:
			return
		}
	}
}
