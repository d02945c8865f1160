package replication

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// ErrNoSuccessor: no other replica holds everything this leader does.
var ErrNoSuccessor = errors.New("no other replica is in step with the leader")

const (
	// transferCatchUp is how long a leader waits, with its queue held, until the
	// successor has acknowledged its last entry.
	transferCatchUp = 200 * time.Millisecond
	// transferWait is how long it then waits to be deposed before it goes on.
	transferWait = 500 * time.Millisecond
	transferPoll = 2 * time.Millisecond
)

// Transfer moves the leadership to the replica on the given node, or to the one
// that is furthest if to is NoLeader. It does not use raft's own transfer, which
// refuses every Apply for up to an election time-out (DESIGN 4.3 e): the queue
// is held, the successor catches up and is told to campaign, and the queue goes
// on if it did not win. On nil this replica no longer leads.
func (p *Partition) Transfer(ctx context.Context, to metadata.NodeID, up func(metadata.NodeID) bool) error {
	in := p.current()
	if in == nil || !p.Leadership().Leader {
		return nil
	}
	if err := p.holdQueue(ctx); err != nil {
		return err
	}
	defer p.letQueueGo()
	role := p.Leadership()
	if !role.Leader {
		return nil
	}
	refused := map[metadata.NodeID]bool{}
	for {
		target, err := p.awaitSuccessor(ctx, in, to, func(node metadata.NodeID) bool { return up(node) && !refused[node] })
		if err != nil {
			return err
		}
		request := func(ctx context.Context) error { return in.facade.RequestCampaign(ctx, target, role.Term) }
		err = awaitDeposed(ctx, request, func() bool { return in.raft.State() == raft.Leader })
		var refusal *transport.RemoteError
		if to != NoLeader || !errors.As(err, &refusal) {
			return moveError(err)
		}
		node, _, err := transport.ParseServerID(target)
		if err != nil {
			return err
		}
		refused[node] = true // it stops too, say
	}
}

// holdQueue lets no proposal reach raft until letQueueGo. Whoever has the queue may
// wait for a disk that hangs, so that the caller's patience counts, and Close.
func (p *Partition) holdQueue(ctx context.Context) error {
	select {
	case p.hold <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.stop:
		return ErrClosed
	}
}

func (p *Partition) letQueueGo() { <-p.hold }

// awaitDeposed requests a campaign and waits for its outcome, for transferWait or until
// the deadline of ctx. A caller that gives up sooner, or an answer that is lost, does
// not shorten the wait: a successor that got the request may begin until then, and
// depose a leader that had gone on.
func awaitDeposed(ctx context.Context, request func(context.Context) error, leads func() bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	end := time.Now().Add(transferWait)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(end) {
		end = deadline
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), end)
	defer cancel()
	err := request(ctx)
	var refused *transport.RemoteError
	if errors.As(err, &refused) || errors.Is(err, transport.ErrPeerDown) {
		return err
	}
	if unmoved := poll(ctx, func() bool { return !leads() }); unmoved != nil {
		return cmp.Or(err, unmoved)
	}
	return nil
}

// awaitSuccessor waits until a follower holds the last entry, and no other can come
// in behind it: what raft was handed has its place in the log, and the queue is held.
func (p *Partition) awaitSuccessor(ctx context.Context, in *instance, to metadata.NodeID, up func(metadata.NodeID) bool) (raft.ServerID, error) {
	if !p.hasCandidate(to, up) {
		return "", ErrNoSuccessor // a single node stops without waiting for anybody
	}
	ctx, cancel := context.WithTimeout(ctx, transferCatchUp)
	defer cancel()
	var target raft.ServerID
	err := poll(ctx, func() bool {
		if in.pending.Load() > 0 {
			return false
		}
		target = p.inStep(in, to, up)
		return target != ""
	})
	if err != nil {
		return "", ErrNoSuccessor
	}
	return target, nil
}

// hasCandidate reports whether any other replica could take over at all.
func (p *Partition) hasCandidate(to metadata.NodeID, up func(metadata.NodeID) bool) bool {
	for _, r := range p.voters() {
		if transport.ServerID(r.Node, r.Incarnation) != p.local && up(r.Node) && (to == NoLeader || to == r.Node) {
			return true
		}
	}
	return false
}

// inStep is a follower that acknowledged everything, in order of preference.
func (p *Partition) inStep(in *instance, to metadata.NodeID, up func(metadata.NodeID) bool) raft.ServerID {
	matches := in.facade.Matches(p.Leadership().Term)
	for _, r := range p.voters() {
		id := transport.ServerID(r.Node, r.Incarnation)
		match, known := matches[id]
		if known && segment.Index(match.Index) >= p.Log().LastIndex() && up(r.Node) && (to == NoLeader || to == r.Node) {
			return id
		}
	}
	return ""
}

// poll asks until the answer is yes or ctx ends.
func poll(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(transferPoll)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
