// Package millracetest starts real Millrace brokers inside a test process: the
// same constructor as the binary's, on temporary folders and free ports, nothing
// to install.
//
//	func TestOrders(t *testing.T) {
//		cluster := millracetest.Start(t, millracetest.Nodes(3))
//		c := cluster.Client()
//		...
//		cluster.Kill(2)    // as a crash would
//		cluster.Restart(2) // on the same data
//	}
//
// Everything ends with the test. A failure to start, stop or restart fails it.
package millracetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/server"
)

const (
	// readyTimeout bounds how long brokers may take until they are ready.
	readyTimeout = 60 * time.Second
	// portTimeout bounds how long a restarted broker waits for its old port.
	portTimeout = 5 * time.Second
	// lowestPort and highestPort (not included) bound the ports of brokers: below
	// the ephemeral ones of every system.
	lowestPort, highestPort = 26_000, 32_000
	// portTries bounds how many ports are tried.
	portTries = 100
)

// Option changes what [Start] starts.
type Option interface{ apply(*options) }

type optionFunc func(*options)

func (f optionFunc) apply(o *options) { f(o) }

type options struct {
	nodes    int
	settings map[string]string
	logger   *slog.Logger
}

// Nodes is how many brokers there are; default 1. Their ids are 1 to n.
func Nodes(n int) Option { return optionFunc(func(o *options) { o.nodes = n }) }

// Setting is a broker configuration, such as num.partitions.
func Setting(key, value string) Option {
	return optionFunc(func(o *options) { o.settings[key] = value })
}

// Logger takes the log of all brokers; default none.
func Logger(l *slog.Logger) Option { return optionFunc(func(o *options) { o.logger = l }) }

// Cluster is brokers of one test. Its methods may be called from the test's
// goroutine; Addrs from any.
type Cluster struct {
	t       testing.TB
	options options
	nodes   []*node
}

// node is one broker, whether it runs or not.
type node struct {
	id         int
	dir        string
	kafka, rpc string
	join       []string
	broker     *server.Broker // nil while it is down

	mu     sync.Mutex
	opened map[string]net.Listener // bound before the first start, by address
}

// Start starts brokers and returns when all can serve. They end with the test.
func Start(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	o := options{nodes: 1, settings: map[string]string{}}
	for _, opt := range opts {
		opt.apply(&o)
	}
	if o.nodes < 1 {
		t.Fatalf("millracetest: %d nodes", o.nodes)
	}
	c := &Cluster{t: t, options: o}
	dir := t.TempDir() // its removal is registered first, so it comes last
	t.Cleanup(c.stop)
	for id := 1; id <= o.nodes; id++ {
		n, err := newNode(id, filepath.Join(dir, fmt.Sprintf("n%d", id)))
		if err != nil {
			t.Fatalf("millracetest: %v", err)
		}
		c.nodes = append(c.nodes, n)
	}
	if o.nodes > 1 {
		for _, n := range c.nodes {
			for _, other := range c.nodes {
				n.join = append(n.join, other.rpc)
			}
		}
	}
	for _, n := range c.nodes {
		c.open(n)
	}
	for _, n := range c.nodes {
		c.waitReady(n)
	}
	return c
}

// newNode binds the ports first, so that each node knows where the others will be
// and nobody can take them.
func newNode(id int, dir string) (*node, error) {
	n := &node{id: id, dir: dir, opened: map[string]net.Listener{}}
	for _, address := range []*string{&n.kafka, &n.rpc} {
		l, err := listenAnywhere()
		if err != nil {
			return nil, err
		}
		*address = l.Addr().String()
		n.opened[*address] = l
	}
	return n, nil
}

