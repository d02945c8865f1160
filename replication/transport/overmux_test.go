package transport

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport/transporttest"
)

// muxAddress is where a node of the tests listens.
func muxAddress(node metadata.NodeID) string { return fmt.Sprintf("host%d:1", node) }

// newMux starts the mux of a node over a network in memory.
func newMux(t *testing.T, network *transporttest.Network, node metadata.NodeID) *Mux {
	t.Helper()
	listener, err := network.Listen(muxAddress(node))
	if err != nil {
		t.Fatal(err)
	}
	mux := New(Config{
		Listener: listener, Dial: network.Dialer(transporttest.Host(muxAddress(node))), Logger: quiet,
		Identity: func() Identity { return Identity{Node: node, Incarnation: 1, Cluster: "cluster"} },
	})
	for other := metadata.NodeID(1); other <= 3; other++ {
		if other != node {
			mux.SetAddress(other, muxAddress(other))
		}
	}
	mux.Start()
	return mux
}

// TestGroupOverMux is a group over the real mux: elections, records, the death and
// the return of a node, and a change of leader.
func TestGroupOverMux(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := transporttest.New()
		g := &group{t: t}
		muxes := map[metadata.NodeID]*Mux{}
		for node := metadata.NodeID(1); node <= 3; node++ {
			muxes[node] = newMux(t, network, node)
			m := newMember(t, node, muxes[node])
			m.bootstrap(3)
			g.members = append(g.members, m)
		}
		stop := func(m *member) {
			m.stop()
			m.router.Close()
			muxes[m.node].Close()
		}
		for _, m := range g.members {
			m.start()
			defer stop(m)
		}
		eventually(t, time.Second, "all nodes are up", func() bool {
			for node, mux := range muxes {
				for other := range muxes {
					if node != other && !mux.Up(other) {
						return false
					}
				}
			}
			return true
		})
		leader := g.elect(0)
		leader.propose(0, 2000)
		g.level(2000, time.Second)
		g.same()

		dead := g.members[2]
		network.Kill(transporttest.Host(muxAddress(dead.node)))
		stop(dead)
		leader.propose(2000, 50)
		<-time.After(2 * time.Minute)
		muxes[dead.node] = newMux(t, network, dead.node)
		*dead = member{t: t, node: dead.node, server: muxes[dead.node], log: dead.log, stable: dead.stable}
		dead.router = NewRouter(RouterConfig{Server: dead.server})
		dead.start()
		eventually(t, 5*time.Second, "the nodes reach each other", func() bool {
			return muxes[leader.node].Up(dead.node) && muxes[dead.node].Up(leader.node)
		})
		dead.announce(leader)
		eventually(t, 200*time.Millisecond, "it has everything", func() bool { return dead.log.last() == leader.log.last() })

		next := g.members[1]
		if err := leader.facade.RequestCampaign(t.Context(), testID(next.node), segment.Term(leader.raft.CurrentTerm())); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "the target leads", func() bool { return next.raft.State() == raft.Leader })
		next.propose(2050, 50)
		eventually(t, time.Second, "all have everything", func() bool {
			return leader.log.last() == next.log.last() && dead.log.last() == next.log.last()
		})
	})
}
