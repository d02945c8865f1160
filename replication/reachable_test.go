package replication

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment/vfs"
)

// A peer is reachable until an attempt to reach it has failed: else a broker that
// has just started would tell clients that it is alone.
func TestPeersAreReachableUntilTried(t *testing.T) {
	node, err := OpenNode(vfs.OS(), t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	dialled, refuse := make(chan struct{}, 100), make(chan struct{})
	mux := transport.New(transport.Config{Identity: node.Identity, Logger: discard(),
		Dial: func(context.Context, string) (net.Conn, error) {
			dialled <- struct{}{}
			select {
			case <-refuse:
			case <-t.Context().Done():
			}
			return nil, syscall.ECONNREFUSED
		}})
	mux.Start()
	defer mux.Close()
	h := &Host{node: node, mux: mux}
	if !h.Reachable(1) || !h.Reachable(2) {
		t.Error("this node, or one whose address is not known yet, counts as unreachable")
	}
	mux.SetAddress(2, "peer:1")
	<-dialled
	if !h.Reachable(2) {
		t.Error("a peer counts as unreachable while it is dialled for the first time")
	}
	close(refuse)
	for deadline := time.Now().Add(time.Minute); h.Reachable(2); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a peer that refuses counts as reachable")
		}
	}
}
