package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// Timings are the clocks of the raft groups.
type Timings struct {
	// Heartbeat and Election are raft's time-outs: how long a follower waits for
	// its leader, and a candidate for votes. Default 1 s.
	Heartbeat, Election time.Duration
	// Lease is how long a leader goes on without hearing from a majority; at
	// most Heartbeat. Default 1 s.
	Lease time.Duration
	// Commit is how often a leader tells idle followers its commit index.
	// Default 250 ms.
	Commit time.Duration
}

// withDefaults fills in what is zero.
func (t Timings) withDefaults() Timings {
	fill := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	fill(&t.Heartbeat, time.Second)
	fill(&t.Election, t.Heartbeat)
	fill(&t.Lease, t.Heartbeat)
	fill(&t.Commit, 250*time.Millisecond)
	return t
}

// maxAppendEntries is how many entries one AppendEntries, and nearly one
// StoreLogs, holds at most; the transport bounds them by bytes too.
const maxAppendEntries = 256

// raftConfig are the settings that the adapters rely on (DESIGN 4.1): raft never
// takes a snapshot, never trims, and starts from the checkpoint.
func raftConfig(id raft.ServerID, t Timings, logger hclog.Logger, notify chan<- bool) *raft.Config {
	config := raft.DefaultConfig()
	config.LocalID = id
	config.HeartbeatTimeout = t.Heartbeat
	config.ElectionTimeout = t.Election
	config.LeaderLeaseTimeout = t.Lease
	config.CommitTimeout = t.Commit
	config.MaxAppendEntries = maxAppendEntries
	config.BatchApplyCh = true
	config.TrailingLogs = math.MaxUint64
	config.SnapshotThreshold = math.MaxUint64
	config.SnapshotInterval = 24 * time.Hour
	config.NoSnapshotRestoreOnStart = true
	config.ShutdownOnRemove = false
	config.NoLegacyTelemetry = true
	config.Logger = logger
	config.NotifyCh = notify
	return config
}

// instance is one run of raft for a replica. It is never used again once
// closed; the partition starts another on the same log.
type instance struct {
	partition *Partition
	raft      *raft.Raft
	facade    *transport.Facade
	store     *logStore

	entered sync.WaitGroup // callers of apply
	gate    sync.Mutex     // guards closing against enter
	closing bool

	notify  chan bool
	futures chan pending
	open    sync.WaitGroup // proposals handed over and not answered
	pending atomic.Int64   // how many these are
	current atomic.Pointer[Proposal]
	failure atomic.Pointer[error] // why StoreLogs poisoned it
	stopped chan struct{}
	workers sync.WaitGroup
	once    sync.Once
}

// pending is a proposal that raft has.
type pending struct {
	proposal *Proposal
	future   raft.Future
}

// newInstance starts raft on the partition's log as it is.
func (p *Partition) newInstance() (in *instance, err error) {
	in = &instance{
		partition: p,
		notify:    make(chan bool, 16),
		futures:   make(chan pending, 4*maxAppendEntries),
		stopped:   make(chan struct{}),
	}
	if in.facade, err = p.facade(); err != nil {
		return nil, err
	}
	in.store = &logStore{log: p.log, proposals: p.proposals, failed: in.poisoned,
		appended: func(done *Proposal) { p.queue.release(len(done.frame)) }}
	snapshots := &snapshotStore{checkpoint: p.log.Checkpoint()}
	machine := &fsm{log: p.log, moved: in.moved, stop: p.poisoned}
	stable := stableStore{p.stable, &in.store.poisoned, &snapshots.started, in.termFailed}
	config := raftConfig(p.local, p.timings, raftLogger(p.logger, p.topic, p.group.Partition), in.notify)
	in.raft, err = newRaft(config, machine, in.store, stable, snapshots, in.facade)
	if err != nil {
		in.facade.Close()
		return nil, fmt.Errorf("start raft of %s/%d: %w", p.topic, p.group.Partition, err)
	}
	snapshots.started.Store(true)
	in.facade.Bind(in.raft)
	if err := p.register(in.facade); err != nil {
		return nil, errors.Join(err, in.raft.Shutdown().Error())
	}
	in.workers.Go(in.answer) // watch begins once the instance is the current one
	return in, nil
}

// newRaft turns a panic of raft's start into an error: it panics on an entry
// that cannot be read (api.go:617), and one bad replica must not take the
// broker with it.
func newRaft(config *raft.Config, machine raft.FSM, logs raft.LogStore, stable raft.StableStore, snapshots raft.SnapshotStore, trans raft.Transport) (r *raft.Raft, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			r, err = nil, fmt.Errorf("raft could not read its log: %v", cause)
		}
	}()
	return raft.NewRaft(config, machine, logs, stable, snapshots, trans)
}

