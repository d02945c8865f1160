package localcluster

import (
	"slices"
	"strings"
	"testing"
)

// TestCommandLine: nodes have their own addresses where they are given, further
// arguments come last, of one node behind those of all.
func TestCommandLine(t *testing.T) {
	ports := []Ports{{Kafka: 1, RPC: 2, HTTP: 3}, {Kafka: 1, RPC: 2, HTTP: 3}}
	c, err := New(Config{Binary: "millrace", Dir: t.TempDir(), Ports: ports, Hosts: []string{"10.0.0.1", "10.0.0.2"}, Args: []string{"--of-all"},
		NodeArgs: func(n int) []string { return []string{"--of-one", strings.Repeat("x", n)} }})
	if err != nil {
		t.Fatal(err)
	}
	args := c.arguments(2)
	for _, want := range [][]string{
		{"--kafka-addr", "10.0.0.2:1"}, {"--rpc-addr", "10.0.0.2:2"}, {"--http-addr", "10.0.0.2:3"},
		{"--join", "10.0.0.1:2,10.0.0.2:2"}, {"--of-all", "--of-one", "xx"},
	} {
		i := slices.Index(args, want[0])
		if i < 0 || len(args) < i+len(want) || !slices.Equal(args[i:i+len(want)], want) {
			t.Errorf("%q lacks %q", args, want)
		}
	}
	if got := c.Addrs(); !slices.Equal(got, []string{"10.0.0.1:1", "10.0.0.2:1"}) {
		t.Errorf("Kafka addresses: %q", got)
	}
	if _, err := New(Config{Dir: t.TempDir(), Ports: ports, Hosts: []string{"10.0.0.1"}}); err == nil || !strings.Contains(err.Error(), "1 hosts for 2 nodes") {
		t.Errorf("a host too few: %v", err)
	}
}

// TestWrap: what runs is what Wrap makes of the command line.
func TestWrap(t *testing.T) {
	var asked []string
	c, err := New(Config{Binary: "millrace", Dir: t.TempDir(), Ports: []Ports{{Kafka: 1, RPC: 2, HTTP: 3}}, Wrap: func(n int, line []string) []string {
		asked = line
		return []string{"/bin/sh", "-c", "echo ready; exec sleep 60"}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(limited(t)); err != nil {
		t.Error(err)
	}
	if len(asked) < 2 || asked[0] != "millrace" || asked[1] != "server" {
		t.Errorf("Wrap was given %q", asked)
	}
	if err := c.Kill(1); err != nil {
		t.Error(err)
	}
}
