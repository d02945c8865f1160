package localcluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/cmd/internal/testbinary"
)

// ownerMode makes this test binary a process that starts a cluster and waits to
// be killed: its value is "BINARY:FOLDER".
const ownerMode = "LOCALCLUSTER_TEST_OWNER"

func TestMain(m *testing.M) {
	if where := os.Getenv(ownerMode); where != "" {
		if err := own(where); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// own starts one node, says its process id, and waits.
func own(where string) error {
	binary, dir, _ := strings.Cut(where, ":")
	ports, err := FreePorts(1)
	if err != nil {
		return err
	}
	c, err := New(Config{Binary: binary, Dir: dir, Ports: ports})
	if err != nil {
		return err
	}
	if err := c.Start(context.Background()); err != nil {
		return err
	}
	fmt.Println(c.Pid(1))
	select {}
}

// newCluster prepares n nodes; what runs at the end of the test is killed.
func newCluster(t *testing.T, binary string, n int) *Cluster {
	t.Helper()
	ports, err := FreePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Binary: binary, Dir: t.TempDir(), Ports: ports})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for n := 1; n <= c.Nodes(); n++ {
			if err := c.Kill(n); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestThreeProcesses(t *testing.T) {
	c := newCluster(t, testbinary.Build(t), 3)
	ctx := limited(t)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil { // all run already
		t.Fatal(err)
	}
	sdk, err := client.Open(ctx, c.Addrs())
	if err != nil {
		t.Fatal(err)
	}
	defer sdk.Close()
	if err := sdk.Admin().Create(ctx, client.TopicSpec{Name: "t", Partitions: 1, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	produce := func() {
		t.Helper()
		if err := sdk.Produce(ctx, &client.Record{Topic: "t", Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	produce()
	if err := c.Kill(2); err != nil {
		t.Fatal(err)
	}
	if c.Running(2) || c.Pid(2) != 0 {
		t.Error("a killed node runs")
	}
	produce()
	if err := c.StartNode(2); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(ctx, 3); err != nil {
		t.Error(err)
	}
	produce()
	select {
	case e := <-c.Exits():
		t.Errorf("an end that was asked for was told as an accident: %v", e.Err)
	default:
	}
	// Somebody else kills a node.
	process, err := os.FindProcess(c.Pid(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-c.Exits():
		if e.Node != 1 || !strings.Contains(e.Err.Error(), "killed") {
			t.Errorf("told as %+v", e)
		}
	case <-ctx.Done():
		t.Fatal("the accident was not told")
	}
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestANodeThatDoesNotStart(t *testing.T) {
	script := filepath.Join(t.TempDir(), "millrace")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho the disk is on fire >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, script, 1)
	if err := c.Start(limited(t)); err == nil || !strings.Contains(err.Error(), "the disk is on fire") {
		t.Errorf("error is %v", err)
	}
	if err := newCluster(t, filepath.Join(t.TempDir(), "nothing"), 1).Start(limited(t)); err == nil {
		t.Error("an executable that is not there was started")
	}
	if _, err := New(Config{Dir: t.TempDir()}); err == nil {
		t.Error("a cluster without nodes was made")
	}
}

// TestANodeThatIsNeverReady: a line that only contains the word does not count,
// and waiting ends with its context.
func TestANodeThatIsNeverReady(t *testing.T) {
	script := filepath.Join(t.TempDir(), "millrace")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho not ready >&2\nexec sleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, script, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := c.Start(ctx); err == nil || !strings.Contains(err.Error(), "not ready") {
		t.Errorf("error is %v", err)
	}
}

func TestDetachedProcesses(t *testing.T) {
	binary := testbinary.Build(t)
	ports, err := FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	config := Config{Binary: binary, Dir: t.TempDir(), Ports: ports, Detached: true}
	ctx := limited(t)
	first, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { first.StopDetached(context.Background(), 1) })
	if err := first.Start(ctx); err != nil {
		t.Fatal(err)
	}
	pid := first.Pid(1)
	second, err := New(config) // as another run of the program would
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if second.Pid(1) != pid || pid == 0 {
		t.Errorf("the process was %d and is %d", pid, second.Pid(1))
	}
	if was, err := second.StopDetached(ctx, 1); !was || err != nil {
		t.Errorf("stop: %v, %v", was, err)
	}
	if second.Running(1) {
		t.Error("it runs after it was stopped")
	}
	if was, err := second.StopDetached(ctx, 1); was || err != nil {
		t.Errorf("stop again: %v, %v", was, err)
	}
	// The process id of somebody else is not a node.
	if err := os.WriteFile(first.pidFile(1), fmt.Append(nil, os.Getpid()), 0o644); err != nil {
		t.Fatal(err)
	}
	if first.Running(1) {
		t.Error("this test passes for a broker")
	}
}

// TestFreePorts: nobody is given ports that somebody has, nor ports that the system
// may hand out to a connection.
func TestFreePorts(t *testing.T) {
	seen := map[int]bool{}
	var all [][]Ports // so that all stay in use
	defer func() { runtime.KeepAlive(all) }()
	for range 50 {
		ports, err := FreePorts(3)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ports)
		runtime.GC()
		for _, p := range ports {
			for _, port := range []int{p.Kafka, p.RPC, p.HTTP} {
				if seen[port] {
					t.Errorf("port %d was given twice", port)
				}
				seen[port] = true
				if port < lowestPort || port >= highestPort {
					t.Errorf("port %d is out of bounds", port)
				}
			}
		}
	}
	if _, err := FreePorts(maxNodes + 1); err == nil {
		t.Error("more nodes than a block has ports for were given some")
	}
}
