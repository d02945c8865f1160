package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// batchOf is a batch of one record that says which it is.
func batchOf(i int) []byte {
	return segment.Build([]segment.Record{{Timestamp: time.Now().UnixMilli(), Key: []byte("k"), Value: fmt.Appendf(nil, "value %d", i)}}, segment.BuildOptions{})
}

// bigBatch is one that every codec makes smaller.
func bigBatch() []byte {
	return segment.Build([]segment.Record{{Timestamp: time.Now().UnixMilli(), Key: []byte("k"), Value: bytes.Repeat([]byte("abc"), 1000)}}, segment.BuildOptions{})
}

// idempotentBatch has a producer.
func idempotentBatch(id int64, sequence int32) []byte {
	return segment.Build([]segment.Record{{Timestamp: time.Now().UnixMilli(), Value: []byte("v")}},
		segment.BuildOptions{Producer: &segment.Producer{ID: id, Epoch: 0, Sequence: sequence}})
}

func okResult(base segment.Offset) replication.Result { return replication.Result{Base: base} }

// produceRequest writes one batch with acks=-1.
func produceRequest(topic string, number int32, frames ...[]byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(12)
	req.Acks, req.TimeoutMillis = -1, 10_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = topic
	for _, frame := range frames {
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = number, frame
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	return req
}

// produceOne sends a request with one batch and returns its part of the answer.
func (n *testNode) produceOne(t testing.TB, req *kmsg.ProduceRequest) kmsg.ProduceResponseTopicPartition {
	t.Helper()
	return n.call(t, req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
}

// proposalOutcomes is what a client is told about each end of a proposal. K1: a
// definite code only where the record will never be read.
func TestProduceOutcomes(t *testing.T) {
	void := func(code segment.VoidCode) error {
		return &replication.VoidError{Void: segment.Void{Code: code}}
	}
	for _, row := range []struct {
		name string
		err  error
		want *kerr.Error
	}{
		{"committed", nil, nil},
		{"not leader", replication.ErrNotLeader, kerr.NotLeaderForPartition},
		{"closed before it was appended", replication.ErrClosed, kerr.NotLeaderForPartition},
		{"unknown", fmt.Errorf("apply: %w", replication.ErrUnknownOutcome), kerr.RequestTimedOut},
		{"anything else", errors.New("something"), kerr.RequestTimedOut},
		{"context ended", context.Canceled, kerr.RequestTimedOut},
		{"no space", vfs.ErrNoSpace, kerr.KafkaStorageError},
		{"sequence gap", void(segment.VoidOutOfOrderSequence), kerr.OutOfOrderSequenceNumber},
		{"sequence gap after refusals", void(segment.VoidNotLeader), kerr.NotLeaderForPartition},
		{"fenced", void(segment.VoidFencedEpoch), kerr.InvalidProducerEpoch},
		{"stale term", void(segment.VoidStaleTerm), kerr.NotLeaderForPartition},
		{"old duplicate", void(segment.VoidDuplicateTooOld), kerr.DuplicateSequenceNumber},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := newTestNode(t, 1, nil)
			n.topic(t, "t", 1, nil)
			n.cluster.partition("t", 0).decide(func(_ []byte, p *fakeProposal) bool {
				p.resolve(okResult(41), row.err)
				return true
			})
			got := n.produceOne(t, produceRequest("t", 0, idempotentBatch(7, 5)))
			if row.want == nil {
				if got.ErrorCode != 0 || got.BaseOffset != 41 || got.LogStartOffset != 0 {
					t.Fatalf("%+v", got)
				}
				return
			}
			if got.ErrorCode != row.want.Code || got.BaseOffset != -1 {
				t.Fatalf("code %v, base offset %d", kerr.ErrorForCode(got.ErrorCode), got.BaseOffset)
			}
		})
	}
}

