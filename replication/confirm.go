package replication

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/segment"
)

// Confirm returns nil if an answer that only the leader of term may give, and that was
// taken from this replica after the client asked and before the call, may be given now:
// a majority of the group has said so in answer to a question that was sent after the
// call. It waits for that until ctx ends; the error is ErrNotLeader otherwise, and the
// client must ask again. Calls at one time share their questions.
//
// The package comment says why no clock would do.
func (p *Partition) Confirm(ctx context.Context, term segment.Term) error {
	in := p.current()
	if in == nil || !p.leadsReady(term) {
		return ErrNotLeader
	}
	if err := in.facade.Confirm(ctx, term); err != nil {
		return fmt.Errorf("%w, as far as is known: %w", ErrNotLeader, err)
	}
	return nil
}

// leadsReady reports whether this replica is the ready leader of term, as far as it
// knows.
func (p *Partition) leadsReady(term segment.Term) bool {
	l := p.Leadership()
	return l.Ready && l.Term == term
}
