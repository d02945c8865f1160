package server

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// A batch that would need all of the request memory when inflated is sent as
// stored: to wait for memory of which the fetch itself holds a part never ends.
func TestInflateNeverWaitsForItself(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"socket.request.max.bytes": "1048576", "millrace.request.memory.bytes": "1048576"})
	topic := n.topic(t, "t", 1, nil)
	plain := segment.Build([]segment.Record{{Value: make([]byte, 2<<20)}}, segment.BuildOptions{})
	stored, _, err := segment.Compress(plain, segment.CodecZstd)
	if err != nil {
		t.Fatal(err)
	}
	n.cluster.partition("t", 0).fill(stored)
	got := n.call(t, fetchRequest(12, fetchTopicOf("t", topic.ID, 0))).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if !bytes.Equal(got.RecordBatches, stored) {
		t.Fatalf("code %d, %d bytes", got.ErrorCode, len(got.RecordBatches))
	}
}

// While the request memory is used up, a batch is neither read nor inflated: the
// memory is taken first.
func TestInflateTakesMemoryFirst(t *testing.T) {
	n := newTestNode(t, 1, nil)
	topic := n.topic(t, "t", 1, nil)
	const size = 32 << 20
	plain := segment.Build([]segment.Record{{Value: make([]byte, size)}}, segment.BuildOptions{})
	stored, _, err := segment.Compress(plain, segment.CodecZstd)
	if err != nil {
		t.Fatal(err)
	}
	p := n.cluster.partition("t", 0)
	p.log.inFile(t, n)
	p.fill(stored)
	f := &fetching{node: n.node, body: fetchRequest(12, fetchTopicOf("t", topic.ID, 0)), client: &client{}}
	settings := n.topics.get(topic)
	inflate := func(ctx context.Context) (fetchResult, uint64) {
		t.Helper()
		slice, err := p.log.Read(0, 1, 1<<20, true)
		if err != nil {
			t.Fatal(err)
		}
		result := fetchResult{slice: slice, size: sliceSize(&slice)}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if failure := f.inflate(ctx, &result, settings); failure != nil {
			t.Fatal(failure)
		}
		runtime.ReadMemStats(&after)
		return result, after.TotalAlloc - before.TotalAlloc
	}
	all, err := n.budget.take(t.Context(), n.settings.requestMemory)
	if err != nil {
		t.Fatal(err)
	}
	if result, used := inflate(t.Context()); result.size != 0 || used > size/4 {
		t.Errorf("without memory: an answer of %d bytes, %d allocated", result.size, used)
	}
	n.budget.give(all)
	result, _ := inflate(t.Context())
	if result.size < size || f.held < result.size || n.budget.inUse() != f.held {
		t.Errorf("an answer of %d bytes holds %d, %d are taken", result.size, f.held, n.budget.inUse())
	}
	f.release()
}

// What needs no inflating is not read for a client that is not known to read every
// codec: it goes out of its file as it is.
func TestPlainRecordsStayInTheirFile(t *testing.T) {
	n := newTestNode(t, 1, nil)
	topic := n.topic(t, "t", 1, nil)
	p := n.cluster.partition("t", 0)
	p.log.inFile(t, n)
	want := p.fill(batchOf(1), batchOf(2), segment.Build([]segment.Record{{Value: noise(90_000)}}, segment.BuildOptions{}))
	got := n.call(t, fetchRequest(12, fetchTopicOf("t", topic.ID, 0))).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if !bytes.Equal(got.RecordBatches, want) {
		t.Fatalf("code %d, %d bytes", got.ErrorCode, len(got.RecordBatches))
	}
	if n.files.Load()+n.copied.Load() != int64(len(want)) {
		t.Errorf("%d bytes by sendfile and %d copied from the file, of %d", n.files.Load(), n.copied.Load(), len(want))
	}
}

// Plain and compressed batches of one answer keep their order.
func TestMixedBatchesAreInflatedInOrder(t *testing.T) {
	for _, file := range []bool{false, true} {
		n := newTestNode(t, 1, nil)
		topic := n.topic(t, "t", 1, nil)
		p := n.cluster.partition("t", 0)
		if file {
			p.log.inFile(t, n)
		}
		for i := range 6 {
			b := bigBatch()
			if i%2 == 1 {
				var err error
				if b, _, err = segment.Compress(b, segment.CodecZstd); err != nil {
					t.Fatal(err)
				}
			}
			p.fill(b)
		}
		got := n.call(t, fetchRequest(12, fetchTopicOf("t", topic.ID, 0))).(*kmsg.FetchResponse).Topics[0].Partitions[0]
		rest := got.RecordBatches
		for i := range 6 {
			h, err := segment.DecodeHeader(rest)
			if err != nil || int(h.BaseOffset) != i || h.Attributes.Codec() != segment.CodecNone || !segment.ChecksumOK(rest[:h.FrameSize()]) {
				t.Fatalf("batch %d: %+v, %v", i, h, err)
			}
			rest = rest[h.FrameSize():]
		}
	}
}

// A fetch that finds no memory waits for it once, not for each of its partitions
// and not each time it looks at them again.
func TestFetchWaitsForMemoryOnce(t *testing.T) {
	stored, _, err := segment.Compress(bigBatch(), segment.CodecZstd)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		settings, err := newBrokerSettings(nil)
		if err != nil {
			t.Fatal(err)
		}
		c := newFakeCluster(t, 1)
		n := &testNode{node: newNode(c, settings, slog.New(slog.DiscardHandler)), cluster: c} // without a listener, whose goroutines hold the fake clock
		n.stopping = t.Context()
		topic := n.topic(t, "t", 4, nil)
		for i := range int32(4) {
			c.partition("t", i).fill(stored)
		}
		all, err := n.budget.take(t.Context(), settings.requestMemory)
		if err != nil {
			t.Fatal(err)
		}
		body := fetchRequest(12, fetchTopicOf("t", topic.ID, 0, 1, 2, 3))
		body.MaxWaitMillis = 100
		f := &fetching{node: n.node, body: body, client: &client{}, wanted: requested(body)}
		begin := time.Now()
		if err := f.poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != inflateWait+100*time.Millisecond || f.bytes != 0 {
			t.Errorf("%d bytes after %v, want none after one wait for memory and max_wait", f.bytes, took)
		}
		f.release()
		n.budget.give(all)
	})
}
