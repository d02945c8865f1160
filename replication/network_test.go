package replication

import (
	"testing"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
)

// TestHarnessesCutWhatTheySayTheyCut: tests of faults prove nothing over a network
// that has none.
func TestHarnessesCutWhatTheySayTheyCut(t *testing.T) {
	cut := func(t *testing.T, network *transporttest.Network, mux *transport.Mux, from, to string, peer metadata.NodeID) {
		eventually(t, "the connection", func() bool { return mux.Up(peer) })
		network.Cut(transporttest.Host(from), transporttest.Host(to))
		eventually(t, "the connection to break", func() bool { return !mux.Up(peer) })
		network.RestoreAll()
		eventually(t, "the connection to come back", func() bool { return mux.Up(peer) })
		network.Cut(transporttest.Host(to), transporttest.Host(from)) // one direction refuses both
		eventually(t, "the connection to break", func() bool { return !mux.Up(peer) })
		network.RestoreAll()
	}
	t.Run("trio", func(t *testing.T) {
		g := newTrio(t)
		cut(t, g.network, g.nodes[0].mux, g.nodes[0].address, g.nodes[1].address, 2)
	})
	t.Run("hosts", func(t *testing.T) {
		c := newHosts(t, 2)
		cut(t, c.network, c.nodes[0].host.mux, hostAddress(1), hostAddress(2), 2)
	})
	t.Run("metadata group", func(t *testing.T) {
		net := newMetaNet(t)
		nodes := net.founders(2)
		for _, n := range nodes {
			n.start()
		}
		cut(t, net.network, nodes[0].mux, nodes[0].address, nodes[1].address, 2)
	})
}
