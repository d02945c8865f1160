package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// ListOffsets (key 2). Version 1 asks for one offset, 2 brings isolation levels,
// 4 leader epochs, 6 flexible encoding, 7 the offset of the largest timestamp
// (KIP-734), 8 the local log start (KIP-405), 9 the last tiered offset, 10 a
// time-out, 11 the earliest offset that is not yet tiered.
//
// Only a ready leader knows the high watermark that answers "latest"; before
// that, OFFSET_NOT_AVAILABLE makes the client ask again, while a wrong answer
// would make a new consumer skip records.

// The timestamps with a meaning of their own.
const (
	latestOffset          = -1
	earliestOffset        = -2
	maxTimestampOffset    = -3
	earliestLocalOffset   = -4
	latestTieredOffset    = -5
	earliestPendingOffset = -6
)

func handleListOffsets(_ context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.ListOffsetsRequest)
	resp := kmsg.NewPtrListOffsetsResponse()
	for i := range body.Topics {
		t := kmsg.NewListOffsetsResponseTopic()
		t.Topic = body.Topics[i].Topic
		for j := range body.Topics[i].Partitions {
			t.Partitions = append(t.Partitions, listOffset(n, t.Topic, &body.Topics[i].Partitions[j]))
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}

// listOffset answers for one partition.
func listOffset(n *node, topic string, want *kmsg.ListOffsetsRequestTopicPartition) kmsg.ListOffsetsResponseTopicPartition {
	sp := kmsg.NewListOffsetsResponseTopicPartition()
	sp.Partition, sp.Timestamp, sp.Offset, sp.LeaderEpoch = want.Partition, -1, -1, -1
	failure := func() *failure {
		t, failure := n.topic(n.cluster.View(), topicRef{name: topic})
		if failure != nil {
			return failure
		}
		p, l, failure := n.leading(t, want.Partition, want.CurrentLeaderEpoch)
		if failure != nil {
			return failure
		}
		if !l.Ready {
			return fail(kerr.OffsetNotAvailable, "")
		}
		offset, timestamp, failure := findOffset(p.Log(), want.Timestamp)
		if failure != nil {
			return failure
		}
		// Read while this was the leader, or it may be that of a log that has been
		// overtaken.
		if now := p.Leadership(); !now.Ready || now.Term != l.Term {
			return fail(kerr.NotLeaderForPartition, "")
		}
		sp.Offset, sp.Timestamp = int64(offset), timestamp
		if offset >= 0 {
			sp.LeaderEpoch = int32(l.Term)
		}
		return nil
	}()
	if failure != nil {
		sp.ErrorCode = failure.code
	}
	return sp
}

// findOffset finds the offset that a timestamp asks for; -1, -1 if there is none.
func findOffset(records partitionLog, timestamp int64) (segment.Offset, int64, *failure) {
	watermark := records.HighWatermark()
	var offset segment.Offset
	var found int64
	var ok bool
	var err error
	switch timestamp {
	case latestOffset:
		return watermark, -1, nil
	case earliestOffset, earliestLocalOffset, earliestPendingOffset:
		return records.StartOffset(), -1, nil // nothing is tiered: all is local
	case latestTieredOffset:
		return -1, -1, nil
	case maxTimestampOffset:
		offset, found, ok, err = records.MaxTimestamp(watermark)
	default:
		if timestamp < 0 {
			return -1, -1, fail(kerr.InvalidRequest, "")
		}
		offset, found, ok, err = records.OffsetForTime(timestamp, watermark)
	}
	if err != nil {
		return -1, -1, readFailure(err)
	}
	if !ok {
		return -1, -1, nil
	}
	return offset, found, nil
}
