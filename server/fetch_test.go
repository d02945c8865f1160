package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/segment"
)

// fetchRequest asks for partitions of a topic from offset 0.
func fetchRequest(version int16, topic *kmsg.FetchRequestTopic) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(version)
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 0, 1, 50<<20
	req.SessionEpoch = fetchFinal
	if topic != nil {
		req.Topics = append(req.Topics, *topic)
	}
	return req
}

func fetchTopicOf(name string, id segment.TopicID, numbers ...int32) *kmsg.FetchRequestTopic {
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = name, id
	for _, number := range numbers {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.PartitionMaxBytes = number, 1<<20
		t.Partitions = append(t.Partitions, p)
	}
	return &t
}

// fill appends batches to a partition's log and returns their bytes as stored.
func (p *fakePartition) fill(batches ...[]byte) []byte {
	var all []byte
	for _, b := range batches {
		p.log.append(b, 5)
		all = append(all, b...)
	}
	return all
}

// Every version must decode with the generated decoder to what was meant:
// records from memory, records from a file, an error with a leader, nothing.
func TestFetchAnswersDecodeInEveryVersion(t *testing.T) {
	n := newTestNode(t, 3, map[string]string{"millrace.fetch.inflate": "never"})
	here := n.topic(t, "here", 3, nil)
	away := n.topic(t, "away", 1, nil, 2, 1)
	memory := n.cluster.partition("here", 0).fill(batchOf(1), bigBatch())
	n.cluster.partition("here", 1).log.inFile(t, n)
	big := segment.Build([]segment.Record{{Value: noise(100_000)}}, segment.BuildOptions{})
	file := n.cluster.partition("here", 1).fill(batchOf(2), big)
	for version := int16(4); version <= 18; version++ {
		t.Run(fmt.Sprintf("v%d", version), func(t *testing.T) {
			req := fetchRequest(version, fetchTopicOf("here", here.ID, 0, 1, 2))
			req.Topics = append(req.Topics, *fetchTopicOf("away", away.ID, 0))
			resp := n.call(t, req).(*kmsg.FetchResponse)
			if resp.ErrorCode != 0 || len(resp.Topics) != 2 || len(resp.Topics[0].Partitions) != 3 {
				t.Fatalf("%+v", resp)
			}
			if version >= 13 && resp.Topics[0].TopicID != here.ID || version < 13 && resp.Topics[0].Topic != "here" {
				t.Fatalf("topic %q %x", resp.Topics[0].Topic, resp.Topics[0].TopicID)
			}
			got := resp.Topics[0].Partitions
			if !bytes.Equal(got[0].RecordBatches, memory) || !bytes.Equal(got[1].RecordBatches, file) || len(got[2].RecordBatches) != 0 {
				t.Fatalf("record sets of %d, %d and %d bytes", len(got[0].RecordBatches), len(got[1].RecordBatches), len(got[2].RecordBatches))
			}
			if got[0].HighWatermark != 2 || got[0].LastStableOffset != 2 || got[0].ErrorCode != 0 {
				t.Fatalf("%+v", got[0])
			}
			refused := resp.Topics[1].Partitions[0]
			if refused.ErrorCode != kerr.NotLeaderForPartition.Code || refused.HighWatermark != -1 {
				t.Fatalf("%+v", refused)
			}
			if version >= 12 && (refused.CurrentLeader.LeaderID != 2 || refused.CurrentLeader.LeaderEpoch != 5) {
				t.Fatalf("leader %+v", refused.CurrentLeader)
			}
			if version >= 16 {
				want := []kmsg.FetchResponseBroker{{NodeID: 2, Host: "host2", Port: 9092}}
				if d := cmp.Diff(want, resp.Brokers, cmp.AllowUnexported(kmsg.Tags{})); d != "" {
					t.Fatal(d)
				}
			}
		})
	}
}

