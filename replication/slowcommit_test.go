package replication

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/replication/metadata"
)

// idleCommit is raft's own time to tell an idle follower what is committed: far longer
// than any of these tests may take.
const idleCommit = time.Minute

// withSlowCommits runs a test in virtual time on a cluster with a topic of which every
// replica knows everything.
func withSlowCommits(t *testing.T, test func(c *hosts, topic *metadata.Topic)) {
	synctest.Test(t, func(t *testing.T) {
		c := newHostsWith(t, 3, Timings{Heartbeat: time.Second, Commit: idleCommit})
		topic := c.create("events", 3)
		for p := range topic.Partitions {
			c.produce(topic, int32(p), 1)
			for _, n := range c.nodes {
				n.knows(topic, int32(p), 1)
			}
		}
		test(c, topic)
	})
}

// knows waits until the node's replica knows of records that they are committed, and
// returns how long that took.
func (n *hostNode) knows(topic *metadata.Topic, p int32, records int) time.Duration {
	n.cluster.Helper()
	began := time.Now()
	n.hasReplica(topic, p)
	eventually(n.cluster.T, "the high watermark", func() bool {
		r, ok := n.host.Partition(topic.ID, p)
		return ok && int(r.Log().HighWatermark()) == records
	})
	return time.Since(began)
}

// follower is a node that does not lead the first partition.
func (c *hosts) follower(topic *metadata.Topic) *hostNode {
	c.Helper()
	leader := c.leader(topic, 0)
	for _, n := range c.nodes {
		if r, ok := n.host.Partition(topic.ID, 0); ok && r != leader {
			return n
		}
	}
	c.Fatal("no follower")
	return nil
}

// TestFollowerHearsOfCommitsAfterARestart: no entry is on its way that would tell it.
func TestFollowerHearsOfCommitsAfterARestart(t *testing.T) {
	withSlowCommits(t, func(c *hosts, topic *metadata.Topic) {
		n := c.follower(topic)
		n.stop()
		n.start()
		if took := n.knows(topic, 0, 1); took > 2*time.Second {
			t.Errorf("the restarted follower knows what is committed after %v", took)
		}
	})
}

// TestFollowerReturnsAfterAMinute: it has what was written meanwhile 200 ms after it
// runs again. For that it must have heard of its registration with the metadata too.
func TestFollowerReturnsAfterAMinute(t *testing.T) {
	withSlowCommits(t, func(c *hosts, topic *metadata.Topic) {
		n := c.follower(topic)
		n.stop()
		c.produce(topic, 0, 2)
		time.Sleep(time.Minute)
		n.start()
		if took := n.knows(topic, 0, 2); took > 200*time.Millisecond {
			t.Errorf("entries after %v", took)
		}
	})
}
