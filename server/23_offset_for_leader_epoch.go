package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// OffsetForLeaderEpoch (key 23). Version 2 brings the current leader epoch, 3 the
// replica id, 4 flexible encoding.
//
// Consumers ask where the records of the epoch they last read end, to notice
// that what they read was cut. Nothing they could read ever is, here; so the
// answer is the end of that epoch, at most the high watermark.
func handleOffsetForLeaderEpoch(_ context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.OffsetForLeaderEpochRequest)
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	for i := range body.Topics {
		t := kmsg.NewOffsetForLeaderEpochResponseTopic()
		t.Topic = body.Topics[i].Topic
		for j := range body.Topics[i].Partitions {
			t.Partitions = append(t.Partitions, epochEnd(n, t.Topic, &body.Topics[i].Partitions[j]))
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}

func epochEnd(n *node, topic string, want *kmsg.OffsetForLeaderEpochRequestTopicPartition) kmsg.OffsetForLeaderEpochResponseTopicPartition {
	sp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
	sp.Partition, sp.LeaderEpoch, sp.EndOffset = want.Partition, -1, -1
	t, failure := n.topic(n.cluster.View(), topicRef{name: topic})
	if failure != nil {
		sp.ErrorCode = failure.code
		return sp
	}
	p, l, failure := n.leading(t, want.Partition, want.CurrentLeaderEpoch)
	if failure == nil && !l.Ready {
		failure = fail(kerr.NotLeaderForPartition, "")
	}
	if failure != nil {
		sp.ErrorCode = failure.code
		return sp
	}
	watermark := p.Log().HighWatermark()
	if want.LeaderEpoch < 0 || segment.Term(want.LeaderEpoch) > l.Term {
		return sp
	}
	if segment.Term(want.LeaderEpoch) == l.Term {
		sp.LeaderEpoch, sp.EndOffset = int32(l.Term), int64(watermark)
		return sp
	}
	if term, end, ok := p.Log().OffsetForTerm(segment.Term(want.LeaderEpoch)); ok {
		sp.LeaderEpoch, sp.EndOffset = int32(term), int64(min(end, watermark))
	}
	return sp
}
