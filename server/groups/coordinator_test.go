package groups

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// start makes a coordinator that leads partition 0 in term 1.
func start(t *testing.T, change func(*Config)) (*Coordinator, *memStore) {
	t.Helper()
	store := newMemStore()
	cfg := Config{
		Store: store, Partitions: func() int32 { return 1 }, InitialRebalanceDelay: -1, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	c := New(cfg)
	store.elect(0, 1)
	c.Lead(0, 1)
	return c, store
}

func commitRequest(group string, offset int64, partitions ...int32) *kmsg.OffsetCommitRequest {
	r := kmsg.NewPtrOffsetCommitRequest()
	r.Version, r.Group = 9, group
	topic := kmsg.OffsetCommitRequestTopic{Topic: "t"}
	for _, partition := range partitions {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset = partition, offset
		topic.Partitions = append(topic.Partitions, p)
	}
	r.Topics = append(r.Topics, topic)
	return r
}

func commitCode(resp kmsg.Response) int16 {
	return resp.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode
}

func joinRequestOf(group, id string, protocols ...string) *kmsg.JoinGroupRequest {
	r := kmsg.NewPtrJoinGroupRequest()
	r.Version, r.Group, r.MemberID, r.ProtocolType = 3, group, id, "consumer"
	r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 10_000, 30_000
	for _, name := range protocols {
		r.Protocols = append(r.Protocols, kmsg.JoinGroupRequestProtocol{Name: name, Metadata: []byte(name)})
	}
	return r
}

// TestCommitsShareAppends queues many commits behind one append.
func TestCommitsShareAppends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := start(t, nil)
		defer c.Close()
		synctest.Wait() // loaded
		store.block()
		codes := make(chan int16, 500)
		for i := range int32(500) {
			go func() {
				codes <- commitCode(c.Handle(t.Context(), commitRequest(fmt.Sprint("g", i%7), 5, i), ClientInfo{}))
			}()
		}
		synctest.Wait()
		store.unblock()
		for range cap(codes) {
			if code := <-codes; code != codeNone {
				t.Errorf("commit: %s", codeName(code))
			}
		}
		if store.appends > 2 {
			t.Errorf("%d appends for 500 commits that came together", store.appends)
		}
	})
}

// TestQueueIsBounded fills the queue of a partition whose log stands still.
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := start(t, func(cfg *Config) { cfg.MaxQueuedBytes = 1000 })
		defer c.Close()
		synctest.Wait() // loaded
		store.block()
		codes := map[int16]int{}
		answers := make(chan int16, 40)
		for i := range int32(cap(answers)) {
			go func() { answers <- commitCode(c.Handle(t.Context(), commitRequest("g", 5, i), ClientInfo{})) }()
		}
		synctest.Wait()
		refused := len(answers)
		store.unblock()
		for range cap(answers) {
			codes[<-answers]++
		}
		if refused == 0 || codes[codeLoading] != refused || codes[codeNone] != cap(answers)-refused {
			t.Errorf("refused %d, answers %v", refused, codes)
		}
		if code := commitCode(c.Handle(t.Context(), commitRequest("g", 6, 1), ClientInfo{})); code != codeNone {
			t.Errorf("commit after the queue drained: %s", codeName(code))
		}
	})
}

