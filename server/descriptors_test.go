package server

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

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

// Groups work on a broker whose descriptors topics have used up, and only what the
// broker itself creates may go beyond.
func TestGroupsNeedNoSpareDescriptors(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.fileLimit = 64 // 16 replicas
	n.topic(t, "all", 16, nil)
	if got := n.call(t, createRequest(offsetsTopic, 1000, 1)).(*kmsg.CreateTopicsResponse).Topics[0]; got.ErrorCode != kerr.InvalidPartitions.Code {
		t.Errorf("made by a client: code %d", got.ErrorCode)
	}
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.CoordinatorKey = "g"
	if got := n.call(t, req).(*kmsg.FindCoordinatorResponse); got.ErrorCode != 0 || got.NodeID != 1 {
		t.Errorf("code %d: %s", got.ErrorCode, strOf(got.ErrorMessage))
	}
}

// Why there are no groups stands in the log, and does not fill it.
func TestGroupsWithoutTopicAreLogged(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"offsets.topic.replication.factor": "3"})
	var log bytes.Buffer
	n.logger = slog.New(slog.NewTextHandler(&log, nil))
	now := time.Unix(1_000_000, 0)
	n.now = func() time.Time { return now }
	ask := func() {
		t.Helper()
		if _, failure := coordinatorOf(t.Context(), n.node, &client{}, groupCoordinator, "g"); failure == nil || failure.code != kerr.CoordinatorNotAvailable.Code {
			t.Fatalf("%v", failure)
		}
	}
	for want := range 3 {
		for range 5 {
			ask()
		}
		got := strings.Count(log.String(), "level=WARN")
		if got != want+1 || !strings.Contains(log.String(), "3 replicas of each partition; the cluster has 1 brokers") {
			t.Errorf("%d warnings, want %d:\n%s", got, want+1, log.String())
		}
		now = now.Add(offsetsWarning)
	}
}
