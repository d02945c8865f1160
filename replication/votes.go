package replication

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/millrace/millrace/replication/transport"
)

// Errors of the file of votes. Test with errors.Is.
var (
	// ErrVotesCorrupt is a file of votes with a bad place that no crash explains;
	// the error in the chain is a *VotesCorruptionError. Nothing was changed.
	ErrVotesCorrupt = errors.New("file of votes is corrupt")
	// ErrVotesVersion is a file of votes of a newer format.
	ErrVotesVersion = errors.New("file of votes has a newer format")
	// ErrVotesFailed is a file of votes whose write or sync has failed: what is
	// durable is not known, nothing is stored any more, and the process must end.
	ErrVotesFailed = errors.New("file of votes failed")
	// ErrVotesClosed is a use after Close.
	ErrVotesClosed = errors.New("file of votes is closed")
	// ErrVotesIncarnation is a write for a replica that is not the one registered:
	// never registered, forgotten, or replaced by another incarnation.
	ErrVotesIncarnation = errors.New("not the replica registered in the file of votes")
	// ErrVotesTermBack is a current term below the stored one.
	ErrVotesTermBack = errors.New("current term would go back")
	// ErrVotesKey is a key that raft does not store.
	ErrVotesKey = errors.New("not a key of raft's stable store")
)

// VotesCorruptionError says where a file of votes is bad.
type VotesCorruptionError struct {
	// Path is the file.
	Path string
	// Position is the byte offset of the round, 0 for the file's header.
	Position int64
	// Err is what is wrong there.
	Err error
}

// Error implements error.
func (e *VotesCorruptionError) Error() string {
	return fmt.Sprintf("%v: %s at byte %d: %v", ErrVotesCorrupt, e.Path, e.Position, e.Err)
}

// Unwrap makes errors.Is(err, ErrVotesCorrupt) true.
func (e *VotesCorruptionError) Unwrap() []error { return []error{ErrVotesCorrupt, e.Err} }

// votesCorruption is a *VotesCorruptionError; OpenVotes fills in the path.
func votesCorruption(position int64, detail string) error {
	return &VotesCorruptionError{Position: position, Err: errors.New(detail)}
}

// Votes is the file with the terms and votes of all partition groups of a node,
// and the incarnation of each group's replica here. All methods may be called
// concurrently; those that write wait for a sync that they share with all others
// waiting at that moment.
//
// Why not raft-boltdb: it syncs for each Set and cannot be put on the crashing
// file system. Safety over crashes:
//
//   - A round of records is written into blocks of its own and synced before any
//     of its callers goes on, and the next begins after that. So a crash spoils
//     at most the last round, which was promised to nobody, and recovery cuts it.
//   - The file is preallocated, and replaced before it is full by a new one that
//     holds only what counts: written, synced, renamed, directory synced. A crash
//     leaves the old or the new file. If there is no space for a new one, a spare
//     file of zeros that was preallocated becomes it, and the space of the replaced
//     one the next spare. Without any the old one is used up; half of it is kept
//     for that.
//   - OpenVotes always replaces the file so. A round that a process had written
//     but not synced when it died is read back from the page cache and would be
//     believed durable (raft grants a repeated vote without storing it again), and
//     after a failed sync the page cache may even show what is not on the disk.
//   - A last round that may have been promised and gone bad later is kept beside
//     the file as votes.log.torn, and all groups known are in doubt for ever: they
//     might vote twice in a term, so Incarnation does not know them any more and
//     their replicas stay out. Only a new incarnation ends that.
type Votes struct {
	path string

	wake    chan struct{} // capacity 1: the writer has something to do
	stop    chan struct{}
	stopped chan struct{} // closed when the writer has returned

	mu      sync.Mutex
	groups  map[transport.GroupID]groupState // what is durable; changed by the writer alone
	writing *voteBatch                       // what the writer writes now; nil if nothing
	next    *voteBatch                       // what it takes next; nil if nothing waits
	closed  bool
	failed  error // ErrVotesFailed and why, once it happened

	file *votesFile // the writer's own after OpenVotes
}

// voteBatch is the records of callers that wait for one round.
type voteBatch struct {
	records []voteRecord
	size    int // of the round, header included
	// states is what the records make of the groups; nil: forgotten.
	states map[transport.GroupID]*groupState
	done   chan struct{}
	err    error // readable after done
}

// Register names the incarnation of the group's replica on this node, durably,
// before it votes or acknowledges anything. A group that has this incarnation
// already keeps what it stored; any other starts with no term and no vote.
func (v *Votes) Register(group transport.GroupID, incarnation uint64) error {
	return v.submit(group, func(s groupState, known bool) (*voteRecord, error) {
		if known && s.incarnation == incarnation {
			return nil, nil
		}
		return &voteRecord{kind: voteRegister, group: group, value: incarnation}, nil
	})
}

