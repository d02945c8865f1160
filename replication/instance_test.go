package replication

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestFailedCheckpointSyncEndsTheBroker: the checkpoint is written by raft's state
// machine, whose errors stop one replica; a disk that cannot sync is no matter of
// one replica.
func TestFailedCheckpointSyncEndsTheBroker(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	n.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: "checkpoint", Repeat: true})
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	for range 6 { // more than a segment: a roll makes a checkpoint due
		frame := segment.Build([]segment.Record{{Value: make([]byte, 300<<10)}}, segment.BuildOptions{})
		_, _ = await(ctx, n.partition.Propose(ctx, frame, Guard{}))
	}
	eventually(t, "the end of the process", func() bool { return n.died() != nil })
	var fatal *log.FatalError
	if err := n.died(); !errors.As(err, &fatal) {
		t.Errorf("ended with %v", err)
	}
}

// TestLateRoleOfAStoppedInstance: the change of role that an instance was told of
// while it was being stopped must not outlast it, or the replica would answer as
// leader with nothing behind it.
func TestLateRoleOfAStoppedInstance(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	n.stop()
	var late atomic.Bool
	stopping := make(chan struct{})
	n.announce = func(p *Partition) {
		select {
		case <-stopping:
		default:
			return
		}
		if late.CompareAndSwap(false, true) {
			p.lead(Leadership{Leader: true, Ready: true, Term: 99})
		}
	}
	n.start()
	g.leader()
	p := n.partition
	p.lead(Leadership{Leader: true, Term: 98})
	close(stopping)
	p.fail(errors.New("made up"))
	p.restarts.Wait()
	if l := p.Leadership(); l.Leader {
		t.Errorf("a replica without an instance has the role %+v", l)
	}
}

// TestReadyOnlyInTheRoleThatWasSeen: raft may have lost the leadership between the
// look at its state and the announcement.
func TestReadyOnlyInTheRoleThatWasSeen(t *testing.T) {
	p := &Partition{partitionConfig: partitionConfig{announce: func(*Partition) {}}}
	p.leadership.Store(&Leadership{})
	p.lead(Leadership{Leader: true, Term: 7})
	seen := p.leadership.Load()
	p.lead(Leadership{})
	p.ready(seen)
	if l := p.Leadership(); l != (Leadership{}) {
		t.Errorf("ready after the leadership was lost: %+v", l)
	}
	p.lead(Leadership{Leader: true, Term: 7})
	p.ready(p.leadership.Load())
	if l := p.Leadership(); l != (Leadership{Leader: true, Ready: true, Term: 7}) {
		t.Errorf("not ready though nothing had changed: %+v", l)
	}
}

// TestFailedReplicaDoesNotStartAgain: the state machine finds an entry that it does
// not know while the instance is being replaced for lack of space.
func TestFailedReplicaDoesNotStartAgain(t *testing.T) {
	g := newTrio(t)
	p := g.leader().partition
	p.replaceInstance(log.ErrNoSpace)
	p.fail(errors.New("made up"))
	p.restarts.Wait()
	if p.current() != nil {
		t.Error("a replica that is out of its group for good takes part again")
	}
}

// TestFrameThatIsNotABatchIsRefused: StoreLogs would take it for another history
// and stop the replica, on one broker after the other.
func TestFrameThatIsNotABatchIsRefused(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	good := batch(-1, -1, -1, 1)
	for name, frame := range map[string][]byte{
		"a byte behind it":  append(batch(-1, -1, -1, 1), 0),
		"cut short":         good[:len(good)-1],
		"an internal frame": segment.EncodeInternal(segment.KindNoop, 0, nil),
		"nothing":           nil,
	} {
		ctx, cancel := context.WithTimeout(context.Background(), testWait)
		_, err := await(ctx, n.partition.Propose(ctx, frame, Guard{}))
		if err == nil || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("%s: %v, want a definite error", name, err)
		}
		cancel()
	}
	if err := n.partition.Failed(); err != nil {
		t.Errorf("the replica is out of its group: %v", err)
	}
}