// A gap in a producer's sequence that this broker's own refusal made must not
// look like a loss of data.
func TestSequenceGapAfterRefusal(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 1, nil)
	p := n.cluster.partition("t", 0)
	gap := func(_ []byte, p *fakeProposal) bool {
		p.resolve(replication.Result{}, &replication.VoidError{Void: segment.Void{Code: segment.VoidOutOfOrderSequence}})
		return true
	}
	p.decide(gap)
	for range 2 { // being told so once is no refusal that could explain the next
		if got := n.produceOne(t, produceRequest("t", 0, idempotentBatch(7, 5))); got.ErrorCode != kerr.OutOfOrderSequenceNumber.Code {
			t.Fatalf("a gap of the client's own: code %d", got.ErrorCode)
		}
	}
	p.decide(func(_ []byte, p *fakeProposal) bool {
		p.resolve(replication.Result{}, replication.ErrNotLeader)
		return true
	})
	n.produceOne(t, produceRequest("t", 0, idempotentBatch(7, 5)))
	p.decide(gap)
	if got := n.produceOne(t, produceRequest("t", 0, idempotentBatch(7, 6))); got.ErrorCode != kerr.NotLeaderForPartition.Code {
		t.Fatalf("a gap after a refusal: code %d", got.ErrorCode)
	}
	if got := n.produceOne(t, produceRequest("t", 0, idempotentBatch(8, 6))); got.ErrorCode != kerr.OutOfOrderSequenceNumber.Code {
		t.Fatalf("a gap of another producer: code %d", got.ErrorCode)
	}
}

// The next request queues its batches before the answer to the one before is
// made: the partition must know by then what was refused, because a log that knows
// nothing of a producer takes any batch for its first.
func TestPartitionHearsOfRefusals(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 1, nil)
	p := n.cluster.partition("t", 0)
	lead := *p.leadership.Load()
	refuse := func(frame []byte, want *kerr.Error) {
		t.Helper()
		if got := n.produceOne(t, produceRequest("t", 0, frame)); got.ErrorCode != want.Code {
			t.Fatalf("code %v, want %v", kerr.ErrorForCode(got.ErrorCode), want)
		}
	}
	guard := func(frame []byte) *replication.Refusal {
		t.Helper()
		if got := n.produceOne(t, produceRequest("t", 0, frame)); got.ErrorCode != 0 {
			t.Fatalf("code %d", got.ErrorCode)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.guards[len(p.guards)-1].Refused
	}
	if got := guard(idempotentBatch(7, 3)); got != nil {
		t.Fatalf("nothing was refused: %+v", got)
	}
	p.leadership.Store(&replication.Leadership{})
	refuse(idempotentBatch(7, 5), kerr.NotLeaderForPartition)
	refuse(idempotentBatch(7, 6), kerr.NotLeaderForPartition)
	p.leadership.Store(&lead)
	want := &replication.Refusal{Epoch: 0, Sequence: 5}
	if diff := cmp.Diff(want, guard(idempotentBatch(7, 7))); diff != "" {
		t.Fatal(diff)
	}
	if got := guard(idempotentBatch(8, 7)); got != nil {
		t.Fatalf("another producer: %+v", got)
	}
	// The client does not send again what is its own fault.
	late := segment.Build([]segment.Record{{Timestamp: time.Now().Add(1000 * time.Hour).UnixMilli(), Value: []byte("v")}},
		segment.BuildOptions{Producer: &segment.Producer{ID: 9}})
	refuse(late, kerr.InvalidTimestamp)
	if got := guard(idempotentBatch(9, 1)); got != nil {
		t.Fatalf("after a definite error: %+v", got)
	}
}

