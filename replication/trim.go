package replication

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// Trim moves the start of the partition's log to an offset, which must not be above
// the high watermark, on all replicas. It returns the log start once the trim is
// committed and applied here: not below start then, and above it if it was already.
//
// The records below it cannot be read any more from then on. Their bytes go, segment
// by segment, as far as every member of the group has acknowledged them to this leader
// in its term, so that no follower that is there ever asks for an entry that is gone;
// what has to stay for one that is away goes with a later trim (see retainer).
//
// The errors are those of a proposal; ctx ending is ErrUnknownOutcome.
func (p *Partition) Trim(ctx context.Context, start segment.Offset) (segment.Offset, error) {
	role := p.Leadership()
	if !role.Ready {
		return 0, ErrNotLeader
	}
	if p.Log().StartOffset() >= start {
		return p.Log().StartOffset(), nil
	}
	through, _ := p.acknowledged(role.Term)
	proposal := p.proposeTrim(ctx, role.Term, segment.Trim{Start: start, Through: through})
	select {
	case <-proposal.Done():
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	}
	_, err := proposal.Result()
	return p.Log().StartOffset(), err
}

// proposeTrim puts a trim into the queue, to be appended in this term or not at all: in
// a later one, what was acknowledged before may be news to nobody and still not be what
// this leader's log holds.
func (p *Partition) proposeTrim(ctx context.Context, term segment.Term, t segment.Trim) *Proposal {
	frame := segment.EncodeTrim(0, t)
	header, err := segment.DecodeHeader(frame)
	if err != nil {
		return failedProposal(err)
	}
	return p.enqueue(ctx, newProposal(frame, header, Guard{Term: term}))
}

// acknowledged is the last entry of which this leader knows, in its term, that every
// member of the group holds it, learners included, and that is applied here; and the
// member that has acknowledged least, none where this replica is alone. What a member
// acknowledged to an earlier leader says nothing about this one's log, so it is 0 as
// long as one has acknowledged nothing in this term.
//
// A member that has acknowledged nothing for longer than patience is not waited for: one
// broker that is gone must not fill the disks of all others. It is seeded when it is
// back, with what is committed (seed.go), and counts for nothing that is not there.
func (p *Partition) acknowledged(term segment.Term) (through segment.Index, slowest raft.ServerID) {
	in, since := p.current(), p.ledSince.Load()
	if in == nil || since == nil {
		return 0, ""
	}
	members := in.raft.GetConfiguration()
	if members.Error() != nil {
		return 0, ""
	}
	through = p.Log().Applied()
	matches, now := in.facade.Matches(term), time.Now()
	for _, member := range members.Configuration().Servers {
		match := matches[member.ID]
		heard := match.At
		if heard.Before(*since) {
			heard = *since
		}
		if member.ID == p.local || now.Sub(heard) > p.patience {
			continue
		}
		if match.Index < through || slowest == "" {
			through, slowest = min(through, match.Index), member.ID
		}
	}
	return through, slowest
}
