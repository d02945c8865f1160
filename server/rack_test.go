package server

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// racked starts a node in a cluster of one broker for each of these racks.
func racked(t *testing.T, racks ...string) *testNode {
	t.Helper()
	n := newTestNode(t, len(racks), nil)
	for i, rack := range racks {
		id := i + 1
		n.cluster.mustChange(&metadata.RegisterBroker{Node: metadata.NodeID(id), Incarnation: metadata.Incarnation(id), Session: uint64(id), Start: 2,
			RPCAddress: fmt.Sprintf("host%d:33145", id), KafkaAddress: fmt.Sprintf("host%d:9092", id), Rack: rack})
	}
	return n
}

// TestRacksAreTold: clients hear of the racks, of none as null.
func TestRacksAreTold(t *testing.T) {
	n := racked(t, "eu-1a", "eu-1b", "")
	want := []string{"eu-1a", "eu-1b", "<nil>"}
	text := func(rack *string) string {
		if rack == nil {
			return "<nil>"
		}
		return *rack
	}
	meta := kmsg.NewPtrMetadataRequest()
	meta.SetVersion(12)
	for i, b := range n.call(t, meta).(*kmsg.MetadataResponse).Brokers {
		if text(b.Rack) != want[i] {
			t.Errorf("Metadata: broker %d is in rack %s, want %s", b.NodeID, text(b.Rack), want[i])
		}
	}
	describe := kmsg.NewPtrDescribeClusterRequest()
	describe.SetVersion(2)
	for i, b := range n.call(t, describe).(*kmsg.DescribeClusterResponse).Brokers {
		if text(b.Rack) != want[i] {
			t.Errorf("DescribeCluster: broker %d is in rack %s, want %s", b.NodeID, text(b.Rack), want[i])
		}
	}
}

// TestTopicsSpreadOverRacks: two replicas are never in one rack while there are two,
// however many topics there are.
func TestTopicsSpreadOverRacks(t *testing.T) {
	racks := []string{"a", "a", "a", "b", "b"}
	n := racked(t, racks...)
	for i := range 10 {
		n.call(t, createRequest(fmt.Sprint("t", i), 3, 2))
	}
	replicas := map[metadata.NodeID]int{}
	for topic := range n.cluster.View().Topics() {
		for i, p := range topic.Partitions {
			if a, b := p.Replicas[0].Node, p.Replicas[1].Node; racks[a-1] == racks[b-1] {
				t.Errorf("%s/%d is on brokers %d and %d, both in rack %s", topic.Name, i, a, b, racks[a-1])
			}
			for _, r := range p.Replicas {
				replicas[r.Node]++
			}
		}
	}
	// 30 replicas in each rack.
	for i, rack := range racks {
		node, want := metadata.NodeID(i+1), map[string]int{"a": 10, "b": 15}[rack]
		if got := replicas[node]; got < want-1 || got > want+1 {
			t.Errorf("broker %d in rack %s has %d replicas, want about %d", node, rack, got, want)
		}
	}
}