// Forget removes a group, durably; an unknown one is no error.
func (v *Votes) Forget(group transport.GroupID) error {
	return v.submit(group, func(_ groupState, known bool) (*voteRecord, error) {
		if !known {
			return nil, nil
		}
		return &voteRecord{kind: voteForget, group: group}, nil
	})
}

// Incarnation is the incarnation registered for a group's replica; false if none
// is, or if the group is in doubt.
func (v *Votes) Incarnation(group transport.GroupID) (uint64, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	state, known := v.groups[group]
	return state.incarnation, known && !state.doubt
}

// InDoubt reports whether a crash or a bad disk may have taken the last vote of
// this group, so that its replica must stay out.
func (v *Votes) InDoubt(group transport.GroupID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.groups[group].doubt
}

// Groups lists all registered groups, also those in doubt, in no order.
func (v *Votes) Groups() []transport.GroupID {
	v.mu.Lock()
	defer v.mu.Unlock()
	groups := make([]transport.GroupID, 0, len(v.groups))
	for group := range v.groups {
		groups = append(groups, group)
	}
	return groups
}

// Group is raft's stable store for a group, bound to the incarnation registered
// now: once that is forgotten or replaced, its writes fail with
// ErrVotesIncarnation, so that an instance that is slow to stop cannot vote for
// its successor.
func (v *Votes) Group(group transport.GroupID) *GroupVotes {
	v.mu.Lock()
	defer v.mu.Unlock()
	state, known := v.groups[group]
	return &GroupVotes{votes: v, group: group, incarnation: state.incarnation, known: known}
}

// GroupVotes implements raft.StableStore for one group. It may be used
// concurrently. Writes are durable when they return; an error means that nothing
// was promised.
type GroupVotes struct {
	votes       *Votes
	group       transport.GroupID
	incarnation uint64
	known       bool

	mu   sync.Mutex
	held uint64 // LastVoteTerm, waiting for its LastVoteCand; 0 if none waits
}

// Keys of raft's stable store (raft.go, keyCurrentTerm and others).
var (
	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
)

// errNotFound is a missing key. Raft compares this text.
var errNotFound = errors.New("not found")

// SetUint64 implements raft.StableStore. CurrentTerm is durable on return, and
// not written if unchanged. LastVoteTerm is held until LastVoteCand is set.
func (g *GroupVotes) SetUint64(key []byte, value uint64) error {
	switch {
	case bytes.Equal(key, keyCurrentTerm):
		return g.submit(func(s groupState) (*voteRecord, error) {
			switch {
			case s.term == value:
				return nil, nil
			case s.term > value:
				return nil, fmt.Errorf("%w: group %v from %d to %d", ErrVotesTermBack, g.group, s.term, value)
			}
			return &voteRecord{kind: voteTerm, group: g.group, value: value}, nil
		})
	case bytes.Equal(key, keyLastVoteTerm):
		g.mu.Lock()
		g.held = value
		g.mu.Unlock()
		return nil
	}
	return fmt.Errorf("%w: %q", ErrVotesKey, key)
}

