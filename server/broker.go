package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
)

const (
	// drainGrace is how long a graceful stop waits for requests under way.
	drainGrace = 10 * time.Second
	// transferGrace is how long it tries to move leadership away.
	transferGrace = 10 * time.Second
	// retryPause is the pause between two attempts to catch up at start.
	retryPause = 50 * time.Millisecond
)

// Broker is a running broker. All methods may be called concurrently.
type Broker struct {
	config   Config
	node     *node
	host     *replication.Host
	listener *listener
	http     *httpServer
	info     Info
	opened   time.Time

	ready     chan struct{}   // closed when the broker can serve
	took      atomic.Int64    // nanoseconds from Open to ready
	stopping  context.Context // ends when a stop begins
	stop      context.CancelFunc
	context   context.Context // ends with the broker
	cancel    context.CancelFunc
	workers   sync.WaitGroup
	fatal     chan error
	closeOnce sync.Once
	closed    chan struct{}
	closeErr  error
}

// Info says how a broker can be reached; for the line that announces it.
type Info struct {
	// Node is the broker's id.
	Node int32
	// Cluster is the cluster id, empty until the broker belongs to one.
	Cluster string
	// Kafka is the address really listened on for clients, host:port.
	Kafka string
	// RPC is the address really listened on for other brokers.
	RPC string
	// HTTP is the address really listened on for health, empty for none.
	HTTP string
	// Took is how long it took from Open until the broker was ready, 0 before.
	Took time.Duration
}

// Open starts a broker: the binary's own constructor, without globals, so that
// any number of brokers run in one process. It returns when the data folder is
// locked and read and the listeners are bound; Ready tells when the broker can
// serve. ctx bounds Open alone.
func Open(ctx context.Context, config Config) (*Broker, error) {
	b := &Broker{opened: time.Now(), ready: make(chan struct{}),
		closed: make(chan struct{}), fatal: make(chan error, 1)}
	b.config = config.withDefaults()
	settings, err := b.config.validate()
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	sockets, err := listen(&b.config)
	if err != nil {
		return nil, err
	}
	b.context, b.cancel = context.WithCancel(context.Background())
	b.stopping, b.stop = context.WithCancel(b.context)
	if b.host, err = replication.Open(ctx, b.hostConfig(sockets, settings)); err != nil {
		b.cancel()
		sockets.close()
		return nil, fmt.Errorf("open broker %d: %w", b.config.NodeID, err)
	}
	b.assemble(settings, sockets)
	return b, nil
}

// sockets are the listeners of a broker.
type sockets struct{ kafka, rpc, http net.Listener }

// listen binds all of them, or none.
func listen(c *Config) (*sockets, error) {
	s := &sockets{}
	for _, l := range []struct {
		to      *net.Listener
		what    string
		address string
	}{{&s.kafka, "--kafka-addr", c.KafkaAddr}, {&s.rpc, "--rpc-addr", c.RPCAddr}, {&s.http, "--http-addr", c.HTTPAddr}} {
		if l.address == noHTTP {
			continue
		}
		var err error
		if *l.to, err = c.Listen("tcp", l.address); err != nil {
			s.close()
			return nil, fmt.Errorf("listen on %s %s: %w; is another broker running? choose another address", l.what, l.address, cause(err))
		}
	}
	return s, nil
}

// cause takes the address, which the caller names, out of a network error.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}

func (s *sockets) close() {
	for _, l := range []net.Listener{s.kafka, s.rpc, s.http} {
		if l != nil {
			l.Close()
		}
	}
}

// hostConfig is the configuration of the layer below.
func (b *Broker) hostConfig(s *sockets, settings *brokerSettings) replication.Config {
	c := &b.config
	kafka := c.Advertise
	if kafka == "" {
		kafka = reachable(s.kafka.Addr().String())
	}
	rpc := c.RPCAdvertise
	if rpc == "" {
		rpc = reachable(s.rpc.Addr().String())
	}
	_, sealed := divideFiles(fileLimit())
	return replication.Config{
		FS: c.FS, DataDir: c.DataDir, Node: metadata.NodeID(c.NodeID), Listener: s.rpc, Dial: c.Dial,
		RPCAddress: rpc, KafkaAddress: kafka, Rack: c.Rack, Version: c.Version,
		Join: c.Join, FoundWithout: c.FoundWithout, MetaStores: c.MetaStores, Timings: c.Timings,
		OpenFiles: sealed, Balance: settings.balance, Logger: c.Logger,
		Policy:            func(t *metadata.Topic) replication.Policy { return policyOf(t, settings) },
		RetentionInterval: settings.retentionCheck, RetentionWait: settings.retentionWait, SeedRate: settings.seedRate,
		Fatal: func(err error) {
			select {
			case b.fatal <- err:
			default:
			}
		},
	}
}

// reachable makes an address that others can dial of one that is listened on:
// every interface becomes the name of this machine.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			return net.JoinHostPort(name, port)
		}
	}
	return address
}

