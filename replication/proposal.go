package replication

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// Errors of a proposal. They say what is known about the batch, because what a
// client may do next depends on nothing else (K1 of the fault catalogue: a
// definite error means that the record will never be read).
var (
	// ErrNotLeader: the batch was never appended here and never will be. Kafka:
	// NOT_LEADER_OR_FOLLOWER.
	ErrNotLeader = errors.New("this replica does not lead the partition")
	// ErrUnknownOutcome: the batch may or may not become part of the log; only a
	// later leader knows. Kafka: REQUEST_TIMED_OUT or
	// NOT_ENOUGH_REPLICAS_AFTER_APPEND.
	ErrUnknownOutcome = errors.New("leadership ended before the batch was known to be committed")
	// ErrClosed: the partition was closed before the batch was appended.
	ErrClosed = errors.New("the partition is closed")
)

// VoidError is a definite refusal decided at the end of the log, where the order
// is known: a void took the batch's place in the log (DESIGN 4.2).
type VoidError struct {
	// Void says why the batch was refused.
	Void segment.Void
}

// Error implements error.
func (e *VoidError) Error() string { return fmt.Sprintf("batch refused: %v", e.Void.Code) }

// Guard is what must still be true where the batch is appended. Producer id,
// epoch and sequence are judged from the batch's own header.
type Guard struct {
	// Term is the leader term in which the caller checked whatever it checked;
	// in any other term the batch is refused. Zero: any term. Coordinator writes
	// must set it, or a coordinator that lost and regained its partition could
	// append what it decided on a state that is gone.
	Term segment.Term
	// Refused is the earliest batch of the producer that the caller refused
	// lately, nil without one: where the log knows nothing of the producer, a
	// batch that continues after it is refused too.
	Refused *Refusal
}

// Result is where an accepted batch went.
type Result struct {
	// Base is the offset of the batch's first record; for a duplicate, that of
	// the first copy.
	Base segment.Offset
	// Duplicate says that an earlier copy was found, and nothing was appended.
	Duplicate bool
}

// Proposal is a batch on its way into the log. It resolves exactly once.
type Proposal struct {
	frame   []byte
	header  segment.Header
	guard   Guard
	handle  uint64
	barrier bool

	settled atomic.Bool
	done    chan struct{}
	result  Result
	err     error
}

func newProposal(frame []byte, header segment.Header, guard Guard) *Proposal {
	return &Proposal{frame: frame, header: header, guard: guard, done: make(chan struct{})}
}

// failedProposal is one that is refused before it was queued.
func failedProposal(err error) *Proposal {
	p := &Proposal{done: make(chan struct{})}
	p.resolve(Result{}, err)
	return p
}

// Done is closed when the outcome is known.
func (p *Proposal) Done() <-chan struct{} { return p.done }

// isDone reports whether the outcome is known.
func (p *Proposal) isDone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Result is the outcome; valid once Done is closed.
func (p *Proposal) Result() (Result, error) { return p.result, p.err }

// resolve sets the outcome; only the first call counts, because a closing
// instance resolves what raft may still answer later, or never.
func (p *Proposal) resolve(result Result, err error) {
	if !p.settled.CompareAndSwap(false, true) {
		return
	}
	p.result, p.err = result, err
	close(p.done)
}

// proposalTable finds a proposal by the handle that travels in
// raft.Log.Extensions from Apply to StoreLogs, the only place where its order in
// the log is known. The handle is never stored and never sent.
//
// It also knows which idempotent batches were refused, and which may have been.
type proposalTable struct {
	mu        sync.Mutex
	next      uint64
	open      map[uint64]*Proposal
	producers map[int64]underWay
	refusals  refusalTable
}

func newProposalTable() *proposalTable {
	return &proposalTable{open: map[uint64]*Proposal{}, producers: map[int64]underWay{}, refusals: refusalTable{now: time.Now}}
}

// add gives the proposal its handle.
func (t *proposalTable) add(p *Proposal) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	p.handle = t.next
	t.open[p.handle] = p
	if id := p.header.ProducerID; id >= 0 {
		t.producers[id] = append(t.producers[id], p)
	}
	return p.handle
}

// settle notes the outcome of a batch. It returns whether the proposal was still
// open: StoreLogs never saw it. From under way to refused is one step, or a batch
// judged between the two would find neither.
func (t *proposalTable) settle(p *Proposal, err error) (open bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, open = t.open[p.handle]
	delete(t.open, p.handle)
	if p.barrier || p.header.ProducerID < 0 {
		return open
	}
	if willRetry(err) {
		t.refusals.note(p.header)
	}
	id := p.header.ProducerID
	if rest := t.producers[id].without(p); len(rest) > 0 {
		t.producers[id] = rest
	} else {
		delete(t.producers, id)
	}
	return open
}

// refuse notes that a batch was refused before it had a handle.
func (t *proposalTable) refuse(h segment.Header) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refusals.note(h)
}

// overtakes reports whether a batch of a producer of which the log knows nothing
// would come before one that was refused.
func (t *proposalTable) overtakes(p *Proposal) bool {
	if p.header.BaseSequence <= 0 {
		return false
	}
	if r := p.guard.Refused; r != nil && r.Precedes(p.header) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.producers[p.header.ProducerID].precedes(p) || t.refusals.precedes(p.header)
}

// take removes and returns the proposal, nil if it is not there.
func (t *proposalTable) take(handle uint64) *Proposal {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.open[handle]
	delete(t.open, handle)
	return p
}

// applied is what the FSM answers for an entry, and what raft hands back through
// the future.
type applied struct {
	base segment.Offset
	void *segment.Void
	err  error
}

// outcome translates what raft's future said about a proposal.
func outcome(future raft.ApplyFuture) (Result, error) {
	switch err := future.Error(); {
	case err == nil:
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrEnqueueTimeout):
		return Result{}, ErrNotLeader
	default:
		// Lost leadership, a failed StoreLogs, a shutdown: the entry may be on
		// this disk or on others, and a later leader may commit it.
		return Result{}, fmt.Errorf("%w: %v", ErrUnknownOutcome, err)
	}
	answer, ok := future.Response().(applied)
	if !ok {
		return Result{}, fmt.Errorf("%w: the state machine gave no answer", ErrUnknownOutcome)
	}
	switch {
	case answer.err != nil:
		return Result{}, fmt.Errorf("%w: %v", ErrUnknownOutcome, answer.err)
	case answer.void == nil:
		return Result{Base: answer.base}, nil
	case answer.void.Code == segment.VoidDuplicate:
		return Result{Base: answer.void.Offset, Duplicate: true}, nil
	default:
		return Result{}, &VoidError{Void: *answer.void}
	}
}
