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
// answer is the end of that epoch, at most the high watermark. One that is too low
// would make them read again, so a majority confirms it, see confirm.go.
func handleOffsetForLeaderEpoch(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.OffsetForLeaderEpochRequest)
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	resp.Topics = make([]kmsg.OffsetForLeaderEpochResponseTopic, len(body.Topics))
	var readings []reading
	for i := range body.Topics {
		want, t := &body.Topics[i], kmsg.NewOffsetForLeaderEpochResponseTopic()
		t.Topic = want.Topic
		t.Partitions = make([]kmsg.OffsetForLeaderEpochResponseTopicPartition, len(want.Partitions))
		for j := range want.Partitions {
			sp := &t.Partitions[j]
			noEpoch(sp, want.Partitions[j].Partition)
			c, failure := epochEnd(n, t.Topic, &want.Partitions[j], sp)
			if failure != nil {
				sp.ErrorCode = failure.code
				continue
			}
			readings = append(readings, c)
		}
		resp.Topics[i] = t
	}
	settle(ctx, readings)
	return resp, nil
}

// noEpoch is an answer that knows of no such epoch.
func noEpoch(sp *kmsg.OffsetForLeaderEpochResponseTopicPartition, number int32) {
	*sp = kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
	sp.Partition, sp.LeaderEpoch, sp.EndOffset = number, -1, -1
}

// epochEnd answers for one partition, if the reading it returns is confirmed.
func epochEnd(n *node, topic string, want *kmsg.OffsetForLeaderEpochRequestTopicPartition, sp *kmsg.OffsetForLeaderEpochResponseTopicPartition) (reading, *failure) {
	t, failure := n.topic(n.cluster.View(), topicRef{name: topic})
	if failure != nil {
		return reading{}, failure
	}
	p, l, failure := n.leading(t, want.Partition, want.CurrentLeaderEpoch)
	if failure == nil && !l.Ready {
		failure = fail(kerr.NotLeaderForPartition, "")
	}
	if failure != nil {
		return reading{}, failure
	}
	watermark := p.Log().HighWatermark()
	switch asked := segment.Term(want.LeaderEpoch); {
	case want.LeaderEpoch < 0 || asked > l.Term: // none
	case asked == l.Term:
		sp.LeaderEpoch, sp.EndOffset = int32(l.Term), int64(watermark)
	default:
		if term, end, ok := p.Log().OffsetForTerm(asked); ok {
			sp.LeaderEpoch, sp.EndOffset = int32(term), int64(min(end, watermark))
		}
	}
	withdraw := func(code int16) {
		noEpoch(sp, want.Partition)
		sp.ErrorCode = code
	}
	return reading{p, l.Term, withdraw}, nil
}