// Two requests in one write: the second is under way before the first is answered.
func TestRefusalIsKnownBeforeTheNextRequestQueues(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 1, nil)
	p := n.cluster.partition("t", 0)
	corrupt := idempotentBatch(7, 0)
	corrupt[len(corrupt)-1] ^= 1
	c := dial(t, n.addr)
	defer c.close()
	c.send(t, produceRequest("t", 0, corrupt))
	c.send(t, produceRequest("t", 0, idempotentBatch(7, 1)))
	for _, want := range []*kerr.Error{kerr.CorruptMessage, nil} {
		_, body := c.receive(t)
		resp := decodeAnswer(t, produceRequest("t", 0), body).(*kmsg.ProduceResponse)
		if got := kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode); want != nil && got != want || want == nil && got != nil {
			t.Fatalf("%v, want %v", got, want)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := p.guards[0].Refused; got == nil || got.Sequence != 0 {
		t.Fatalf("the partition was told %+v", got)
	}
}

func TestRefusalsAreForgottenAndBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	r := newRefusals(func() time.Time { return now })
	key := func(i int) refusalKey { return refusalKey{producer: int64(i)} }
	r.note(key(1), nil)
	now = now.Add(59 * time.Second)
	if !r.recent(key(1)) || r.recent(key(2)) {
		t.Fatal("not remembered for a minute")
	}
	now = now.Add(2 * time.Minute)
	if r.recent(key(1)) {
		t.Fatal("never forgotten")
	}
	for i := range maxRefusals + 5 {
		r.note(key(i), nil)
	}
	if len(r.young.keys) > maxRefusals || !r.recent(key(-1)) {
		t.Fatalf("%d kept; an overflow must count as refused", len(r.young.keys))
	}
}

// What is wrong with a request or its target, before anything is proposed.
func TestProduceRefusals(t *testing.T) {
	n := newTestNode(t, 3, map[string]string{"message.max.bytes": "2000"})
	n.topic(t, "t", 1, nil)
	n.topic(t, "elsewhere", 1, nil, 2, 3)
	n.topic(t, "follower", 1, nil, 2, 1)
	n.topic(t, "compacted", 1, map[string]string{"cleanup.policy": "compact"})
	n.topic(t, "safe", 1, map[string]string{"min.insync.replicas": "3"}, 1, 2, 3)
	n.cluster.partition("safe", 0).inSync.Store(2)
	corrupt := batchOf(1)
	corrupt[len(corrupt)-1] ^= 1
	old := segment.Build([]segment.Record{{Timestamp: time.Now().Add(2 * time.Hour).UnixMilli(), Value: []byte("v")}}, segment.BuildOptions{})
	keyless := segment.Build([]segment.Record{{Timestamp: time.Now().UnixMilli(), Value: []byte("v")}}, segment.BuildOptions{})
	random := segment.Build([]segment.Record{{Timestamp: time.Now().UnixMilli(), Value: noise(3000)}}, segment.BuildOptions{})
	transactional := segment.Build([]segment.Record{{Timestamp: time.Now().UnixMilli(), Value: []byte("v")}},
		segment.BuildOptions{Transactional: true, Producer: &segment.Producer{ID: 1}})
	change := func(req *kmsg.ProduceRequest, f func(*kmsg.ProduceRequest)) *kmsg.ProduceRequest { f(req); return req }
	for _, row := range []struct {
		name string
		req  *kmsg.ProduceRequest
		want *kerr.Error
	}{
		{"unknown topic", produceRequest("nope", 0, batchOf(1)), kerr.UnknownTopicOrPartition},
		{"unknown partition", produceRequest("t", 9, batchOf(1)), kerr.UnknownTopicOrPartition},
		{"negative partition", produceRequest("t", -1, batchOf(1)), kerr.UnknownTopicOrPartition},
		{"unknown topic id", change(produceRequest("t", 0, batchOf(1)), func(r *kmsg.ProduceRequest) {
			r.SetVersion(13)
			r.Topics[0].TopicID = segment.NewTopicID()
		}), kerr.UnknownTopicID},
		{"no replica here", produceRequest("elsewhere", 0, batchOf(1)), kerr.NotLeaderForPartition},
		{"follower", produceRequest("follower", 0, batchOf(1)), kerr.NotLeaderForPartition},
		{"acks of 2", change(produceRequest("t", 0, batchOf(1)), func(r *kmsg.ProduceRequest) { r.Acks = 2 }), kerr.InvalidRequiredAcks},
		{"transactional id", change(produceRequest("t", 0, batchOf(1)), func(r *kmsg.ProduceRequest) { r.TransactionID = kmsg.StringPtr("x") }), kerr.InvalidRequest},
		{"transactional batch", produceRequest("t", 0, transactional), kerr.InvalidRequest},
		{"null records", produceRequest("t", 0, nil), kerr.InvalidRecord},
		{"corrupt", produceRequest("t", 0, corrupt), kerr.CorruptMessage},
		{"two batches", produceRequest("t", 0, append(batchOf(1), batchOf(2)...)), kerr.InvalidRecord},
		{"too large", produceRequest("t", 0, random), kerr.MessageTooLarge},
		{"from the future", produceRequest("t", 0, old), kerr.InvalidTimestamp},
		{"no key in a compacted topic", produceRequest("compacted", 0, keyless), kerr.InvalidRecord},
		{"too few in sync", produceRequest("safe", 0, batchOf(1)), kerr.NotEnoughReplicas},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := n.produceOne(t, row.req)
			if got.ErrorCode != row.want.Code || got.BaseOffset != -1 {
				t.Fatalf("code %v, want %v (%s)", kerr.ErrorForCode(got.ErrorCode), row.want.Message, strOf(got.ErrorMessage))
			}
		})
	}
	n.cluster.partition("t", 0).set(func(p *fakePartition) {
		if len(p.frames) > 0 {
			t.Errorf("%d refused batches were proposed", len(p.frames))
		}
	})
	// Two batches for one partition in one request: the first stands.
	resp := n.call(t, produceRequest("t", 0, batchOf(1), batchOf(2))).(*kmsg.ProduceResponse)
	if a, b := resp.Topics[0].Partitions[0], resp.Topics[0].Partitions[1]; a.ErrorCode != 0 || b.ErrorCode != kerr.InvalidRecord.Code {
		t.Fatalf("codes %d and %d", a.ErrorCode, b.ErrorCode)
	}
}

func strOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// A refusal for want of leadership names the leader and its address (KIP-951).
func TestProduceNamesTheLeader(t *testing.T) {
	n := newTestNode(t, 3, nil)
	n.topic(t, "t", 1, nil, 2, 1)
	resp := n.call(t, produceRequest("t", 0, batchOf(1))).(*kmsg.ProduceResponse)
	p := resp.Topics[0].Partitions[0]
	if p.CurrentLeader.LeaderID != 2 || p.CurrentLeader.LeaderEpoch != 5 {
		t.Fatalf("%+v", p.CurrentLeader)
	}
	want := []kmsg.ProduceResponseBroker{{NodeID: 2, Host: "host2", Port: 9092}}
	if d := cmp.Diff(want, resp.Brokers, cmp.AllowUnexported(kmsg.Tags{})); d != "" {
		t.Fatal(d)
	}
}

// acks=0 gets no answer; a refusal closes the connection, as in Kafka.
func TestAcksZero(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 1, nil)
	c := dial(t, n.addr)
	defer c.close()
	req := produceRequest("t", 0, batchOf(1))
	req.Acks = 0
	c.send(t, req)
	c.request(t, kmsg.NewPtrApiVersionsRequest()) // the next answer is this one's
	if got := n.cluster.partition("t", 0).log.NextOffset(); got != 1 {
		t.Fatalf("log end %d", got)
	}
	req.Topics[0].Topic = "nope"
	c.send(t, req)
	c.expectClosed(t)
}

// The client's time-out ends the wait, not the write: the outcome is unknown.
func TestProduceTimesOut(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 1, nil)
	n.cluster.partition("t", 0).decide(func([]byte, *fakeProposal) bool { return true }) // never resolved
	req := produceRequest("t", 0, batchOf(1))
	req.TimeoutMillis = 1
	began := time.Now()
	if got := n.produceOne(t, req); got.ErrorCode != kerr.RequestTimedOut.Code {
		t.Fatalf("code %d", got.ErrorCode)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("took %s", took)
	}
}

