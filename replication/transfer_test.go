package replication

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
)

// TestLeaderWaitsForWhoMayCampaign: it goes on once the successor has said no or can
// begin no more, and not before, whatever becomes of the answer and of who asked.
func TestLeaderWaitsForWhoMayCampaign(t *testing.T) {
	refused := &transport.RemoteError{Code: transport.CodeStaleRequest}
	for _, c := range []struct {
		name     string
		cancel   time.Duration // of the caller
		deadline time.Duration // of the caller
		answer   error
		deposed  time.Duration
		want     time.Duration
		err      error
	}{
		{"elected", time.Hour, time.Hour, nil, 100 * time.Millisecond, 100 * time.Millisecond, nil},
		{"elected though the answer was lost", time.Hour, time.Hour, transport.ErrConnectionLost, 100 * time.Millisecond, 100 * time.Millisecond, nil},
		{"not elected", time.Hour, time.Hour, nil, time.Hour, transferWait, context.DeadlineExceeded},
		{"the answer was lost", time.Hour, time.Hour, transport.ErrConnectionLost, time.Hour, transferWait, transport.ErrConnectionLost},
		{"refused", time.Hour, time.Hour, refused, time.Hour, 0, refused},
		{"not sent", time.Hour, time.Hour, transport.ErrPeerDown, time.Hour, 0, transport.ErrPeerDown},
		{"the caller gave up", 50 * time.Millisecond, time.Hour, nil, time.Hour, transferWait, context.DeadlineExceeded},
		{"the caller had less time", time.Hour, 50 * time.Millisecond, nil, time.Hour, 50 * time.Millisecond, context.DeadlineExceeded},
		{"the caller had given up", 0, time.Hour, nil, time.Hour, 0, context.Canceled},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.deadline)
				defer cancel()
				if c.cancel == 0 {
					cancel()
				}
				defer time.AfterFunc(c.cancel, cancel).Stop()
				start := time.Now()
				err := awaitDeposed(ctx, func(context.Context) error { return c.answer }, func() bool { return time.Since(start) < c.deposed })
				if took := time.Since(start); !errors.Is(err, c.err) || (took-c.want).Abs() > transferPoll {
					t.Errorf("%v after %v, want %v after %v", err, took, c.err, c.want)
				}
			})
		})
	}
}

// TestTransferBehindAHungDisk: a proposal that raft does not take has the queue. A
// transfer ends with whoever waits for it, or with the replica; the proposal behind was
// never handed over when that closes, and this is the answer to it.
func TestTransferBehindAHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Partition{proposals: newProposalTable(), hold: make(chan struct{}, 1), stop: make(chan struct{})}
		p.queue = newQueue(func() { p.draining.Go(p.drain) })
		must(t, p.holdQueue(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := p.holdQueue(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		proposal := &Proposal{barrier: true, done: make(chan struct{})}
		p.queue.addBarrier(proposal)
		synctest.Wait() // which a mutex would make hang: its waiters are no idle goroutines
		select {
		case <-proposal.done:
			t.Error("a proposal passed the one that has the queue")
		default:
		}
		time.AfterFunc(time.Second, func() { close(p.stop) })
		if err := p.holdQueue(t.Context()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		p.draining.Wait()
		if _, err := await(t.Context(), proposal); !errors.Is(err, ErrNotLeader) {
			t.Error(err)
		}
		p.letQueueGo()
		p.hold <- struct{}{} // has room again
	})
}

// TestTransferToNobodyIsRefusedAtOnce: a single node must not take longer to stop
// for each partition that it cannot hand over.
func TestTransferToNobodyIsRefusedAtOnce(t *testing.T) {
	g := newTrio(t)
	p := g.leader().partition
	down := func(metadata.NodeID) bool { return false }
	quickest := time.Hour
	for range 5 { // the machine may be busy once
		began := time.Now()
		if err := p.Transfer(t.Context(), NoLeader, down); !errors.Is(err, ErrNoSuccessor) {
			t.Fatal(err)
		}
		quickest = min(quickest, time.Since(began))
	}
	if quickest >= transferCatchUp {
		t.Errorf("it takes %v to find nobody", quickest)
	}
}
