package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// AlterPartitionReassignments (key 45, KIP-455). Version 1 lets a client forbid that the
// number of replicas changes (KIP-860). In Kafka it needs ALTER on the cluster.
//
// Each partition is for itself. Its replicas are changed in the metadata, and the answer
// comes when that is done; the partition's leader then makes its group follow. A request
// for a partition that is being moved gives it another goal; a null list takes the move
// back.
func handleAlterPartitionReassignments(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.AlterPartitionAssignmentsRequest)
	ctx, cancel := bounded(ctx, body.TimeoutMillis, maxChangeWait)
	defer cancel()
	stop := context.AfterFunc(n.stopping, cancel)
	defer stop()
	resp := kmsg.NewPtrAlterPartitionAssignmentsResponse()
	resp.AllowReplicationFactorChange = body.AllowReplicationFactorChange
	type place struct {
		topic     string
		partition int32
	}
	times := map[place]int{}
	for i := range body.Topics {
		for _, p := range body.Topics[i].Partitions {
			times[place{body.Topics[i].Topic, p.Partition}]++
		}
	}
	for i := range body.Topics {
		want := &body.Topics[i]
		topic := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		topic.Topic = want.Topic
		for j := range want.Partitions {
			p := &want.Partitions[j]
			answer := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			answer.Partition = p.Partition
			var failure *failure
			if times[place{want.Topic, p.Partition}] > 1 {
				failure = fail(kerr.InvalidRequest, "the request names the partition more than once")
			} else {
				failure = reassign(ctx, n, want.Topic, p, body.Version >= 1 && !body.AllowReplicationFactorChange)
			}
			if failure != nil {
				answer.ErrorCode, answer.ErrorMessage = failure.code, failure.text()
			}
			topic.Partitions = append(topic.Partitions, answer)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp, nil
}

// reassignTries is how often a change is planned anew when the partition, or a broker's
// disk, changed in between.
const reassignTries = 5

// reassign changes the replicas of one partition. sameFactor forbids another number.
func reassign(ctx context.Context, n *node, name string, want *kmsg.AlterPartitionAssignmentsRequestTopicPartition, sameFactor bool) *failure {
	for try := 1; ; try++ {
		change, failure := planReassignment(n.cluster.View(), name, want, sameFactor)
		if failure != nil {
			return failure
		}
		_, err := n.cluster.Change(ctx, change)
		var refused *metadata.Refusal
		switch {
		case err == nil:
			return nil
		case try < reassignTries && errors.As(err, &refused) && (refused.Code == metadata.AssignmentChanged || refused.Code == metadata.StaleBroker):
		default:
			return changeFailure(err)
		}
	}
}

// planReassignment is the change that the client asks for, by one picture of the cluster.
func planReassignment(view *metadata.View, name string, want *kmsg.AlterPartitionAssignmentsRequestTopicPartition, sameFactor bool) (*metadata.AlterAssignment, *failure) {
	topic, ok := view.TopicNamed(name)
	if !ok || want.Partition < 0 || int(want.Partition) >= len(topic.Partitions) {
		return nil, fail(kerr.UnknownTopicOrPartition, "no such topic or partition")
	}
	if want.Replicas == nil {
		change, moving := view.CancelReassignment(topic, want.Partition)
		if !moving {
			return nil, fail(kerr.NoReassignmentInProgress, "the partition is not being moved")
		}
		return change, nil
	}
	if len(want.Replicas) == 0 {
		return nil, fail(kerr.InvalidReplicaAssignment, "the list of replicas is empty")
	}
	var nodes []metadata.NodeID
	for _, id := range want.Replicas {
		node := metadata.NodeID(id)
		if _, ok := view.Broker(node); !ok {
			return nil, fail(kerr.InvalidReplicaAssignment, fmt.Sprintf("there is no broker %d", id))
		}
		if slices.Contains(nodes, node) {
			return nil, fail(kerr.InvalidReplicaAssignment, fmt.Sprintf("broker %d is named twice", id))
		}
		nodes = append(nodes, node)
	}
	if has := len(topic.Partitions[want.Partition].Replicas); sameFactor && has != len(nodes) {
		return nil, fail(kerr.InvalidReplicationFactor, fmt.Sprintf("the partition has %d replicas, and the request forbids another number", has))
	}
	return view.Reassign(topic, want.Partition, nodes, newIncarnation), nil
}