// Batches of one connection reach each partition in the order they were sent,
// however long the preparation of each takes.
func TestOrderOfAConnectionIsKept(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 2, nil)
	c := dial(t, n.addr)
	defer c.close()
	const count = 60
	for i := range count {
		value := fmt.Sprintf("%04d", i)
		if i%5 == 0 {
			value += strings.Repeat("slow to compress ", 20_000)
		}
		batch := segment.Build([]segment.Record{{Timestamp: time.Now().UnixMilli(), Value: []byte(value)}}, segment.BuildOptions{})
		c.send(t, produceRequest("t", int32(i%2), batch))
	}
	for range count {
		c.receive(t)
	}
	for number := range int32(2) {
		last := -1
		for _, frame := range n.cluster.partition("t", number).log.stored() {
			records, err := segment.Records(frame, 10<<20)
			if err != nil {
				t.Fatal(err)
			}
			var i int
			if _, err := fmt.Sscanf(string(records[0].Value[:4]), "%d", &i); err != nil || i <= last {
				t.Fatalf("partition %d: %d after %d (%v)", number, i, last, err)
			}
			last = i
		}
	}
}

// How a batch is stored, by topic configuration and codec of the producer.
func TestStoredCodec(t *testing.T) {
	for _, row := range []struct {
		name    string
		configs map[string]string
		sent    segment.Codec
		want    segment.Codec
	}{
		{"plain is compressed at rest", nil, segment.CodecNone, segment.CodecZstd},
		{"the producer's codec is kept", nil, segment.CodecLZ4, segment.CodecLZ4},
		{"at rest with gzip", map[string]string{"millrace.compression": "gzip"}, segment.CodecNone, segment.CodecGzip},
		{"not at rest", map[string]string{"millrace.compression": "none"}, segment.CodecNone, segment.CodecNone},
		{"compression.type changes the codec", map[string]string{"compression.type": "snappy"}, segment.CodecGzip, segment.CodecSnappy},
		{"compression.type applies to plain", map[string]string{"compression.type": "lz4"}, segment.CodecNone, segment.CodecLZ4},
		{"compression.type uncompressed", map[string]string{"compression.type": "uncompressed"}, segment.CodecZstd, segment.CodecNone},
	} {
		t.Run(row.name, func(t *testing.T) {
			broker, err := newBrokerSettings(nil)
			if err != nil {
				t.Fatal(err)
			}
			sent := bigBatch()
			if row.sent != segment.CodecNone {
				sent, _, err = segment.Compress(sent, row.sent)
				if err != nil {
					t.Fatal(err)
				}
			}
			got, failure := prepareBatch(sent, settingsOf(row.configs, false, broker), time.Now())
			if failure != nil {
				t.Fatal(failure)
			}
			h, err := segment.DecodeHeader(got.frame)
			if err != nil || h.Attributes.Codec() != row.want || !segment.ChecksumOK(got.frame) {
				t.Fatalf("stored as %v (%v)", h.Attributes.Codec(), err)
			}
			records, err := segment.Records(got.frame, 1<<20)
			if err != nil || len(records) != 1 || len(records[0].Value) != 3000 {
				t.Fatalf("records: %v", err)
			}
		})
	}
}

