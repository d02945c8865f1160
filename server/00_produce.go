package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// Produce (key 0). Announced from version 0, because librdkafka takes a higher
// minimum for a broker without codecs, and answered from version 3 (record
// batches of magic 2). Version 5 adds the log start offset, 7 zstd, 8 error
// records and messages, 9 flexible encoding, 10 the present leader (KIP-951),
// 13 topic ids.
//
// The batches of a connection enter each partition's queue in the order in which
// they were sent, while those of later requests are checked and compressed
// already: each request has a goroutine that prepares its batches, then waits
// until the request before it has queued its own. acks=1 is treated as acks=all.

const (
	// maxProduceWait bounds how long a client may let a produce request wait.
	maxProduceWait = 2 * time.Minute
	// parallelBytes is the size from which on the batches of one request are
	// prepared side by side.
	parallelBytes = 64 << 10
)

// errAcksZero closes the connection of a producer that waits for no answer and
// sent something that cannot be written: the only way to tell it, as in Kafka.
var errAcksZero = errors.New("a batch sent with acks=0 was refused")

// produceOrder is the order of one connection's produce requests. The reader of
// the connection is the only one to use it.
type produceOrder struct {
	last chan struct{} // closed when the last request has queued its batches
}

// next registers a request: it may queue when before is closed, and closes after.
func (o *produceOrder) next() (before <-chan struct{}, after chan struct{}) {
	before = o.last
	if before == nil {
		closed := make(chan struct{})
		close(closed)
		before = closed
	}
	o.last = make(chan struct{})
	return before, o.last
}

// producing is one produce request under way.
type producing struct {
	node  *node
	body  *kmsg.ProduceRequest
	view  *metadata.View
	at    time.Time
	size  int // of the request
	items []*produceItem

	queued chan struct{} // closed when run has returned
	panic  any           // what run panicked with
}

// produceItem is one batch of a request.
type produceItem struct {
	ref      topicRef
	topic    *metadata.Topic
	number   int32
	frame    []byte
	header   segment.Header
	appended int64 // LogAppendTime in milliseconds, -1 without
	start    segment.Offset

	partition partition
	proposal  proposal
	result    replication.Result
	failure   *failure
	record    int // the record that is wrong, -1
}

// beginProduce starts a request on the reader's goroutine.
func beginProduce(ctx context.Context, n *node, r *request) func(context.Context) (kmsg.Response, error) {
	body := r.body.(*kmsg.ProduceRequest)
	p := &producing{node: n, body: body, view: n.cluster.View(), at: r.at, size: r.size, queued: make(chan struct{})}
	for i := range body.Topics {
		t := &body.Topics[i]
		for j := range t.Partitions {
			p.items = append(p.items, &produceItem{ref: topicRef{t.Topic, t.TopicID}, number: t.Partitions[j].Partition,
				frame: t.Partitions[j].Records, appended: -1, start: -1, record: -1})
		}
	}
	before, after := r.client.produce.next()
	go p.run(ctx, before, after)
	return func(ctx context.Context) (kmsg.Response, error) { return p.finish(ctx, r) }
}

// run prepares the batches, waits for its turn and queues them.
func (p *producing) run(ctx context.Context, before <-chan struct{}, after chan struct{}) {
	defer close(p.queued)
	defer close(after)
	defer func() { p.panic = recover() }()
	refused := p.refused()
	for _, item := range p.items {
		if item.failure = refused; refused == nil {
			p.find(item)
		}
	}
	p.prepare(ctx)
	select {
	case <-before:
	case <-ctx.Done():
		<-before // order also among those that are given up
	}
	for _, item := range p.items {
		if item.failure != nil {
			// Now, not when it is answered: the next request queues before that.
			p.remember(item)
			continue
		}
		refused := p.node.refusals.before(p.key(item), item.header)
		item.proposal = item.partition.Propose(ctx, item.frame, replication.Guard{Refused: refused})
	}
}

// refused is what is wrong with the request as a whole.
func (p *producing) refused() *failure {
	switch {
	case p.body.Acks < -1 || p.body.Acks > 1:
		return fail(kerr.InvalidRequiredAcks, "")
	case p.body.TransactionID != nil:
		return fail(kerr.InvalidRequest, "transactions are not available in this version")
	}
	return nil
}

