package replication

import (
	"context"
	"errors"
	"testing"

	"github.com/millrace/millrace/replication/metadata"
)

// handOver has a node begin its stop until it leads nothing of a topic.
func (n *hostNode) handOver(topic *metadata.Topic) {
	n.cluster.Helper()
	eventually(n.cluster.T, "the node to lead nothing", func() bool { // the machine may be too busy for the hand-over's clocks
		ctx, cancel := context.WithTimeout(n.cluster.Context(), testWait)
		defer cancel()
		n.host.HandOverAll(ctx)
		for p := range topic.Partitions {
			by := n.cluster.ledBy(topic, int32(p))
			if by == n.id || by == NoLeader {
				return false
			}
		}
		return true
	})
}

// TestStoppingBrokerTakesNoLeadership: one that hands over what it leads is given
// nothing in that moment, neither by the balance of another broker nor by one that stops
// at the same time.
func TestStoppingBrokerTakesNoLeadership(t *testing.T) {
	c := newHostsWith(t, 3, patientTimings)
	topic := c.create("orders", 3)
	for p := range int32(3) {
		c.inSync(topic, p)
	}
	first, second := c.nodes[0], c.nodes[1]
	first.handOver(topic)
	eventually(t, "the refusal", func() bool { // a busy machine may hold an election in between
		err := second.move(topic, 0, first.id)
		if err == nil {
			t.Fatal("a broker that stops took a leadership over")
		}
		return errors.Is(err, ErrStopping)
	})
	for p := range int32(3) {
		c.produce(topic, p, 0)
	}
	second.handOver(topic) // the first comes before the third in the order of a partition
	for p := range int32(3) {
		eventually(t, "the third to lead", func() bool { return c.ledBy(topic, p) == 3 })
	}
}

// TestRetiredReplicaStandsForNoElection: the term would stay on its disk, above that of
// who leads by then.
func TestRetiredReplicaStandsForNoElection(t *testing.T) {
	p := &Partition{}
	p.retire()
	if p.startCampaign(nil, func() {}) {
		t.Error("it campaigns")
	}
}
