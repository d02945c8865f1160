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
// would make a new consumer skip records, or read some again. Whatever is answered
// was confirmed by a majority, see confirm.go.

// The timestamps with a meaning of their own.
const (
	latestOffset          = -1
	earliestOffset        = -2
	maxTimestampOffset    = -3
	earliestLocalOffset   = -4
	latestTieredOffset    = -5
	earliestPendingOffset = -6
)

func handleListOffsets(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.ListOffsetsRequest)
	resp := kmsg.NewPtrListOffsetsResponse()
	resp.Topics = make([]kmsg.ListOffsetsResponseTopic, len(body.Topics))
	var readings []reading
	for i := range body.Topics {
		want, t := &body.Topics[i], kmsg.NewListOffsetsResponseTopic()
		t.Topic = want.Topic
		t.Partitions = make([]kmsg.ListOffsetsResponseTopicPartition, len(want.Partitions))
		for j := range want.Partitions {
			sp := &t.Partitions[j]
			noOffset(sp, want.Partitions[j].Partition)
			c, failure := listOffset(n, t.Topic, &want.Partitions[j], sp)
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

// noOffset is an answer without an offset.
func noOffset(sp *kmsg.ListOffsetsResponseTopicPartition, number int32) {
	*sp = kmsg.NewListOffsetsResponseTopicPartition()
	sp.Partition, sp.Timestamp, sp.Offset, sp.LeaderEpoch = number, -1, -1, -1
}

// listOffset answers for one partition, if the reading it returns is confirmed.
func listOffset(n *node, topic string, want *kmsg.ListOffsetsRequestTopicPartition, sp *kmsg.ListOffsetsResponseTopicPartition) (reading, *failure) {
	t, failure := n.topic(n.cluster.View(), topicRef{name: topic})
	if failure != nil {
		return reading{}, failure
	}
	p, l, failure := n.leading(t, want.Partition, want.CurrentLeaderEpoch)
	if failure != nil {
		return reading{}, failure
	}
	if !l.Ready {
		return reading{}, fail(kerr.OffsetNotAvailable, "")
	}
	offset, timestamp, failure := findOffset(p.Log(), want.Timestamp)
	if failure != nil {
		return reading{}, failure
	}
	sp.Offset, sp.Timestamp = int64(offset), timestamp
	if offset >= 0 {
		sp.LeaderEpoch = int32(l.Term)
	}
	withdraw := func(code int16) {
		noOffset(sp, want.Partition)
		sp.ErrorCode = code
	}
	return reading{p, l.Term, withdraw}, nil
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
