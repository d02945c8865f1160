package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/planted"
)

// Codes of the errors with which a group's requests are answered. Numbers are
// part of the protocol.
const (
	// CodeGroupUnknown: this node has no replica of the group, or its instance is
	// just being started. It will say "group up" when it has.
	CodeGroupUnknown = FirstFacadeCode
	// CodeOtherReplica: the request is for another incarnation of this replica.
	CodeOtherReplica = FirstFacadeCode + 1
	// CodeGroupBusy: too many requests wait for the group's raft instance.
	CodeGroupBusy = FirstFacadeCode + 2
	// CodeVotesWithheld: the replica is on probation.
	CodeVotesWithheld = FirstFacadeCode + 3
	// CodeSnapshotRefused: the group is a partition, which takes no snapshots with
	// content.
	CodeSnapshotRefused = FirstFacadeCode + 4
	// CodeStaleRequest: a request to campaign is of an earlier term.
	CodeStaleRequest = FirstFacadeCode + 5
	// CodeBadEntries: the entries of an AppendEntries are damaged or contradict
	// themselves. Nothing of it was stored.
	CodeBadEntries = FirstFacadeCode + 6
)

// maxArriving bounds the requests of one group that wait for raft: each replica
// sends one AppendEntries, one heartbeat, one nudge and one vote at a time, so
// that more are left over from connections that broke while raft was busy.
const maxArriving = 64

// unknownGroup is the answer for a group that is not here.
func unknownGroup(g GroupID) error {
	return &RemoteError{Code: CodeGroupUnknown, Message: fmt.Sprintf("group %s is not running here", g)}
}

// serve answers a request of a peer. It returns when raft has answered, when ctx
// has ended, which is when nobody waits for the answer any more, or when the
// facade closes: raft may never answer when it shuts down.
func (f *Facade) serve(ctx context.Context, method Method, sender raft.ServerID, r *wireReader) ([]byte, error) {
	if f.arriving.Add(1) > maxArriving {
		f.arriving.Add(-1)
		return nil, &RemoteError{Code: CodeGroupBusy, Message: fmt.Sprintf("%d requests wait for group %s", maxArriving, f.config.Group)}
	}
	defer f.arriving.Add(-1)
	reply, err := f.dispatch(ctx, method, sender, r)
	if f.ctx.Err() != nil {
		// Whatever raft has said: the instance may have failed to store it.
		return nil, unknownGroup(f.config.Group)
	}
	return reply, coded(err)
}

// dispatch calls the receiver of a method.
func (f *Facade) dispatch(ctx context.Context, method Method, sender raft.ServerID, r *wireReader) ([]byte, error) {
	switch method {
	case MethodRaftAppend:
		return f.receiveAppend(ctx, sender, r)
	case MethodRaftVote:
		return f.receiveVote(ctx, sender, r)
	case MethodRaftPreVote:
		return f.receivePreVote(ctx, sender, r)
	case MethodRaftTimeoutNow:
		return f.receiveTimeoutNow(ctx, r)
	case MethodRaftSnapshot:
		return f.receiveSnapshot(ctx, sender, r)
	case MethodRaftHandOver:
		return f.receiveHandOver(ctx, r)
	default:
		return nil, &RemoteError{Code: CodeUnknownMethod, Message: fmt.Sprintf("%s is not raft's", method)}
	}
}

// coded gives an error the code by which the peer knows it.
func coded(err error) error {
	for _, known := range []struct {
		err  error
		code Code
	}{
		{ErrMalformed, CodeBadRequest},
		{ErrVotesWithheld, CodeVotesWithheld},
		{ErrSnapshotRefused, CodeSnapshotRefused},
		{ErrStaleTerm, CodeStaleRequest},
		{ErrNotStarted, CodeGroupUnknown},
	} {
		if errors.Is(err, known.err) {
			return &RemoteError{Code: known.code, Message: err.Error()}
		}
	}
	return err
}