// TestLongNames sends names that Kafka's records cannot hold.
func TestLongNames(t *testing.T) {
	c, _ := start(t, nil)
	defer c.Close()
	long := strings.Repeat("x", 40_000)
	eventually(t, "load", func() bool { _, err := c.Offsets(t.Context(), "g"); return err == nil })
	instance := joinRequestOf("g", "", "range")
	instance.InstanceID = &long
	protocolType := joinRequestOf("g", "", "range")
	protocolType.ProtocolType = long
	manyProtocols := joinRequestOf("g", "", make([]string, 300)...)
	topic := commitRequest("g", 1, 0)
	topic.Topics[0].Topic = long
	metadata := commitRequest("g", 1, 0)
	metadata.Topics[0].Partitions[0].Metadata = &long
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = []string{long}
	remove := kmsg.NewPtrDeleteGroupsRequest()
	remove.Groups = []string{long}
	fetch := kmsg.NewPtrOffsetFetchRequest()
	fetch.Version, fetch.Group = 5, long
	tests := []struct {
		name    string
		request kmsg.Request
		want    int16
	}{
		{"group of a join", joinRequestOf(long, "", "range"), codeInvalidGroup},
		{"member id", joinRequestOf("g", long, "range"), codeInvalidRequest},
		{"instance id", instance, codeInvalidRequest},
		{"protocol type", protocolType, codeInvalidRequest},
		{"protocol", joinRequestOf("g", "", long), codeInvalidRequest},
		{"300 protocols", manyProtocols, codeInvalidRequest},
		{"group of a commit", commitRequest(long, 1, 0), codeInvalidGroup},
		{"topic of a commit", topic, codeUnknownTopic},
		{"metadata of a commit", metadata, codeMetadataTooLarge},
		{"group described", describe, codeInvalidGroup},
		{"group deleted", remove, codeInvalidGroup},
		{"group of a fetch", fetch, codeInvalidGroup},
	}
	for _, tt := range tests {
		if got := firstCode(c.Handle(t.Context(), tt.request, ClientInfo{ID: long, Host: long})); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, codeName(got), codeName(tt.want))
		}
	}
	// A long client id is cut, not refused: clients do not choose it with care.
	resp := c.Handle(t.Context(), joinRequestOf("g", "", "range"), ClientInfo{ID: long, Host: long}).(*kmsg.JoinGroupResponse)
	if resp.ErrorCode != codeNone || len(resp.MemberID) > 300 {
		t.Errorf("join with a long client id: %s, member id of %d bytes", codeName(resp.ErrorCode), len(resp.MemberID))
	}
}

// firstCode is the error of a response with one of each thing.
func firstCode(response kmsg.Response) int16 {
	switch r := response.(type) {
	case *kmsg.JoinGroupResponse:
		return r.ErrorCode
	case *kmsg.OffsetCommitResponse:
		return commitCode(r)
	case *kmsg.DescribeGroupsResponse:
		return r.Groups[0].ErrorCode
	case *kmsg.DeleteGroupsResponse:
		return r.Groups[0].ErrorCode
	case *kmsg.OffsetFetchResponse:
		return r.ErrorCode
	}
	return -99
}

// TestVote lets members choose the protocol.
func TestVote(t *testing.T) {
	tests := []struct {
		members [][]string
		want    string
	}{
		{[][]string{{"range"}}, "range"},
		{[][]string{{"sticky", "range"}, {"range"}}, "range"},
		{[][]string{{"a", "b"}, {"b", "a"}, {"b", "a"}}, "b"},
		{[][]string{{"a", "b"}, {"b", "a"}}, "a"}, // a draw: the earlier member's
		{[][]string{{"x", "a", "b"}, {"y", "b", "a"}, {"z", "b", "a"}}, "b"},
		{[][]string{{"a", "a", "b"}, {"b"}}, "b"}, // named twice counts once
	}
	c, _ := start(t, nil)
	defer c.Close()
	for _, tt := range tests {
		g := newGroup(newShard(c, 0, 1), "g")
		for i, names := range tt.members {
			m := &member{id: fmt.Sprint(i)}
			for _, name := range names {
				m.protocols = append(m.protocols, protocol{name: name})
			}
			if !g.canOffer(consumerType, m.protocols) && i > 0 {
				t.Errorf("%v: member %d does not fit", tt.members, i)
			}
			g.protocolType = consumerType
			g.insert(m)
		}
		if got := g.vote(); got != tt.want {
			t.Errorf("%v: chose %q, want %q", tt.members, got, tt.want)
		}
		if g.canOffer(consumerType, []protocol{{name: "other"}}) || g.canOffer("connect", g.members["0"].protocols) {
			t.Errorf("%v: a member fits that shares nothing", tt.members)
		}
	}
}

