package durability

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// newTestLoad is a load without clients.
func newTestLoad() (*Load, *Group, *watch) {
	l, f := newTestLedger()
	load := NewLoad(Target{Partitions: 1}, l, f)
	group := &Group{load: load, name: "g", seen: make([]bitmap, 1), committed: make([]int64, 1)}
	return load, group, &watch{load: load, group: group, ends: make([]int64, 1), positions: make([]int64, 1)}
}

// commit answers a commit of a position of partition 0.
func commit(g *Group, position int64, code *kerr.Error) {
	asked := &kmsg.OffsetCommitRequest{Topics: []kmsg.OffsetCommitRequestTopic{{Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: position}}}}}
	answer := &kmsg.OffsetCommitResponse{Topics: []kmsg.OffsetCommitResponseTopic{{Partitions: []kmsg.OffsetCommitResponseTopicPartition{{}}}}}
	if code != nil {
		answer.Topics[0].Partitions[0].ErrorCode = code.Code
	}
	g.done(nil, asked, answer, nil)
}

// TestWatchSees: log ends and positions that go back, and commits with answers that
// nobody should get.
func TestWatchSees(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(load *Load, g *Group, w *watch)
		want map[Mark]int
	}{
		{"all is well", func(load *Load, g *Group, w *watch) {
			load.ledger.Acked(ordered(0), 0)
			w.judgeEnd(0, 1, w.leastEnds()[0])
			w.judgeEnd(0, 1, w.leastEnds()[0])
			commit(g, 1, nil)
			w.judgePosition(0, 1, w.leastPositions()[0])
			w.judgePosition(0, 5, w.leastPositions()[0])
		}, map[Mark]int{}},
		{"an end that goes back", func(_ *Load, _ *Group, w *watch) {
			w.judgeEnd(0, 5, w.leastEnds()[0])
			w.judgeEnd(0, 4, w.leastEnds()[0])
		}, map[Mark]int{MN: 1}},
		{"an end below what was acknowledged", func(load *Load, _ *Group, w *watch) {
			load.ledger.Acked(ordered(0), 7)
			w.judgeEnd(0, 7, w.leastEnds()[0])
		}, map[Mark]int{MN: 1}},
		{"a position that goes back", func(_ *Load, _ *Group, w *watch) {
			w.judgePosition(0, 5, w.leastPositions()[0])
			w.judgePosition(0, 4, w.leastPositions()[0])
		}, map[Mark]int{MN: 1}},
		{"a position that is gone", func(_ *Load, _ *Group, w *watch) {
			w.judgePosition(0, 5, w.leastPositions()[0])
			w.judgePosition(0, 0, w.leastPositions()[0])
		}, map[Mark]int{MN: 1}},
		{"a position below what was committed", func(_ *Load, g *Group, w *watch) {
			commit(g, 5, nil)
			w.judgePosition(0, 4, w.leastPositions()[0])
		}, map[Mark]int{MN: 1}},
		{"a commit that was refused promises nothing", func(_ *Load, g *Group, w *watch) {
			commit(g, 5, kerr.RebalanceInProgress)
			commit(g, 6, kerr.NotCoordinator)
			w.judgePosition(0, 0, w.leastPositions()[0])
		}, map[Mark]int{}},
		{"a commit error that nobody should get", func(_ *Load, g *Group, _ *watch) { commit(g, 5, kerr.InvalidCommitOffsetSize) }, map[Mark]int{CE: 1}},
		{"an error of a consumer that hides a gap", func(load *Load, _ *Group, _ *watch) {
			load.consumerError("r", 0, kerr.OffsetOutOfRange)
			load.consumerError("r", 0, &kgo.ErrDataLoss{})
			load.consumerError("r", 0, kerr.TopicAuthorizationFailed)
			load.consumerError("r", 0, errors.New("a connection"))
		}, map[Mark]int{MN: 2, CE: 1}},
		{"an event without an outcome", func(load *Load, _ *Group, _ *watch) {
			load.sent.Add(2)
			load.ledger.Acked(ordered(0), 0)
			load.StopProducers()
		}, map[Mark]int{CE: 1}},
		{"every event with one", func(load *Load, _ *Group, _ *watch) {
			load.sent.Add(3)
			load.ledger.Acked(ordered(0), 0)
			load.ledger.Refused(plainly(0))
			load.ledger.Unknown(plainly(1))
			load.StopProducers()
		}, map[Mark]int{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			load, group, w := newTestLoad()
			defer load.Close()
			test.do(load, group, w)
			if diff := cmp.Diff(test.want, load.faults.Counts()); diff != "" {
				t.Errorf("broken promises (-want +got):\n%s\n%v", diff, load.faults.Err())
			}
		})
	}
}

// TestMustResume: partitions that stay quiet, or are late, are seen.
func TestMustResume(t *testing.T) {
	load, _, _ := newTestLoad()
	defer load.Close()
	over, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	load.MustResume(over, time.Now(), "quiet")
	if got := load.faults.Counts()[LV]; got != 1 {
		t.Errorf("a partition that acknowledges nothing: %d violations", got)
	}
	load.acked(ordered(0), 0)
	load.MustResume(t.Context(), time.Now().Add(-ResumeLimit-time.Second), "late")
	if got := load.faults.Counts()[LV]; got != 2 {
		t.Errorf("writes that resumed late: %d violations", got)
	}
	load.MustResume(t.Context(), time.Now().Add(-time.Second), "in time")
	if got := load.faults.Counts()[LV]; got != 2 {
		t.Errorf("writes that resumed in time: %d violations", got)
	}
}
