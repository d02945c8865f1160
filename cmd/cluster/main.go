// Cluster keeps three Millrace brokers on this machine: the program behind make
// cluster, make cluster-down and make cluster-clean. Data, logs and process ids
// are in one folder.
//
//	go run ./cmd/cluster [-millrace bin/millrace] [-dir .cluster] up|down|clean
//
// Up starts what does not run yet and keeps all data; if that fails or is
// interrupted, it stops what it has started. Down stops gracefully; clean stops and
// removes the data.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/millrace/millrace/cmd/internal/localcluster"
)

// stopTimeout bounds how long a broker may take to stop gracefully.
const stopTimeout = 30 * time.Second

func main() {
	binary := flag.String("millrace", "bin/millrace", "the millrace `executable`")
	dir := flag.String("dir", ".cluster", "the `folder` of the cluster")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, *dir, flag.Args(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary, dir string, args []string, out io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("say one of up, down and clean")
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		return fmt.Errorf("executable: %w", err)
	}
	if args[0] != "up" {
		if _, err := os.Stat(dir); err != nil {
			fmt.Fprintf(out, "there is no cluster in %s\n", dir)
			return nil
		}
	}
	c, err := localcluster.New(localcluster.Config{
		Binary: binary, Dir: dir, Ports: localcluster.StandardPorts(), Detached: true,
	})
	if err != nil {
		return err
	}
	return do(ctx, c, dir, args[0], out)
}

// do carries out one of the three words.
func do(ctx context.Context, c *localcluster.Cluster, dir, what string, out io.Writer) error {
	switch what {
	case "up":
		return up(ctx, c, dir, out)
	case "down":
		return down(ctx, c, out)
	case "clean":
		if err := down(ctx, c, out); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove data: %w", err)
		}
		fmt.Fprintf(out, "removed %s\n", dir)
		return nil
	}
	return fmt.Errorf("%q is none of up, down and clean", what)
}

func up(ctx context.Context, c *localcluster.Cluster, dir string, out io.Writer) error {
	ran := make([]bool, c.Nodes()+1)
	for n := 1; n <= c.Nodes(); n++ {
		ran[n] = c.Running(n)
	}
	if err := c.Start(ctx); err != nil {
		return errors.Join(err, takeBack(ctx, c, ran, out))
	}
	fmt.Fprintln(out, "NODE  KAFKA            HTTP             PROCESS  STATE")
	for n := 1; n <= c.Nodes(); n++ {
		state := "started"
		if ran[n] {
			state = "ran already"
		}
		fmt.Fprintf(out, "%4d  %-15s  %-15s  %7d  %s\n", n, c.Addrs()[n-1], c.HTTPAddr(n), c.Pid(n), state)
	}
	fmt.Fprintf(out, `
Data and logs are under %s. Try:

  bin/millrace cluster info
  bin/millrace topic create orders -p 6
  echo hello | bin/millrace produce orders
  bin/millrace consume orders -e
  make cluster-down     stops the brokers, data stays
  make cluster-clean    removes the data
`, dir)
	return nil
}

// takeBack stops the brokers that a failed up has started. Those that ran before are
// left alone.
func takeBack(ctx context.Context, c *localcluster.Cluster, ran []bool, out io.Writer) error {
	var started []int
	for n := 1; n <= c.Nodes(); n++ {
		if !ran[n] {
			started = append(started, n)
		} else if c.Running(n) {
			fmt.Fprintf(out, "broker %d ran before and still runs; make cluster-down stops it\n", n)
		}
	}
	if err := stop(context.WithoutCancel(ctx), c, started, out); err != nil { // ctx may be over: an interrupt
		return fmt.Errorf("some brokers that were started still run; make cluster-down stops them: %w", err)
	}
	return nil
}

func down(ctx context.Context, c *localcluster.Cluster, out io.Writer) error {
	var all []int
	for n := 1; n <= c.Nodes(); n++ {
		all = append(all, n)
	}
	return stop(ctx, c, all, out)
}

// stop ends some brokers gracefully and waits until they are gone.
func stop(ctx context.Context, c *localcluster.Cluster, nodes []int, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	// All are told at once: brokers that go together need not hand leadership on.
	type result struct {
		node int
		was  bool
		err  error
	}
	results := make(chan result, len(nodes))
	for _, n := range nodes {
		go func() {
			was, err := c.StopDetached(ctx, n)
			results <- result{n, was, err}
		}()
	}
	var faults []error
	for range nodes {
		r := <-results
		faults = append(faults, r.err)
		if r.was && r.err == nil {
			fmt.Fprintf(out, "stopped broker %d\n", r.node)
		}
	}
	return errors.Join(faults...)
}
