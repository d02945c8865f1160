package server

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// DeleteTopics (key 20). Version 5 adds messages, 6 deletion by topic id.
//
// The answer comes when the deletion is decided; each broker removes its
// replicas when it learns of it, also if it was down.
func handleDeleteTopics(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.DeleteTopicsRequest)
	ctx, cancel := bounded(ctx, body.TimeoutMillis, maxChangeWait)
	defer cancel()
	var refs []topicRef
	for _, name := range body.TopicNames {
		refs = append(refs, topicRef{name: name})
	}
	for i := range body.Topics {
		ref := topicRef{id: body.Topics[i].TopicID}
		if name := body.Topics[i].Topic; name != nil {
			ref.name = *name
		}
		refs = append(refs, ref)
	}
	resp := kmsg.NewPtrDeleteTopicsResponse()
	for _, ref := range refs {
		resp.Topics = append(resp.Topics, deleteTopic(ctx, n, ref))
	}
	return resp, nil
}

func deleteTopic(ctx context.Context, n *node, ref topicRef) kmsg.DeleteTopicsResponseTopic {
	answer := kmsg.NewDeleteTopicsResponseTopic()
	answer.TopicID = ref.id
	if ref.name != "" {
		answer.Topic = &ref.name
	}
	failure := func() *failure {
		if ref.name != "" && !ref.id.IsZero() {
			return fail(kerr.InvalidRequest, "a topic is named by name or by id, not both")
		}
		t, failure := n.topic(n.cluster.View(), ref)
		if failure != nil {
			return failure
		}
		answer.Topic, answer.TopicID = &t.Name, t.ID
		switch {
		case !n.settings.deleteTopics:
			return fail(kerr.TopicDeletionDisabled, "delete.topic.enable is false on this broker")
		case t.Internal:
			return fail(kerr.InvalidTopicException, fmt.Sprintf("%s is the system's own: it holds the positions of all groups", t.Name))
		}
		if _, err := n.cluster.Change(ctx, &metadata.DeleteTopic{ID: t.ID, LastTerm: n.lastTerm(t)}); err != nil {
			return changeFailure(err)
		}
		return nil
	}()
	if failure != nil {
		answer.ErrorCode, answer.ErrorMessage = failure.code, failure.text()
	}
	return answer
}

// lastTerm is the highest leader epoch of a topic that was announced, so that a
// topic created later under its name starts above.
func (n *node) lastTerm(t *metadata.Topic) uint64 {
	var last uint64
	for i := range t.Partitions {
		l, _ := n.cluster.Leader(t.ID, int32(i))
		last = max(last, uint64(l.Term))
	}
	return last
}