// TestStuckDiskIsWaitedFor: raft that is shut down while it sits in an append leaves
// what it was handed meanwhile without an answer, for ever, and whoever waits for that.
func TestStuckDiskIsWaitedFor(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	n.stop()
	n.logs = &logBuffer{}
	n.start()
	eventually(t, "its turn to lead", func() bool {
		if in := n.partition.current(); in != nil {
			_ = in.facade.Campaign(t.Context())
		}
		return n.role().Ready
	})
	release := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn)
	stall := n.fs.Inject(crashfs.Fault{Op: crashfs.OpWrite, PathContains: "/topics/", Repeat: true, Stall: release})
	p := n.partition
	var proposals []*Proposal
	for v := range uint64(20) {
		proposals = append(proposals, p.Propose(t.Context(), batch(-1, -1, -1, v), Guard{}))
		if v == 0 {
			eventually(t, "the stalled append", func() bool { return stall.Fired() > 0 })
		}
	}
	in := p.current()
	eventually(t, "raft to have them", func() bool { return in.pending.Load() == int64(len(proposals)) })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.stop()
	}()
	eventually(t, "a word about the wait", func() bool { return n.logs.has("waits_for_disk=true") })
	<-time.After(closeGrace / 10) // past the moment at which raft is shut down if it is not waited for
	for _, proposal := range proposals {
		select {
		case <-proposal.Done():
			// The leader may have given up by now, see stuck.go.
			if _, err := proposal.Result(); !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("a proposal was answered %v though nobody knows what came of it", err)
			}
		default:
		}
	}
	stall.Remove()
	goOn()
	<-stopped
	for _, proposal := range proposals {
		<-proposal.Done()
	}
	if in.unanswered.done() != nil {
		t.Error("a goroutine waits for an answer that never comes")
	}
}

// TestCommittedAndNotYetAppliedIsNotCut: raft applies in a goroutine of its own, which
// may wait for the disk. What a follower was told is committed must not be cut then.
func TestCommittedAndNotYetAppliedIsNotCut(t *testing.T) {
	g := newTrio(t)
	leader := g.leader()
	follower := g.nodes[int(leader.id)%3]
	release := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn)
	stall := follower.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: "checkpoint", Repeat: true, Stall: release})
	append300K := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), testWait)
		defer cancel()
		frame := segment.Build([]segment.Record{{Value: make([]byte, 300<<10)}}, segment.BuildOptions{})
		_, err := await(ctx, leader.partition.Propose(ctx, frame, Guard{}))
		must(t, err)
	}
	for range 6 { // more than a segment: a roll makes a checkpoint due, written in the course of Apply
		append300K()
	}
	eventually(t, "a checkpoint that waits", func() bool { return stall.Fired() > 0 })
	l, in := follower.partition.Log(), follower.partition.current()
	applied := l.Applied()
	append300K()
	eventually(t, "a commit index above what is applied", func() bool { return in.raft.CommitIndex() > uint64(applied) })
	append300K() // the request after the one that brought the commit index
	eventually(t, "the next request", func() bool { return l.LastIndex() == leader.partition.Log().LastIndex() })
	if err := l.CutFrom(applied + 1); !errors.Is(err, log.ErrCommitted) {
		t.Errorf("cutting entry %d of %d committed ones: %v", applied+1, in.raft.CommitIndex(), err)
	}
	goOn()
	g.inStep()
}

// TestNewInstanceReadsNothingThatWasApplied: raft panics, and the process with it, when
// an entry that it wants to apply cannot be read. An instance that starts after a lack
// of space must not begin at a checkpoint far below what is applied.
func TestNewInstanceReadsNothingThatWasApplied(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	p := n.partition
	var last *Proposal
	for v := range uint64(2000) { // more than the log keeps in memory
		last = p.Propose(ctx, batch(-1, -1, -1, v), Guard{})
	}
	_, err := await(ctx, last)
	must(t, err)
	old, durable := p.current(), p.Log().Checkpoint().Index
	if applied := p.Log().Applied(); applied < durable+2000 {
		t.Fatalf("the checkpoint is at %d, %d is applied: this test shows nothing", durable, applied)
	}
	n.fs.Inject(crashfs.Fault{Op: crashfs.OpWrite, PathContains: "/topics/", Err: vfs.ErrNoSpace, Nth: 1})
	if _, err := await(ctx, p.Propose(ctx, batch(-1, -1, -1, 99), Guard{})); !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("an append without space: %v", err)
	}
	eventually(t, "the end of the instance", func() bool { return p.current() != old })
	n.fs.Inject(crashfs.Fault{Op: crashfs.OpRead, PathContains: "/topics/", Err: errors.New("input/output error"), Repeat: true})
	eventually(t, "a new instance", func() bool { return p.current() != nil || p.Failed() != nil || n.died() != nil })
	g.leader()
	g.inStep()
	if p.Failed() != nil || n.died() != nil {
		t.Errorf("out because of %v, ended by %v", p.Failed(), n.died())
	}
}

