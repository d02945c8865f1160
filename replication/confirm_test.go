package replication

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/millrace/millrace/replication/transport/transporttest"
)

// confirm asks whether the node leads in a term, for at most so long.
func (n *trioNode) confirm(l Leadership, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return n.partition.Confirm(ctx, l.Term)
}

// away takes a node off the network: silently, or with connections that are reset and
// refused, as those of a process that died.
func (n *trioNode) away(reset bool) {
	for _, peer := range n.trio.others(n) {
		a, b := transporttest.Host(n.address), transporttest.Host(peer.address)
		if reset {
			n.trio.network.Cut(a, b)
			continue
		}
		n.trio.network.Drop(a, b)
		n.trio.network.Drop(b, a)
	}
}

// electAnother makes one of the other nodes the leader, as the failure detector does:
// at once. It must hold all that was acknowledged, or it would lose the election.
func (n *trioNode) electAnother(t *testing.T) (next *trioNode) {
	t.Helper()
	next = n.trio.others(n)[0]
	must(t, next.partition.current().facade.Campaign(t.Context()))
	eventually(t, "the next leader", func() bool { return next.role().Ready })
	return next
}

// TestLeaderConfirms: one that leads is believed, as often as it is asked; one that was
// away, and not replaced, as soon as it is back.
func TestLeaderConfirms(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newTimedTrio(t, longTimings)
		n := g.leader()
		for range 10 {
			must(t, n.confirm(n.role(), testWait))
			<-time.After(7 * time.Second)
		}
		n.away(false)
		if err := n.confirm(n.role(), time.Second); !errors.Is(err, ErrNotLeader) {
			t.Errorf("while nobody hears it: %v", err)
		}
		g.network.RestoreAll()
		eventually(t, "the leader is confirmed", func() bool { return n.confirm(n.role(), time.Second) == nil })
		g.inStep()
	})
}

// TestReplacedLeaderIsNotConfirmed (N1, T2): it believes to lead, before and after its
// successor has acknowledged a batch that it lacks. At no moment may it say where the
// log ends: neither while it is away, nor when it is back. The next leader was elected
// at once, within what any clock of the old one could vouch for.
func TestReplacedLeaderIsNotConfirmed(t *testing.T) {
	for name, reset := range map[string]bool{"silent": false, "reset": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := newTimedTrio(t, longTimings)
				old := g.leader()
				must(t, old.append(1))
				g.inStep()
				term := old.role()
				must(t, old.confirm(term, testWait)) // as late as can be
				old.away(reset)
				began := time.Now()
				next := old.electAnother(t)
				must(t, next.append(2))
				if took := time.Since(began); took > longTimings.Heartbeat/2 {
					t.Fatalf("the next leader was elected after %v, when the old one's lease may be over", took)
				}
				stale := func(when string) {
					t.Helper()
					if old.role() != term {
						t.Fatalf("%s it knows that it is none (%+v): the test proves nothing", when, old.role())
					}
					if err := old.confirm(term, 100*time.Millisecond); !errors.Is(err, ErrNotLeader) {
						t.Errorf("%s it is confirmed: %v", when, err)
					}
				}
				stale("while it is away")
				held := make(chan error, 1)
				go func() { held <- old.confirm(term, testWait) }()
				g.network.RestoreAll()
				if err := <-held; !errors.Is(err, ErrNotLeader) {
					t.Errorf("held until it is back, it is confirmed: %v", err)
				}
				if err := old.confirm(term, time.Second); !errors.Is(err, ErrNotLeader) {
					t.Errorf("when it is back it is confirmed: %v", err)
				}
				must(t, next.confirm(next.role(), testWait))
				g.inStep()
			})
		})
	}
}

// TestPausedLeaderIsNotConfirmed (T2): a process that was stopped finds what it was
// sent meanwhile in its buffers when it goes on: answers to heartbeats from before, which
// vouch for a leadership that has ended since. Here they are late in the network instead.
func TestPausedLeaderIsNotConfirmed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newTimedTrio(t, longTimings)
		old := g.leader()
		must(t, old.append(1))
		g.inStep()
		term := old.role()
		const late = time.Second
		for _, peer := range g.others(old) {
			g.network.Delay(transporttest.Host(peer.address), transporttest.Host(old.address), late)
		}
		asked := make(chan error, 1) // its answers are true, and come when they are not
		go func() { asked <- old.confirm(term, testWait) }()
		<-time.After(late / 10)
		next := old.electAnother(t)
		must(t, next.append(2))
		if old.role() != term {
			t.Fatalf("it knows that it is none (%+v): the test proves nothing", old.role())
		}
		if err := old.confirm(term, testWait); !errors.Is(err, ErrNotLeader) {
			t.Errorf("answers to what was asked before confirm it: %v", err)
		}
		<-asked // either is right: it led when it was asked
		g.network.RestoreAll()
		g.inStep()
	})
}

// TestConfirmAsksForReadyLeaders: others are refused at once, also one that raft elected
// and whose log may not show yet what its predecessor acknowledged.
func TestConfirmAsksForReadyLeaders(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newTimedTrio(t, longTimings)
		n := g.leader()
		ready := n.role()
		must(t, n.confirm(ready, testWait))
		if err := g.others(n)[0].confirm(ready, testWait); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a follower: %v", err)
		}
		if err := n.confirm(Leadership{Term: ready.Term + 1}, testWait); !errors.Is(err, ErrNotLeader) {
			t.Errorf("another term: %v", err)
		}
		n.partition.leadership.Store(&Leadership{Leader: true, Term: ready.Term})
		if err := n.confirm(ready, testWait); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a leader that is not ready: %v", err)
		}
	})
}