// What a consumer is told where it can get nothing.
func TestFetchRefusals(t *testing.T) {
	n := newTestNode(t, 3, nil)
	topic := n.topic(t, "t", 1, nil)
	p := n.cluster.partition("t", 0)
	for i := range 10 {
		p.fill(batchOf(i))
	}
	p.set(func(p *fakePartition) { p.log.start, p.log.hidden = 2, 3 }) // log start 2, high watermark 7, end 10
	leader := &replication.Leadership{Leader: true, Ready: true, Term: 5}
	for _, row := range []struct {
		name   string
		offset int64
		epoch  int32
		role   *replication.Leadership
		broken error
		failed error
		want   *kerr.Error
	}{
		{name: "below the start", offset: 1, epoch: -1, role: leader, want: kerr.OffsetOutOfRange},
		{name: "negative", offset: -5, epoch: -1, role: leader, want: kerr.OffsetOutOfRange},
		{name: "above the end", offset: 11, epoch: -1, role: leader, want: kerr.OffsetOutOfRange},
		{name: "between watermark and end", offset: 8, epoch: -1, role: leader},
		{name: "at the end", offset: 10, epoch: 5, role: leader},
		{name: "old epoch", offset: 3, epoch: 4, role: leader, want: kerr.FencedLeaderEpoch},
		{name: "epoch of the future", offset: 3, epoch: 6, role: leader, want: kerr.UnknownLeaderEpoch},
		{name: "leader that is not ready", offset: 3, epoch: -1, role: &replication.Leadership{Leader: true, Term: 5}, want: kerr.NotLeaderForPartition},
		{name: "follower, out of range", offset: 99, epoch: -1, role: &replication.Leadership{Term: 5}, want: kerr.NotLeaderForPartition},
		{name: "corrupt range", offset: 3, epoch: -1, role: leader, broken: &log.CorruptionError{}, want: kerr.KafkaStorageError},
		{name: "closed", offset: 3, epoch: -1, role: leader, broken: log.ErrClosed, want: kerr.NotLeaderForPartition},
		{name: "out of its group", offset: 3, epoch: -1, role: leader, failed: errors.New("corrupt"), want: kerr.KafkaStorageError},
	} {
		t.Run(row.name, func(t *testing.T) {
			p.leadership.Store(row.role)
			p.set(func(p *fakePartition) { p.log.readErr, p.failed = row.broken, row.failed })
			req := fetchRequest(12, fetchTopicOf("t", topic.ID, 0))
			req.Topics[0].Partitions[0].FetchOffset = row.offset
			req.Topics[0].Partitions[0].CurrentLeaderEpoch = row.epoch
			got := n.call(t, req).(*kmsg.FetchResponse).Topics[0].Partitions[0]
			want := int16(0)
			if row.want != nil {
				want = row.want.Code
			}
			if got.ErrorCode != want || len(got.RecordBatches) != 0 {
				t.Fatalf("code %v, %d bytes", kerr.ErrorForCode(got.ErrorCode), len(got.RecordBatches))
			}
		})
	}
}

// A fetch that a trim overtakes between its look at the log start and its read hears
// the same as one that comes later, and is no error of the broker's.
func TestFetchWhileTrimming(t *testing.T) {
	n := newTestNode(t, 1, nil)
	var logs bytes.Buffer
	n.logger = slog.New(slog.NewTextHandler(&logs, nil))
	topic := n.topic(t, "t", 1, nil)
	p := n.cluster.partition("t", 0)
	p.fill(batchOf(1))
	p.set(func(p *fakePartition) { p.log.readErr = fmt.Errorf("%w: trimmed meanwhile", log.ErrOffsetOutOfRange) })
	f := &fetching{node: n.node, body: fetchRequest(12, fetchTopicOf("t", topic.ID, 0)), client: &client{},
		wanted: []*fetchPartition{{ref: topicRef{name: "t"}, epoch: -1, maxBytes: 1 << 20}}}
	f.collect(t.Context())
	if code := f.results[0].code; code != kerr.OffsetOutOfRange.Code || logs.Len() > 0 {
		t.Errorf("code %v, log %q", kerr.ErrorForCode(code), logs.String())
	}
}