// deliver hands a request to raft and returns its answer.
func (f *Facade) deliver(ctx context.Context, rpc raft.RPC) (any, error) {
	answers := make(chan raft.RPCResponse, 1) // raft must not wait for us
	rpc.RespChan = answers
	if ctx.Err() != nil { // select would draw lots, were raft ready
		return nil, ctx.Err()
	}
	select {
	case f.consumer <- rpc:
	case <-f.ctx.Done():
		return nil, ErrGroupClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case answer := <-answers:
		return answer.Response, answer.Error
	case <-f.ctx.Done():
		return nil, ErrGroupClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// receiveAppend is a leader's AppendEntries or heartbeat.
func (f *Facade) receiveAppend(ctx context.Context, sender raft.ServerID, r *wireReader) ([]byte, error) {
	args, form, err := decodeAppend(r, sender)
	if err != nil {
		return nil, err
	}
	if form != f.form() {
		return nil, fmt.Errorf("%w: entries of form %d, this group has %d", ErrMalformed, form, f.form())
	}
	check := checkData
	if form == formFrames {
		check = checkFrames
	}
	if err := check(args.Entries); err != nil {
		f.config.Logger.Warn("entries refused", "group", f.config.Group.String(), "from", string(sender), "err", err)
		return nil, &RemoteError{Code: CodeBadEntries, Message: err.Error()}
	}
	clampCommit(args)
	answer, err := f.deliver(ctx, raft.RPC{Command: args})
	if err != nil {
		return nil, err
	}
	resp, ok := answer.(*raft.AppendEntriesResponse)
	if !ok {
		return nil, fmt.Errorf("raft answered an AppendEntries with %T", answer)
	}
	f.noteCommitted(args, resp)
	f.hint(args, resp)
	return encodeAppendReply(resp), nil
}

// noteCommitted passes on what an accepted request proves to be committed: the
// commit index as it was clamped. Raft applies it in a goroutine of its own, and
// until it has come to that the log would not know what it must refuse to cut. A
// request that was refused proves nothing, not even where its own term's leader
// and this log agree; and what a silenced instance accepts may rest on entries that
// it no longer has.
func (f *Facade) noteCommitted(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	if f.config.OnCommitted == nil || f.ctx.Err() != nil || !resp.Success || resp.Term != args.Term || args.LeaderCommitIndex == 0 {
		return
	}
	f.config.OnCommitted(segment.Index(args.LeaderCommitIndex))
}

// clampCommit bounds the commit index of a request by what the request proves:
// raft applies up to min(commit index, its own last index) (raft.go:1591), and
// behind prev+len(entries) its own last entries may be ones that the leader never
// had. Reproduced: without this a follower applies a divergent suffix.
func clampCommit(args *raft.AppendEntriesRequest) {
	if planted.NoCommitClamp {
		return
	}
	args.LeaderCommitIndex = min(args.LeaderCommitIndex, args.PrevLogEntry+uint64(len(args.Entries)))
}

// hint replaces the last index in a refusal, if the leader's previous entry is not
// behind our log, by one up to which the logs surely agree: the leader's raft
// jumps there instead of stepping back one entry a round trip (replication.go:256).
func (f *Facade) hint(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	instance := f.instance()
	if resp.Success || resp.Term != args.Term || args.PrevLogEntry > resp.LastLog || instance == nil {
		return
	}
	agreed := max(instance.CommitIndex(), instance.AppliedIndex())
	if f.config.LastKnownCommitted != nil {
		agreed = max(agreed, uint64(f.config.LastKnownCommitted()))
	}
	resp.LastLog = min(resp.LastLog, agreed)
}

// receiveVote is a candidate's RequestVote.
func (f *Facade) receiveVote(ctx context.Context, sender raft.ServerID, r *wireReader) ([]byte, error) {
	args, err := decodeVote(r, sender)
	if err != nil {
		return nil, err
	}
	answer, err := f.deliverVote(ctx, args)
	if err != nil {
		return nil, err
	}
	resp, ok := answer.(*raft.RequestVoteResponse)
	if !ok {
		return nil, fmt.Errorf("raft answered a RequestVote with %T", answer)
	}
	return encodeVoteReply(resp.Term, resp.Granted), nil
}

// receivePreVote is a RequestPreVote of a replica that would like to campaign.
func (f *Facade) receivePreVote(ctx context.Context, sender raft.ServerID, r *wireReader) ([]byte, error) {
	vote, err := decodeVote(r, sender)
	if err != nil {
		return nil, err
	}
	answer, err := f.deliverVote(ctx, &raft.RequestPreVoteRequest{
		RPCHeader: vote.RPCHeader, Term: vote.Term, LastLogIndex: vote.LastLogIndex, LastLogTerm: vote.LastLogTerm,
	})
	if err != nil {
		return nil, err
	}
	resp, ok := answer.(*raft.RequestPreVoteResponse)
	if !ok {
		return nil, fmt.Errorf("raft answered a RequestPreVote with %T", answer)
	}
	return encodeVoteReply(resp.Term, resp.Granted), nil
}

// deliverVote is deliver for what is withheld during probation.
func (f *Facade) deliverVote(ctx context.Context, command any) (any, error) {
	if f.withheld.Load() {
		return nil, ErrVotesWithheld
	}
	answer, err := f.deliver(ctx, raft.RPC{Command: command})
	if f.withheld.Load() {
		return nil, ErrVotesWithheld
	}
	return answer, err
}

// receiveSnapshot is a leader's InstallSnapshot. Raft's own way to install one
// must never run on a partition: it cuts and counts what it should not (DESIGN
// 4.5, hashicorp/raft #697).
func (f *Facade) receiveSnapshot(ctx context.Context, sender raft.ServerID, r *wireReader) ([]byte, error) {
	args, data, err := decodeSnapshot(r, sender)
	if err != nil {
		return nil, err
	}
	if f.config.Source != nil {
		return f.receiveSeed(ctx, sender, args)
	}
	if err := checkConfiguration(args.Configuration); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	answer, err := f.deliver(ctx, raft.RPC{Command: args, Reader: io.Reader(bytes.NewReader(data))})
	if err != nil {
		return nil, err
	}
	resp, ok := answer.(*raft.InstallSnapshotResponse)
	if !ok {
		return nil, fmt.Errorf("raft answered an InstallSnapshot with %T", answer)
	}
	return encodeSnapshotReply(resp), nil
}

// What a facade is to raft, and raft to a facade.
var (
	_ raft.Transport   = (*Facade)(nil)
	_ raft.WithPreVote = (*Facade)(nil)
	_ raft.WithClose   = (*Facade)(nil)
	_ Instance         = (*raft.Raft)(nil)
)
