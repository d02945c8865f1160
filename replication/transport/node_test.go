package transport

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport/transporttest"
)

// lines collects log lines.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// with is the lines that contain a text.
func (l *lines) with(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// meshNode is one node of a test's network.
type meshNode struct {
	*Mux
	log *lines

	own      sync.Mutex // guards identity; not named mu, which would hide the mux's
	identity Identity
}

// setCluster changes what the node says of itself.
func (n *meshNode) setCluster(cluster string) {
	n.own.Lock()
	defer n.own.Unlock()
	n.identity.Cluster = cluster
}

// self is the node's identity.
func (n *meshNode) self() Identity {
	n.own.Lock()
	defer n.own.Unlock()
	return n.identity
}

// meshAddress is where a node listens.
func meshAddress(node metadata.NodeID) string { return fmt.Sprintf("n%d:1", node) }

// meshHost is the host of a node.
func meshHost(node metadata.NodeID) string { return transporttest.Host(meshAddress(node)) }

// startNode makes and starts a node that answers MethodForward with its body. It
// knows no peers. It closes at the end of the test.
func startNode(t *testing.T, network *transporttest.Network, identity Identity, change func(*Config)) *meshNode {
	t.Helper()
	listener, err := network.Listen(meshAddress(identity.Node))
	if err != nil {
		t.Fatal(err)
	}
	n := &meshNode{log: &lines{}, identity: identity}
	config := Config{
		Listener: listener, Dial: network.Dialer(meshHost(identity.Node)), Identity: n.self,
		Logger: slog.New(slog.NewTextHandler(n.log, nil)),
	}
	if change != nil {
		change(&config)
	}
	n.Mux = New(config)
	n.Handle(MethodForward, func(r *Request) { r.Reply(r.Body) })
	n.Start()
	t.Cleanup(func() { n.Close() })
	return n
}

// mesh starts nodes 1 to count that know each other.
func mesh(t *testing.T, count int, change func(*Config)) (*transporttest.Network, map[metadata.NodeID]*meshNode) {
	t.Helper()
	network := transporttest.New()
	nodes := map[metadata.NodeID]*meshNode{}
	for node := metadata.NodeID(1); int(node) <= count; node++ {
		nodes[node] = startNode(t, network, Identity{Node: node, Incarnation: metadata.Incarnation(node), Cluster: "c"}, change)
	}
	for _, n := range nodes {
		for other := range nodes {
			n.SetAddress(other, meshAddress(other)) // its own is ignored
		}
	}
	return network, nodes
}

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// await waits in virtual time until ok, and fails after limit. It returns how
// long it took.
func await(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		synctest.Wait()
		if ok() {
			return time.Since(start)
		}
		if time.Since(start) >= limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-ticker.C
	}
}

// pass lets virtual time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// deadline is a context that ends after d.
func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// echo calls MethodForward and wants its body back.
func echo(t *testing.T, from *meshNode, to metadata.NodeID, class Class, body string) {
	t.Helper()
	got, err := from.Call(deadline(t, time.Minute), to, class, MethodForward, []byte(body))
	if err != nil || string(got) != body {
		t.Fatalf("call to node %d: %q, %v", to, got, err)
	}
}
