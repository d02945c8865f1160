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
	"github.com/millrace/millrace/segment/planted"
)

// Timings are the clocks of the raft groups. Each group pays for them all the time.
type Timings struct {
	// Heartbeat and Election are raft's time-outs: how long a follower waits for
	// its leader, and a candidate for votes. Default 1 s.
	Heartbeat, Election time.Duration
	// Lease is how long a leader goes on without hearing from a majority; at
	// most Heartbeat, which is its default.
	Lease time.Duration
	// Commit is how often a leader tells idle followers its commit index, if they
	// have not heard it otherwise. Default 2 s, 250 ms in the metadata group.
	Commit time.Duration
}

// withDefaults fills in what is zero with the defaults of a partition.
func (t Timings) withDefaults() Timings { return t.or(2 * time.Second) }

// forMetadata fills in what is zero with the defaults of the metadata group.
func (t Timings) forMetadata() Timings { return t.or(250 * time.Millisecond) }

// or fills in what is zero.
func (t Timings) or(commit time.Duration) Timings {
	fill := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	fill(&t.Heartbeat, time.Second)
	fill(&t.Election, t.Heartbeat)
	fill(&t.Lease, t.Heartbeat)
	fill(&t.Commit, commit)
	return t
}

// heartbeatTick is what the heartbeats of all groups to a peer wait for, to travel
// together: a tenth of the least time between two of a group.
func (t Timings) heartbeatTick() time.Duration { return t.Heartbeat / 100 }

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

	gate    sync.Mutex // guards closing and inside, and the closing of left and quiet
	closing bool
	inside  int           // callers of apply
	left    chan struct{} // closed when it is closing and inside is 0
	quiet   chan struct{} // closed when it is closing, and inside and pending are 0

	resigned   atomic.Uint64 // the last term that it gave up because the disk hung
	disk       diskCalls
	notify     chan bool
	unanswered unanswered            // what raft was handed
	pending    atomic.Int64          // proposals handed over and not answered
	failure    atomic.Pointer[error] // why StoreLogs poisoned it
	stopped    chan struct{}
	workers    sync.WaitGroup // watch
	once       sync.Once
}

// newInstance starts raft on the partition's log as it is.
func (p *Partition) newInstance() (in *instance, err error) {
	in = &instance{
		partition: p,
		left:      make(chan struct{}),
		quiet:     make(chan struct{}),
		notify:    make(chan bool, 16),
		stopped:   make(chan struct{}),
	}
	in.unanswered.answer = in.answer
	l := p.Log() // for the life of the instance
	if in.facade, err = p.facade(l); err != nil {
		return nil, err
	}
	in.facade.WithholdVotes(p.probation.withholds())
	in.store = &logStore{log: l, proposals: p.proposals, disk: &in.disk, failed: in.poisoned,
		watch:    newStoreWatch(p.disk, l.Steps, in.diskHangs),
		appended: func(done *Proposal) { p.queue.release(len(done.frame)) }}
	snapshots := &snapshotStore{log: l, checkpoint: l.AppliedState()}
	machine := &fsm{log: l, disk: &in.disk, moved: in.moved, stop: p.poisoned}
	if p.tidy != nil {
		machine.trimmed = func() { p.tidy(p) }
	}
	stable := stableStore{p.stable, &in.disk, &in.store.poisoned, &snapshots.started, in.termFailed}
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
	return in, nil // watch begins once it is the current one
}

// newRaft turns a panic of raft's start into an error: it panics on an entry
// that cannot be read (api.go:617), and one bad replica must not take the
// broker with it.
func newRaft(config *raft.Config, machine raft.FSM, logs raft.LogStore, stable raft.StableStore, snapshots raft.SnapshotStore, trans raft.Transport) (r *raft.Raft, err error) {
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case error:
			r, err = nil, fmt.Errorf("raft could not read its log: %w", cause)
		default:
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
	in.inside++
	return true
}

func (in *instance) leave() {
	in.gate.Lock()
	defer in.gate.Unlock()
	in.inside--
	in.emptiedLocked()
}

// emptiedLocked tells a closing instance who has gone. It is called after each
// change of what it looks at.
func (in *instance) emptiedLocked() {
	if !in.closing || in.inside > 0 {
		return
	}
	closeOnce(in.left)
	if in.pending.Load() == 0 {
		closeOnce(in.quiet)
	}
}

// closeOnce closes a channel that only the caller's lock guards.
func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}