// With LogAppendTime the leader's clock counts, and what the producer says is
// not judged.
func TestLogAppendTime(t *testing.T) {
	broker, err := newBrokerSettings(nil)
	if err != nil {
		t.Fatal(err)
	}
	settings := settingsOf(map[string]string{"message.timestamp.type": "LogAppendTime"}, false, broker)
	future := segment.Build([]segment.Record{{Timestamp: time.Now().Add(1000 * time.Hour).UnixMilli(), Value: bytes.Repeat([]byte("x"), 500)}}, segment.BuildOptions{})
	now := time.UnixMilli(1_700_000_000_000)
	got, failure := prepareBatch(future, settings, now)
	if failure != nil {
		t.Fatal(failure)
	}
	h, err := segment.DecodeHeader(got.frame)
	if err != nil || !h.Attributes.LogAppendTime() || h.MaxTimestamp != now.UnixMilli() || got.appended != now.UnixMilli() || !segment.ChecksumOK(got.frame) {
		t.Fatalf("%+v, %v, %v", h, got.appended, err)
	}
}

// Many partitions in one request are prepared side by side, and each is answered
// in its place.
func TestManyPartitionsInOneRequest(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 40, nil)
	req := produceRequest("t", 0)
	for i := range int32(40) {
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = i, bigBatch()
		if i == 13 {
			p.Records[70] ^= 1
		}
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, p)
	}
	for i, p := range n.call(t, req).(*kmsg.ProduceResponse).Topics[0].Partitions {
		want := int16(0)
		if i == 13 {
			want = kerr.CorruptMessage.Code
		}
		if p.Partition != int32(i) || p.ErrorCode != want {
			t.Fatalf("place %d: partition %d, code %d", i, p.Partition, p.ErrorCode)
		}
	}
}

// The budget serves in order, and gives nothing away when a waiter leaves.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100)
		if n, err := b.take(t.Context(), 1000); err != nil || n != 100 {
			t.Fatalf("more than all: %d, %v", n, err)
		}
		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				n, err := b.take(context.Background(), 60) // one at a time
				if err == nil {
					order <- i
					b.give(n)
				}
			}()
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.take(ctx, 1); err == nil {
			t.Fatal("took from an empty budget")
		}
		if b.tryTake(1) {
			t.Fatal("overtook those who wait")
		}
		b.give(100)
		synctest.Wait()
		for i := range 3 {
			if got := <-order; got != i {
				t.Fatalf("served %d, want %d", got, i)
			}
		}
		if b.inUse() != 0 {
			t.Fatalf("%d left", b.inUse())
		}
	})
}

// Of those who grow, one at a time may exceed the budget, else all could wait for
// each other for ever; what they share is half of it.
func TestBudgetGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100)
		var claims [4]claim
		grow := func(i int, n int64) (done chan struct{}) {
			done = make(chan struct{})
			go func() {
				defer close(done)
				if err := b.grow(t.Context(), &claims[i], n); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
			return done
		}
		isDone := func(done chan struct{}) bool {
			synctest.Wait()
			select {
			case <-done:
				return true
			default:
				return false
			}
		}
		first, second, third := grow(0, 50), grow(1, 30), grow(2, 30)
		if !isDone(first) || !isDone(second) || isDone(third) {
			t.Fatalf("half of it, one beyond, and no more: %v", claims)
		}
		if !isDone(grow(1, 70)) || !b.contended() {
			t.Fatal("the one beyond must go on")
		}
		small := make(chan struct{})
		go func() {
			defer close(small)
			if n, err := b.take(t.Context(), 20); err == nil {
				b.give(n)
			}
		}()
		if isDone(small) {
			t.Fatal("150 of 100 are in use")
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if b.grow(over, &claims[3], 1) == nil || claims[3].bytes != 0 {
			t.Fatal("grew without room")
		}
		b.drop(&claims[1])
		if !isDone(small) || !isDone(third) {
			t.Fatalf("not served: %v", claims)
		}
		for i := range claims {
			b.drop(&claims[i])
		}
		if b.inUse() != 0 || b.large != 0 || b.over != nil || b.contended() {
			t.Fatalf("left: %d, %d, %v", b.inUse(), b.large, b.over)
		}
	})
}

// noise is incompressible.
func noise(n int) []byte {
	b := make([]byte, n)
	seed := uint32(1)
	for i := range b {
		seed = seed*1664525 + 1013904223
		b[i] = byte(seed >> 24)
	}
	return b
}
