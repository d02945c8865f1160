package server

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// ListPartitionReassignments (key 46, KIP-455). In Kafka it needs DESCRIBE on the
// cluster. The answer names the partitions whose replicas are being moved, of those that
// were asked for; all for null. Any broker answers, from its own copy of the metadata: a
// partition is named until its leader has said that the group has come to its goal. A lost
// replica that is made anew on its broker is no move.
func handleListPartitionReassignments(_ context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.ListPartitionReassignmentsRequest)
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	view := n.cluster.View()
	if body.Topics == nil {
		for t := range view.Topics() {
			listMoves(resp, t, nil)
		}
		return resp, nil
	}
	for i := range body.Topics {
		if t, ok := view.TopicNamed(body.Topics[i].Topic); ok {
			listMoves(resp, t, body.Topics[i].Partitions)
		}
	}
	return resp, nil
}

// listMoves adds the moves of a topic; only those of the named partitions, if any are.
func listMoves(resp *kmsg.ListPartitionReassignmentsResponse, t *metadata.Topic, only []int32) {
	answer := kmsg.NewListPartitionReassignmentsResponseTopic()
	answer.Topic = t.Name
	for i := range t.Partitions {
		adding, removing := t.Partitions[i].Moves()
		if len(adding)+len(removing) == 0 || len(only) > 0 && !slices.Contains(only, int32(i)) {
			continue
		}
		p := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
		p.Partition = int32(i)
		p.Replicas, p.AddingReplicas, p.RemovingReplicas = []int32{}, []int32{}, []int32{}
		for _, r := range t.Partitions[i].Replicas {
			p.Replicas = append(p.Replicas, int32(r.Node))
		}
		for _, node := range adding {
			p.AddingReplicas = append(p.AddingReplicas, int32(node))
		}
		for _, node := range removing { // as in Kafka, they are among the replicas until they are gone
			p.RemovingReplicas = append(p.RemovingReplicas, int32(node))
			p.Replicas = append(p.Replicas, int32(node))
		}
		answer.Partitions = append(answer.Partitions, p)
	}
	if len(answer.Partitions) > 0 {
		resp.Topics = append(resp.Topics, answer)
	}
}
