// Soak runs three broker processes under load for a long time, kills, stops and
// restarts them, and checks every record: the program behind make soak.
//
// Idempotent producers, a producer that sends each batch once, a consumer group
// that commits, a reader from the start and one with auto.offset.reset=latest are
// at work, while chance (of a printed seed) chooses what happens to the brokers:
// SIGKILL for the leader of a partition, for two or for all three, which start
// again in any order, SIGKILL in the middle of a start, SIGTERM for a leader or for
// all. Package durability has the load and the promises that are checked; at the
// end the brokers are stopped and the segment files of all replicas are read and
// compared.
//
// It ends with one line, "soak: ok ..." or "soak: FAILED ..." and a non-zero exit
// code, 130 after Ctrl-C. It fails on any broken promise, and below -duration, -kills
// or -records, and says in any case what was done. Nothing is left running; the data
// of a failed run is kept, and its folder named, that of an interrupted one is not.
//
// The files: mischief.go does things to brokers, report.go prints, verify.go reads
// the segment files.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/cmd/internal/durability"
	"github.com/millrace/millrace/cmd/internal/localcluster"
)

const (
	topic      = "soak"
	partitions = 6
	replicas   = 3
	group      = "soak"
	producers  = 4
	valueBytes = 120
	// maxMessage is the topic's max.message.bytes; the plain producer exceeds it.
	maxMessage = 256 << 10
	// headroom is how much more than the wanted records is sent in the wanted
	// time, for the time in which brokers are down.
	headroom = 1.35
	// readLimit bounds how long consumers may need for what is left at the end.
	readLimit = 2 * time.Minute
	// stopLimit bounds a graceful stop.
	stopLimit = 30 * time.Second
	// exitInterrupted is the exit code after Ctrl-C.
	exitInterrupted = 130
)

// options are the flags.
type options struct {
	binary   string
	duration time.Duration
	kills    int
	records  int64
	limit    time.Duration
	seed     int64
}

// define makes the flags; their defaults are what a run must reach.
func (o *options) define(flags *flag.FlagSet) {
	flags.StringVar(&o.binary, "millrace", "bin/millrace", "the millrace `executable`")
	flags.DurationVar(&o.duration, "duration", 10*time.Minute, "the least time to run")
	flags.IntVar(&o.kills, "kills", 100, "the least number of kills")
	flags.Int64Var(&o.records, "records", 10_000_000, "the least number of acknowledged records")
	flags.DurationVar(&o.limit, "limit", 30*time.Minute, "when to give up")
	flags.Int64Var(&o.seed, "seed", 0, "what chance does; 0 draws one")
}

func main() {
	var o options
	o.define(flag.CommandLine)
	flag.Parse()
	if o.seed == 0 {
		o.seed = time.Now().UnixNano() % 1_000_000
	}
	// SIGHUP, too: a terminal that is closed must leave nothing behind.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	line, err := run(ctx, o)
	switch {
	case ctx.Err() != nil:
		fmt.Printf("soak: FAILED seed=%d interrupted\n", o.seed)
		os.Exit(exitInterrupted)
	case err != nil:
		fmt.Printf("soak: FAILED seed=%d %v\n", o.seed, err)
		os.Exit(1)
	}
	fmt.Println(line)
}

