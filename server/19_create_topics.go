package server

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// CreateTopics (key 19). Version 4 lets -1 stand for the broker's defaults, 5
// answers with the topic's settings (KIP-525), 7 with its id.
//
// Any broker takes the request: the change goes to the metadata leader. The
// answer comes when the topic has leaders, or the time is over; the topic exists
// either way. Its settings in the answer are the effective ones: a client sees there
// that a min.insync.replicas below the majority has none.

// maxChangeWait bounds how long a client may let a change of the metadata wait.
const maxChangeWait = 2 * time.Minute

func handleCreateTopics(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.CreateTopicsRequest)
	ctx, cancel := bounded(ctx, body.TimeoutMillis, maxChangeWait)
	defer cancel()
	times := map[string]int{}
	for i := range body.Topics {
		times[body.Topics[i].Topic]++
	}
	resp := kmsg.NewPtrCreateTopicsResponse()
	for i := range body.Topics {
		resp.Topics = append(resp.Topics, createTopic(ctx, n, body, &body.Topics[i], times[body.Topics[i].Topic] > 1))
	}
	waiting, cancelWait := context.WithTimeout(ctx, leadersWait)
	defer cancelWait()
	for i := range resp.Topics {
		if t, ok := n.cluster.View().Topic(resp.Topics[i].TopicID); ok {
			n.awaitLeaders(waiting, t)
		}
	}
	return resp, nil
}

// createTopic creates one topic of the request, or only checks it.
func createTopic(ctx context.Context, n *node, body *kmsg.CreateTopicsRequest, want *kmsg.CreateTopicsRequestTopic, twice bool) kmsg.CreateTopicsResponseTopic {
	answer := kmsg.NewCreateTopicsResponseTopic()
	answer.Topic, answer.NumPartitions, answer.ReplicationFactor = want.Topic, -1, -1
	partitions, configs, failure := func() ([]metadata.Partition, map[string]string, *failure) {
		if twice {
			return nil, nil, fail(kerr.InvalidRequest, "the request names the topic more than once")
		}
		spec, failure := specOf(want)
		if failure != nil {
			return nil, nil, failure
		}
		if body.ValidateOnly {
			cmd, failure := n.plan(n.cluster.View(), spec)
			if failure != nil {
				return nil, nil, failure
			}
			return cmd.Partitions, cmd.Configs, nil
		}
		t, failure := n.create(ctx, spec)
		if failure != nil {
			return nil, nil, failure
		}
		answer.TopicID = t.ID
		return t.Partitions, t.Configs, nil
	}()
	if failure != nil {
		answer.ErrorCode, answer.ErrorMessage = failure.code, failure.text()
		return answer
	}
	answer.NumPartitions, answer.ReplicationFactor = int32(len(partitions)), int16(replicasOf(partitions))
	for i := range topicKeys {
		key := &topicKeys[i]
		s := shown(key, configs, replicasOf(partitions), n.settings)
		if set, ok := configs[key.name]; ok && set != s.value {
			n.logger.Warn("a topic's setting has no effect, since it is below the majority of its replicas",
				"topic", want.Topic, "key", key.name, "set", set, "effective", s.value)
		}
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.Value, c.Source = key.name, &s.value, int8(s.source)
		answer.Configs = append(answer.Configs, c)
	}
	return answer
}

// replicasOf is how many replicas each partition of a topic has.
func replicasOf(partitions []metadata.Partition) int {
	if len(partitions) == 0 {
		return 0
	}
	return len(partitions[0].Replicas)
}

// specOf reads a topic of the request.
func specOf(want *kmsg.CreateTopicsRequestTopic) (*topicSpec, *failure) {
	spec := &topicSpec{name: want.Topic, partitions: want.NumPartitions, factor: want.ReplicationFactor, configs: map[string]string{}}
	for _, c := range want.Configs {
		if c.Value == nil {
			return nil, fail(kerr.InvalidConfig, fmt.Sprintf("%s has no value", c.Name))
		}
		if _, twice := spec.configs[c.Name]; twice {
			return nil, fail(kerr.InvalidConfig, fmt.Sprintf("%s is given twice", c.Name))
		}
		spec.configs[c.Name] = *c.Value
	}
	if len(want.ReplicaAssignment) == 0 {
		return spec, nil
	}
	if want.NumPartitions != -1 || want.ReplicationFactor != -1 {
		return nil, fail(kerr.InvalidRequest, "with an assignment, partitions and replication factor must be -1")
	}
	var failure *failure
	spec.assignment, failure = assignmentOf(want.ReplicaAssignment)
	return spec, failure
}

// assignmentOf reads replicas that the client chose: every partition from 0 on
// once, all with the same number of replicas.
func assignmentOf(want []kmsg.CreateTopicsRequestTopicReplicaAssignment) ([][]metadata.NodeID, *failure) {
	if len(want) > maxPartitions {
		return nil, fail(kerr.InvalidPartitions, fmt.Sprintf("%d partitions; at most %d are possible", len(want), maxPartitions))
	}
	assignment := make([][]metadata.NodeID, len(want))
	for _, a := range want {
		switch {
		case a.Partition < 0 || int(a.Partition) >= len(want) || assignment[a.Partition] != nil:
			return nil, fail(kerr.InvalidReplicaAssignment, "an assignment names every partition from 0 on once")
		case len(a.Replicas) == 0 || len(a.Replicas) != len(want[0].Replicas):
			return nil, fail(kerr.InvalidReplicaAssignment, "all partitions need the same number of replicas, at least one")
		}
		for _, id := range a.Replicas {
			assignment[a.Partition] = append(assignment[a.Partition], metadata.NodeID(id))
		}
	}
	return assignment, nil
}
