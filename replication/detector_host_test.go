package replication

import (
	"testing"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport/transporttest"
)

// patientTimings are clocks of raft that end no test: an election that comes before
// them is one that somebody asked for.
var patientTimings = Timings{Heartbeat: 10 * testWait, Commit: testTimings.Commit}

// die is the end of a node's process for all others; it runs on until the test ends,
// and nobody hears it.
func (n *hostNode) die() {
	for _, peer := range n.cluster.nodes {
		if peer != n {
			n.cluster.network.Cut(transporttest.Host(hostAddress(n.id)), transporttest.Host(hostAddress(peer.id)))
		}
	}
}

// TestDetectorReplacesADeadBroker: the groups that it led, the metadata group among
// them, go on without it long before raft's own time-outs.
func TestDetectorReplacesADeadBroker(t *testing.T) {
	c := newHostsWith(t, 3, patientTimings)
	topic := c.create("events", 6)
	c.ready()
	controller, ok := c.nodes[0].host.Meta().Leader()
	if !ok {
		t.Fatal("no metadata leader")
	}
	dead := c.nodes[controller-1]
	eventually(t, "a partition that it leads too", func() bool {
		_ = c.leader(topic, 0).Transfer(t.Context(), dead.id, func(metadata.NodeID) bool { return true })
		return c.ledBy(topic, 0) == dead.id
	})
	dead.die()
	for p := range int32(6) {
		eventually(t, "a leader among those that live", func() bool {
			by := c.ledBy(topic, p)
			return by != NoLeader && by != dead.id
		})
	}
	for _, n := range c.nodes {
		if n != dead {
			eventually(t, "another metadata leader", func() bool {
				leader, ok := n.host.Meta().Leader()
				return ok && leader != dead.id
			})
		}
	}
}

// ledBy is the leader of a partition in the eyes of all running nodes but itself, of
// the latest term.
func (c *hosts) ledBy(topic *metadata.Topic, p int32) metadata.NodeID {
	latest := LeaderInfo{Node: NoLeader}
	for _, n := range c.nodes {
		if info, ok := n.host.Leader(topic.ID, p); ok && info.Term > latest.Term {
			latest = info
		}
	}
	return latest.Node
}
