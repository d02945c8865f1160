//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/cmd/internal/durability"
	"github.com/millrace/millrace/cmd/internal/localcluster"
	"github.com/millrace/millrace/segment/vfs"
)

const (
	topic      = "chaos"
	partitions = 6
	group      = "chaos"
	producers  = 3
	valueBytes = 200
	maxMessage = 256 << 10
	usualRate  = 1_500
	maxBrokers = 5
	// stagePrefix begins the names of the folders, before the process id.
	stagePrefix = "millrace-chaos-"
	// healLimit bounds how long a healed cluster may take until all replicas are in
	// step, readLimit how long consumers may need for what is left then.
	healLimit = time.Minute
	readLimit = time.Minute
	// impatience is how long a client of the load waits for an answer.
	impatience = time.Second
	// stopLimit bounds a graceful stop.
	stopLimit = 30 * time.Second
)

// stage is the cluster of one scenario, with the load on it.
type stage struct {
	scenario scenario
	binary   string
	dir      string
	world    *world
	volumes  []*volume
	proxies  []*proxy
	cluster  *localcluster.Cluster
	faults   *durability.Faults
	ledger   *durability.Ledger
	load     *durability.Load
	crowd    *durability.Crowd
	rng      *rand.Rand
	admin    *kadm.Client
	client   *kgo.Client
	figures  []figure

	watching sync.WaitGroup
	stop     context.CancelFunc
	// mayEnd are brokers that may end by themselves; guarded by mu.
	mu     sync.Mutex
	mayEnd map[int]bool
	paused map[int]bool
	// unplugged are brokers without a cable.
	unplugged map[int]bool
}

func (sc scenario) count() int {
	if sc.brokers == 0 {
		return 3
	}
	return sc.brokers
}

// newStage sets the network and the disks up; nothing runs yet.
func newStage(ctx context.Context, o options, sc scenario) (*stage, error) {
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-%s-", stagePrefix, os.Getpid(), sc.number))
	if err != nil {
		return nil, fmt.Errorf("temporary folder: %w", err)
	}
	faults := durability.NewFaults()
	s := &stage{
		scenario: sc, binary: o.binary, dir: dir, faults: faults, ledger: durability.NewLedger(uint32(o.seed), faults),
		rng: rand.New(rand.NewPCG(uint64(o.seed), 1)), mayEnd: map[int]bool{}, paused: map[int]bool{}, unplugged: map[int]bool{}, stop: func() {},
	}
	if err := s.build(o); err != nil {
		return nil, errors.Join(err, s.close(false))
	}
	return s, nil
}

func (s *stage) build(o options) (err error) {
	n := s.scenario.count()
	if s.world, err = newWorld(n); err != nil {
		return err
	}
	var ports []localcluster.Ports
	var hosts, rpc []string
	for i := 1; i <= n; i++ {
		ports = append(ports, localcluster.Ports{Kafka: 9092, RPC: 33145, HTTP: 9644})
		hosts = append(hosts, s.world.address(i))
		rpc = append(rpc, fmt.Sprintf("%s:%d", s.world.hostAddress(), 33145+i))
	}
	config := localcluster.Config{Binary: o.binary, Dir: s.dir, Ports: ports, Hosts: hosts, Args: s.scenario.args, Wrap: s.world.wrap}
	if s.scenario.proxied {
		for i := range n {
			p, err := newProxy(rpc[i], fmt.Sprintf("%s:33145", hosts[i]))
			if err != nil {
				return err
			}
			s.proxies = append(s.proxies, p)
		}
		config.NodeArgs = func(n int) []string {
			return []string{"--rpc-advertise", rpc[n-1], "--join", strings.Join(rpc, ",")}
		}
	}
	if s.cluster, err = localcluster.New(config); err != nil {
		return err
	}
	if s.scenario.volumes {
		for i := 1; i <= n; i++ {
			v, err := newVolume(s.cluster.DataDir(i))
			if err != nil {
				return err
			}
			s.volumes = append(s.volumes, v)
		}
	}
	return nil
}

// whole starts the cluster and the load, plays, heals, and judges.
func (s *stage) whole(ctx context.Context) error {
	if err := s.cluster.Start(ctx); err != nil {
		return err
	}
	if err := s.openClients(ctx); err != nil {
		return err
	}
	watched, stop := context.WithCancel(ctx)
	s.stop = stop
	s.watching.Go(func() { s.watchExits(watched) })
	began := time.Now()
	if err := s.startLoad(); err != nil {
		return err
	}
	if took, quiet := s.load.Gaps().WaitResumed(ctx, began); len(quiet) > 0 {
		return fmt.Errorf("partitions %v took no record in %s", quiet, took)
	}
	if err := s.scenario.play(ctx, s); err != nil {
		return errors.Join(err, s.faults.Err())
	}
	if err := s.heal(ctx); err != nil {
		return errors.Join(fmt.Errorf("heal: %w", err), s.faults.Err())
	}
	s.note("longest gap of a partition's acknowledgements", s.load.Gaps().Longest())
	if err := s.verify(ctx); err != nil {
		return errors.Join(err, s.faults.Err())
	}
	return s.faults.Err()
}

