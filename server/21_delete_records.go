package server

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// DeleteRecords (key 21, KIP-107). Version 2 brings flexible encoding.
//
// The records below an offset are gone for readers when the answer comes: the new log
// start is an entry of the partition's log, committed like a record. The answer's low
// watermark is that start.

// highWatermarkOffset as the offset stands for the high watermark.
const highWatermarkOffset = -1

// trimsAtOnce bounds how many partitions one request waits for at a time.
const trimsAtOnce = 128

func handleDeleteRecords(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.DeleteRecordsRequest)
	ctx, cancel := bounded(ctx, body.TimeoutMillis, maxChangeWait)
	defer cancel()
	resp := kmsg.NewPtrDeleteRecordsResponse()
	resp.Topics = make([]kmsg.DeleteRecordsResponseTopic, len(body.Topics))
	slots := make(chan struct{}, trimsAtOnce)
	var waits sync.WaitGroup // each partition waits for a round of its own group
	for i := range body.Topics {
		want, answer := &body.Topics[i], kmsg.NewDeleteRecordsResponseTopic()
		answer.Topic = want.Topic
		answer.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, len(want.Partitions))
		resp.Topics[i] = answer
		topic, failure := n.deletable(want.Topic)
		for j := range want.Partitions {
			sp := &answer.Partitions[j]
			*sp = kmsg.NewDeleteRecordsResponseTopicPartition()
			sp.Partition, sp.LowWatermark = want.Partitions[j].Partition, -1
			if failure != nil {
				sp.ErrorCode = failure.code
				continue
			}
			offset := want.Partitions[j].Offset
			slots <- struct{}{}
			waits.Go(func() {
				defer func() { <-slots }()
				deleteRecords(ctx, n, topic, offset, sp)
			})
		}
	}
	waits.Wait()
	return resp, nil
}

// deletable is a topic of which clients may delete records.
func (n *node) deletable(name string) (*metadata.Topic, *failure) {
	t, failure := n.topic(n.cluster.View(), topicRef{name: name})
	if failure != nil {
		return nil, failure
	}
	if t.Internal {
		return nil, fail(kerr.InvalidTopicException, fmt.Sprintf("%s is the system's own", t.Name))
	}
	if !policyOf(t, n.settings).Delete {
		return nil, fail(kerr.PolicyViolation, fmt.Sprintf("the cleanup.policy of %s does not delete", t.Name))
	}
	return t, nil
}

// deleteRecords moves the log start of one partition.
func deleteRecords(ctx context.Context, n *node, t *metadata.Topic, offset int64, sp *kmsg.DeleteRecordsResponseTopicPartition) {
	low, failure := trimPartition(ctx, n, t, sp.Partition, offset)
	if failure != nil {
		sp.ErrorCode = failure.code
		return
	}
	sp.LowWatermark = int64(low)
}

func trimPartition(ctx context.Context, n *node, t *metadata.Topic, number int32, offset int64) (segment.Offset, *failure) {
	p, l, failure := n.leading(t, number, -1)
	if failure != nil {
		return 0, failure
	}
	if !l.Ready { // its high watermark is that of an earlier leader, or less
		return 0, fail(kerr.NotLeaderForPartition, "")
	}
	watermark := p.Log().HighWatermark()
	start := segment.Offset(offset)
	if offset == highWatermarkOffset {
		start = watermark
	}
	if start > watermark { // unless there is another leader, whose log is longer
		if failure := confirm(ctx, p, l.Term); failure != nil {
			return 0, failure
		}
	}
	if start < 0 || start > watermark {
		return 0, fail(kerr.OffsetOutOfRange, "")
	}
	low, err := p.Trim(ctx, start)
	if err != nil {
		return 0, proposalFailure(err)
	}
	return low, nil
}
