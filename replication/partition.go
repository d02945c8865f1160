package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// Leadership is what this node knows of its own role in a partition.
type Leadership struct {
	// Leader: raft leads here. Batches may be proposed.
	Leader bool
	// Ready: the no-op of Term is applied, so the high watermark holds everything
	// that was ever acknowledged. Only a ready leader may answer reads.
	Ready bool
	// Term is the term of the leadership; the Kafka leader epoch.
	Term segment.Term
}

// partitionConfig is what a partition needs of its node.
type partitionConfig struct {
	group     transport.GroupID
	topic     string
	local     raft.ServerID      // this replica
	replicas  []metadata.Replica // in preference order
	opened    *log.Log           // owned by the partition from here on, see Partition.Log
	options   log.Options        // with which it was opened
	stable    raft.StableStore   // term and vote of this group
	timings   Timings            // of raft
	disk      *diskState         // of the folder that all partitions are in; may be nil
	logger    *slog.Logger
	network   transport.Network             // to the other nodes
	intake    *seedIntake                   // limits of the seeds that this node takes in
	patience  time.Duration                 // how long files are kept for a member that is away
	register  func(*transport.Facade) error // lets it take part
	up        func(metadata.NodeID) bool    // whether a node is connected
	fatal     func(error)                   // the disk can no longer be trusted
	announce  func(*Partition)              // leadership or in-sync set may have changed
	restarted func(*Partition)              // a new instance runs: the peers should hear "group up"
	tidy      func(*Partition)              // space may be freed, by a trim or of a copy that is not needed; must not wait
}

// Partition is this node's replica of one partition. All methods may be called
// concurrently.
type Partition struct {
	partitionConfig
	log       atomic.Pointer[log.Log] // replaced by a seed, see seed.go
	queue     *queue
	peers     upPeers
	proposals *proposalTable

	// hold has one slot, taken by drain for each proposal, and by a transfer throughout.
	// It is no mutex: both sides wait for raft with it, which may wait for a hung disk.
	hold       chan struct{}
	announcing sync.Mutex // held by the host while it publishes the role as it is now

	mu          sync.Mutex // guards what follows and restarts; never held while raft is called
	instance    *instance
	closed      bool
	campaigning bool     // a goroutine of restarts asks raft for an election
	retired     bool     // the node stops: it stands for no election
	seeding     *seedJob // the last one

	staging  sync.Mutex  // held while the folder of a seed is used
	leftover atomic.Bool // there may be such a folder that nobody uses

	roster     atomic.Pointer[[]metadata.Replica] // see assigned
	leadership atomic.Pointer[Leadership]
	ledSince   atomic.Pointer[time.Time] // when the present or last leadership began
	failure    atomic.Pointer[error]
	trimming   atomic.Pointer[Proposal] // the last trim that retention proposed
	heldBack   bool                     // retention waited for a member at its last check; the retainer's alone
	short      atomic.Bool              // some replica is not in sync, as last announced

	probation probation
	relieving atomic.Bool // a goroutine of restarts hands leadership over for a replica on probation

	stop     chan struct{}
	draining sync.WaitGroup // drain, while something is queued
	restarts sync.WaitGroup // goroutines that replace the instance or campaign
}

// startPartition runs the replica whose log is open. On an error the log is
// closed.
func startPartition(config partitionConfig) (*Partition, error) {
	p := &Partition{
		partitionConfig: config,
		proposals:       newProposalTable(),
		hold:            make(chan struct{}, 1),
		stop:            make(chan struct{}),
	}
	p.log.Store(config.opened)
	p.leftover.Store(true) // of the process before
	p.queue = newQueue(func() { p.draining.Go(p.drain) })
	p.leadership.Store(&Leadership{})
	p.roster.Store(&config.replicas)
	if err := p.beginProbation(); err != nil {
		return nil, errors.Join(err, p.Log().Close())
	}
	in, err := p.newInstance()
	if err != nil {
		return nil, errors.Join(err, p.Log().Close())
	}
	p.run(in)
	if p.probation.doubt() != 0 {
		p.restarts.Go(p.serveProbation)
	}
	return p, nil
}