// assemble puts the handlers over the host and starts the broker's goroutines.
func (b *Broker) assemble(settings *brokerSettings, s *sockets) {
	b.node = newNode(hostCluster{b.host}, settings, b.config.Logger)
	b.node.advertised, b.node.rack = b.config.Advertise, b.config.Rack
	b.node.listen, b.node.dataDir = s.kafka.Addr().String(), b.config.DataDir
	b.node.stopping = b.stopping
	b.node.groups = newGroupService(b.node)
	b.listener = newListener(b.node, s.kafka)
	b.info = Info{Node: b.config.NodeID, Kafka: s.kafka.Addr().String(), RPC: s.rpc.Addr().String()}
	if s.http != nil {
		b.info.HTTP = s.http.Addr().String()
		b.http = newHTTPServer(b, s.http)
		b.workers.Go(b.http.serve)
	}
	b.workers.Go(func() { b.node.leaders.run(b.node.cluster, b.context.Done()) })
	b.workers.Go(func() { b.node.groups.follow(b.node, b.context.Done()) })
	b.workers.Go(b.begin)
	go b.watchFatal()
}

// begin accepts clients once the metadata is caught up, so that none is told of
// an empty cluster, and announces the broker when every replica is ready. A
// partition without a majority keeps the broker from being ready, not from
// serving the others; a founder that has not joined yet keeps topics from being
// created too.
func (b *Broker) begin() {
	for b.host.Meta().CaughtUp(b.context) != nil {
		select {
		case <-b.context.Done():
			return
		case <-time.After(retryPause):
		}
	}
	b.listener.start()
	if err := b.host.WaitReady(b.context); err != nil {
		return
	}
	select {
	case <-b.stopping.Done():
		return
	default:
	}
	b.took.Store(int64(time.Since(b.opened)))
	close(b.ready)
}

// watchFatal ends the broker when its storage failed: clients are cut off at
// once, the owner is told, then everything is closed, which may take as long as
// the disk does.
func (b *Broker) watchFatal() {
	select {
	case <-b.closed:
	case err := <-b.fatal:
		b.stop()
		b.listener.kill()
		b.config.OnFatal(err)
		_ = b.close(false) // the error is known
	}
}

// Ready is closed once the broker can serve: its metadata is caught up, all
// founders of the cluster have joined it, and every replica on it is recovered and
// has a known leader.
func (b *Broker) Ready() <-chan struct{} { return b.ready }

// Stopped is closed when the broker was closed, by whomever.
func (b *Broker) Stopped() <-chan struct{} { return b.closed }

// Info says how the broker can be reached.
func (b *Broker) Info() Info {
	info := b.info
	info.Cluster = b.host.ClusterID()
	info.Took = time.Duration(b.took.Load())
	return info
}

// KafkaAddr is the address at which Kafka clients connect.
func (b *Broker) KafkaAddr() string { return b.info.Kafka }

// Close stops the broker gracefully: it is not ready any more, moves leadership
// to other brokers, answers the requests under way, and closes its folder with a
// mark that makes the next start fast.
func (b *Broker) Close() error { return b.close(true) }

// Kill stops the broker as abruptly as can be done within a process: nothing is
// handed over, finished or marked. For tests of what a crash does.
func (b *Broker) Kill() error { return b.close(false) }

func (b *Broker) close(graceful bool) error {
	b.closeOnce.Do(func() {
		b.stop() // /readyz says no, long polls return
		if graceful {
			b.closeErr = b.closeGracefully()
		} else {
			b.listener.kill()
			b.cancel()
			b.closeErr = b.host.Close()
		}
		b.listener.wg.Wait()
		b.closeErr = errors.Join(b.closeErr, b.node.groups.close())
		if b.http != nil {
			b.http.close()
		}
		b.workers.Wait()
		close(b.closed)
	})
	<-b.closed
	return b.closeErr
}

// closeGracefully hands leadership over first, while clients can still be told
// where it went; then it answers what is under way, and closes the replicas.
func (b *Broker) closeGracefully() error {
	ctx, cancel := context.WithTimeout(context.Background(), transferGrace)
	defer cancel()
	b.listener.stopAccepting()
	b.host.HandOverAll(ctx)
	b.listener.drain(drainGrace)
	b.cancel()
	return b.host.Shutdown(ctx)
}

// ReadyLine is the line that announces a broker: it begins with "ready" and has
// node=, cluster=, kafka=, rpc=, http= and took=.
func (i Info) ReadyLine() string {
	http := i.HTTP
	if http == "" {
		http = noHTTP
	}
	return strings.Join([]string{"ready", fmt.Sprintf("node=%d", i.Node), "cluster=" + i.Cluster, "kafka=" + i.Kafka,
		"rpc=" + i.RPC, "http=" + http, "took=" + i.Took.Round(time.Microsecond).String()}, " ")
}
