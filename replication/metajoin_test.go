package replication

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestMetaJoinThroughAFollower: the leader hears of a newcomer by its registration,
// which a follower has passed on, and introduces itself while the newcomer's replica
// does not run yet. The newcomer knows only the follower.
func TestMetaJoinThroughAFollower(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	leader := net.leader()
	follower := nodes[int(leader.id)%3]
	newcomer := net.add(4, follower.address)
	var early atomic.Bool                                                                                 // the leader was there before the newcomer's replica
	newcomer.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: "raft.model", Nth: 2, Do: func() { // raft starts
		ctx, cancel := context.WithTimeout(context.Background(), testWait)
		defer cancel()
		met := poll(ctx, func() bool { return leader.mux.Up(newcomer.id) }) == nil
		for range 50 { // it introduces itself, and is answered
			pause()
		}
		early.Store(met)
	}})
	newcomer.start()
	newcomer.serves()
	if !early.Load() {
		t.Error("the newcomer's replica ran before the leader introduced itself: the test proves nothing")
	}
}

// TestMetaTellsWhoHasIntroducedItself: a newcomer is told of brokers by themselves
// before its view lists any.
func TestMetaTellsWhoHasIntroducedItself(t *testing.T) {
	n := newMetaNet(t).add(1).start()
	n.serves()
	n.group.peers.heard(transport.GroupUp{Replica: transport.ServerID(9, 1)})
	if !n.group.otherNodes(nil)[9] {
		t.Error("a broker that introduced itself is not told that this replica runs")
	}
}