// run makes a new instance the current one, unless the partition was closed
// meanwhile; an append that failed before now found no instance to replace.
func (p *Partition) run(in *instance) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		in.close()
		return
	}
	p.instance = in
	// Only now: a change of role puts a barrier into the queue, which goes nowhere
	// while there is no instance.
	in.workers.Go(in.watch)
	in.facade.WithholdVotes(p.probation.withholds()) // once more: it may have ended meanwhile
	p.mu.Unlock()
	if err := in.failure.Load(); err != nil {
		p.poisoned(*err)
	}
	if p.Failed() != nil {
		p.replaceInstance(nil)
	}
}

// Log is the partition's log as it is now. On a replica that is seeded another one
// takes its place; the old one is closed then, its reads fail with log.ErrClosed, and
// slices that were read from it stay good. Reading it beyond what Leadership allows is
// the caller's mistake.
func (p *Partition) Log() *log.Log { return p.log.Load() }

// Topic is the name of the topic, ID its group.
func (p *Partition) Topic() string { return p.topic }

// ID names the partition in the cluster.
func (p *Partition) ID() transport.GroupID { return p.group }

// Leadership is this node's role now.
func (p *Partition) Leadership() Leadership { return *p.leadership.Load() }

// Failed says why the replica is out of its group, nil while it takes part.
func (p *Partition) Failed() error {
	if err := p.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Propose offers a batch to the log. The partition owns frame from here on; it
// must have passed segment.Check, or have been built by this process. Propose
// waits for room in the queue until ctx ends, in the order of the calls; batches
// enter the log in that order too. It never fails: the proposal says what came
// of the batch.
func (p *Partition) Propose(ctx context.Context, frame []byte, guard Guard) *Proposal {
	header, err := segment.DecodeHeader(frame)
	if err != nil {
		return failedProposal(err)
	}
	if !p.Leadership().Leader {
		p.proposals.refuse(header)
		return failedProposal(ErrNotLeader)
	}
	if header.FrameSize() != len(frame) || header.Attributes.Internal() {
		// In StoreLogs it would look like another history, which stops the replica.
		return failedProposal(fmt.Errorf("a frame of %d bytes is no batch of records of %d bytes", len(frame), header.FrameSize()))
	}
	return p.enqueue(ctx, newProposal(frame, header, guard))
}

func (p *Partition) enqueue(ctx context.Context, proposal *Proposal) *Proposal {
	if err := p.queue.add(ctx, proposal); err != nil {
		p.proposals.refuse(proposal.header)
		proposal.resolve(Result{}, err)
	}
	return proposal
}

// drain hands queued proposals to raft, one after the other: concurrent callers
// of Apply would lose the order. It ends when there are none.
func (p *Partition) drain() {
	// One by one: what raft does not take yet must be found in the queue when it has
	// to be refused (stuck.go).
	for proposal := p.queue.next(); proposal != nil; proposal = p.queue.next() {
		select {
		case p.hold <- struct{}{}:
			p.hand(proposal)
			<-p.hold
		case <-p.stop:
			p.refuse([]*Proposal{proposal})
		}
	}
}

// hand gives one proposal to the running instance.
func (p *Partition) hand(proposal *Proposal) {
	p.mu.Lock()
	in := p.instance
	entered := in != nil && in.enter()
	p.mu.Unlock()
	if !entered {
		p.refuse([]*Proposal{proposal})
		return
	}
	defer in.leave()
	if in.hasResigned() {
		p.refuse([]*Proposal{proposal})
		return
	}
	in.apply(proposal)
}

// refuse answers proposals that no instance will ever see.
func (p *Partition) refuse(proposals []*Proposal) {
	for _, proposal := range proposals {
		p.settle(proposal, Result{}, ErrNotLeader)
	}
}

// settle resolves a proposal and gives its room in the queue back, if StoreLogs
// has not done that.
func (p *Partition) settle(proposal *Proposal, result Result, err error) {
	if p.proposals.settle(proposal, err) || proposal.handle == 0 {
		p.queue.release(len(proposal.frame))
	}
	proposal.resolve(result, err)
}

// lead records a change of role and tells the node.
func (p *Partition) lead(l Leadership) {
	if *p.leadership.Load() == l {
		return
	}
	if now := time.Now(); l.Leader {
		p.ledSince.Store(&now)
	}
	p.leadership.Store(&l)
	p.announce(p)
}

// ready makes the leader ready unless its role has changed since it was seen: it
// was looked at outside of every lock.
func (p *Partition) ready(seen *Leadership) {
	if p.leadership.CompareAndSwap(seen, &Leadership{Leader: true, Ready: true, Term: seen.Term}) {
		p.announce(p)
	}
}

// fail takes the replica out of its group for good.
func (p *Partition) fail(err error) {
	if p.failure.CompareAndSwap(nil, &err) {
		p.logger.Error("replica stopped: it is out of its group until an operator looks at it",
			"topic", p.topic, "partition", p.group.Partition, "err", err)
	}
	p.replaceInstance(nil)
}

// restartDelay is how long a replica waits after an append that failed for lack
// of space before it tries again.
const restartDelay = time.Second

// replaceInstance stops the running raft instance from a goroutine of its own
// (raft's own goroutines call this and must not wait for themselves) and starts
// a new one on the log as it is unless cause is nil.
func (p *Partition) replaceInstance(cause error) {
	p.mu.Lock()
	old := p.instance
	if p.closed || old == nil {
		p.mu.Unlock()
		return
	}
	p.instance = nil
	p.restarts.Add(1)
	p.mu.Unlock()
	p.lead(Leadership{}) // not under the lock: whoever hears of it may look at the partition
	go func() {
		defer p.restarts.Done()
		old.close()
		p.lead(Leadership{}) // what the old instance may have said since
		if cause != nil && p.Failed() == nil {
			p.startAgain(cause)
		}
	}()
}

// startAgain waits for what may pass, and for nothing else: a log that cannot be
// read takes the replica out of its group, as at the start of the broker.
func (p *Partition) startAgain(cause error) {
	p.logger.Warn("replica starts again after a failed append",
		"topic", p.topic, "partition", p.group.Partition, "err", cause)
	for {
		select {
		case <-p.stop:
			return
		case <-time.After(restartDelay):
		}
		in, err := p.newInstance()
		switch {
		case mayPass(err):
			p.logger.Error("replica could not start again", "topic", p.topic,
				"partition", p.group.Partition, "err", err)
		case err != nil:
			p.fail(fmt.Errorf("start again after a failed append: %w", err))
			return
		default:
			p.run(in)
			p.restarted(p)
			return
		}
	}
}

// poisoned is called on raft's goroutines when an append failed, or an entry could
// not be applied.
func (p *Partition) poisoned(err error) {
	var fatal *log.FatalError
	switch {
	case errors.As(err, &fatal):
		p.fatal(err)
		p.replaceInstance(nil)
	case errors.Is(err, log.ErrNoSpace):
		p.replaceInstance(err)
	default:
		// Entries that do not fit this log: another history, or our own bug.
		// Guessing would diverge.
		p.fail(err)
	}
}

// current is the running instance, nil between two.
func (p *Partition) current() *instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.instance
}

// Close stops the replica and closes its log. Proposals that were not answered
// are unknown.
func (p *Partition) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	in := p.instance
	if p.seeding != nil {
		p.seeding.cancel()
	}
	p.mu.Unlock()

	p.queue.close(ErrClosed)
	close(p.stop)
	if in != nil {
		in.close()
	}
	p.draining.Wait() // nothing is queued any more, so that it starts no more
	p.restarts.Wait()
	p.lead(Leadership{})
	return p.Log().Close()
}
