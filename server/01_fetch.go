package server

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// Fetch (key 1). Version 4 brings isolation levels, 5 the log start offset, 7
// incremental sessions (KIP-227), 9 leader epochs, 10 zstd (KIP-110), 11 racks,
// 12 flexible encoding and the present leader, 13 topic ids, 15 drops the replica
// id, 16 node endpoints (KIP-951).
//
// A fetch waits until min_bytes are there, something is wrong, or its time is
// over. Records are served from a ready leader only and never above the high
// watermark. The first partition that has anything is answered with at least one
// batch, however small the limits (KIP-74). No transaction is ever open in this
// version, so the last stable offset is the high watermark.

// maxFetchWait bounds how long a fetch waits for records.
const maxFetchWait = 60 * time.Second

// fetching is one fetch under way.
type fetching struct {
	node    *node
	body    *kmsg.FetchRequest
	client  *client
	view    *metadata.View
	wanted  []*fetchPartition
	results []fetchResult
	bytes   int64 // record bytes in results
	failed  bool  // a partition is answered with an error
	held    int64 // taken from the node's budget for inflated batches
	short   bool  // has waited for memory in vain, and does not wait again
}

// fetchPartition is a partition that a client wants, as named by a request or
// kept in a session.
type fetchPartition struct {
	ref      topicRef
	number   int32
	epoch    int32
	offset   segment.Offset
	maxBytes int32
	// sent is what the last answer said; for sessions, which leave out what has
	// not changed.
	sent struct {
		watermark, start segment.Offset
		known            bool
	}
}

// fetchResult is one partition's part of the answer.
type fetchResult struct {
	want      *fetchPartition
	code      int16
	watermark segment.Offset
	start     segment.Offset
	hint      leaderHint
	slice     log.Slice
	bytes     []byte // instead of slice: inflated
	size      int64
}

// handleFetch answers a fetch.
func handleFetch(ctx context.Context, n *node, r *request) (*answer, error) {
	body := r.body.(*kmsg.FetchRequest)
	session, code := n.sessions.open(body, n.now())
	if code != 0 {
		return encodeFetch(r.header, &fetchResponse{code: code}), nil
	}
	f := &fetching{node: n, body: body, client: r.client, wanted: session.wanted}
	if err := f.poll(ctx); err != nil {
		f.release()
		return nil, err
	}
	return encodeFetch(r.header, f.response(session)), nil
}

// poll collects until the answer is worth sending.
func (f *fetching) poll(ctx context.Context) error {
	wait := min(time.Duration(max(f.body.MaxWaitMillis, 0))*time.Millisecond, maxFetchWait)
	if f.collect(ctx); f.enough() || wait == 0 {
		return nil
	}
	changed := make(chan struct{}, 1)
	defer f.node.leaders.watch(changed)()
	for _, p := range f.logs() {
		defer p.Subscribe(changed)()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		// Once more after subscribing: something may have come in between.
		f.release()
		if f.collect(ctx); f.enough() {
			return nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil
		case <-f.node.stopping.Done():
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// enough reports whether to answer now; a client that wants no bytes at least
// (min_bytes 0) does not wait, as in Kafka.
func (f *fetching) enough() bool {
	return f.failed || len(f.wanted) == 0 || f.bytes >= int64(f.body.MinBytes)
}

// logs are the logs whose high watermark the fetch waits for.
func (f *fetching) logs() []partitionLog {
	var logs []partitionLog
	for _, want := range f.wanted {
		topic, failure := f.node.topic(f.view, want.ref)
		if failure != nil {
			continue
		}
		if p, _, failure := f.node.leading(topic, want.number, want.epoch); failure == nil {
			logs = append(logs, p.Log())
		}
	}
	return logs
}

// collect reads what there is of every wanted partition, within the limits.
func (f *fetching) collect(ctx context.Context) {
	f.view = f.node.cluster.View()
	f.results, f.bytes, f.failed = f.results[:0], 0, false
	left := f.node.settings.fetchMaxBytes
	if f.body.Version >= 3 && int64(f.body.MaxBytes) < left {
		left = int64(max(f.body.MaxBytes, 0))
	}
	for _, want := range f.wanted {
		result := fetchResult{want: want, watermark: -1, start: -1, hint: leaderHint{-1, -1}}
		if failure := f.read(ctx, &result, left); failure != nil {
			result.code = failure.code
			f.failed = true
		}
		left -= result.size
		f.bytes += result.size
		f.results = append(f.results, result)
	}
}

// read reads one partition.
func (f *fetching) read(ctx context.Context, result *fetchResult, left int64) *failure {
	want := result.want
	topic, failure := f.node.topic(f.view, want.ref)
	if failure != nil {
		return failure
	}
	p, leadership, failure := f.node.leading(topic, want.number, want.epoch)
	if failure == nil && !leadership.Ready {
		failure = fail(kerr.NotLeaderForPartition, "")
	}
	if failure != nil {
		if hintsFor(failure.code) {
			result.hint = f.node.hint(topic.ID, want.number)
		}
		return failure
	}
	records := p.Log()
	result.start, result.watermark = records.StartOffset(), records.HighWatermark() // in this order, start is never above
	if want.offset < result.start || want.offset > records.NextOffset() {
		// A wrong OFFSET_OUT_OF_RANGE makes a consumer skip or read everything
		// again: a leader that was overtaken would say it of what its successor has
		// acknowledged since.
		if failure := confirm(ctx, p, leadership.Term); failure != nil {
			result.watermark, result.start = -1, -1
			result.hint = f.node.hint(topic.ID, want.number)
			return failure
		}
		return fail(kerr.OffsetOutOfRange, "")
	}
	limit := min(int64(max(want.maxBytes, 0)), left)
	if want.offset >= result.watermark || limit <= 0 && f.bytes > 0 {
		return nil
	}
	slice, err := records.Read(want.offset, result.watermark, limit, f.bytes == 0)
	if errors.Is(err, log.ErrOffsetOutOfRange) { // trimmed since
		return readFailure(err)
	}
	if err != nil {
		f.node.logger.Error("read records for a consumer", "topic", topic.Name, "partition", want.number, "offset", int64(want.offset), "err", err)
		return readFailure(err)
	}
	result.slice = slice
	result.size = sliceSize(&slice)
	if failure := f.inflate(ctx, result, f.node.topics.get(topic)); failure != nil {
		result.size = 0
		return failure
	}
	return nil
}

// sliceSize is the length of a slice in bytes.
func sliceSize(s *log.Slice) int64 {
	if s.File != nil {
		return s.Length
	}
	return int64(len(s.Bytes))
}

// release gives back what the results hold.
func (f *fetching) release() {
	for i := range f.results {
		f.results[i].slice.Release()
	}
	f.results = f.results[:0]
	f.node.budget.give(f.held)
	f.held = 0
}

// response groups the results by topic, in the order in which they were wanted.
func (f *fetching) response(session fetchSession) *fetchResponse {
	resp := &fetchResponse{session: session.id, release: f.release}
	hints := map[int32]struct{}{}
	for i := range f.results {
		result := &f.results[i]
		if session.skips(result) {
			continue
		}
		if result.hint.node >= 0 {
			hints[result.hint.node] = struct{}{}
		}
		resp.add(result)
	}
	if f.body.Version >= 16 && len(hints) > 0 {
		resp.brokers = f.node.endpoints(f.view, f.client, hints)
	}
	session.sent(f.results)
	return resp
}
