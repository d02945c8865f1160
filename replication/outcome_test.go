package replication

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
)

// saidFuture is a future that has been answered.
type saidFuture struct {
	raft.ApplyFuture
	err      error
	response any
}

func (f saidFuture) Error() error  { return f.err }
func (f saidFuture) Response() any { return f.response }

// TestOnlyWhatWasNeverAppendedIsRefusedForGood: a definite error means that the
// record will never be read (K1), so it takes one of three errors that raft gives
// before it appends. Of anything else, and of what raft may come to say in later
// versions, nobody here knows.
func TestOnlyWhatWasNeverAppendedIsRefusedForGood(t *testing.T) {
	for name, row := range map[string]struct {
		future saidFuture
		want   error
	}{
		"not leader":              {saidFuture{err: raft.ErrNotLeader}, ErrNotLeader},
		"transfer":                {saidFuture{err: raft.ErrLeadershipTransferInProgress}, ErrNotLeader},
		"not enqueued":            {saidFuture{err: raft.ErrEnqueueTimeout}, ErrNotLeader},
		"leadership lost":         {saidFuture{err: raft.ErrLeadershipLost}, ErrUnknownOutcome},
		"aborted by a restore":    {saidFuture{err: raft.ErrAbortedByRestore}, ErrUnknownOutcome},
		"shut down":               {saidFuture{err: raft.ErrRaftShutdown}, ErrUnknownOutcome},
		"failed StoreLogs":        {saidFuture{err: errors.New("disk")}, ErrUnknownOutcome},
		"state machine failed":    {saidFuture{response: applied{err: errors.New("unknown entry")}}, ErrUnknownOutcome},
		"state machine is silent": {saidFuture{}, ErrUnknownOutcome},
	} {
		_, err := outcome(row.future)
		if !errors.Is(err, row.want) || errors.Is(err, ErrNotLeader) != (row.want == ErrNotLeader) {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
	}
	var refused *VoidError
	_, err := outcome(saidFuture{response: applied{void: &segment.Void{Code: segment.VoidStaleTerm}}})
	if !errors.As(err, &refused) || refused.Void.Code != segment.VoidStaleTerm {
		t.Errorf("void: %v, want one for the stale term", err)
	}
	for _, response := range []applied{{base: 7}, {void: &segment.Void{Code: segment.VoidDuplicate, Offset: 7}}} {
		result, err := outcome(saidFuture{response: response})
		if want := (Result{Base: 7, Duplicate: response.void != nil}); err != nil || result != want {
			t.Errorf("%+v: %+v, %v, want %+v", response, result, err, want)
		}
	}
}

// TestLostLeadershipIsUnknown: the leader's entry reaches the followers, their
// answers do not reach the leader, and the next leader commits it.
func TestLostLeadershipIsUnknown(t *testing.T) {
	g := newTrio(t)
	n := g.leader()
	next, other := g.nodes[int(n.id)%3], g.nodes[(int(n.id)+1)%3]
	for _, f := range []*trioNode{next, other} {
		g.network.Drop(transporttest.Host(f.address), transporttest.Host(n.address))
	}
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	last := n.partition.Log().LastIndex()
	p := n.partition.Propose(ctx, batch(-1, -1, -1, 77), Guard{})
	eventually(t, "the entry at both followers", func() bool {
		return next.partition.Log().LastIndex() > last && other.partition.Log().LastIndex() > last
	})
	eventually(t, "the next leader", func() bool {
		if in := next.partition.current(); in != nil && !next.role().Leader {
			_ = in.facade.Campaign(ctx)
		}
		return next.role().Ready
	})
	_, err := await(ctx, p)
	if !errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrNotLeader) {
		t.Errorf("the old leader said %v, want %v", err, ErrUnknownOutcome)
	}
	read := values(t, next.partition.Log())
	if len(read) != 1 || read[0] != 77 {
		t.Fatalf("the next leader has %v: the test proves nothing", read)
	}
	g.network.RestoreAll()
	g.inStep()
}