// find resolves the partition of an item.
func (p *producing) find(item *produceItem) {
	if item.topic, item.failure = p.node.topic(p.view, item.ref); item.failure != nil {
		return
	}
	if item.topic.Internal {
		// Its records are the coordinators' state: whoever wrote one by hand could
		// move the positions of any group.
		item.failure = fail(kerr.InvalidTopicException, "clients may not write to an internal topic")
		return
	}
	var l replication.Leadership
	if item.partition, l, item.failure = p.node.leading(item.topic, item.number, -1); item.failure != nil {
		return
	}
	for _, other := range p.items {
		if other == item {
			break
		}
		if other.topic == item.topic && other.number == item.number {
			item.failure = fail(kerr.InvalidRecord, "a request can hold one batch for a partition")
			return
		}
	}
	settings := p.node.topics.get(item.topic)
	if need := settings.minInSync; p.body.Acks == -1 && need > len(item.topic.Partitions[item.number].Replicas)/2+1 &&
		l.Ready && item.partition.InSync() < need {
		item.failure = fail(kerr.NotEnoughReplicas, "fewer replicas are in sync than min.insync.replicas asks for")
	}
}

// prepare checks and compresses the batches, side by side where that is worth it.
func (p *producing) prepare(ctx context.Context) {
	if len(p.items) < 2 || p.size < parallelBytes {
		for _, item := range p.items {
			if item.failure == nil {
				p.prepareItem(ctx, item)
			}
		}
		return
	}
	var wg sync.WaitGroup
	work := make(chan *produceItem)
	for range min(len(p.items), cap(p.node.processor)) {
		wg.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					p.node.logger.Error("preparing a batch panicked", "panic", r)
					for item := range work { // nobody else might be left to take them
						item.failure = fail(kerr.UnknownServerError, "")
					}
				}
			}()
			for item := range work {
				item.failure = fail(kerr.UnknownServerError, "") // if it panics
				p.prepareItem(ctx, item)
			}
		})
	}
	for _, item := range p.items {
		if item.failure == nil {
			work <- item
		}
	}
	close(work)
	wg.Wait()
}

// prepareItem checks and compresses one batch in a slot of the node.
func (p *producing) prepareItem(ctx context.Context, item *produceItem) {
	select {
	case p.node.processor <- struct{}{}:
	case <-ctx.Done():
		item.failure = fail(kerr.NotLeaderForPartition, "")
		return
	}
	defer func() { <-p.node.processor }()
	batch, f := prepareBatch(item.frame, p.node.topics.get(item.topic), p.node.now())
	item.header, item.record = batch.header, batch.record
	if item.failure = f; f != nil {
		return
	}
	item.frame, item.appended = batch.frame, batch.appended
	if 2*len(item.frame) < p.size && !batch.fresh {
		// The log keeps recent batches in memory; a small one must not keep the
		// whole request alive.
		item.frame = append(make([]byte, 0, len(item.frame)), item.frame...)
	}
}

// finish waits for the outcomes and answers.
func (p *producing) finish(ctx context.Context, r *request) (kmsg.Response, error) {
	<-p.queued
	if p.panic != nil {
		panic(p.panic) // on the goroutine of the connection, which closes it
	}
	if p.body.Acks == 0 {
		for _, item := range p.items {
			if item.failure != nil {
				return nil, errAcksZero
			}
		}
		return nil, nil
	}
	wait := min(max(time.Duration(p.body.TimeoutMillis)*time.Millisecond, time.Second), maxProduceWait)
	timer := time.NewTimer(wait - p.node.now().Sub(p.at))
	defer timer.Stop()
	for _, item := range p.items {
		if item.proposal == nil {
			continue
		}
		if err := p.await(ctx, item, timer); err != nil {
			return nil, err
		}
	}
	return p.response(r), nil
}

