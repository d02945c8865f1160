package replication

import (
	"testing"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
)

// TestMetaStoppingNodeStandsForNoElection: a leader that stops has just handed its
// leadership over, and for a moment nobody knows a leader. The term of an election
// that it began then would stay on its disk, above its successor's, and depose that
// when the node comes back (seen in the soak: three seconds without a leader).
func TestMetaStoppingNodeStandsForNoElection(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	first := nodes[0]
	for _, other := range nodes[1:] {
		net.network.Isolate(transporttest.Host(first.address), transporttest.Host(other.address))
	}
	m := first.group
	in := m.current()
	eventually(t, "the node to know no leader", func() bool {
		_, leader := in.raft.LeaderWithID()
		return leader == ""
	})
	own, err := in.up()
	must(t, err)
	stop := func(closed bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.closed = closed
	}
	campaigns := func() bool {
		for _, s := range in.raft.GetConfiguration().Configuration().Servers {
			if s.ID != in.id {
				m.peers.heard(transport.GroupUp{Replica: s.ID, LastTerm: own.LastTerm})
			}
		}
		return m.campaignIfFirst(in)
	}
	stop(true)
	if campaigns() {
		t.Error("a node that stops stood for an election")
	}
	stop(false)
	eventually(t, "the node's turn", campaigns) // else the test proves nothing
}
