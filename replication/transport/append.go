package transport

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// AppendEntries implements raft.Transport. It cuts args.Entries in place to
// MaxEntriesBytes; raft's bookkeeping follows, because it reads the slice after
// the call. A call to a peer that is down, or that does not know the group yet,
// is held, see hold. It has no time limit: it ends when the peer has answered,
// its connection is lost and it left the group, this instance no longer leads in
// the request's term, or the facade closes.
func (f *Facade) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	p, err := f.replica(id)
	if err != nil {
		return err
	}
	ctx, err := f.lead(args.Term)
	if err != nil {
		return err
	}
	if isHeartbeat(args) {
		f.gather(ctx)
	} else {
		f.begin(p)
		defer f.end(p)
	}
	for failures := 0; ; {
		known := f.announcements(p)
		err := f.sendAppend(ctx, p, args, resp)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		gone, ok := absent(err, known)
		if !ok && failures >= maxAttempts {
			return fmt.Errorf("append to %s: %w", id, err)
		}
		if !ok { // what raft is told of it tries again after its CommitTimeout, which is long
			failures++
			pause(ctx, failures+1)
			continue
		}
		waited, err := f.hold(ctx, p, gone)
		if err != nil {
			return fmt.Errorf("append to %s: %w", id, err)
		}
		if failures++; waited {
			failures = 0
		}
		pause(ctx, failures)
	}
}

// gather lets a heartbeat wait for the next tick of the clock, the same for all groups,
// so that those to a peer travel together: sent one by one, each would cost the writing
// and the reading side a system call and the waking of a thread. One that raft sends to
// verify its leadership waits too.
func (f *Facade) gather(ctx context.Context) {
	tick := f.config.HeartbeatTick
	if tick <= 0 {
		return
	}
	now := time.Now()
	timer := time.NewTimer(now.Truncate(tick).Add(tick).Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// isHeartbeat recognises raft's heartbeat, as its own transport does
// (net_transport.go:673): it says who leads, and proves nothing about a log.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && len(args.Entries) == 0 && args.LeaderCommitIndex == 0
}

// lead returns the context of the calls of a term in which this instance leads.
// A new term ends the calls of the one before and forgets what was acknowledged
// in it.
func (f *Facade) lead(term uint64) (context.Context, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed {
		return nil, ErrGroupClosed
	}
	if term > f.reign.term {
		f.endReignLocked()
		ctx, cancel := context.WithCancelCause(f.ctx)
		f.reign = reign{term: term, ctx: ctx, cancel: cancel}
	}
	if term < f.reign.term || term <= f.resigned || !f.leads(term) {
		return nil, ErrNotLeading
	}
	return f.reign.ctx, nil
}

// leads reports whether the instance leads in term. Once it was true it stays
// true until the instance steps down for good: a term is led once. Before Bind
// nothing is known, and raft is believed.
func (f *Facade) leads(term uint64) bool {
	instance := f.instance()
	return instance == nil || instance.State() == raft.Leader && instance.CurrentTerm() == term
}

// endReignLocked ends all calls of the reign and forgets what was acknowledged.
func (f *Facade) endReignLocked() {
	f.reign.cancel(ErrNotLeading)
	for _, p := range f.replicas {
		p.progress = progress{}
	}
}

// LeadershipChanged makes the facade look at its instance again: calls of a term
// that is no longer led end, and held calls go on or end. The facade calls it
// itself when raft reports a change of role or membership; calling it once more
// does no harm. It does not wait.
func (f *Facade) LeadershipChanged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reign.term > 0 && !f.leads(f.reign.term) {
		f.endReignLocked()
	}
	f.wakeLocked()
}

// sendAppend sends one AppendEntries and takes note of what its answer proves.
func (f *Facade) sendAppend(ctx context.Context, p *replica, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if !f.config.Network.Up(p.node) {
		return ErrPeerDown // before anything is read from the log
	}
	body, class := make([][]byte, 1, 2), Control
	var table []entryMeta
	if len(args.Entries) > 0 {
		data, entries, err := f.readEntries(args)
		if err != nil {
			return fmt.Errorf("read entries: %w", err)
		}
		body, table, class = append(body, data...), entries, Bulk
	}
	body[0] = encodeAppend(f.envelope(p.id), args, f.form(), table)
	f.mark(p)
	reply, err := f.config.Network.Call(ctx, p.node, class, MethodRaftAppend, body...)
	if err != nil {
		return err
	}
	if err := decodeAppendReply(reply, p.id, resp); err != nil {
		return err
	}
	f.acknowledge(p, args, resp)
	f.keepToBase(args, resp)
	return nil
}