// run is the whole soak. Its folder is gone when it returns without an error.
func run(ctx context.Context, o options) (line string, err error) {
	fmt.Printf("soak: seed %d; at least %s, %d kills, %d records\n", o.seed, o.duration, o.kills, o.records)
	dir, err := os.MkdirTemp("", "millrace-soak-")
	if err != nil {
		return "", fmt.Errorf("temporary folder: %w", err)
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			fmt.Printf("data and logs of the brokers are kept in %s\n", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	ports, err := localcluster.FreePorts(3)
	if err != nil {
		return "", err
	}
	cluster, err := startCluster(ctx, o.binary, dir, ports)
	if err != nil {
		return "", err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		if ctx.Err() != nil {
			cancel() // nobody wants to wait for a graceful end after Ctrl-C
		}
		err = errors.Join(err, cluster.Close(stopping))
	}()
	if err := createTopic(ctx, cluster.Addrs()); err != nil {
		return "", err
	}
	faults := durability.NewFaults()
	s := &soak{
		options: o, cluster: cluster, faults: faults, rng: rand.New(rand.NewPCG(uint64(o.seed), 0)),
		ledger: durability.NewLedger(uint32(o.seed), faults), began: time.Now(), resumes: map[string][]time.Duration{},
	}
	return s.play(ctx)
}

// startCluster starts three brokers.
func startCluster(ctx context.Context, binary, dir string, ports []localcluster.Ports) (*localcluster.Cluster, error) {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return nil, fmt.Errorf("executable: %w", err)
	}
	c, err := localcluster.New(localcluster.Config{Binary: binary, Dir: dir, Ports: ports})
	if err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, errors.Join(err, c.Close(ctx))
	}
	return c, nil
}

func createTopic(ctx context.Context, addrs []string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
	if err != nil {
		return fmt.Errorf("open client: %w", err)
	}
	defer client.Close()
	segmentBytes, maxBytes := fmt.Sprint(16<<20), fmt.Sprint(maxMessage)
	configs := map[string]*string{"segment.bytes": &segmentBytes, "max.message.bytes": &maxBytes}
	resp, err := kadm.NewClient(client).CreateTopic(ctx, partitions, replicas, configs, topic)
	if err = errors.Join(err, resp.Err); err != nil {
		return fmt.Errorf("create topic: %w", err)
	}
	return nil
}

// soak is one run on a cluster that is up.
type soak struct {
	options
	cluster *localcluster.Cluster
	faults  *durability.Faults
	ledger  *durability.Ledger
	load    *durability.Load
	crowd   *durability.Crowd
	rng     *rand.Rand
	began   time.Time

	kills   int
	resumes map[string][]time.Duration // how long writes paused, by what was done
}

// play loads, makes mischief until enough has happened, and verifies.
func (s *soak) play(ctx context.Context) (line string, err error) {
	defer func() {
		if err != nil { // say what was done until then, and why else it may have failed
			s.progress()
			err = errors.Join(err, s.faults.Err())
		}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, s.limit, fmt.Errorf("not done after %s", s.limit))
	defer cancel()
	s.load = durability.NewLoad(durability.Target{
		Seeds: s.cluster.Addrs(), Topic: topic, Partitions: partitions, ValueBytes: valueBytes, MaxMessageBytes: maxMessage,
		Rate: int(float64(s.records) / s.duration.Seconds() * headroom / producers),
	}, s.ledger, s.faults)
	defer s.load.Close()
	if s.crowd, err = s.load.Crowd(group, producers); err != nil {
		return "", err
	}
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		s.watchExits(ctx)
	}()
	defer func() { <-watching }()
	defer cancel() // before the wait, so that it ends
	if err := s.makeMischief(ctx); err != nil {
		return "", s.why(ctx, err)
	}
	ends, err := s.drain(ctx)
	if err != nil {
		return "", s.why(ctx, err)
	}
	counts := s.ledger.Counts()
	if err := s.verify(ctx, ends); err != nil {
		return "", err
	}
	if s.faults.Err() != nil {
		return "", errors.New("the records were checked")
	}
	return s.summary(counts), nil
}

// why is the reason of a failure: the end of the time, if that is what it was.
func (s *soak) why(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w: %s: %w", context.Cause(ctx), s.progressLine(), err)
}

// watchExits notes brokers that end by themselves.
func (s *soak) watchExits(ctx context.Context) {
	for {
		select {
		case e := <-s.cluster.Exits():
			s.faults.Add(durability.CE, "%v", e.Err)
		case <-ctx.Done():
			return
		}
	}
}
