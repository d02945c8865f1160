// Demo shows Millrace at work and checks it: the program behind make demo.
//
// It starts three broker processes in a temporary folder, loads 50,000 real
// GitHub events into a topic of 6 partitions and 3 replicas at full speed, while
// two members of a consumer group read them, kills the leader of a partition
// with SIGKILL in mid-load, starts it again, waits until the group has committed
// everything, and says what became of every single event. It ends with one line:
//
//	demo: ok acked=N consumed=N lost=0 duplicated=0 out_of_order=0 gap_ms=N rate_mb_s=N
//
// or "demo: FAILED ..." and a non-zero exit code, 130 after Ctrl-C. Nothing is left
// running or on disk, however it ends.
//
// The files: corpus.go makes events of the examples, load.go produces them,
// members.go reads them, victim.go kills and restarts the broker, report.go
// prints.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/cmd/internal/checker"
	"github.com/millrace/millrace/cmd/internal/localcluster"
)

const (
	topic      = "github-events"
	partitions = 6
	replicas   = 3
	group      = "demo"
	// limit bounds the whole run, the cleaning up excepted.
	limit = 55 * time.Second
	// stopLimit bounds how long brokers may take to stop before SIGKILL.
	stopLimit = 4 * time.Second
	// exitInterrupted is the exit code after Ctrl-C.
	exitInterrupted = 130
)

// options are the flags.
type options struct {
	binary string
	events string
	count  int
	out    io.Writer
}

func main() {
	o := options{out: os.Stdout}
	flag.StringVar(&o.binary, "millrace", "", "the millrace `executable`; built if not given")
	flag.StringVar(&o.events, "events", "testdata/events/github.ndjson.gz", "the `file` of example events")
	flag.IntVar(&o.count, "count", 50_000, "how many events")
	flag.Parse()
	// SIGHUP, too: a terminal that is closed must leave nothing behind.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	line, err := run(ctx, o)
	switch {
	case ctx.Err() != nil:
		fmt.Println("demo: FAILED interrupted")
		os.Exit(exitInterrupted)
	case err != nil:
		fmt.Printf("demo: FAILED %v\n", err)
		os.Exit(1)
	}
	fmt.Println(line)
}

// run is the whole demo; all it made is gone when it returns.
func run(ctx context.Context, o options) (line string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %s", limit))
	defer cancel()
	corpus, err := loadCorpus(o.events)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "millrace-demo-")
	if err != nil {
		return "", fmt.Errorf("temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.binary == "" {
		o.binary = filepath.Join(dir, "millrace")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", o.binary, "./cmd/millrace").CombinedOutput(); err != nil {
			return "", fmt.Errorf("build millrace: %w: %s", err, out)
		}
	}
	ports, err := localcluster.FreePorts(3)
	if err != nil {
		return "", err
	}
	cluster, err := startCluster(ctx, o, dir, ports)
	if err != nil {
		return "", err
	}
	defer func() {
		// Graceful for a moment, then not: the data is thrown away anyhow. Nobody
		// wants to wait for that after Ctrl-C.
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		if ctx.Err() != nil {
			cancel()
		}
		cluster.Close(stopping)
	}()
	d := &demo{options: o, corpus: corpus, cluster: cluster, checker: checker.New(), gaps: checker.NewGaps(), started: time.Now()}
	return d.play(ctx)
}

// startCluster starts three brokers.
func startCluster(ctx context.Context, o options, dir string, ports []localcluster.Ports) (*localcluster.Cluster, error) {
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return nil, fmt.Errorf("executable: %w", err)
	}
	begin := time.Now()
	c, err := localcluster.New(localcluster.Config{Binary: binary, Dir: filepath.Join(dir, "cluster"), Ports: ports})
	if err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		for n := 1; n <= c.Nodes(); n++ {
			c.Kill(n)
		}
		return nil, err
	}
	fmt.Fprintf(o.out, "three brokers are ready after %d ms: %v\n", time.Since(begin).Milliseconds(), c.Addrs())
	return c, nil
}

// demo is one run on a cluster that is up.
type demo struct {
	options
	corpus  *corpus
	cluster *localcluster.Cluster
	checker *checker.Checker
	gaps    *checker.Gaps
	started time.Time
}

// play loads, reads, kills, waits and reports.
func (d *demo) play(ctx context.Context) (string, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	c, err := client.Open(ctx, d.cluster.Addrs(), client.WithClientID("demo-load"))
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, _, err := c.Admin().Ensure(ctx, client.TopicSpec{Name: topic, Partitions: partitions, Replicas: replicas}); err != nil {
		return "", err
	}
	fmt.Fprintf(d.out, "topic %s: %d partitions, %d replicas\n", topic, partitions, replicas)

	members, err := joinMembers(ctx, d.cluster.Addrs(), d.corpus, d.checker, fail)
	if err != nil {
		return "", err
	}
	defer members.stop()
	if err := members.waitAssigned(ctx); err != nil {
		return "", whyOf(ctx, err)
	}
	fmt.Fprintf(d.out, "group %s: %s\n", group, members.partitions())
	load := newLoad(c, d.corpus, d.count, d.checker, d.gaps)
	victim := newVictim(d.cluster, c, load, d.out)
	var watching background
	defer watching.wait()
	defer fail(nil) // before the wait, so that it ends
	watching.do(func() { d.watchBrokers(ctx, fail) })
	watching.do(func() { d.progress(ctx, load, members) })
	watching.do(func() {
		if err := victim.kill(ctx); err != nil {
			fail(err)
		}
	})

	if err := load.run(ctx); err != nil {
		return "", whyOf(ctx, err)
	}
	if err := victim.wait(ctx); err != nil {
		return "", whyOf(ctx, err)
	}
	if err := d.waitCommitted(ctx, c); err != nil {
		return "", whyOf(ctx, err)
	}
	readers := members.partitions()
	if err := members.stop(); err != nil {
		return "", err
	}
	return d.report(ctx, c, load, victim, readers)
}

// whyOf prefers the reason why the context ended to what that broke.
func whyOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// watchBrokers fails the run when a broker ends that nobody killed.
func (d *demo) watchBrokers(ctx context.Context, fail context.CancelCauseFunc) {
	select {
	case e := <-d.cluster.Exits():
		fail(e.Err)
	case <-ctx.Done():
	}
}

// waitCommitted waits until the group has committed the end of every partition.
func (d *demo) waitCommitted(ctx context.Context, c *client.Client) error {
	adm := c.Admin().Kadm()
	for {
		ends, err := adm.ListEndOffsets(ctx, topic)
		if err == nil {
			err = ends.Error()
		}
		done := err == nil
		if err == nil {
			committed, err := adm.FetchOffsetsForTopics(ctx, group, topic)
			done = err == nil
			for partition, end := range ends[topic] {
				at, ok := committed.Lookup(topic, partition)
				done = done && ok && at.At >= end.Offset
			}
		}
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("the group has not committed everything"), context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
