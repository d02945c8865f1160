package replication

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestFaultsUnderLoad: whatever happens to links, disks and processes, nothing that was
// acknowledged is lost, nothing that was refused for good is read, and no replica takes
// itself out of its group.
func TestFaultsUnderLoad(t *testing.T) {
	const longest = 600 // milliseconds that a fault lasts: longer than an election takes
	g := newTrio(t)
	g.leader()
	w := startWorkload(g, 4, 2)
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 20 {
		n := g.nodes[random.IntN(3)]
		other := g.nodes[(int(n.id)+random.IntN(2))%3]
		from, to := transporttest.Host(n.address), transporttest.Host(other.address)
		var full *crashfs.Injected
		switch round % 5 {
		case 0:
			g.network.Cut(from, to)
		case 1: // what n sends does not arrive, what it is sent does
			g.network.Drop(from, to)
		case 2:
			for _, peer := range g.nodes {
				if peer != n {
					g.network.Isolate(from, transporttest.Host(peer.address))
				}
			}
		case 3:
			full = n.fs.Inject(crashfs.Fault{Op: crashfs.OpWrite, PathContains: "/topics/", Err: vfs.ErrNoSpace, Short: true})
		case 4:
			n.powerCut()
			n.start()
		}
		if in := other.partition.current(); in != nil && random.IntN(2) == 0 {
			_ = in.facade.Campaign(t.Context())
		}
		<-time.After(time.Duration(random.IntN(longest)) * time.Millisecond)
		g.network.RestoreAll()
		if full != nil {
			full.Remove()
		}
		w.progress(50)
		for _, n := range g.nodes {
			if n.partition.Failed() != nil || n.died() != nil {
				t.Fatalf("round %d: node %d is out of its group (%v), or ended (%v)", round, n.id, n.partition.Failed(), n.died())
			}
		}
	}
	w.finish()
}
