package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/cmd/internal/localcluster"
	"github.com/millrace/millrace/cmd/internal/testbinary"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestClusterUpDownClean: up is idempotent, down keeps the data, clean removes it.
func TestClusterUpDownClean(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ports, err := localcluster.FreePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "cluster")
	binary := testbinary.Build(t)
	var last string
	say := func(what string) string {
		t.Helper()
		c, err := localcluster.New(localcluster.Config{Binary: binary, Dir: dir, Ports: ports, Detached: true})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := do(ctx, c, dir, what, &out); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		last = c.Addrs()[0]
		return out.String()
	}
	t.Cleanup(func() {
		if _, err := os.Stat(dir); err == nil {
			say("clean")
		}
	})
	if out := say("up"); strings.Count(out, "  started") != 3 || !strings.Contains(out, last) || !strings.Contains(out, "bin/millrace topic create") {
		t.Errorf("up said:\n%s", out)
	}
	c, err := client.Open(ctx, []string{last})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Admin().Create(ctx, client.TopicSpec{Name: "kept", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	if err := c.Produce(ctx, &client.Record{Topic: "kept", Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if out := say("up"); strings.Count(out, "ran already") != 3 {
		t.Errorf("up again said:\n%s", out)
	}
	if out := say("down"); strings.Count(out, "stopped broker") != 3 {
		t.Errorf("down said:\n%s", out)
	}
	if out := say("down"); out != "" {
		t.Errorf("down again said:\n%s", out)
	}
	say("up")
	if c, err = client.Open(ctx, []string{last}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	offsets, err := c.Offsets(ctx, "kept", client.End())
	if err != nil || offsets[0] != 1 {
		t.Errorf("after down and up the topic has %v, %v", offsets, err)
	}
	say("clean")
	if _, err := os.Stat(dir); err == nil {
		t.Error("clean left the folder")
	}
}

// TestUpThatFailsLeavesNothingRunning: what up has started it takes back when a port
// is in use, and when it is interrupted.
func TestUpThatFailsLeavesNothingRunning(t *testing.T) {
	binary := testbinary.Build(t)
	for _, row := range []struct {
		name   string
		before func(cancel func(), ports []localcluster.Ports)
		want   string
	}{
		{"port in use", func(_ func(), ports []localcluster.Ports) {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ports[2].Kafka))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "broker 3 did not start"},
		{"interrupted", func(cancel func(), _ []localcluster.Ports) { cancel() }, context.Canceled.Error()},
	} {
		t.Run(row.name, func(t *testing.T) {
			ports, err := localcluster.FreePorts(3)
			if err != nil {
				t.Fatal(err)
			}
			c, err := localcluster.New(localcluster.Config{Binary: binary, Dir: t.TempDir(), Ports: ports, Detached: true})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			row.before(cancel, ports)
			var out bytes.Buffer
			if err := do(ctx, c, "", "up", &out); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("up: %v", err)
			}
			if !strings.Contains(out.String(), "stopped broker 1") {
				t.Errorf("up said:\n%s", out.String())
			}
			for n := 1; n <= c.Nodes(); n++ {
				if c.Running(n) {
					t.Errorf("broker %d runs", n)
					if _, err := c.StopDetached(t.Context(), n); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

func TestWrongWords(t *testing.T) {
	for _, args := range [][]string{nil, {"up", "down"}, {"sideways"}} {
		if err := run(t.Context(), "millrace", t.TempDir(), args, &bytes.Buffer{}); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), "millrace", filepath.Join(t.TempDir(), "none"), []string{"down"}, &out); err != nil || !strings.Contains(out.String(), "no cluster") {
		t.Errorf("down where there is none: %v, %q", err, out.String())
	}
}