// TestDamageAtTheNextInstanceStopsTheReplica: one that can never start again must say
// so, not try each second for ever.
func TestDamageAtTheNextInstanceStopsTheReplica(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	p := n.partition
	p.register = func(*transport.Facade) error {
		return fmt.Errorf("read its log: %w", &log.CorruptionError{File: "00000000000000000000.log"})
	}
	p.replaceInstance(log.ErrNoSpace)
	p.restarts.Wait()
	var corrupt *log.CorruptionError
	if p.current() != nil || !errors.As(p.Failed(), &corrupt) {
		t.Errorf("takes part: %v, out because of %v, want the damage", p.current() != nil, p.Failed())
	}
	if n.died() != nil {
		t.Errorf("one bad replica ended the broker: %v", n.died())
	}
}

// TestNewInstanceWaitsForTheOldOne: two instances on one log would each take entries
// for the other's.
func TestNewInstanceWaitsForTheOldOne(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	release := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn)
	stall := n.fs.Inject(crashfs.Fault{Op: crashfs.OpWrite, PathContains: "/topics/", Repeat: true, Stall: release})
	p := n.partition
	p.Propose(t.Context(), batch(-1, -1, -1, 1), Guard{})
	eventually(t, "the stalled append", func() bool { return stall.Fired() > 0 })
	p.replaceInstance(log.ErrNoSpace)
	<-time.After(restartDelay + restartDelay/2) // when one that does not wait has begun
	if p.current() != nil || p.Failed() != nil {
		t.Errorf("a new instance was started beside one that is in an append (%v)", p.Failed())
	}
	stall.Remove()
	goOn()
	eventually(t, "a new instance", func() bool { return p.current() != nil })
	g.leader()
	g.inStep()
}

// TestEntryThatDoesNotFitStopsTheReplica: another history, or our own bug. A new
// instance would not make it fit.
func TestEntryThatDoesNotFitStopsTheReplica(t *testing.T) {
	g := newTrio(t)
	leader := g.leader()
	g.inStep()
	p := g.nodes[int(leader.id)%3].partition
	in, end := p.current(), p.Log().LastIndex()
	if err := in.store.StoreLog(command(uint64(end)+2, uint64(leader.role().Term), p.Log().NextOffset(), 1)); !errors.Is(err, log.ErrMismatch) {
		t.Fatalf("an entry behind a gap: %v, want %v", err, log.ErrMismatch)
	}
	p.restarts.Wait()
	if p.current() != nil || !errors.Is(p.Failed(), log.ErrMismatch) {
		t.Errorf("takes part: %v, out because of %v", p.current() != nil, p.Failed())
	}
}

// TestRaftNeverTrimsNorTakesSnapshots: the log is the content. Raft that trimmed it,
// or started from a snapshot of its own, would drop records.
func TestRaftNeverTrimsNorTakesSnapshots(t *testing.T) {
	c := raftConfig("1/0000000000000001", Timings{}.withDefaults(), nil, nil)
	for what, ok := range map[string]bool{
		"TrailingLogs":             c.TrailingLogs == math.MaxUint64,
		"SnapshotThreshold":        c.SnapshotThreshold == math.MaxUint64,
		"SnapshotInterval":         c.SnapshotInterval >= 24*time.Hour, // each costs a look at the log's end
		"NoSnapshotRestoreOnStart": c.NoSnapshotRestoreOnStart,
		"BatchApplyCh":             c.BatchApplyCh,
		"ShutdownOnRemove":         !c.ShutdownOnRemove,
		"MaxAppendEntries":         c.MaxAppendEntries == maxAppendEntries,
		"PreVoteDisabled":          !c.PreVoteDisabled,
		"LeaderLeaseTimeout":       c.LeaderLeaseTimeout <= c.HeartbeatTimeout,
	} {
		if !ok {
			t.Errorf("%s is not what the adapters rely on", what)
		}
	}
	must(t, raft.ValidateConfig(c))
}

// TestNewInstanceIsTriedAgain: what says nothing about the replica takes it out of its
// group no more than at the start of the broker.
func TestNewInstanceIsTriedAgain(t *testing.T) {
	g := newTrio(t)
	p := g.leader().partition
	register, tries := p.register, 0
	p.register = func(f *transport.Facade) error {
		if tries++; tries == 1 {
			return syscall.EMFILE
		}
		return register(f)
	}
	p.replaceInstance(log.ErrNoSpace)
	p.restarts.Wait()
	if p.current() == nil || p.Failed() != nil || tries != 2 {
		t.Errorf("takes part: %v, after %d tries, out because of %v", p.current() != nil, tries, p.Failed())
	}
}
