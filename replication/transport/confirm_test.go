package transport

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
)

// answering are replicas on nodes 1 to 3 of which the first leads in term 5. The
// others answer as given; nil never answers.
func answering(t *testing.T, answers ...func(command any) any) (*endpoint, *fakeRaft) {
	t.Helper()
	network := newFakeNetwork(t)
	leader, instance := newEndpoint(t, network, 1, FacadeConfig{}), leading(5, 10)
	leader.Bind(instance)
	for i, answer := range answers {
		if answer == nil {
			answer = func(any) any { return nil }
		}
		newEndpoint(t, network, metadata.NodeID(i+2), FacadeConfig{}).answer(t, answer)
	}
	return leader, instance
}

// inTerm refuses from a term.
func inTerm(term uint64) func(any) any {
	return func(any) any { return &raft.AppendEntriesResponse{Term: term} }
}

// TestConfirm: a majority in the leader's own term, or nothing.
func TestConfirm(t *testing.T) {
	acceptsLater := func(any) any { return &raft.AppendEntriesResponse{Term: 6, Success: true} }
	for name, row := range map[string]struct {
		answers []func(any) any
		want    error
		waits   bool
	}{
		"both follow":                 {[]func(any) any{accepts, accepts}, nil, false},
		"one follows":                 {[]func(any) any{nil, accepts}, nil, false},
		"one refuses, other follows":  {[]func(any) any{inTerm(6), accepts}, nil, false},
		"nobody answers":              {[]func(any) any{nil, nil}, context.DeadlineExceeded, true},
		"one refuses, other is mute":  {[]func(any) any{inTerm(6), nil}, context.DeadlineExceeded, true},
		"both refuse":                 {[]func(any) any{inTerm(5), inTerm(6)}, ErrUnconfirmed, false},
		"both accept in a later term": {[]func(any) any{acceptsLater, acceptsLater}, ErrUnconfirmed, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				leader, _ := answering(t, row.answers...)
				began := time.Now()
				if err := leader.Confirm(deadline(t, time.Second), 5); !errors.Is(err, row.want) {
					t.Errorf("%v, want %v", err, row.want)
				}
				if waited := time.Since(began) > 0; waited != row.waits {
					t.Errorf("it took %v", time.Since(began))
				}
			})
		})
	}
}

// TestConfirmOfOtherGroups: who votes decides what a majority is.
func TestConfirmOfOtherGroups(t *testing.T) {
	for name, row := range map[string]struct {
		voters []raft.ServerSuffrage // of nodes 1 to 3
		want   error
	}{
		"a single voter":          {[]raft.ServerSuffrage{raft.Voter}, nil},
		"learners do not count":   {[]raft.ServerSuffrage{raft.Voter, raft.Nonvoter, raft.Nonvoter}, nil},
		"nor do they help":        {[]raft.ServerSuffrage{raft.Voter, raft.Voter, raft.Nonvoter}, ErrUnconfirmed},
		"a leader without a vote": {[]raft.ServerSuffrage{raft.Nonvoter, raft.Voter, raft.Voter}, ErrUnconfirmed},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				leader, instance := answering(t, inTerm(6), accepts)
				instance.change(func(r *fakeRaft) {
					r.servers = nil
					for i, suffrage := range row.voters {
						server := testConfiguration(3).Servers[i]
						server.Suffrage = suffrage
						r.servers = append(r.servers, server)
					}
				})
				if err := leader.Confirm(deadline(t, time.Second), 5); !errors.Is(err, row.want) {
					t.Errorf("%v, want %v", err, row.want)
				}
			})
		})
	}
}

// TestConfirmAsksLeadersOnly: another role or term is known without asking, a step
// down while the answers are on their way counts, and a term that was given up is
// never confirmed.
func TestConfirmAsksLeadersOnly(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		leader, _ := answering(t, accepts, nil)
		if err := leader.Confirm(deadline(t, time.Second), 6); !errors.Is(err, ErrNotLeading) {
			t.Errorf("a term that has not come: %v", err)
		}
		if err := leader.Confirm(deadline(t, time.Second), 5); err != nil {
			t.Errorf("asked for a later term, it leads no more in its own: %v", err)
		}
	})
	inBubble(t, func(t *testing.T) {
		asked := 0
		var instance *fakeRaft
		var leader *endpoint
		leader, instance = answering(t, func(command any) any {
			asked++
			instance.change(func(r *fakeRaft) { r.state = raft.Follower })
			return accepts(command)
		}, nil)
		confirm := func() error { return leader.Confirm(deadline(t, time.Second), 5) }
		if err := leader.Confirm(deadline(t, time.Second), 4); !errors.Is(err, ErrNotLeading) || asked > 0 {
			t.Errorf("a term that is over: %v, asked %d", err, asked)
		}
		if err := confirm(); !errors.Is(err, ErrNotLeading) || asked != 1 {
			t.Errorf("a leader that has stepped down meanwhile: %v, asked %d", err, asked)
		}
		if err := confirm(); !errors.Is(err, ErrNotLeading) || asked != 1 {
			t.Errorf("a follower: %v, asked %d", err, asked)
		}
		instance.change(func(r *fakeRaft) { r.state = raft.Leader })
		leader.Resign(5)
		if err := confirm(); !errors.Is(err, ErrNotLeading) || asked != 1 {
			t.Errorf("a leader that has resigned: %v, asked %d", err, asked)
		}
		leader.Close()
		if err := confirm(); !errors.Is(err, ErrGroupClosed) {
			t.Errorf("a closed group: %v", err)
		}
	})
}

// TestConfirmAsksAnew: a round that was under way when somebody asked proves nothing
// to him, since a later leader may have been elected after the followers answered it;
// but all who wait share the next.
func TestConfirmAsksAnew(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var asked atomic.Int32
		const rtt = 100 * time.Millisecond
		slow := func(command any) any {
			asked.Add(1)
			<-time.After(rtt)
			return accepts(command)
		}
		leader, _ := answering(t, slow, nil)
		var waits sync.WaitGroup
		confirm := func() {
			waits.Go(func() {
				if err := leader.Confirm(context.Background(), 5); err != nil {
					t.Error(err)
				}
			})
		}
		confirm()
		pass(rtt / 2)
		began := time.Now()
		for range 100 {
			confirm()
		}
		waits.Wait()
		if got := asked.Load(); got != 2 {
			t.Errorf("101 callers needed %d rounds, want the one under way and another", got)
		}
		if took := time.Since(began); took != rtt/2+rtt {
			t.Errorf("they waited %v", took)
		}
	})
}

// TestConfirmThatFailsProvesNothing: who waits behind it asks anew, and who gives up
// takes nobody with him.
func TestConfirmThatFailsProvesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var asked atomic.Int32
		leader, _ := answering(t, func(command any) any {
			if asked.Add(1) == 1 {
				return nil
			}
			return accepts(command)
		}, nil)
		var waits sync.WaitGroup
		waits.Go(func() {
			if err := leader.Confirm(deadline(t, time.Second), 5); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the first: %v", err)
			}
		})
		pass(time.Millisecond)
		waits.Go(func() {
			if err := leader.Confirm(deadline(t, time.Second/2), 5); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("one that waits less: %v", err)
			}
		})
		waits.Go(func() {
			if err := leader.Confirm(deadline(t, 2*time.Second), 5); err != nil {
				t.Errorf("one that waits longer: %v", err)
			}
		})
		waits.Wait()
		if got := asked.Load(); got != 2 {
			t.Errorf("%d rounds, want 2", got)
		}
	})
}
