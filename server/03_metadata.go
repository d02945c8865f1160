package server

import (
	"context"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
)

// Metadata (key 3). Version 1 brings racks, the controller and "no topics"
// (before, an empty list meant all), 2 the cluster id, 4 the choice of automatic
// creation, 5 offline replicas, 7 leader epochs, 8 authorized operations, 9
// flexible encoding, 10 topic ids, 12 requests by topic id alone, 13 an error
// code of the whole answer.
//
// Any broker answers, from its own copy of the metadata; who leads what comes
// from the leadership that the brokers tell each other. Fenced brokers (see fenced)
// are not listed, as in Kafka: clients ask every listed broker for its groups, and
// would wait for the dead ones. As replicas they are named, and told to be offline.
func handleMetadata(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.MetadataRequest)
	resp := kmsg.NewPtrMetadataResponse()
	id := n.cluster.ClusterID()
	resp.ClusterID = &id
	resp.ControllerID = controllerID(n)
	resp.AuthorizedOperations = math.MinInt32
	if body.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = clusterOperations
	}
	var topics []kmsg.MetadataResponseTopic
	if body.Topics == nil || body.Version == 0 && len(body.Topics) == 0 {
		for t := range n.cluster.View().Topics() {
			topics = append(topics, describeTopic(n, t, body.IncludeTopicAuthorizedOperations))
		}
	}
	mayCreate := n.settings.autoCreate && (body.Version < 4 || body.AllowAutoTopicCreation)
	for i := range body.Topics {
		topics = append(topics, metadataTopic(ctx, n, body, &body.Topics[i], mayCreate))
	}
	resp.Topics = topics
	view := n.cluster.View()
	fenced := n.fenced(view)
	for _, a := range n.addresses(view, r.client) {
		if fenced[a.node] {
			continue
		}
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port, b.Rack = int32(a.node), a.host, a.port, a.rack
		resp.Brokers = append(resp.Brokers, b)
	}
	return resp, nil
}

// metadataTopic answers for one topic that was asked for, and creates it where
// that is wanted.
func metadataTopic(ctx context.Context, n *node, body *kmsg.MetadataRequest, want *kmsg.MetadataRequestTopic, mayCreate bool) kmsg.MetadataResponseTopic {
	ref := topicRef{id: want.TopicID}
	if want.Topic != nil {
		ref = topicRef{name: *want.Topic}
	}
	t, failure := n.topic(n.cluster.View(), ref)
	if failure != nil && ref.id.IsZero() {
		if err := metadata.CheckTopicName(ref.name); err != nil {
			failure = fail(kerr.InvalidTopicException, "")
		} else if mayCreate {
			t, failure = n.creating.automatic(ctx, n, ref.name)
		}
	}
	if failure == nil {
		return describeTopic(n, t, body.IncludeTopicAuthorizedOperations)
	}
	answer := kmsg.NewMetadataResponseTopic()
	answer.ErrorCode, answer.TopicID = failure.code, ref.id
	answer.AuthorizedOperations = math.MinInt32
	if ref.id.IsZero() || body.Version < 12 {
		answer.Topic = &ref.name
	}
	return answer
}

// describeTopic is a topic's entry.
func describeTopic(n *node, t *metadata.Topic, operations bool) kmsg.MetadataResponseTopic {
	answer := kmsg.NewMetadataResponseTopic()
	answer.Topic, answer.TopicID, answer.IsInternal = &t.Name, t.ID, t.Internal
	answer.AuthorizedOperations = math.MinInt32
	if operations {
		answer.AuthorizedOperations = topicOperations
	}
	answer.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i := range t.Partitions {
		answer.Partitions[i] = describePartition(n, t, int32(i))
	}
	return answer
}

// describePartition is a partition's entry. Without a known leader it says
// LEADER_NOT_AVAILABLE, after which clients ask again.
func describePartition(n *node, t *metadata.Topic, number int32) kmsg.MetadataResponseTopicPartition {
	sp := kmsg.NewMetadataResponseTopicPartition()
	sp.Partition, sp.Leader, sp.LeaderEpoch = number, -1, -1
	sp.Replicas, sp.ISR, sp.OfflineReplicas = []int32{}, []int32{}, []int32{}
	for _, r := range t.Partitions[number].Replicas {
		sp.Replicas = append(sp.Replicas, int32(r.Node))
		if !n.alive(r.Node) {
			sp.OfflineReplicas = append(sp.OfflineReplicas, int32(r.Node))
		}
	}
	l, ok := n.cluster.Leader(t.ID, number)
	for _, node := range l.InSync {
		sp.ISR = append(sp.ISR, int32(node))
	}
	if !ok || l.Node == replication.NoLeader {
		sp.ErrorCode = kerr.LeaderNotAvailable.Code
		return sp
	}
	sp.Leader, sp.LeaderEpoch = int32(l.Node), int32(l.Term)
	return sp
}
