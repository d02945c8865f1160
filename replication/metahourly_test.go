package replication

import (
	"testing"
	"testing/synctest"
	"time"
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