// Set implements raft.StableStore for LastVoteCand: term and candidate become
// durable as one record, so that no crash pairs a term with another term's
// candidate; left out only if both are unchanged.
func (g *GroupVotes) Set(key, value []byte) error {
	if !bytes.Equal(key, keyLastVoteCand) {
		return fmt.Errorf("%w: %q", ErrVotesKey, key)
	}
	if len(value) > votesMaxText {
		return fmt.Errorf("candidate of %d bytes, at most %d", len(value), votesMaxText)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	candidate := string(value)
	err := g.submit(func(s groupState) (*voteRecord, error) {
		term := g.held
		if term == 0 {
			term = s.voteTerm
		}
		if s.voteTerm == term && s.voteCandidate == candidate {
			return nil, nil
		}
		return &voteRecord{kind: voteCast, group: g.group, value: term, text: candidate}, nil
	})
	if err == nil {
		g.held = 0
	}
	return err
}

// GetUint64 implements raft.StableStore: what is durable, or the error "not found".
func (g *GroupVotes) GetUint64(key []byte) (uint64, error) {
	state, err := g.state()
	var value uint64
	switch {
	case err != nil:
		return 0, err
	case bytes.Equal(key, keyCurrentTerm):
		value = state.term
	case bytes.Equal(key, keyLastVoteTerm):
		value = state.voteTerm
	}
	if value == 0 {
		return 0, errNotFound
	}
	return value, nil
}

// Get implements raft.StableStore: what is durable, or the error "not found".
func (g *GroupVotes) Get(key []byte) ([]byte, error) {
	state, err := g.state()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(key, keyLastVoteCand) || state.voteTerm == 0 {
		return nil, errNotFound
	}
	return []byte(state.voteCandidate), nil
}

// state is the group's durable state. A store that is closed or has failed still
// answers; a replica that is not the registered one has no state.
func (g *GroupVotes) state() (groupState, error) {
	g.votes.mu.Lock()
	defer g.votes.mu.Unlock()
	state, known := g.votes.groups[g.group]
	if !known || !g.known || state.incarnation != g.incarnation {
		return groupState{}, errNotFound
	}
	return state, nil
}

// submit is Votes.submit for this replica only.
func (g *GroupVotes) submit(decide func(groupState) (*voteRecord, error)) error {
	return g.votes.submit(g.group, func(s groupState, known bool) (*voteRecord, error) {
		if !known || !g.known || s.incarnation != g.incarnation || s.doubt {
			return nil, fmt.Errorf("%w: group %v, incarnation %016x", ErrVotesIncarnation, g.group, g.incarnation)
		}
		return decide(s)
	})
}

// submit lets decide look at the group's state, as it will be after all writes
// that wait, and waits until its record, if it returns one, is durable. Without
// a record it waits for what it looked at: it may not be durable yet.
func (v *Votes) submit(group transport.GroupID, decide func(s groupState, known bool) (*voteRecord, error)) error {
	for {
		batch, full, err := v.enqueue(group, decide)
		if batch == nil {
			return err
		}
		<-batch.done
		if batch.err != nil || !full {
			return batch.err
		}
	}
}

// enqueue adds a record to the batch that waits and returns it; nil if nothing
// has to be waited for. full means that the batch had no room, so the caller
// waits for it and tries again.
func (v *Votes) enqueue(group transport.GroupID, decide func(groupState, bool) (*voteRecord, error)) (batch *voteBatch, full bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.failed != nil:
		return nil, false, v.failed
	case v.closed:
		return nil, false, ErrVotesClosed
	}
	state, known, pending := v.stateLocked(group)
	record, err := decide(state, known)
	if err != nil {
		return nil, false, err
	}
	if record == nil {
		return pending, false, nil
	}
	if v.next == nil {
		v.next = &voteBatch{size: votesRoundHeader, states: map[transport.GroupID]*groupState{}, done: make(chan struct{})}
	}
	if v.next.size+record.size() > votesMaxRound {
		return v.next, true, nil
	}
	v.next.add(*record, state, known)
	select {
	case v.wake <- struct{}{}:
	default:
	}
	return v.next, false, nil
}

// stateLocked is a group's state after all writes that wait, and the batch that
// makes it so, nil if it is durable. The caller holds mu.
func (v *Votes) stateLocked(group transport.GroupID) (state groupState, known bool, pending *voteBatch) {
	for _, batch := range []*voteBatch{v.next, v.writing} {
		if batch == nil {
			continue
		}
		if s, ok := batch.states[group]; ok && s != nil {
			return *s, true, batch
		} else if ok {
			return groupState{}, false, batch
		}
	}
	state, known = v.groups[group]
	return state, known, nil
}

// add puts a record behind the others; state is the group's before it.
func (b *voteBatch) add(r voteRecord, state groupState, known bool) {
	b.records = append(b.records, r)
	b.size += r.size()
	groups := map[transport.GroupID]groupState{}
	if known {
		groups[r.group] = state
	}
	applyVote(groups, r)
	b.states[r.group] = nil
	if s, ok := groups[r.group]; ok {
		b.states[r.group] = &s
	}
}

// Close stops the writer after what waits is written, and closes the file.
func (v *Votes) Close() error {
	v.mu.Lock()
	first := !v.closed
	v.closed = true
	v.mu.Unlock()
	if first {
		close(v.stop)
	}
	<-v.stopped
	if !first {
		return nil
	}
	if err := v.file.close(); err != nil {
		return fmt.Errorf("close %s: %w", v.path, err)
	}
	return nil
}

// liveRecords is the records that make an empty file say what groups says, in a
// fixed order, so that equal contents are equal files.
func liveRecords(groups map[transport.GroupID]groupState) []voteRecord {
	ids := make([]transport.GroupID, 0, len(groups))
	for id := range groups {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b transport.GroupID) int {
		if c := bytes.Compare(a.Topic[:], b.Topic[:]); c != 0 {
			return c
		}
		return int(a.Partition) - int(b.Partition)
	})
	var records []voteRecord
	for _, id := range ids {
		s := groups[id]
		records = append(records, voteRecord{kind: voteRegister, group: id, value: s.incarnation})
		if s.term != 0 {
			records = append(records, voteRecord{kind: voteTerm, group: id, value: s.term})
		}
		if s.voteTerm != 0 {
			records = append(records, voteRecord{kind: voteCast, group: id, value: s.voteTerm, text: s.voteCandidate})
		}
		if s.doubt {
			records = append(records, voteRecord{kind: voteDoubt, group: id})
		}
	}
	return records
}
