package replication

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/segment"
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
