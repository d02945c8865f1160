package server

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/server/groups"
)

// TestUnconfirmedLeaderAnswersNothing: what only a leader may say is not said by one that
// no majority confirms, though it believes to lead, before and after; and all of it is
// said by one that is confirmed.
func TestUnconfirmedLeaderAnswersNothing(t *testing.T) {
	n := newTestNode(t, 1, nil)
	topic := n.topic(t, "t", 1, nil)
	p := n.cluster.partition("t", 0)
	p.fill(batchOf(1), batchOf(2))
	listed := func(timestamp int64) func(*testing.T) (int16, int64) {
		return func(t *testing.T) (int16, int64) {
			req, asked := kmsg.NewPtrListOffsetsRequest(), kmsg.NewListOffsetsRequestTopic()
			req.SetVersion(9)
			sp := kmsg.NewListOffsetsRequestTopicPartition()
			sp.Timestamp, sp.CurrentLeaderEpoch = timestamp, -1
			asked.Topic, asked.Partitions = "t", append(asked.Partitions, sp)
			req.Topics = append(req.Topics, asked)
			got := n.call(t, req).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
			return got.ErrorCode, got.Offset
		}
	}
	ended := func(epoch int32) func(*testing.T) (int16, int64) {
		return func(t *testing.T) (int16, int64) {
			req, asked := kmsg.NewPtrOffsetForLeaderEpochRequest(), kmsg.NewOffsetForLeaderEpochRequestTopic()
			req.SetVersion(4)
			sp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			sp.CurrentLeaderEpoch, sp.LeaderEpoch = -1, epoch
			asked.Topic, asked.Partitions = "t", append(asked.Partitions, sp)
			req.Topics = append(req.Topics, asked)
			got := n.call(t, req).(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0]
			return got.ErrorCode, got.EndOffset
		}
	}
	fetched := func(offset int64) func(*testing.T) (int16, int64) {
		return func(t *testing.T) (int16, int64) {
			req := fetchRequest(12, fetchTopicOf("t", topic.ID, 0))
			req.Topics[0].Partitions[0].FetchOffset = offset
			got := n.call(t, req).(*kmsg.FetchResponse).Topics[0].Partitions[0]
			return got.ErrorCode, got.HighWatermark
		}
	}
	deleted := func(offset int64) func(*testing.T) (int16, int64) {
		return func(t *testing.T) (int16, int64) {
			req, asked := kmsg.NewPtrDeleteRecordsRequest(), kmsg.NewDeleteRecordsRequestTopic()
			req.SetVersion(2)
			req.TimeoutMillis = 1000
			sp := kmsg.NewDeleteRecordsRequestTopicPartition()
			sp.Offset = offset
			asked.Topic, asked.Partitions = "t", append(asked.Partitions, sp)
			req.Topics = append(req.Topics, asked)
			got := n.call(t, req).(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0]
			return got.ErrorCode, got.LowWatermark
		}
	}
	outOfRange, refused := kerr.OffsetOutOfRange.Code, kerr.NotLeaderForPartition.Code
	for _, row := range []struct {
		name  string
		ask   func(*testing.T) (code int16, offset int64)
		code  int16 // of a leader that is confirmed
		value int64
		free  bool // of confirmation
	}{
		{"the latest offset", listed(latestOffset), 0, 2, false},
		{"the earliest offset", listed(earliestOffset), 0, 0, false},
		{"an offset by time", listed(1 << 50), 0, -1, false},
		{"the end of its epoch", ended(5), 0, 2, false},
		{"the end of an older epoch", ended(4), 0, 1, false},
		{"an epoch that it does not know", ended(6), 0, -1, false},
		{"a fetch above the end", fetched(9), outOfRange, 2, false},
		{"a trim above the end", deleted(9), outOfRange, -1, false},
		{"records", fetched(0), 0, 2, true},
		{"a trim", deleted(0), 0, 0, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			p.overtaken.Store(false)
			before := p.confirmed.Load()
			if code, value := row.ask(t); code != row.code || value != row.value {
				t.Errorf("confirmed: %v, %d", kerr.ErrorForCode(code), value)
			}
			if asked := p.confirmed.Load() > before; asked == row.free {
				t.Errorf("the group was asked: %v", asked)
			}
			p.overtaken.Store(true)
			code, value := row.ask(t)
			switch {
			case row.free && (code != row.code || value != row.value):
				t.Errorf("records that are committed need no confirmation: %v, %d", kerr.ErrorForCode(code), value)
			case !row.free && (code != refused || value != -1):
				t.Errorf("not confirmed: %v, %d", kerr.ErrorForCode(code), value)
			}
		})
	}
}

// TestUnconfirmedCoordinator: the groups' hook asks the partition of the offsets topic,
// in the coordinator's term.
func TestUnconfirmedCoordinator(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, offsetsTopic, 1, nil)
	p := n.cluster.partition(offsetsTopic, 0)
	store := offsetsStore{n.node}
	for _, row := range []struct {
		name      string
		number    int32
		term      segment.Term
		overtaken bool
		want      error
	}{
		{"confirmed", 0, 5, false, nil},
		{"another term", 0, 4, false, groups.ErrNotCoordinator},
		{"overtaken", 0, 5, true, groups.ErrNotCoordinator},
		{"no such partition", 7, 5, false, groups.ErrNotCoordinator},
	} {
		p.overtaken.Store(row.overtaken)
		if err := store.confirm(t.Context(), row.number, row.term); !errors.Is(err, row.want) {
			t.Errorf("%s: %v, want %v", row.name, err, row.want)
		}
	}
	// The coordinator has the hook.
	p.overtaken.Store(false)
	fetch := kmsg.NewPtrOffsetFetchRequest()
	fetch.Version, fetch.Group = 7, "g"
	code := func() int16 { return n.call(t, fetch).(*kmsg.OffsetFetchResponse).ErrorCode }
	eventually(t, "the coordinator has loaded", func() bool { return code() == 0 })
	p.overtaken.Store(true)
	if got := code(); got != kerr.NotCoordinator.Code {
		t.Errorf("positions of a coordinator that was overtaken: %v", kerr.ErrorForCode(got))
	}
	if l := p.Leadership(); l != (replication.Leadership{Leader: true, Ready: true, Term: 5}) {
		t.Errorf("it believes to be %+v: the test proves nothing", l)
	}
}