// Never a byte above the high watermark.
func TestFetchStopsAtTheHighWatermark(t *testing.T) {
	n := newTestNode(t, 1, nil)
	topic := n.topic(t, "t", 1, nil)
	p := n.cluster.partition("t", 0)
	want := p.fill(batchOf(1), batchOf(2))
	p.fill(batchOf(3))
	p.set(func(p *fakePartition) { p.log.hidden = 1 })
	got := n.call(t, fetchRequest(12, fetchTopicOf("t", topic.ID, 0))).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if !bytes.Equal(got.RecordBatches, want) || got.HighWatermark != 2 {
		t.Fatalf("%d bytes, watermark %d", len(got.RecordBatches), got.HighWatermark)
	}
}

// Limits are kept, but the first partition that has anything gets one batch
// (KIP-74).
func TestFetchLimits(t *testing.T) {
	n := newTestNode(t, 1, nil)
	topic := n.topic(t, "t", 3, nil)
	one := segment.Build([]segment.Record{{Value: noise(1000)}}, segment.BuildOptions{})
	size := int64(len(one))
	for number := range int32(3) {
		for range 4 {
			n.cluster.partition("t", number).fill(append([]byte(nil), one...))
		}
	}
	for _, row := range []struct {
		name           string
		max, partition int32
		want           [3]int64 // batches
	}{
		{"a byte", 1, 1, [3]int64{1, 0, 0}},
		{"a byte each", 1 << 20, 1, [3]int64{1, 0, 0}},
		{"two batches each", 1 << 20, int32(2*size + 10), [3]int64{2, 2, 2}},
		{"five in all", int32(5*size + 10), 1 << 20, [3]int64{4, 1, 0}},
		{"all", 1 << 20, 1 << 20, [3]int64{4, 4, 4}},
	} {
		t.Run(row.name, func(t *testing.T) {
			req := fetchRequest(12, fetchTopicOf("t", topic.ID, 0, 1, 2))
			req.MaxBytes = row.max
			for i := range req.Topics[0].Partitions {
				req.Topics[0].Partitions[i].PartitionMaxBytes = row.partition
			}
			var got [3]int64
			for i, p := range n.call(t, req).(*kmsg.FetchResponse).Topics[0].Partitions {
				got[i] = int64(len(p.RecordBatches)) / size
			}
			if got != row.want {
				t.Fatalf("batches %v, want %v", got, row.want)
			}
		})
	}
}

// A fetch waits for the high watermark of any of its partitions, for a change of
// leadership, and no longer than it was told.
func TestFetchWaits(t *testing.T) {
	n := newTestNode(t, 1, nil)
	topic := n.topic(t, "t", 2, nil)
	wait := func(d time.Duration) (*wire, *kmsg.FetchRequest) {
		req := fetchRequest(12, fetchTopicOf("t", topic.ID, 0, 1))
		req.MaxWaitMillis = int32(d.Milliseconds())
		c := dial(t, n.addr)
		c.send(t, req)
		return c, req
	}
	began := time.Now()
	c, _ := wait(50 * time.Millisecond)
	c.receive(t)
	c.close()
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Fatalf("an empty answer after %s", took)
	}
	p := n.cluster.partition("t", 1)
	subscribed := p.log.waited

	c, req := wait(time.Minute)
	defer c.close()
	eventually(t, "the fetch waits", subscribed)
	p.fill(batchOf(1))
	_, body := c.receive(t)
	resp := decodeAnswer(t, req, body).(*kmsg.FetchResponse)
	if len(resp.Topics[0].Partitions[1].RecordBatches) == 0 {
		t.Fatal("woken without records")
	}
	eventually(t, "the subscription ends", func() bool { return !subscribed() })

	req.Topics[0].Partitions[1].FetchOffset = 1
	c.send(t, req)
	eventually(t, "the fetch waits", subscribed)
	p.leadership.Store(&replication.Leadership{Term: 6})
	n.leaders.beat()
	_, body = c.receive(t)
	resp = decodeAnswer(t, req, body).(*kmsg.FetchResponse)
	if got := resp.Topics[0].Partitions[1].ErrorCode; got != kerr.NotLeaderForPartition.Code {
		t.Fatalf("after the leadership was lost: code %d", got)
	}
}

