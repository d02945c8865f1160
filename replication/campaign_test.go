package replication

import (
	"bytes"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// TestStuckGroupHoldsUpNoOther: raft's main goroutine of one group does not take the
// request to campaign (it sits in a sync, say). What hears of peers' replicas goes
// through all groups of a message, and must not wait for it; nor must goroutines pile
// up while the peers say more, or outlive the replica.
func TestStuckGroupHoldsUpNoOther(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	for _, peer := range g.nodes {
		if peer != n {
			peer.stop()
		}
	}
	p := n.partition
	in := p.current()
	in.raft.Shutdown() // from now on nobody takes what the facade delivers
	eventually(t, "raft's end", func() bool {
		_, leader := in.raft.LeaderWithID()
		return in.raft.State() == raft.Shutdown && leader == ""
	})
	began := time.Now()
	for index := range segment.Index(5) {
		for _, peer := range g.nodes {
			if peer != n {
				p.peerUp(transport.GroupUp{Group: g.group, Replica: g.replicaID(peer), LastIndex: index})
			}
		}
	}
	if waited := time.Since(began); waited >= campaignTimeout {
		t.Errorf("hearing of peers took %v", waited)
	}
	var running int
	eventually(t, "a campaign", func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		running = bytes.Count(stacks, []byte(".(*Partition).campaign("))
		return running > 0
	})
	if running != 1 {
		t.Errorf("%d campaigns of one replica at a time", running)
	}
	n.stop()
	if p.campaigning {
		t.Error("the campaign goes on behind the replica's end")
	}
}
