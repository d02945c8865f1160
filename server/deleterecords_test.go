package server

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// TestDeleteRecords: every answer, in every version.
func TestDeleteRecords(t *testing.T) {
	n := newTestNode(t, 3, nil)
	for name, policy := range map[string]string{"t": "delete", "both": "compact,delete", "compacted": "compact", "unready": "delete", "stuck": "delete"} {
		n.topic(t, name, 1, map[string]string{"cleanup.policy": policy})
		for range 5 {
			n.cluster.partition(name, 0).log.append(batchOf(1), 3)
		}
	}
	n.topic(t, "elsewhere", 1, nil, 2, 3)
	n.topic(t, offsetsTopic, 1, nil)
	n.cluster.partition("unready", 0).leadership.Store(&replication.Leadership{Leader: true, Term: 3})
	n.cluster.partition("stuck", 0).set(func(p *fakePartition) { p.trim = replication.ErrUnknownOutcome })
	type outcome struct {
		low  int64
		code int16
	}
	for version := int16(0); version <= 2; version++ {
		for _, tt := range []struct {
			topic     string
			partition int32
			offset    int64
			want      outcome
		}{
			{"t", 0, 3, outcome{low: 3}},
			{"t", 0, 1, outcome{low: 3}},
			{"t", 0, 6, outcome{-1, kerr.OffsetOutOfRange.Code}},
			{"t", 0, -2, outcome{-1, kerr.OffsetOutOfRange.Code}},
			{"t", 1, 0, outcome{-1, kerr.UnknownTopicOrPartition.Code}},
			{"none", 0, 0, outcome{-1, kerr.UnknownTopicOrPartition.Code}},
			{"both", 0, -1, outcome{low: 5}},
			{"compacted", 0, 1, outcome{-1, kerr.PolicyViolation.Code}},
			{"elsewhere", 0, 0, outcome{-1, kerr.NotLeaderForPartition.Code}},
			{"unready", 0, 0, outcome{-1, kerr.NotLeaderForPartition.Code}},
			{"stuck", 0, 1, outcome{-1, kerr.RequestTimedOut.Code}},
			{offsetsTopic, 0, 0, outcome{-1, kerr.InvalidTopicException.Code}},
		} {
			req := kmsg.NewPtrDeleteRecordsRequest()
			req.SetVersion(version)
			req.TimeoutMillis = 1000
			topic, p := kmsg.NewDeleteRecordsRequestTopic(), kmsg.NewDeleteRecordsRequestTopicPartition()
			topic.Topic, p.Partition, p.Offset = tt.topic, tt.partition, tt.offset
			topic.Partitions = append(topic.Partitions, p)
			req.Topics = append(req.Topics, topic)
			resp := n.call(t, req).(*kmsg.DeleteRecordsResponse)
			sp := resp.Topics[0].Partitions[0]
			if got := (outcome{sp.LowWatermark, sp.ErrorCode}); got != tt.want || resp.Topics[0].Topic != tt.topic || sp.Partition != tt.partition {
				t.Errorf("version %d, %s/%d to %d: %+v, want %+v", version, tt.topic, tt.partition, tt.offset, got, tt.want)
			}
		}
	}
}

