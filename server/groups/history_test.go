package groups

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// TestPositionsNeverGoBack commits growing positions from several clients while
// appends end in every way and coordinators change, and reads them all the time.
// Every reader must see at least what was acknowledged before it asked and what any
// reader saw before, at most what was asked for, and "none" only before all that.
// The generator's seed is in the name of the test that fails.
func TestPositionsNeverGoBack(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playHistory(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

// history is what is known about each partition's position.
type history struct {
	t  *testing.T
	c  *Coordinator
	mu sync.Mutex
	// at least, at most: by partition
	atLeast, atMost [4]int64
	reads, acks     int
}

func playHistory(t *testing.T, random *rand.Rand) {
	store := newMemStore()
	h := &history{t: t, atLeast: [4]int64{-1, -1, -1, -1}, atMost: [4]int64{-1, -1, -1, -1}}
	h.c = New(Config{
		Store: store, Partitions: func() int32 { return 1 }, Logger: slog.New(slog.DiscardHandler),
		AppendTimeout: 50 * time.Millisecond, RetryDelay: time.Millisecond,
	})
	defer h.c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	for partition := range int32(4) {
		wait := time.Duration(1+random.IntN(3)) * time.Millisecond
		work.Go(func() { h.commitAll(ctx, partition, wait) })
		work.Go(func() { h.readAll(ctx, partition, wait) })
	}
	term := segment.Term(0)
	for range 400 {
		switch random.IntN(12) {
		case 0:
			h.c.Resign(0)
		case 1:
			term++
			store.elect(0, term)
			h.c.Lead(0, term)
		case 2: // the old leader does not know yet
			term++
			store.elect(0, term)
		case 3:
			store.block()
			<-time.After(time.Duration(random.IntN(60)) * time.Millisecond)
			store.unblock()
		default:
			store.fail([]string{"ok", "ok", "ok", "lost", "landed", "late", "late", "refused", "deposed"}[random.IntN(9)])
		}
		<-time.After(time.Duration(random.IntN(5)) * time.Millisecond)
	}
	store.mu.Lock()
	store.outcomes = nil
	store.mu.Unlock()
	store.elect(0, term+1)
	h.c.Lead(0, term+1)
	<-time.After(time.Second)
	cancel()
	work.Wait()
	h.checkLog(store, term+1)
	if h.acks < 50 || h.reads < 50 {
		t.Errorf("only %d acknowledgements and %d reads", h.acks, h.reads)
	}
}

// commitAll commits 1, 2, 3, ...; after an error the next one, as consumers do.
func (h *history) commitAll(ctx context.Context, partition int32, wait time.Duration) {
	for offset := int64(1); ctx.Err() == nil; offset++ {
		h.mu.Lock()
		h.atMost[partition] = offset
		h.mu.Unlock()
		r := kmsg.NewPtrOffsetCommitRequest()
		r.Version, r.Group = 9, "g"
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset = partition, offset
		r.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
		resp := h.c.Handle(ctx, r, ClientInfo{}).(*kmsg.OffsetCommitResponse)
		if resp.Topics[0].Partitions[0].ErrorCode == codeNone {
			h.mu.Lock()
			h.acks++
			h.atLeast[partition] = max(h.atLeast[partition], offset)
			h.mu.Unlock()
		}
		<-time.After(wait)
	}
}

func (h *history) readAll(ctx context.Context, partition int32, wait time.Duration) {
	for ctx.Err() == nil {
		h.mu.Lock()
		atLeast := h.atLeast[partition]
		h.mu.Unlock()
		r := kmsg.NewPtrOffsetFetchRequest()
		r.Version = 9
		r.Groups = []kmsg.OffsetFetchRequestGroup{{Group: "g", Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: []int32{partition}}}}}
		resp := h.c.Handle(ctx, r, ClientInfo{}).(*kmsg.OffsetFetchResponse).Groups[0]
		if resp.ErrorCode == codeNone {
			got := resp.Topics[0].Partitions[0].Offset
			h.mu.Lock()
			h.reads++
			if got < atLeast || got > h.atMost[partition] {
				h.t.Errorf("partition %d: read %d, want %d to %d", partition, got, atLeast, h.atMost[partition])
			}
			h.atLeast[partition] = max(h.atLeast[partition], got)
			h.mu.Unlock()
		}
		<-time.After(wait)
	}
}

// checkLog compares the end with what a new coordinator reads.
func (h *history) checkLog(store *memStore, term segment.Term) {
	before, err := h.c.Offsets(h.t.Context(), "g")
	if err != nil {
		h.t.Fatal(err)
	}
	store.elect(0, term+1)
	h.c.Lead(0, term+1)
	synctest.Wait()
	after, err := h.c.Offsets(h.t.Context(), "g")
	if err != nil {
		h.t.Fatal(err)
	}
	for i, p := range before {
		if i >= len(after) || after[i].Offset != p.Offset || after[i].Partition != p.Partition {
			h.t.Errorf("memory %+v, log %+v", before, after)
			return
		}
	}
}