// keepToBase raises the hint in a follower's refusal to the base of the own log. After a
// restart a follower knows of no more than its checkpoint that it is committed, which
// may be far below what it acknowledged, and its hint says so; raft would look for an
// entry there that was trimmed since, find none, and fall back to a snapshot, for ever.
// A follower that does not hold the base refuses that too, and is believed.
func (f *Facade) keepToBase(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	if resp.Success || f.config.Base == nil {
		return
	}
	if base := uint64(f.config.Base()); args.PrevLogEntry > base {
		resp.LastLog = max(resp.LastLog, base)
	}
}

// form says what the entries of this group carry.
func (f *Facade) form() uint8 {
	if f.config.Source != nil {
		return formFrames
	}
	return formData
}

// readEntries returns the data of the entries, after it has cut args.Entries to
// what fits.
func (f *Facade) readEntries(args *raft.AppendEntriesRequest) ([][]byte, []entryMeta, error) {
	first := segment.Index(args.Entries[0].Index)
	if uint64(first) != args.PrevLogEntry+1 {
		return nil, nil, fmt.Errorf("entry %d behind entry %d", first, args.PrevLogEntry) // indexes are not sent
	}
	if f.config.Source == nil {
		data, table := cutEntries(args, f.config.MaxEntriesBytes)
		return data, table, nil
	}
	frames, headers, err := f.config.Source.ReadEntries(first, len(args.Entries), f.config.MaxEntriesBytes)
	if err != nil {
		return nil, nil, err
	}
	if len(headers) == 0 || len(headers) > len(args.Entries) {
		return nil, nil, fmt.Errorf("asked for %d entries from %d on, got %d", len(args.Entries), first, len(headers))
	}
	table, size := make([]entryMeta, len(headers)), 0
	for i, h := range headers {
		// The log may have been cut and written again since raft looked at it: then
		// these are not the entries that raft will take for acknowledged.
		want := args.Entries[i]
		if uint64(h.Index) != want.Index || uint64(h.Term) != want.Term || RaftType(h.Kind) != want.Type {
			return nil, nil, fmt.Errorf("wanted entry %d of term %d, got entry %d of term %d (%s)", want.Index, want.Term, h.Index, h.Term, h.Kind)
		}
		table[i] = entryMeta{term: want.Term, kind: want.Type, size: h.Size}
		size += h.Size
	}
	if size != len(frames) {
		return nil, nil, fmt.Errorf("%d bytes of entries from %d on, their frames have %d", len(frames), first, size)
	}
	args.Entries = args.Entries[:len(headers)]
	return [][]byte{frames}, table, nil
}

// cutEntries bounds entries that carry their own data, the first always passing.
func cutEntries(args *raft.AppendEntriesRequest, limit int) (data [][]byte, table []entryMeta) {
	size, n := 0, 0
	for _, entry := range args.Entries {
		if size += len(entry.Data); n > 0 && size > limit {
			break
		}
		n++
	}
	args.Entries = args.Entries[:n]
	for _, entry := range args.Entries {
		table = append(table, entryMeta{term: entry.Term, kind: entry.Type, size: len(entry.Data)})
		if len(entry.Data) > 0 {
			data = append(data, entry.Data)
		}
	}
	return data, table
}

// retryPause is the first pause, maxRetryPause the longest, between attempts to
// reach a peer that seems up and yet fails. Most waiting happens in hold; this
// only keeps a connection that breaks again and again from becoming a busy loop.
const (
	retryPause    = 5 * time.Millisecond
	maxRetryPause = time.Second
	// maxAttempts is how often a peer that answers with an error is tried again,
	// within a second and a half, before raft hears of it.
	maxAttempts = 8
)

// pause waits after the second failure in a row and on.
func pause(ctx context.Context, failures int) {
	if failures < 2 {
		return
	}
	timer := time.NewTimer(min(retryPause<<min(failures-2, 10), maxRetryPause))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// absent reports whether a failed call means that the replica is not there, and
// what to wait for then. Known is how often it had said "group up" before the
// call.
func absent(err error, known uint64) (absence, bool) {
	var remote *RemoteError
	switch {
	case errors.Is(err, ErrPeerDown), errors.Is(err, ErrConnectionLost):
		return absence{}, true
	case !errors.As(err, &remote):
		return absence{}, false
	}
	switch remote.Code {
	case CodeGroupUnknown, CodeOtherReplica, CodeUnknownMethod: // the last: a node that is just starting
		return absence{unknown: true, announced: known}, true
	default:
		return absence{}, false
	}
}