// A client that goes away ends its long poll.
func TestFetchEndsWithItsConnection(t *testing.T) {
	n := newTestNode(t, 1, nil)
	topic := n.topic(t, "t", 1, nil)
	req := fetchRequest(12, fetchTopicOf("t", topic.ID, 0))
	req.MaxWaitMillis = 60_000
	c := dial(t, n.addr)
	c.send(t, req)
	records := n.cluster.partition("t", 0).log
	eventually(t, "the fetch waits", records.waited)
	c.close()
	eventually(t, "the connection ends", func() bool { return n.ln.connections() == 0 })
}

// Incremental sessions (KIP-227): what did not change is left out, what the
// client forgets is gone, and a wrong id or epoch is told.
func TestFetchSession(t *testing.T) {
	n := newTestNode(t, 1, nil)
	topic := n.topic(t, "t", 3, nil)
	first := fetchRequest(12, fetchTopicOf("t", topic.ID, 0, 1, 2))
	first.SessionEpoch = fetchInitial
	resp := n.call(t, first).(*kmsg.FetchResponse)
	if resp.SessionID == 0 || len(resp.Topics[0].Partitions) != 3 {
		t.Fatalf("full fetch: %+v", resp)
	}
	epoch := int32(0)
	next := func(change func(*kmsg.FetchRequest)) *kmsg.FetchResponse {
		epoch++
		req := fetchRequest(12, nil)
		req.SessionID, req.SessionEpoch = resp.SessionID, epoch
		if change != nil {
			change(req)
		}
		return n.call(t, req).(*kmsg.FetchResponse)
	}
	if got := next(nil); got.ErrorCode != 0 || len(got.Topics) != 0 || got.SessionID != resp.SessionID {
		t.Fatalf("nothing changed, yet: %+v", got)
	}
	n.cluster.partition("t", 1).fill(batchOf(1))
	if got := next(nil); len(got.Topics) != 1 || len(got.Topics[0].Partitions) != 1 || got.Topics[0].Partitions[0].Partition != 1 {
		t.Fatalf("one partition changed: %+v", got)
	}
	got := next(func(r *kmsg.FetchRequest) {
		f := kmsg.NewFetchRequestForgottenTopic()
		f.Topic, f.Partitions = "t", []int32{1}
		r.ForgottenTopics = append(r.ForgottenTopics, f)
	})
	if len(got.Topics) != 0 {
		t.Fatalf("the only one with records is forgotten, yet: %+v", got)
	}
	if got := next(func(r *kmsg.FetchRequest) { r.SessionEpoch = 77 }); got.ErrorCode != kerr.InvalidFetchSessionEpoch.Code {
		t.Fatalf("wrong epoch: code %d", got.ErrorCode)
	}
	if got := next(func(r *kmsg.FetchRequest) { r.SessionID++ }); got.ErrorCode != kerr.FetchSessionIDNotFound.Code {
		t.Fatalf("wrong id: code %d", got.ErrorCode)
	}
	last := fetchRequest(12, fetchTopicOf("t", topic.ID, 0))
	last.SessionID = resp.SessionID
	got = n.call(t, last).(*kmsg.FetchResponse)
	n.sessions.mu.Lock()
	defer n.sessions.mu.Unlock()
	if got.SessionID != 0 || n.sessions.byUse.Len() != 0 || n.sessions.partitions != 0 {
		t.Fatalf("a final fetch must end the session: %+v", got)
	}
}

