package server

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestDivideFiles(t *testing.T) {
	const unlimited = (1<<30 - 4096) / 2
	for _, row := range []struct {
		limit            int64
		replicas, sealed int
	}{
		{0, unlimited, 1024}, {-1, unlimited, 1024}, {1 << 62, unlimited, 1024},
		{256, 64, 32}, {1024, 256, 128}, {8192, 2048, 1024}, {20_000, 7952, 1024},
	} {
		if replicas, sealed := divideFiles(row.limit); replicas != row.replicas || sealed != row.sealed {
			t.Errorf("limit %d: %d replicas and %d sealed segments, want %d and %d", row.limit, replicas, sealed, row.replicas, row.sealed)
		}
	}
	if limit := fileLimit(); limit < 0 {
		t.Errorf("the limit of this process is %d", limit)
	}
}

// No way of creating a topic takes the descriptors that connections need.
func TestCreationsLeaveDescriptors(t *testing.T) {
	n := newTestNode(t, 3, nil)
	n.fileLimit = 64 // 16 replicas a node
	n.topic(t, "here", 10, nil)
	assigned := createRequest("assigned", -1, -1)
	for i := range int32(7) {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = i, []int32{2, 1}
		assigned.Topics[0].ReplicaAssignment = append(assigned.Topics[0].ReplicaAssignment, a)
	}
	dry := createRequest("dry", 7, 3)
	dry.ValidateOnly = true
	for _, req := range []*kmsg.CreateTopicsRequest{createRequest("placed", 7, 3), assigned, dry} {
		got := n.call(t, req).(*kmsg.CreateTopicsResponse).Topics[0]
		text := strOf(got.ErrorMessage)
		if got.ErrorCode != kerr.InvalidPartitions.Code || !strings.Contains(text, "broker 1 would hold 17 replicas (10 now); 16 are possible with its limit of 64 open files") || !strings.Contains(text, "ulimit -n") {
			t.Errorf("%s: code %d: %s", got.Topic, got.ErrorCode, text)
		}
	}
	if got := n.call(t, createRequest("fits", 6, 3)).(*kmsg.CreateTopicsResponse).Topics[0]; got.ErrorCode != 0 {
		t.Errorf("one that fits: %s", strOf(got.ErrorMessage))
	}
	n = newTestNode(t, 1, map[string]string{"num.partitions": "17"})
	n.fileLimit = 64
	if _, failure := n.creating.automatic(t.Context(), n.node, "automatic"); failure == nil || failure.code != kerr.InvalidPartitions.Code {
		t.Errorf("automatic: %v", failure)
	}
}