// TestConfirm answers no position when leadership cannot be confirmed.
func TestConfirm(t *testing.T) {
	deposed := errors.New("a majority does not answer")
	var confirm error
	c, _ := start(t, func(cfg *Config) {
		cfg.Confirm = func(_ context.Context, partition int32, term segment.Term) error {
			if partition != 0 || term != 1 {
				t.Errorf("confirm partition %d, term %d", partition, term)
			}
			return confirm
		}
	})
	defer c.Close()
	eventually(t, "commit", func() bool {
		return commitCode(c.Handle(t.Context(), commitRequest("g", 5, 0), ClientInfo{})) == codeNone
	})
	fetch := kmsg.NewPtrOffsetFetchRequest()
	fetch.Version, fetch.Group = 7, "g"
	read := func() (int16, int) {
		resp := c.Handle(t.Context(), fetch, ClientInfo{}).(*kmsg.OffsetFetchResponse)
		return resp.ErrorCode, len(resp.Topics)
	}
	if code, topics := read(); code != codeNone || topics != 1 {
		t.Errorf("confirmed: %s, %d topics", codeName(code), topics)
	}
	confirm = deposed
	if code, topics := read(); code != codeNotCoordinator || topics != 0 {
		t.Errorf("not confirmed: %s, %d topics", codeName(code), topics)
	}
	if _, err := c.Offsets(t.Context(), "g"); !errors.Is(err, kerr.NotCoordinator) {
		t.Errorf("Offsets: %v", err)
	}
}

// TestCancelledRequests end at once, with a code on which nobody counts on them.
func TestCancelledRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := start(t, nil)
		defer c.Close()
		synctest.Wait()
		first := c.Handle(t.Context(), joinRequestOf("g", "", "range"), ClientInfo{}).(*kmsg.JoinGroupResponse)
		commitCode(c.Handle(t.Context(), commitRequest("other", 1, 0), ClientInfo{}))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Group, sync.MemberID, sync.Generation = "g", first.MemberID, first.Generation
		remove := kmsg.NewPtrDeleteGroupsRequest()
		remove.Groups = []string{"other"}
		offset := kmsg.NewPtrOffsetDeleteRequest()
		offset.Group = "third"
		offset.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}}}}
		commitCode(c.Handle(t.Context(), commitRequest("third", 1, 0), ClientInfo{}))
		store.block()
		requests := []kmsg.Request{sync, commitRequest("simple", 1, 0), remove, offset}
		answers := make(chan int16, len(requests))
		for _, r := range requests {
			go func() {
				switch resp := c.Handle(ctx, r, ClientInfo{}).(type) {
				case *kmsg.SyncGroupResponse:
					answers <- resp.ErrorCode
				case *kmsg.OffsetDeleteResponse:
					answers <- resp.ErrorCode
				default:
					answers <- firstCode(resp)
				}
			}()
		}
		synctest.Wait()
		if len(answers) != 0 {
			t.Errorf("%d answers before the log moved", len(answers))
		}
		cancel()
		for range requests {
			if code := <-answers; code != codeNotAvailable {
				t.Errorf("answer %s, want COORDINATOR_NOT_AVAILABLE", codeName(code))
			}
		}
		store.unblock()
		synctest.Wait()
		if positions, err := c.Offsets(t.Context(), "simple"); err != nil || len(positions) != 1 {
			t.Errorf("what was begun did not go on: %v, %v", positions, err)
		}
	})
}

// TestNoPartition answers before __consumer_offsets exists.
func TestNoPartition(t *testing.T) {
	n := int32(0)
	c, _ := start(t, func(cfg *Config) { cfg.Partitions = func() int32 { return n } })
	defer c.Close()
	if code := commitCode(c.Handle(t.Context(), commitRequest("g", 1, 0), ClientInfo{})); code != codeNotAvailable {
		t.Errorf("without partitions: %s", codeName(code))
	}
	if resp := c.Handle(t.Context(), kmsg.NewPtrMetadataRequest(), ClientInfo{}); resp != nil {
		t.Errorf("a request of another API is answered: %T", resp)
	}
}