func TestFetchSessionCacheIsBounded(t *testing.T) {
	c := newSessionCache(2)
	now := time.Unix(1000, 0)
	open := func() int32 {
		req := fetchRequest(12, fetchTopicOf("t", segment.TopicID{}, 0, 1))
		req.SessionEpoch = fetchInitial
		s, code := c.open(req, now)
		if code != 0 || len(s.wanted) != 2 {
			t.Fatalf("code %d, %d partitions", code, len(s.wanted))
		}
		return s.id
	}
	a, b := open(), open()
	if a == 0 || b == 0 || open() != 0 {
		t.Fatal("a third session among two places in use")
	}
	now = now.Add(sessionIdle)
	if open() == 0 || c.byID[a] != nil || c.partitions != 4 {
		t.Fatalf("the idle session must make room; %d partitions", c.partitions)
	}
}

// Who is not known to read every codec gets plain batches.
func TestInflate(t *testing.T) {
	for _, row := range []struct {
		name     string
		software string
		mode     string
		version  int16
		want     segment.Codec
		code     int16
	}{
		{"no name", "", "auto", 12, segment.CodecNone, 0},
		{"unknown name", "kafkajs", "auto", 12, segment.CodecNone, 0},
		{"kgo", "kgo", "auto", 12, segment.CodecZstd, 0},
		{"librdkafka", "librdkafka", "auto", 12, segment.CodecZstd, 0},
		{"zstd before version 10", "kgo", "auto", 9, segment.CodecNone, 0},
		{"our own SDK", "millrace-go", "auto", 12, segment.CodecZstd, 0},
		{"always", "kgo", "always", 12, segment.CodecNone, 0},
		{"never", "", "never", 12, segment.CodecZstd, 0},
		{"never, before version 10", "", "never", 9, 0, kerr.UnsupportedCompressionType.Code},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := newTestNode(t, 1, nil)
			topic := n.topic(t, "t", 1, map[string]string{"millrace.fetch.inflate": row.mode})
			stored, _, err := segment.Compress(bigBatch(), segment.CodecZstd)
			if err != nil {
				t.Fatal(err)
			}
			n.cluster.partition("t", 0).fill(stored)
			c := dial(t, n.addr)
			defer c.close()
			if row.software != "" {
				hello := kmsg.NewPtrApiVersionsRequest()
				hello.SetVersion(3)
				hello.ClientSoftwareName, hello.ClientSoftwareVersion = row.software, "1.0"
				c.request(t, hello)
			}
			got := c.request(t, fetchRequest(row.version, fetchTopicOf("t", topic.ID, 0))).(*kmsg.FetchResponse).Topics[0].Partitions[0]
			if got.ErrorCode != row.code {
				t.Fatalf("code %d", got.ErrorCode)
			}
			if row.code != 0 {
				return
			}
			h, err := segment.DecodeHeader(got.RecordBatches)
			if err != nil || h.Attributes.Codec() != row.want || !segment.ChecksumOK(got.RecordBatches) {
				t.Fatalf("sent as %v (%v)", h.Attributes.Codec(), err)
			}
		})
	}
}

// A batch above the limit once inflated is sent as stored.
func TestInflateLimit(t *testing.T) {
	n := newTestNode(t, 1, nil)
	topic := n.topic(t, "t", 1, map[string]string{"millrace.batch.inflated.max.bytes": "2000"})
	stored, _, err := segment.Compress(bigBatch(), segment.CodecZstd)
	if err != nil {
		t.Fatal(err)
	}
	n.cluster.partition("t", 0).fill(stored)
	got := n.call(t, fetchRequest(12, fetchTopicOf("t", topic.ID, 0))).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if !bytes.Equal(got.RecordBatches, stored) {
		t.Fatalf("code %d, %d bytes", got.ErrorCode, len(got.RecordBatches))
	}
}