// listenAnywhere binds a port that the system hands out to nobody: while its broker
// is down an ephemeral one could become somebody's connection.
func listenAnywhere() (l net.Listener, err error) {
	for range portTries {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("listen on any of %d ports: %w", portTries, err)
}

// listen gives the listener that was bound for the node, or binds its address
// anew after a restart; the system may hold the old one for a moment.
func (n *node) listen(network, address string) (net.Listener, error) {
	n.mu.Lock()
	l, ok := n.opened[address]
	delete(n.opened, address)
	n.mu.Unlock()
	if ok {
		return l, nil
	}
	deadline := time.Now().Add(portTimeout)
	for {
		l, err := net.Listen(network, address)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return l, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *Cluster) open(n *node) {
	c.t.Helper()
	broker, err := server.Open(context.Background(), server.Config{
		DataDir: n.dir, NodeID: int32(n.id), KafkaAddr: n.kafka, RPCAddr: n.rpc, HTTPAddr: "none",
		Join: n.join, Settings: maps.Clone(c.options.settings), Logger: c.options.logger, Listen: n.listen,
	})
	if err != nil {
		c.t.Fatalf("millracetest: start broker %d: %v", n.id, err)
	}
	n.broker = broker
}

func (c *Cluster) waitReady(n *node) {
	c.t.Helper()
	select {
	case <-n.broker.Ready():
	case <-n.broker.Stopped():
		c.t.Fatalf("millracetest: broker %d stopped by itself", n.id)
	case <-time.After(readyTimeout):
		c.t.Fatalf("millracetest: broker %d was not ready after %s", n.id, readyTimeout)
	}
}

// Addrs are the Kafka addresses of all brokers, also of those that are down.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		addrs[i] = n.kafka
	}
	return addrs
}

// Client opens a client that is closed when the test ends, before the brokers.
func (c *Cluster) Client(opts ...client.Option) *client.Client {
	c.t.Helper()
	cl, err := client.Open(context.Background(), c.Addrs(), opts...)
	if err != nil {
		c.t.Fatalf("millracetest: %v", err)
	}
	c.t.Cleanup(func() { cl.Close() })
	return cl
}

// node finds a broker by its id.
func (c *Cluster) node(id int) *node {
	c.t.Helper()
	if id < 1 || id > len(c.nodes) {
		c.t.Fatalf("millracetest: there is no broker %d; ids are 1 to %d", id, len(c.nodes))
	}
	return c.nodes[id-1]
}

// Kill stops the broker with this id as a crash of its process would: nothing is
// handed over or finished. Its data stays.
func (c *Cluster) Kill(id int) {
	c.t.Helper()
	n := c.node(id)
	if n.broker == nil {
		return
	}
	if err := n.broker.Kill(); err != nil {
		c.t.Errorf("millracetest: kill broker %d: %v", id, err)
	}
	n.broker = nil
}

// Stop stops the broker with this id as SIGTERM would: it moves leadership away
// first.
func (c *Cluster) Stop(id int) {
	c.t.Helper()
	n := c.node(id)
	if n.broker == nil {
		return
	}
	if err := n.broker.Close(); err != nil {
		c.t.Errorf("millracetest: stop broker %d: %v", id, err)
	}
	n.broker = nil
}

// StartNode starts a broker that is down, on its data, and does not wait.
func (c *Cluster) StartNode(id int) {
	c.t.Helper()
	if n := c.node(id); n.broker == nil {
		c.open(n)
	}
}

// Restart kills the broker with this id, if it runs, starts it again on its data,
// and returns when it can serve. That needs a majority of the brokers; to bring
// one back use [Cluster.StartNode] for each first.
func (c *Cluster) Restart(id int) {
	c.t.Helper()
	c.Kill(id)
	c.StartNode(id)
	c.waitReady(c.node(id))
}

// stop ends everything that runs, and gives unused ports back.
func (c *Cluster) stop() {
	var ending sync.WaitGroup
	for _, n := range c.nodes {
		ending.Go(func() {
			if n.broker != nil {
				n.broker.Kill()
			}
			for _, l := range n.opened {
				l.Close()
			}
		})
	}
	ending.Wait()
}

// String names the addresses, for messages.
func (c *Cluster) String() string { return strings.Join(c.Addrs(), ",") }