// apply hands a proposal to raft, in order; the answer comes through the future.
func (in *instance) apply(proposal *Proposal) {
	if planted.CheckBeforeApply && in.judgedEarly(proposal) {
		return
	}
	in.unanswered.handing(proposal)
	var future raft.Future
	if proposal.barrier {
		future = in.raft.Barrier(0)
	} else {
		handle := binary.BigEndian.AppendUint64(nil, in.partition.proposals.add(proposal))
		future = in.raft.ApplyLog(raft.Log{Data: proposal.frame, Extensions: handle}, 0)
	}
	in.pending.Add(1)
	in.unanswered.add(pending{proposal, future})
}

// answer waits for raft's future and resolves the proposal.
func (in *instance) answer(p pending) {
	if p.proposal.barrier {
		in.barrierPassed(p.future)
	} else {
		result, err := outcome(p.future.(raft.ApplyFuture))
		in.partition.settle(p.proposal, result, err)
	}
	in.pending.Add(-1)
	in.gate.Lock()
	defer in.gate.Unlock()
	in.emptiedLocked()
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
			if in.hasResigned() { // before this goroutine heard that it leads
				in.partition.lead(Leadership{})
				continue
			}
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
	info, err := in.partition.Log().Info(segment.Index(indexed.Index()))
	if err != nil || in.raft.State() != raft.Leader || in.raft.CurrentTerm() != uint64(info.Term) {
		return
	}
	if seen.Leader && !seen.Ready && seen.Term == info.Term {
		in.partition.ready(seen)
	}
}

// moved follows the state machine: what was applied was committed, which the
// followers should hear of soon. A replica that applies something needs no seed.
func (in *instance) moved() {
	in.facade.CommitMoved()
	if p := in.partition; p.leftover.Load() && p.tidy != nil {
		p.tidy(p)
	}
}

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

// closeGrace bounds how long close waits for raft to answer what it has, unless
// raft waits for the disk; it is also when close says that it waits.
const closeGrace = 2 * time.Second

// close stops raft and joins everything the instance started. It waits for a disk
// that does not answer as long as it takes, and says so: raft's goroutines cannot
// be joined before.
func (in *instance) close() {
	in.once.Do(in.shutdown)
}

func (in *instance) shutdown() {
	report := time.AfterFunc(closeGrace, in.reportStuck)
	defer report.Stop()
	in.gate.Lock()
	in.closing = true
	in.emptiedLocked()
	in.gate.Unlock()
	in.awaitQuiet()
	done := in.raft.Shutdown()
	in.facade.Close()
	if err := done.Error(); err != nil {
		in.partition.logger.Warn("raft did not stop cleanly", "topic", in.partition.topic, "err", err)
	}
	in.unanswered.release()
	<-in.left
	close(in.stopped)
	in.workers.Wait()
	if !in.answeredAll() {
		in.abandon()
	}
}

// awaitQuiet lets raft answer what it was handed: shut down with entries in its
// channels it leaves their futures without an answer (measured), and whoever waits
// for one of these waits for ever. While raft is in a call to the disk it can
// answer nothing, and could not be stopped either.
func (in *instance) awaitQuiet() {
	for {
		select {
		case <-in.quiet:
			return
		case <-time.After(closeGrace):
		}
		if !in.disk.underWay() {
			return
		}
	}
}

// reportStuck names the replica that keeps the broker from stopping.
func (in *instance) reportStuck() {
	in.partition.logger.Warn("replica is slow to stop", "topic", in.partition.topic, "partition", in.partition.group.Partition,
		"waits_for_disk", in.disk.underWay(), "unanswered", in.pending.Load(), "after", closeGrace)
}

// diskCalls counts what raft's goroutines have under way with the disk. The nil
// pointer counts nothing.
type diskCalls struct{ count atomic.Int32 }

// begin counts a call until the returned function is called.
func (d *diskCalls) begin() (end func()) {
	if d == nil {
		return func() {}
	}
	d.count.Add(1)
	return func() { d.count.Add(-1) }
}

func (d *diskCalls) underWay() bool { return d.count.Load() > 0 }

// answeredAll waits for raft's answers to what it was handed, for closeGrace.
func (in *instance) answeredAll() bool {
	done := in.unanswered.done()
	if done == nil {
		return true
	}
	select {
	case <-done:
		return true
	case <-time.After(closeGrace):
		return false
	}
}

// abandon answers what raft never will: after a term could not be stored its main
// goroutine is gone, and with it whoever would answer what was in its channel. The
// one goroutine that waits for such a future stays behind until the process ends,
// which a disk that stores no terms makes it do.
func (in *instance) abandon() {
	in.partition.logger.Warn("raft left proposals without an answer: one goroutine stays behind until the process ends",
		"topic", in.partition.topic, "partition", in.partition.group.Partition, "unanswered", in.pending.Load())
	for _, p := range in.unanswered.abandon() {
		in.partition.settle(p, Result{}, ErrUnknownOutcome)
	}
}
