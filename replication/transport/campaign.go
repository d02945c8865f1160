package transport

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Errors of a campaign. Test with errors.Is.
var (
	// ErrNotVoter is a campaign of a replica without a vote: raft would depose the
	// leader for it, and then not elect it.
	ErrNotVoter = errors.New("the replica has no vote in its group")
	// ErrNotStarted is a campaign before Bind.
	ErrNotStarted = errors.New("the raft instance is not bound yet")
	// ErrStaleTerm is a request to campaign that an election overtook.
	ErrStaleTerm = errors.New("the request to campaign is of an earlier term")
)

// Campaign makes this replica stand for election now, without the pre-vote and
// without waiting for a time-out (DESIGN 4.3 e): it injects raft's TimeoutNow. A
// leader stays what it is, and nil is returned; a replica without a vote, or one
// whose votes are withheld, does not campaign. It returns once raft has begun,
// not once it has won.
//
// The role is looked at before, and raft may change it in between; a leader that
// was elected in that moment is deposed, which costs an election and no record.
func (f *Facade) Campaign(ctx context.Context) error {
	instance := f.instance()
	if instance == nil {
		return ErrNotStarted
	}
	if f.withheld.Load() {
		return ErrVotesWithheld
	}
	if role, member := f.suffrage(f.config.LocalID); !member || role != raft.Voter {
		return ErrNotVoter
	}
	if instance.State() == raft.Candidate {
		if err := f.recall(ctx, instance.CurrentTerm()+1); err != nil {
			return err
		}
	}
	if instance.State() == raft.Leader {
		return nil
	}
	request := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: protocolVersion}}
	if _, err := f.deliver(ctx, raft.RPC{Command: request}); err != nil {
		return fmt.Errorf("campaign: %w", err)
	}
	return nil
}

// recall makes a candidate, which ignores TimeoutNow until its election has timed
// out, a follower in a term that nobody leads: an empty AppendEntries without
// sender, entries or commit index, which claims nothing and proves nothing.
func (f *Facade) recall(ctx context.Context, term uint64) error {
	request := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: protocolVersion}, Term: term}
	if _, err := f.deliver(ctx, raft.RPC{Command: request}); err != nil {
		return fmt.Errorf("end the election under way: %w", err)
	}
	return nil
}

// WithholdVotes puts the group's votes on or off probation (DESIGN 4.4): while
// on, this replica neither gives nor asks for votes and pre-votes, and is not
// made to campaign. A group whose only voter it is elects it all the same, since
// it asks nobody.
func (f *Facade) WithholdVotes(on bool) { f.withheld.Store(on) }

// MayVote reports whether this replica has a vote in its group that is not
// withheld: only then may it campaign, and count where a majority must agree.
func (f *Facade) MayVote() bool {
	role, _ := f.suffrage(f.config.LocalID)
	return role == raft.Voter && !f.withheld.Load()
}

// LastLeader is the last leader that the instance has followed, or been, also when
// it knows of none any more; empty before the first.
func (f *Facade) LastLeader() raft.ServerID {
	if id := f.led.Load(); id != nil {
		return *id
	}
	return ""
}

// TimeoutNow implements raft.Transport. It fails at once if the peer is down.
func (f *Facade) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, _ *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if err := f.RequestCampaign(context.Background(), id); err != nil {
		return err
	}
	resp.RPCHeader = rpcHeader(id)
	return nil
}

// RequestCampaign asks another replica to campaign, see Campaign, which is how
// leadership is moved to it: raft's own transfer refuses every Apply for up to
// the election time-out. Nil says that it has begun, or that it leads already.
func (f *Facade) RequestCampaign(ctx context.Context, target raft.ServerID) error {
	var term uint64
	if instance := f.instance(); instance != nil {
		term = instance.CurrentTerm()
	}
	reply, err := f.callSoon(ctx, target, MethodRaftTimeoutNow, encodeTimeoutNow(f.envelope(target), term))
	if err != nil {
		return fmt.Errorf("ask %s to campaign: %w", target, err)
	}
	r := &wireReader{rest: reply}
	r.version()
	return r.end()
}

// receiveTimeoutNow is a peer's request to campaign. One of an earlier term was
// overtaken by an election, whose leader it would depose.
func (f *Facade) receiveTimeoutNow(ctx context.Context, r *wireReader) ([]byte, error) {
	term, err := decodeTimeoutNow(r)
	if err != nil {
		return nil, err
	}
	if instance := f.instance(); instance != nil && term < instance.CurrentTerm() {
		return nil, fmt.Errorf("%w: %d, this replica is in %d", ErrStaleTerm, term, instance.CurrentTerm())
	}
	// Not for longer than the caller waits: raft may sit in a sync, and a campaign
	// that begins after it would depose whoever was elected meanwhile.
	ctx, cancel := context.WithTimeout(ctx, f.config.VoteTimeout)
	defer cancel()
	if err := f.Campaign(ctx); err != nil {
		return nil, err
	}
	return []byte{wireVersion}, nil
}