// The records of a catch-up read go out by sendfile, every byte as it is stored;
// where the connection or the file cannot, they are copied.
func TestRecordsAreSentFromTheFile(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"millrace.fetch.inflate": "never"})
	topic := n.topic(t, "t", 1, nil)
	p := n.cluster.partition("t", 0)
	p.log.inFile(t, n)
	var want []byte
	for i := range 40 {
		want = append(want, p.fill(segment.Build([]segment.Record{{Value: noise(90_000 + i)}}, segment.BuildOptions{}))...)
	}
	req := fetchRequest(12, fetchTopicOf("t", topic.ID, 0))
	req.Topics[0].Partitions[0].PartitionMaxBytes = 50 << 20
	got := n.call(t, req).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if !bytes.Equal(got.RecordBatches, want) {
		t.Fatalf("%d bytes, want %d", len(got.RecordBatches), len(want))
	}
	sent, copied := n.files.Load(), n.copied.Load()
	if runtime.GOOS == "linux" && (sent != int64(len(want)) || copied != 0) {
		t.Fatalf("%d bytes by sendfile, %d copied", sent, copied)
	}
	// A connection that is no TCP socket, such as one under TLS.
	left, right := net.Pipe()
	defer right.Close()
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() {
		defer left.Close()
		slice := log.Slice{File: p.log.file, Length: int64(len(want))}
		out := sink{conn: left, raw: newSendfiler(left, n.sendSlots), node: n.node}
		if err := out.slice(&slice); err != nil {
			t.Error(err)
		}
	})
	plain, err := io.ReadAll(right)
	if err != nil || !bytes.Equal(plain, want) || n.copied.Load() != int64(len(want)) {
		t.Fatalf("%d bytes over a pipe, %d copied, %v", len(plain), n.copied.Load(), err)
	}
}

// A socket that takes a little at a time gets the right bytes: the position is
// our own, not the descriptor's.
func TestSendfileInSmallSteps(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 1, nil)
	records := n.cluster.partition("t", 0).log
	records.inFile(t, n)
	want := noise(200 << 10)
	if _, err := records.file.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := dial(t, l.Addr().String())
	defer c.close()
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(served.(*net.TCPConn).SetWriteBuffer(16<<10), c.Conn.(*net.TCPConn).SetReadBuffer(16<<10)); err != nil {
		t.Fatal(err)
	}
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() {
		defer served.Close()
		slice := log.Slice{File: records.file, Position: 1000, Length: int64(len(want)) - 1000}
		out := sink{conn: served, raw: newSendfiler(served, n.sendSlots), node: n.node}
		if err := out.slice(&slice); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want[1000:]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

// A client that reads nothing is given up; what its answer held is released.
func TestClientThatNeverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, right := net.Pipe()
		defer right.Close()
		out := sink{conn: left, node: &node{}}
		a := &answer{}
		a.addBytes(make([]byte, 100))
		began := time.Now()
		if err := out.write(a); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != writeStall {
			t.Fatalf("%v after %s", err, time.Since(began))
		}
	})
}

// A stop of the broker ends long polls and members that wait for a rebalance.
func TestStopEndsWaits(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"offsets.topic.num.partitions": "1", "group.initial.rebalance.delay.ms": "600000"})
	topic := n.topic(t, "t", 1, nil)
	poll := fetchRequest(12, fetchTopicOf("t", topic.ID, 0))
	poll.MaxWaitMillis = 60_000
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey = "g"
	n.call(t, find)
	join := kmsg.NewPtrJoinGroupRequest()
	join.SetVersion(3)
	join.Group, join.ProtocolType, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = "g", "consumer", 10_000, 600_000
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range"}}
	var members []*wire
	for _, req := range []kmsg.Request{poll, join} {
		c := dial(t, n.addr)
		defer c.close()
		c.send(t, req)
		members = append(members, c)
	}
	records := n.cluster.partition("t", 0).log
	eventually(t, "the fetch waits", records.waited)
	n.stop()
	for _, c := range members {
		if _, body := c.receive(t); len(body) == 0 {
			t.Fatal("empty answer")
		}
	}
}
