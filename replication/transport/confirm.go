package transport

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// ErrUnconfirmed is a leadership that no majority has confirmed: its followers are
// away, or know of a later term. Test with errors.Is.
var ErrUnconfirmed = errors.New("no majority of the group confirms the leadership")

// confirming batches the rounds of Confirm: one is under way at a time, and all who
// asked before it began share it.
type confirming struct {
	begun  atomic.Uint64 // rounds that have begun
	slot   chan struct{} // capacity 1, holds whoever runs a round; guards what follows
	proved uint64        // the last round that a majority has answered
	term   uint64        // of that one
}

// Confirm returns nil if this instance led in term at some moment after the call: a
// majority of the group's voters, this replica included, has accepted a heartbeat of
// that term that was sent since (ReadIndex, Raft thesis 6.4). So no later leader had
// committed anything when Confirm was called: that takes a majority of voters that are
// in its term by then, and one of those would have refused. It waits until ctx ends,
// and fails at once when too many voters are away or refuse.
//
// Raft's own VerifyLeader would not do: it also counts a late answer to a heartbeat
// that was sent before it was asked, and after a pause of this process all answers
// are late (DESIGN 4.3 k).
func (f *Facade) Confirm(ctx context.Context, term segment.Term) error {
	arrived := f.confirming.begun.Load()
	select {
	case f.confirming.slot <- struct{}{}:
		defer func() { <-f.confirming.slot }()
	case <-f.ctx.Done():
		return ErrGroupClosed
	case <-ctx.Done():
		return fmt.Errorf("%w: %s: %w", ErrUnconfirmed, f.config.Group, context.Cause(ctx))
	}
	c := &f.confirming
	if c.proved > arrived && c.term == uint64(term) {
		return nil // by a round that began after the call
	}
	round := c.begun.Add(1)
	if err := f.askVoters(ctx, uint64(term)); err != nil {
		return err
	}
	c.proved, c.term = round, uint64(term)
	return nil
}

// askVoters is one round.
func (f *Facade) askVoters(ctx context.Context, term uint64) error {
	if !f.leads(term) {
		return ErrNotLeading // lead would end the reign for a term that has not come
	}
	reign, err := f.lead(term)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(reign, func() { cancel(context.Cause(reign)) })()
	peers, missing := f.otherVoters()
	answers := make(chan bool, len(peers)) // so that nobody waits to give one
	if err := f.ask(ctx, peers, term, answers); err != nil {
		return err
	}
	for left := len(peers); missing > 0; left-- {
		if left < missing {
			return fmt.Errorf("%w: %s in term %d", ErrUnconfirmed, f.config.Group, term)
		}
		select {
		case yes := <-answers:
			if yes {
				missing--
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %s in term %d: %w", ErrUnconfirmed, f.config.Group, term, context.Cause(ctx))
		}
	}
	// This replica is one of the majority: only while it is in term itself. That is
	// looked at after the others have answered.
	_, err = f.lead(term)
	return err
}

// otherVoters are the other voters of the group, and how many of them make a majority
// together with this replica.
func (f *Facade) otherVoters() (others []raft.ServerID, needed int) {
	instance := f.instance()
	if instance == nil {
		return nil, 1 // nobody is known: no majority
	}
	count := 0
	for _, server := range instance.GetConfiguration().Configuration().Servers {
		if server.Suffrage != raft.Voter {
			continue
		}
		if count++; server.ID != f.config.LocalID {
			others = append(others, server.ID)
		}
	}
	needed = count/2 + 1
	if len(others) < count {
		needed-- // this replica votes
	}
	return others, needed
}

// ask sends a heartbeat to each peer; each gives one answer: whether it accepted it.
func (f *Facade) ask(ctx context.Context, peers []raft.ServerID, term uint64, answers chan<- bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed {
		return ErrGroupClosed
	}
	for _, id := range peers {
		f.work.Go(func() {
			accepted, err := f.askVoter(ctx, id, term)
			if err != nil {
				f.config.Logger.Debug("leadership not confirmed", "group", f.config.Group.String(), "by", string(id), "err", err)
			}
			answers <- accepted
		})
	}
	return nil
}

// askVoter sends one heartbeat. The answer that comes back on the call is to this one,
// and to none that was sent before.
func (f *Facade) askVoter(ctx context.Context, id raft.ServerID, term uint64) (accepted bool, err error) {
	args := &raft.AppendEntriesRequest{RPCHeader: rpcHeader(f.config.LocalID), Term: term}
	reply, err := f.callSoon(ctx, id, MethodRaftAppend, encodeAppend(f.envelope(id), args, f.form(), nil))
	if err != nil {
		return false, err
	}
	var resp raft.AppendEntriesResponse
	if err := decodeAppendReply(reply, id, &resp); err != nil {
		return false, err
	}
	return resp.Success && resp.Term == term, nil
}
