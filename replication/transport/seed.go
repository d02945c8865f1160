package transport

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// A leader's raft falls back to an InstallSnapshot when a follower needs an entry that
// was trimmed. For a partition that carries nothing but an index, S: the follower gets
// the segments up to S over other requests (package seeding), and answers when it has
// them. Raft of the follower never sees it: its own way to install cuts and counts what
// it should not (DESIGN 4.5, hashicorp/raft #697).

// SeedRequest is what a leader asks of a follower.
type SeedRequest struct {
	// Leader asks, and has the segments.
	Leader raft.ServerID
	// Node is the leader's node.
	Node metadata.NodeID
	// Term is the term in which it leads.
	Term segment.Term
	// Index is S, an entry that is committed: the follower is to hold everything up to
	// it.
	Index segment.Index
	// IndexTerm is the term of entry S.
	IndexTerm segment.Term
}

// askToSeed sends a partition's InstallSnapshot, and waits for the answer for as long as
// the copy takes: for days, if need be. Raft sends heartbeats meanwhile by itself, and
// nothing else to this follower. The follower may go away on the way, as it always does
// when it starts a new raft instance on what it got; the same request, again, to the new
// instance finds it done.
func (f *Facade) askToSeed(id raft.ServerID, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse) error {
	if args.Size != 0 {
		return ErrSnapshotRefused
	}
	p, err := f.replica(id)
	if err != nil {
		return err
	}
	ctx, err := f.lead(args.Term)
	if err != nil {
		return err
	}
	body := encodeSnapshot(f.envelope(id), args)
	for failures := 0; ; {
		known := f.announcements(p)
		reply, err := f.config.Network.Call(ctx, p.node, Seed, MethodRaftSnapshot, body)
		if err == nil {
			err = decodeSnapshotReply(reply, id, resp)
			if err == nil && resp.Success && resp.Term == args.Term {
				f.advance(p, args.Term, args.LastLogIndex, args.LastLogTerm, 0)
			}
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		gone, ok := absent(err, known)
		if !ok {
			return fmt.Errorf("seed %s: %w", id, err)
		}
		waited, err := f.hold(ctx, p, gone)
		if err != nil {
			return fmt.Errorf("seed %s: %w", id, err)
		}
		if failures++; waited {
			failures = 0
		}
		pause(ctx, failures)
	}
}

// receiveSeed is a leader's request to be seeded by it. One of an earlier term is
// refused with the present one, so that who sent it steps down; before the copy and
// after it, which may take long. Success says no more than that the log holds S, which
// is committed, so raft's term need not be raised for it first: the leader's next
// heartbeat does that.
func (f *Facade) receiveSeed(ctx context.Context, sender raft.ServerID, args *raft.InstallSnapshotRequest) ([]byte, error) {
	if args.Size != 0 || f.config.Seed == nil {
		return nil, ErrSnapshotRefused
	}
	if args.LastLogIndex == 0 || args.LastLogTerm == 0 || args.LastLogTerm > args.Term {
		return nil, fmt.Errorf("%w: a seed up to entry %d of term %d, in term %d", ErrMalformed, args.LastLogIndex, args.LastLogTerm, args.Term)
	}
	node, _, err := ParseServerID(sender)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	instance := f.instance()
	if instance == nil {
		return nil, ErrNotStarted
	}
	if term := instance.CurrentTerm(); term > args.Term {
		return encodeSnapshotReply(&raft.InstallSnapshotResponse{Term: term}), nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.ctx, cancel)()
	err = f.config.Seed(ctx, SeedRequest{Leader: sender, Node: node, Term: segment.Term(args.Term),
		Index: segment.Index(args.LastLogIndex), IndexTerm: segment.Term(args.LastLogTerm)})
	if errors.Is(err, context.Canceled) && f.ctx.Err() != nil {
		return nil, ErrGroupClosed
	}
	if err != nil {
		return nil, err
	}
	if term := instance.CurrentTerm(); term > args.Term {
		return encodeSnapshotReply(&raft.InstallSnapshotResponse{Term: term}), nil
	}
	return encodeSnapshotReply(&raft.InstallSnapshotResponse{Term: args.Term, Success: true}), nil
}