// enter registers a caller of apply; false once the instance is closing.
func (in *instance) enter() bool {
	in.gate.Lock()
	defer in.gate.Unlock()
	if in.closing {
		return false
	}
	in.entered.Add(1)
	return true
}

func (in *instance) leave() { in.entered.Done() }

// apply hands a proposal to raft, in order; the answer comes through the future.
func (in *instance) apply(proposal *Proposal) {
	var future raft.Future
	if proposal.barrier {
		future = in.raft.Barrier(0)
	} else {
		handle := binary.BigEndian.AppendUint64(nil, in.partition.proposals.add(proposal))
		future = in.raft.ApplyLog(raft.Log{Data: proposal.frame, Extensions: handle}, 0)
	}
	in.open.Add(1)
	in.pending.Add(1)
	in.futures <- pending{proposal, future}
}

// answer waits for raft's futures in order and resolves the proposals.
func (in *instance) answer() {
	for p := range in.futures {
		in.current.Store(p.proposal)
		if p.proposal.barrier {
			in.barrierPassed(p.future)
		} else {
			result, err := outcome(p.future.(raft.ApplyFuture))
			in.partition.settle(p.proposal, result, err)
		}
		in.pending.Add(-1)
		in.open.Done()
	}
}

// watch follows raft's role. It drains notify and nothing else: raft's main
// goroutine waits for it.
func (in *instance) watch() {
	for {
		select {
		case <-in.stopped:
			return
		case leads := <-in.notify:
			if !leads {
				in.partition.lead(Leadership{})
				continue
			}
			in.partition.lead(Leadership{Leader: true, Term: segment.Term(in.raft.CurrentTerm())})
			// The no-op is invisible to the state machine; a barrier behind it
			// returns once everything before was applied.
			in.partition.queue.addBarrier(&Proposal{barrier: true, done: make(chan struct{})})
		}
	}
}

// barrierPassed makes the leader ready in the term in which the barrier was
// appended, if that is still its term: a barrier queued in one term may commit
// in a later one.
func (in *instance) barrierPassed(future raft.Future) {
	if future.Error() != nil {
		return
	}
	// The state machine sees neither the no-op nor the barrier.
	in.facade.CommitMoved()
	indexed, ok := future.(raft.IndexFuture)
	if !ok {
		return
	}
	seen := in.partition.leadership.Load() // before raft's state: see ready
	info, err := in.partition.log.Info(segment.Index(indexed.Index()))
	if err != nil || in.raft.State() != raft.Leader || in.raft.CurrentTerm() != uint64(info.Term) {
		return
	}
	if seen.Leader && !seen.Ready && seen.Term == info.Term {
		in.partition.ready(seen)
	}
}

// moved follows the state machine: what was applied was committed, which the
// followers should hear of soon.
func (in *instance) moved() { in.facade.CommitMoved() }

// termFailed ends the broker: a term that cannot be stored is a disk that cannot
// be trusted.
func (in *instance) termFailed(err error) {
	in.facade.Silence()
	in.partition.fatal(err)
	in.partition.replaceInstance(nil)
}

// poisoned keeps the instance from acting any further.
func (in *instance) poisoned(err error) {
	in.failure.Store(&err)
	in.facade.Silence()
	in.partition.poisoned(err)
}

// closeGrace bounds how long close waits for raft to answer what it has; raft
// leaves futures without an answer when it is shut down with entries in its
// channels (measured), so they are let through first.
const closeGrace = 2 * time.Second

// close stops raft and joins everything the instance started.
func (in *instance) close() {
	in.once.Do(in.shutdown)
}

func (in *instance) shutdown() {
	in.gate.Lock()
	in.closing = true
	in.gate.Unlock()

	answered := make(chan struct{})
	go func() {
		in.entered.Wait()
		in.open.Wait()
		close(answered)
	}()
	select {
	case <-answered:
	case <-time.After(closeGrace):
	}
	done := in.raft.Shutdown()
	in.facade.Close()
	if err := done.Error(); err != nil {
		in.partition.logger.Warn("raft did not stop cleanly", "topic", in.partition.topic, "err", err)
	}
	in.entered.Wait()
	close(in.futures)
	close(in.stopped)
	joined := make(chan struct{})
	go func() {
		in.workers.Wait()
		close(joined)
	}()
	select {
	case <-joined:
	case <-time.After(closeGrace):
		in.abandon()
	}
}

// abandon answers what raft never will: its future hangs, and with it the
// goroutine that waits for it.
func (in *instance) abandon() {
	if p := in.current.Load(); p != nil {
		in.partition.settle(p, Result{}, ErrUnknownOutcome)
	}
	for {
		select {
		case p, more := <-in.futures:
			if !more {
				return
			}
			in.partition.settle(p.proposal, Result{}, ErrUnknownOutcome)
		default:
			return
		}
	}
}
