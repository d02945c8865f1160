package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// Errors of a campaign. Test with errors.Is.
var (
	// ErrNotVoter is a campaign of a replica without a vote: raft would depose the
	// leader for it, and then not elect it.
	ErrNotVoter = errors.New("the replica has no vote in its group")
	// ErrNotStarted is a campaign before Bind.
	ErrNotStarted = errors.New("the raft instance is not bound yet")
	// ErrStaleTerm is a request to campaign that an election overtook, or another one.
	ErrStaleTerm = errors.New("the request to campaign was overtaken")
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
		term := instance.CurrentTerm() + 1
		if err := f.recall(ctx, term); err != nil {
			return err
		}
		// Raft may have been slow, and others not.
		if now := instance.CurrentTerm(); instance.State() == raft.Follower && now != term {
			return fmt.Errorf("%w: %d, this replica is in %d", ErrStaleTerm, term, now)
		}
	}
	if state := instance.State(); state == raft.Leader || state == raft.Candidate {
		return nil // a candidate began by itself
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
	var term segment.Term
	if instance := f.instance(); instance != nil {
		term = segment.Term(instance.CurrentTerm())
	}
	if err := f.RequestCampaign(context.Background(), id, term); err != nil {
		return err
	}
	resp.RPCHeader = rpcHeader(id)
	return nil
}

// offer is the last mark that was given out.
type offer struct {
	mark  uint64 // random, never 0
	given time.Time
}

// RequestCampaign asks another replica to campaign, see Campaign, which is how
// leadership is moved to it: raft's own transfer refuses every Apply for up to
// the election time-out. Nil says that it has begun, or that it leads already.
// Term is the one whose leadership is to end; a target that has seen a later one
// refuses, with CodeStaleRequest, because it would depose whoever was elected since.
//
// The target does not begin once half of the time until ctx ends has passed, at most
// half of VoteTimeout: the caller may go on as the leader when ctx ends, and what
// the network delays, or a slow sync, must not depose it then. The other half is for
// the votes.
//
// The two have no clock in common. So the replica first gives out a mark, and may
// begin for a while after it did, by its own clock; the caller has waited since
// before, by its own.
func (f *Facade) RequestCampaign(ctx context.Context, target raft.ServerID, term segment.Term) error {
	ctx, cancel := context.WithTimeout(ctx, f.config.VoteTimeout)
	defer cancel()
	request := handOver{term: uint64(term)}
	mark, err := f.callHandOver(ctx, target, request)
	var remote *RemoteError
	if errors.As(err, &remote) && remote.Code == CodeUnknownMethod { // an older broker
		_, err = f.callSoon(ctx, target, MethodRaftTimeoutNow, encodeTimeoutNow(f.envelope(target), request.term))
	} else if err == nil {
		deadline, _ := ctx.Deadline()
		request.mark, request.within = mark, max(0, time.Until(deadline)/2)
		_, err = f.callHandOver(ctx, target, request)
	}
	if err != nil {
		return fmt.Errorf("ask %s to campaign: %w", target, err)
	}
	return nil
}

// callHandOver makes one of RequestCampaign's two requests.
func (f *Facade) callHandOver(ctx context.Context, target raft.ServerID, request handOver) (mark uint64, err error) {
	reply, err := f.callSoon(ctx, target, MethodRaftHandOver, encodeHandOver(f.envelope(target), request))
	if err != nil {
		return 0, err
	}
	return decodeHandOverReply(reply)
}

// receiveHandOver is a leader's request to campaign: it gets a mark, or names it.
func (f *Facade) receiveHandOver(ctx context.Context, r *wireReader) ([]byte, error) {
	request, err := decodeHandOver(r)
	if err != nil {
		return nil, err
	}
	if request.mark == 0 {
		return encodeHandOverReply(f.giveMark()), nil
	}
	given, ok := f.takeMark(request.mark)
	if !ok { // of an instance before this one, or another leader asked since
		return nil, fmt.Errorf("%w: mark %x", ErrStaleTerm, request.mark)
	}
	if err := f.campaignFor(ctx, request.term, time.Until(given.Add(request.within))); err != nil {
		return nil, err
	}
	return encodeHandOverReply(request.mark), nil
}

// giveMark makes a mark, which ends the last one.
func (f *Facade) giveMark() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.offer = offer{mark: rand.Uint64() | 1, given: time.Now()}
	return f.offer.mark
}

// takeMark says when a mark was given out, once.
func (f *Facade) takeMark(mark uint64) (given time.Time, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.offer.mark != mark {
		return time.Time{}, false
	}
	given, f.offer = f.offer.given, offer{}
	return given, true
}

// olderWait is how long a broker that sends TimeoutNow waits for the election.
const olderWait = 500 * time.Millisecond

// receiveTimeoutNow is the request of an older broker.
func (f *Facade) receiveTimeoutNow(ctx context.Context, r *wireReader) ([]byte, error) {
	term, err := decodeTimeoutNow(r)
	if err != nil {
		return nil, err
	}
	if err := f.campaignFor(ctx, term, olderWait); err != nil {
		return nil, err
	}
	return []byte{wireVersion}, nil
}

// campaignFor campaigns at the request of a leader in a term. One of an earlier term
// was overtaken by an election, whose leader it would depose.
func (f *Facade) campaignFor(ctx context.Context, term uint64, within time.Duration) error {
	if instance := f.instance(); instance != nil && term < instance.CurrentTerm() {
		return fmt.Errorf("%w: %d, this replica is in %d", ErrStaleTerm, term, instance.CurrentTerm())
	}
	ctx, cancel := context.WithTimeout(ctx, min(within, f.config.VoteTimeout))
	defer cancel()
	return f.Campaign(ctx)
}
