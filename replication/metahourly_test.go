package replication

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestStartCounterRisesHourly: a copy of the disk that is older than an hour must
// be recognised, also of a process that never restarted.
func TestStartCounterRisesHourly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMetaNet(t)
		n := net.add(1).start()
		defer n.stop()
		n.serves()
		session := n.group.process.Load()
		for hour := uint64(1); hour <= 2; hour++ {
			<-time.After(hourly) // virtual
			synctest.Wait()
			b, _ := n.group.View().Broker(1)
			if n.node.Starts() != 1+hour || b.Start != 1+hour || b.Session != session {
				t.Errorf("after %d hours: %d on disk, registered %+v", hour, n.node.Starts(), b)
			}
		}
	})
}

// TestMetaFullDiskKeepsNode: node.json that cannot be written for lack of space is as
// it was, which is no reason to end the broker: reads and deletions go on.
func TestMetaFullDiskKeepsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMetaNet(t)
		n := net.add(1).start()
		defer n.stop()
		n.serves()
		full := n.fs.Inject(crashfs.Fault{Op: crashfs.OpCreate, PathContains: "node.json", Err: vfs.ErrNoSpace, Repeat: true})
		second := net.add(2, n.address).start()
		defer second.stop()
		net.settled()
		<-time.After(hourly) // virtual
		synctest.Wait()
		if n.fatalError() != nil || n.node.Starts() != 1 || len(n.node.knownPeers()) != 0 || full.Fired() < 2 {
			t.Fatalf("%d failures: start %d, peers %v, ended by %v", full.Fired(), n.node.Starts(), n.node.knownPeers(), n.fatalError())
		}
		full.Remove()
		<-time.After(2 * saveRetry)
		if len(n.node.knownPeers()) != 1 {
			t.Errorf("with space again: peers %v", n.node.knownPeers())
		}
		<-time.After(hourly)
		synctest.Wait()
		if b, _ := n.group.View().Broker(1); n.node.Starts() != 2 || b.Start != 2 {
			t.Errorf("with space again: start %d, registered %d", n.node.Starts(), b.Start)
		}
	})
}