// await waits for one outcome. The error is the end of the connection.
func (p *producing) await(ctx context.Context, item *produceItem, timer *time.Timer) error {
	select {
	case <-item.proposal.Done():
	default:
		select {
		case <-item.proposal.Done():
		case <-timer.C:
			timer.Reset(0) // for the items after this one
			item.failure = fail(kerr.RequestTimedOut, "not acknowledged in time: the outcome is unknown")
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var err error
	if item.result, err = item.proposal.Result(); err != nil {
		item.failure = p.outcome(item, err)
	}
	item.start = item.partition.Log().StartOffset()
	return nil
}

// outcome maps the error of a proposal; a gap in the sequence that this broker's
// own refusals may have made is not a loss.
func (p *producing) outcome(item *produceItem, err error) *failure {
	f := proposalFailure(err)
	if f.code == kerr.OutOfOrderSequenceNumber.Code && p.node.refusals.recent(p.key(item)) {
		return fail(kerr.NotLeaderForPartition, "")
	}
	return f
}

func (p *producing) key(item *produceItem) refusalKey {
	return refusalKey{item.ref, item.number, item.header.ProducerID}
}

// remember notes a refusal of an idempotent producer.
func (p *producing) remember(item *produceItem) {
	if len(item.ref.name) > metadata.MaxTopicName {
		return // no topic, and too long to be remembered
	}
	h := item.header
	if h.NumRecords == 0 { // refused before it was checked
		var err error
		if h, err = segment.DecodeHeader(item.frame); err != nil {
			return
		}
		item.header = h
	}
	if h.ProducerID < 0 || item.failure.code == kerr.OutOfOrderSequenceNumber.Code {
		return
	}
	// After an error that is the batch's own fault its client goes on with the
	// next one, which is right to begin with that.
	refusal, ok := replication.RefusalOf(h)
	if !ok || !kerr.IsRetriable(kerr.ErrorForCode(item.failure.code)) {
		p.node.refusals.note(p.key(item), nil)
		return
	}
	p.node.refusals.note(p.key(item), &refusal)
}

// response builds the answer in the order of the request.
func (p *producing) response(r *request) *kmsg.ProduceResponse {
	resp := kmsg.NewPtrProduceResponse()
	hints := map[int32]struct{}{}
	next := 0
	for i := range p.body.Topics {
		t := kmsg.NewProduceResponseTopic()
		t.Topic, t.TopicID = p.body.Topics[i].Topic, p.body.Topics[i].TopicID
		for range p.body.Topics[i].Partitions {
			t.Partitions = append(t.Partitions, p.answerItem(p.items[next], hints))
			next++
		}
		resp.Topics = append(resp.Topics, t)
	}
	for _, a := range p.node.endpoints(p.view, r.client, hints) {
		b := kmsg.NewProduceResponseBroker()
		b.NodeID, b.Host, b.Port, b.Rack = int32(a.node), a.host, a.port, a.rack
		resp.Brokers = append(resp.Brokers, b)
	}
	return resp
}

// answerItem is one partition's part of the answer.
func (p *producing) answerItem(item *produceItem, hints map[int32]struct{}) kmsg.ProduceResponseTopicPartition {
	sp := kmsg.NewProduceResponseTopicPartition()
	sp.Partition, sp.BaseOffset, sp.LogAppendTime, sp.LogStartOffset = item.number, -1, -1, -1
	if item.failure == nil {
		sp.BaseOffset, sp.LogAppendTime, sp.LogStartOffset = int64(item.result.Base), item.appended, int64(item.start)
		return sp
	}
	if item.proposal != nil {
		p.remember(item)
	}
	sp.ErrorCode, sp.ErrorMessage = item.failure.code, item.failure.text()
	if item.record >= 0 {
		bad := kmsg.NewProduceResponseTopicPartitionErrorRecord()
		bad.RelativeOffset, bad.ErrorMessage = int32(item.record), item.failure.text()
		sp.ErrorRecords = append(sp.ErrorRecords, bad)
	}
	if item.topic != nil && hintsFor(item.failure.code) {
		h := p.node.hint(item.topic.ID, item.number)
		sp.CurrentLeader.LeaderID, sp.CurrentLeader.LeaderEpoch = h.node, h.epoch
		hints[h.node] = struct{}{}
	}
	return sp
}
