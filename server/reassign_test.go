package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// reassignRequest asks for replicas of one partition; nil cancels.
func reassignRequest(topic string, partition int32, replicas []int32) *kmsg.AlterPartitionAssignmentsRequest {
	req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	req.SetVersion(1)
	req.TimeoutMillis = 10_000
	t := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	t.Topic = topic
	p := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
	p.Partition, p.Replicas = partition, replicas
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// reassigned is the answer about the first partition, as the name of its error.
func (n *testNode) reassigned(t *testing.T, req *kmsg.AlterPartitionAssignmentsRequest) (name, message string) {
	t.Helper()
	got := n.call(t, req).(*kmsg.AlterPartitionAssignmentsResponse)
	p := got.Topics[0].Partitions[0]
	if got.ErrorCode != 0 || p.Partition != req.Topics[0].Partitions[0].Partition {
		t.Errorf("%+v", got)
	}
	if err := kerr.TypedErrorForCode(p.ErrorCode); err != nil {
		return err.Message, strOf(p.ErrorMessage)
	}
	return "OK", strOf(p.ErrorMessage)
}

// moves are the lines of ListPartitionReassignments.
func (n *testNode) moves(t *testing.T, topics map[string][]int32) (lines []string) {
	t.Helper()
	req := kmsg.NewPtrListPartitionReassignmentsRequest()
	for _, name := range sortedKeys(topics) {
		topic := kmsg.NewListPartitionReassignmentsRequestTopic()
		topic.Topic, topic.Partitions = name, topics[name]
		req.Topics = append(req.Topics, topic)
	}
	got := n.call(t, req).(*kmsg.ListPartitionReassignmentsResponse)
	for _, topic := range got.Topics {
		for _, p := range topic.Partitions {
			lines = append(lines, fmt.Sprintf("%s/%d %v +%v -%v", topic.Topic, p.Partition, p.Replicas, p.AddingReplicas, p.RemovingReplicas))
		}
	}
	return lines
}

// reach is what a partition's leader says when its group has come to its goal.
func (n *testNode) reach(topic *metadata.Topic, partition int32) {
	now, _ := n.cluster.View().Topic(topic.ID)
	n.cluster.mustChange(&metadata.ReplicasLeft{Topic: topic.ID, Partition: partition, Changed: now.Partitions[partition].Changed})
}

// TestAlterPartitionReassignments: each answer, what is listed meanwhile, and a cancelled
// move.
func TestAlterPartitionReassignments(t *testing.T) {
	n := newTestNode(t, 5, nil)
	topic := n.topic(t, "t", 2, nil, 1, 2, 3)
	other := n.topic(t, "u", 1, nil, 1)
	n.cluster.mustChange(&metadata.DrainBroker{Node: 5, Drained: true})
	if got := n.moves(t, nil); got != nil {
		t.Errorf("at the beginning: %v", got)
	}
	forbidden := reassignRequest("t", 0, []int32{1, 2})
	forbidden.AllowReplicationFactorChange = false
	twice := reassignRequest("t", 0, []int32{1, 2, 4})
	twice.Topics = append(twice.Topics, twice.Topics[0])
	for _, row := range []struct {
		name, want, says string
		req              *kmsg.AlterPartitionAssignmentsRequest
	}{
		{"no topic", "UNKNOWN_TOPIC_OR_PARTITION", "", reassignRequest("x", 0, []int32{1})},
		{"no partition", "UNKNOWN_TOPIC_OR_PARTITION", "", reassignRequest("t", 2, []int32{1})},
		{"negative", "UNKNOWN_TOPIC_OR_PARTITION", "", reassignRequest("t", -1, nil)},
		{"nothing to cancel", "NO_REASSIGNMENT_IN_PROGRESS", "not being moved", reassignRequest("t", 0, nil)},
		{"empty", "INVALID_REPLICA_ASSIGNMENT", "empty", reassignRequest("t", 0, []int32{})},
		{"a broker twice", "INVALID_REPLICA_ASSIGNMENT", "twice", reassignRequest("t", 0, []int32{1, 1})},
		{"no broker", "INVALID_REPLICA_ASSIGNMENT", "no broker 9", reassignRequest("t", 0, []int32{1, 9})},
		{"a negative broker", "INVALID_REPLICA_ASSIGNMENT", "no broker -1", reassignRequest("t", 0, []int32{1, -1})},
		{"drained", "INVALID_REPLICA_ASSIGNMENT", "drained", reassignRequest("t", 0, []int32{1, 2, 5})},
		{"another number", "INVALID_REPLICATION_FACTOR", "3 replicas", forbidden},
		{"a partition twice", "INVALID_REQUEST", "more than once", twice},
	} {
		if got, says := n.reassigned(t, row.req); got != row.want || !strings.Contains(says, row.says) {
			t.Errorf("%s: %s (%s)", row.name, got, says)
		}
	}
	ok := func(req *kmsg.AlterPartitionAssignmentsRequest) {
		t.Helper()
		if got, says := n.reassigned(t, req); got != "OK" {
			t.Errorf("%s (%s)", got, says)
		}
	}
	ok(reassignRequest("t", 0, []int32{4, 1, 2}))
	ok(reassignRequest("u", 0, []int32{1, 2, 3})) // more replicas
	want := []string{"t/0 [4 1 2 3] +[4] -[3]", "u/0 [1 2 3] +[2 3] -[]"}
	if diff := cmp.Diff(want, n.moves(t, nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[:1], n.moves(t, map[string][]int32{"t": {0, 1}, "x": {0}})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := n.moves(t, map[string][]int32{"t": {1}}); got != nil {
		t.Errorf("of another partition: %v", got)
	}
	n.reach(other, 0)
	old := reassignRequest("t", 0, nil)
	old.SetVersion(0)
	ok(old) // cancel
	if diff := cmp.Diff([]string{"t/0 [1 2 3 4] +[] -[4]"}, n.moves(t, nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, _ := n.reassigned(t, reassignRequest("t", 0, nil)); got != "NO_REASSIGNMENT_IN_PROGRESS" {
		t.Errorf("cancelled again: %s", got)
	}
	n.reach(topic, 0)
	if got := n.moves(t, nil); got != nil {
		t.Errorf("at the end: %v", got)
	}
	now, _ := n.cluster.View().Topic(topic.ID)
	for i, r := range now.Partitions[0].Replicas {
		if r != topic.Partitions[0].Replicas[i] {
			t.Errorf("after the cancelled move: %+v", now.Partitions[0])
		}
	}
}

// TestReassignByKadm: an outside client moves partitions between real brokers and gives
// them more replicas; every record stays, and clients find the new leaders.
func TestReassignByKadm(t *testing.T) {
	_, brokers, addrs := openThree(t)
	c := newClient(t, addrs, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	admin := kadm.NewClient(c)
	createTopic1(t, c, "t", 3, 1)
	count := 0
	produce := func() {
		t.Helper()
		for p := range int32(3) {
			if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Partition: p, Value: []byte("x")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			count++
		}
	}
	move := func(replicas ...int32) {
		t.Helper()
		var req kadm.AlterPartitionAssignmentsReq
		for p := range int32(3) {
			req.Assign("t", p, replicas)
		}
		answers, err := admin.AlterPartitionAssignments(t.Context(), req)
		if err != nil || answers.Error() != nil {
			t.Fatalf("%v, %+v", err, answers)
		}
		produce()
		eventually(t, fmt.Sprintf("all is on %v", replicas), func() bool {
			under, err := admin.ListPartitionReassignments(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			now, err := admin.ListTopics(kadm.WithAuthorizedOps(t.Context()), "t")
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range now["t"].Partitions {
				if !slices.Equal(p.Replicas, replicas) || len(p.ISR) != len(replicas) || !slices.Contains(replicas, p.Leader) {
					return false
				}
			}
			return len(under) == 0
		})
		produce()
	}
	produce()
	move(2)
	move(3, 1)
	move(1, 2, 3)
	brokers[2].Kill()
	produce()
	read(t, addrs[:2], "t", count)
	var cancel kadm.AlterPartitionAssignmentsReq
	cancel.CancelAssign("t", 0)
	answers, err := admin.AlterPartitionAssignments(t.Context(), cancel)
	if err != nil || !errors.Is(answers.Error(), kerr.NoReassignmentInProgress) {
		t.Errorf("%v, %+v", err, answers)
	}
	cancel = nil
	cancel.Assign("t", 1, []int32{1, 2})
	if answers, err = admin.AlterPartitionAssignments(t.Context(), cancel); err != nil || answers.Error() != nil {
		t.Fatalf("%v, %+v", err, answers)
	}
	produce() // away from the broker that is gone
}