// TestPolicyOf: a topic's value, then the broker's, strongest unit first, then Kafka's
// default; nothing ever expires from an internal topic.
func TestPolicyOf(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for name, tt := range map[string]struct {
		topic, broker map[string]string
		internal      bool
		want          replication.Policy
	}{
		"defaults": {want: replication.Policy{SegmentBytes: 1 << 30, SegmentAge: week, Delete: true, Retention: log.Retention{Age: week, Bytes: -1}}},
		"topic": {
			topic:  map[string]string{"retention.ms": "5", "retention.bytes": "6", "segment.ms": "7", "segment.bytes": "2097152"},
			broker: map[string]string{"log.retention.ms": "1", "log.retention.bytes": "2", "log.roll.ms": "3", "log.segment.bytes": "1048576"},
			want: replication.Policy{SegmentBytes: 2 << 20, SegmentAge: 7 * time.Millisecond, Delete: true,
				Retention: log.Retention{Age: 5 * time.Millisecond, Bytes: 6}},
		},
		"broker": {
			broker: map[string]string{"log.retention.minutes": "1", "log.retention.hours": "2", "log.retention.bytes": "2", "log.roll.hours": "3", "log.segment.bytes": "1048576"},
			want: replication.Policy{SegmentBytes: 1 << 20, SegmentAge: 3 * time.Hour, Delete: true,
				Retention: log.Retention{Age: time.Minute, Bytes: 2}},
		},
		"for ever": {
			topic: map[string]string{"retention.ms": "-1", "segment.ms": maxLong},
			want:  replication.Policy{SegmentBytes: 1 << 30, Delete: true, Retention: log.Retention{Age: -1, Bytes: -1}},
		},
		"nothing": {
			topic: map[string]string{"retention.ms": "0", "retention.bytes": "0"},
			want:  replication.Policy{SegmentBytes: 1 << 30, SegmentAge: week, Delete: true, Retention: log.Retention{}},
		},
		"compact": {
			broker: map[string]string{"log.cleanup.policy": "compact"},
			want:   replication.Policy{SegmentBytes: 1 << 30, SegmentAge: week, Retention: log.Retention{Age: week, Bytes: -1}},
		},
		"internal": {
			topic: map[string]string{"cleanup.policy": "delete"}, internal: true,
			want: replication.Policy{SegmentBytes: 1 << 30, SegmentAge: week, Retention: log.Retention{Age: week, Bytes: -1}},
		},
	} {
		settings, err := newBrokerSettings(tt.broker)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, policyOf(&metadata.Topic{Configs: tt.topic, Internal: tt.internal}, settings)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// succeeded reports whether there was no error; one that does not pass fails the test.
func succeeded(t testing.TB, err error) bool {
	t.Helper()
	if err != nil && !errors.Is(err, kerr.NotLeaderForPartition) && !errors.Is(err, kerr.LeaderNotAvailable) &&
		!errors.Is(err, kerr.OffsetNotAvailable) {
		t.Fatal(err)
	}
	return err == nil
}

// starts are the log starts of a topic's partitions as clients hear them.
func starts(t testing.TB, admin *kadm.Client, topic string) map[int32]int64 {
	t.Helper()
	var listed kadm.ListedOffsets
	eventually(t, "the log starts are known", func() bool {
		var err error
		listed, err = admin.ListStartOffsets(t.Context(), topic)
		return succeeded(t, errors.Join(err, listed.Error()))
	})
	found := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { found[o.Partition] = o.Offset })
	return found
}

// TestDeleteRecordsEndToEnd: three brokers, through kadm: what is deleted cannot be read
// from any of them, also not after all have restarted, and producing goes on.
func TestDeleteRecordsEndToEnd(t *testing.T) {
	configs, brokers, addrs := openThree(t)
	c := newClient(t, addrs, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	admin := kadm.NewClient(c)
	createTopic1(t, c, "events", 2, 3)
	produce := func(count int) {
		t.Helper()
		for i := range count {
			if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Partition: int32(i % 2), Value: fmt.Appendf(nil, "%d", i)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	produce(40)
	offsets := kadm.Offsets{}
	offsets.AddOffset("events", 0, 7, -1)
	offsets.AddOffset("events", 1, -1, -1)
	var deleted kadm.DeleteRecordsResponses
	eventually(t, "the records are deleted", func() (done bool) { // leadership may move meanwhile
		var err error
		deleted, err = admin.DeleteRecords(t.Context(), offsets)
		return succeeded(t, errors.Join(err, deleted.Error()))
	})
	for p, want := range map[int32]int64{0: 7, 1: 20} {
		if r, _ := deleted.Lookup("events", p); r.LowWatermark != want {
			t.Errorf("partition %d: low watermark %d, want %d", p, r.LowWatermark, want)
		}
	}
	want := map[int32]int64{0: 7, 1: 20}
	if diff := cmp.Diff(want, starts(t, admin, "events")); diff != "" {
		t.Error(diff)
	}
	checkOutOfRange(t, addrs)
	tooFar := kadm.Offsets{}
	tooFar.AddOffset("events", 0, 21, -1)
	eventually(t, "an offset above the high watermark is refused", func() bool {
		deleted, err := admin.DeleteRecords(t.Context(), tooFar)
		if err = errors.Join(err, deleted.Error()); err == nil {
			t.Fatal("an offset above the high watermark was accepted")
		}
		return errors.Is(err, kerr.OffsetOutOfRange) || succeeded(t, err)
	})
	for _, b := range brokers {
		if err := b.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range brokers {
		b, err := Open(t.Context(), configs[i])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Kill() })
		brokers[i] = b
	}
	for _, b := range brokers {
		awaitReady(t, b)
	}
	c = newClient(t, addrs, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	admin = kadm.NewClient(c)
	if diff := cmp.Diff(want, starts(t, admin, "events")); diff != "" {
		t.Errorf("after the restart: %s", diff)
	}
	produce(2)
	records := read(t, addrs, "events", 13+2)
	for _, r := range records {
		if r.Offset < want[r.Partition] {
			t.Errorf("partition %d: offset %d was deleted", r.Partition, r.Offset)
		}
	}
}

// checkOutOfRange fetches a deleted record.
func checkOutOfRange(t *testing.T, addrs []string) {
	t.Helper()
	c := newClient(t, addrs, kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		"events": {0: kgo.NewOffset().At(6)}}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		fetches := c.PollFetches(ctx)
		if ctx.Err() != nil || len(fetches.Records()) > 0 {
			t.Errorf("a deleted record: %v, %d records", ctx.Err(), len(fetches.Records()))
			return
		}
		for _, e := range fetches.Errors() {
			if errors.Is(e.Err, kerr.OffsetOutOfRange) {
				return
			}
		}
	}
}

// TestRetentionEndToEnd: a broker with short retention forgets what is old, without
// another record coming, and shows it.
func TestRetentionEndToEnd(t *testing.T) {
	config := testConfig(t)
	config.Settings = map[string]string{"log.retention.check.interval.ms": "20", "log.retention.ms": "1"}
	b := openBroker(t, config)
	c := newClient(t, []string{b.KafkaAddr()})
	createTopic1(t, c, "events", 1, 1)
	for i := range 10 {
		if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Value: fmt.Appendf(nil, "%d", i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	topic, ok := b.host.Meta().View().TopicNamed("events")
	if !ok {
		t.Fatal("no topic")
	}
	p, ok := b.host.Partition(topic.ID, 0)
	if !ok {
		t.Fatal("no replica")
	}
	eventually(t, "the records expire and their files go", func() bool {
		return p.Log().StartOffset() == 10 && p.Log().FirstIndex() > segment.Index(10)
	})
	if diff := cmp.Diff(map[int32]int64{0: 10}, starts(t, kadm.NewClient(c), "events")); diff != "" {
		t.Error(diff)
	}
}