// openClients opens the clients of the scenario itself, and makes the topic.
func (s *stage) openClients(ctx context.Context) (err error) {
	s.client, err = kgo.NewClient(kgo.SeedBrokers(s.cluster.Addrs()...), kgo.DialTimeout(time.Second), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return fmt.Errorf("open client: %w", err)
	}
	s.admin = kadm.NewClient(s.client)
	segmentBytes, maxBytes := fmt.Sprint(4<<20), fmt.Sprint(maxMessage)
	configs := map[string]*string{"segment.bytes": &segmentBytes, "max.message.bytes": &maxBytes}
	resp, err := s.admin.CreateTopic(ctx, partitions, int16(s.scenario.count()), configs, topic)
	if err = errors.Join(err, resp.Err); err != nil {
		return fmt.Errorf("create topic: %w", err)
	}
	return nil
}

func (s *stage) startLoad() (err error) {
	rate := s.scenario.rate
	if rate == 0 {
		rate = usualRate
	}
	target := durability.Target{
		Seeds: s.cluster.Addrs(), Topic: topic, Partitions: partitions, ValueBytes: valueBytes, MaxMessageBytes: maxMessage, Rate: rate,
	}
	// A client that waits long for a broker that is silent would measure its own
	// patience, not how soon another leads.
	target.Dial = []kgo.Opt{kgo.ProduceRequestTimeout(impatience), kgo.RequestTimeoutOverhead(impatience)}
	if s.scenario.brittle {
		target.Dial = append(target.Dial, kgo.Dialer(brittleDialer))
	}
	s.load = durability.NewLoad(target, s.ledger, s.faults)
	s.crowd, err = s.load.Crowd(group, producers)
	return err
}

// watchExits notes brokers that end by themselves and must not.
func (s *stage) watchExits(ctx context.Context) {
	for {
		select {
		case e := <-s.cluster.Exits():
			s.mu.Lock()
			allowed := s.mayEnd[e.Node]
			s.mu.Unlock()
			if !allowed {
				s.faults.Add(durability.CE, "%v", e.Err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// heal undoes everything, and waits until all brokers are ready and all replicas in
// step.
func (s *stage) heal(ctx context.Context) error {
	if err := s.repair(); err != nil {
		return err
	}
	since := time.Now()
	for n := 1; n <= s.cluster.Nodes(); n++ {
		if err := s.cluster.StartNode(n); err != nil {
			return err
		}
	}
	for n := 1; n <= s.cluster.Nodes(); n++ {
		if err := s.cluster.WaitReady(ctx, n); err != nil {
			return err
		}
	}
	s.resumed(ctx, since, "heal")
	waiting, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	if missing := s.waitInStep(waiting); missing != "" {
		return errors.New(missing)
	}
	s.note("all replicas in step after heal", time.Since(since))
	return nil
}

// repair ends whatever was done to links, disks and processes.
func (s *stage) repair() error {
	var faults []error
	for _, p := range s.proxies {
		p.set(weather{})
	}
	if s.world != nil {
		faults = append(faults, s.world.healAll())
	}
	for _, v := range s.volumes {
		if v.mounted {
			faults = append(faults, v.thaw(), v.empty())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.unplugged)
	for n := range s.paused {
		faults = append(faults, s.signalLocked(n, false))
	}
	return errors.Join(faults...)
}

// verify ends the load, lets consumers read what is left, stops the brokers, and
// reads the segment files of all replicas.
func (s *stage) verify(ctx context.Context) error {
	s.load.StopProducers()
	waiting, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	ends, err := s.load.Ends(waiting)
	if err != nil {
		return err
	}
	s.load.WaitRead(waiting, ends, s.crowd.Readers, s.crowd.Group)
	if missing := s.waitReached(waiting, ends); missing != "" {
		return errors.New(missing)
	}
	s.load.Close()
	stopping, stopped := context.WithTimeout(ctx, stopLimit)
	defer stopped()
	if err := s.cluster.Close(stopping); err != nil {
		return err
	}
	folders := map[int]string{}
	for n := 1; n <= s.cluster.Nodes(); n++ {
		folders[n] = s.cluster.DataDir(n)
	}
	_, _, err = s.ledger.CheckFolders(vfs.OS(), folders, topic, s.cluster.Nodes(), ends)
	return err
}

// close ends and removes everything; keep leaves the data and logs.
func (s *stage) close(keep bool) error {
	faults := []error{s.repair()}
	if s.load != nil {
		s.load.Close()
	}
	if s.client != nil {
		s.client.Close()
	}
	s.stop()
	s.watching.Wait()
	if s.cluster != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel() // whoever runs still had its time to stop
		s.cluster.Close(ended)
	}
	for _, p := range s.proxies {
		p.close()
	}
	for _, v := range s.volumes {
		faults = append(faults, v.close(keep))
	}
	if s.world != nil {
		faults = append(faults, s.world.close())
	}
	if keep {
		fmt.Printf("       data and logs of the brokers are kept in %s\n", filepath.Clean(s.dir))
		return errors.Join(faults...)
	}
	return errors.Join(append(faults, os.RemoveAll(s.dir))...)
}