// TestSeveralPartitions spreads groups over partitions of which one is led
// elsewhere and one still loads.
func TestSeveralPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := start(t, func(cfg *Config) { cfg.Partitions = func() int32 { return 3 } })
		defer c.Close()
		for partition := range int32(3) {
			store.elect(partition, 1)
			c.Lead(partition, 1)
		}
		synctest.Wait()
		groups := []string{"a", "b", "c"} // hashes 97, 98, 99: partitions 1, 2, 0
		fetch := kmsg.NewPtrOffsetFetchRequest()
		fetch.Version = 8
		for i, group := range groups {
			if code := commitCode(c.Handle(t.Context(), commitRequest(group, int64(i), 0), ClientInfo{})); code != codeNone {
				t.Errorf("commit %s: %s", group, codeName(code))
			}
			fetch.Groups = append(fetch.Groups, kmsg.OffsetFetchRequestGroup{Group: group})
		}
		list := func() string {
			resp := c.Handle(t.Context(), kmsg.NewPtrListGroupsRequest(), ClientInfo{}).(*kmsg.ListGroupsResponse)
			text := codeName(resp.ErrorCode)
			for _, g := range resp.Groups {
				text += " " + g.Group
			}
			return text
		}
		read := func() string {
			text := ""
			for _, g := range c.Handle(t.Context(), fetch, ClientInfo{}).(*kmsg.OffsetFetchResponse).Groups {
				text += " " + g.Group + "=" + codeName(g.ErrorCode)
				for _, topic := range g.Topics {
					text += fmt.Sprintf(",%d", topic.Partitions[0].Offset)
				}
			}
			return text
		}
		check := func(what, got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		check("list", list(), "ok a b c")
		check("read", read(), " a=ok,0 b=ok,1 c=ok,2")
		c.Resign(1)
		check("list without a's partition", list(), "ok b c")
		check("read without a's partition", read(), " a=NOT_COORDINATOR b=ok,1 c=ok,2")
		store.block()
		store.elect(1, 2)
		c.Lead(1, 2)
		check("list while a's partition loads", list(), "COORDINATOR_LOAD_IN_PROGRESS b c")
		check("read while a's partition loads", read(), " a=COORDINATOR_LOAD_IN_PROGRESS b=ok,1 c=ok,2")
		store.unblock()
		synctest.Wait()
		check("read after", read(), " a=ok,0 b=ok,1 c=ok,2")
	})
}

// TestClose ends everything that waits, and is idempotent.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := start(t, nil)
		synctest.Wait()
		join := c.Handle(t.Context(), joinRequestOf("g", "", "range"), ClientInfo{}).(*kmsg.JoinGroupResponse)
		answers := make(chan int16, 2)
		go func() { // waits for the member above
			answers <- firstCode(c.Handle(t.Context(), joinRequestOf("g", "", "range"), ClientInfo{}))
		}()
		store.block()
		go func() { answers <- commitCode(c.Handle(t.Context(), commitRequest("x", 1, 0), ClientInfo{})) }()
		synctest.Wait()
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		for range 2 {
			if code := <-answers; code != codeNotCoordinator && code != codeNotAvailable {
				t.Errorf("after Close: %s (member %s)", codeName(code), join.MemberID)
			}
		}
		c.Lead(0, 2)
		c.Resign(0)
		c.TopicDeleted("t", 1)
		if code := commitCode(c.Handle(t.Context(), commitRequest("x", 1, 0), ClientInfo{})); code != codeNotCoordinator {
			t.Errorf("commit after Close: %s", codeName(code))
		}
	})
}

// TestTimers fires in the order of deadlines, and not what was cancelled.
func TestTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timers := newTimers(time.Now)
		began := time.Now()
		var fired []string
		add := func(d time.Duration) *timer {
			return timers.start(d, func(*timer) { fired = append(fired, fmt.Sprint(d, " at ", time.Since(began))) })
		}
		add(5 * time.Second)
		cancelled := add(2 * time.Second)
		add(3 * time.Hour) // longer than the goroutine sleeps without a timer
		add(time.Second)
		gone := add(0)
		<-time.After(1500 * time.Millisecond)
		timers.cancel(cancelled)
		timers.cancel(cancelled)
		timers.cancel(gone)
		timers.cancel(nil)
		<-time.After(4 * time.Hour)
		timers.close()
		want := []string{"0s at 0s", "1s at 1s", "5s at 5s", "3h0m0s at 3h0m0s"}
		if diff := cmp.Diff(want, fired); diff != "" {
			t.Errorf("fired (-want +got):\n%s", diff)
		}
	})
}
