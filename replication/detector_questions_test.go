package replication

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/millrace/millrace/replication/transport"
)

// TestTwoThatNeverAgreeAskNoFaster: node 1 led two groups and dies; in one of them
// node 3 has no vote, in the other node 2. Each asks the other what that cannot agree
// to, and its question is no reason for the other to ask again at once.
func TestTwoThatNeverAgreeAskNoFaster(t *testing.T) {
	inBubble(t, 3, 2, func(w *watched) {
		w.network.Delay(watchedHost(2), watchedHost(3), time.Millisecond)
		w.network.Delay(watchedHost(3), watchedHost(2), time.Millisecond)
		w.mu.Lock()
		w.nodes[2].replicas[0].silent = true
		w.nodes[1].replicas[1].silent = true
		w.mu.Unlock()
		w.fault(func() { w.kill(1) })
		w.pass(time.Minute)
		w.wantStood(nil)
		w.mu.Lock()
		defer w.mu.Unlock()
		if most := 2 * (int(time.Minute/askLate) + 10); w.asked > most || w.asked == 0 {
			t.Errorf("%d messages in a minute, at most %d", w.asked, most)
		}
	})
}

// TestStrangersGetNoOpinion: who names no cluster, or a node id that is none of the
// cluster's, could make this node remember any number of askers.
func TestStrangersGetNoOpinion(t *testing.T) {
	inBubble(t, 3, 1, func(w *watched) {
		w.fault(func() { w.kill(1) })
		w.mu.Lock()
		w.nodes[2].replicas[0].silent = true // so that the inquiry goes on
		w.mu.Unlock()
		w.pass(time.Second)
		question := transport.EncodeSuspicions([]transport.Suspicion{{Leader: watchedID(1)}})
		for _, peer := range []transport.Identity{
			{Node: 9, Incarnation: 9, Cluster: "c"},
			{Node: 3, Incarnation: 33},
		} {
			stranger := transport.New(transport.Config{Dial: w.network.Dialer("elsewhere"),
				Identity: func() transport.Identity { return peer }, Logger: slog.New(slog.DiscardHandler)})
			stranger.Start()
			stranger.SetAddress(2, watchedHost(2)+":1")
			_, err := stranger.Call(w.t.Context(), 2, transport.Control, transport.MethodSuspect, question)
			var remote *transport.RemoteError
			if !errors.As(err, &remote) || remote.Code != codeStranger {
				t.Errorf("%+v is answered: %v", peer, err)
			}
			stranger.Close()
		}
		if _, err := w.nodes[2].Call(w.t.Context(), 2, transport.Control, transport.MethodSuspect, question); err != nil {
			t.Errorf("a broker is not answered: %v", err)
		}
	})
}

// TestSlowElectionsEnd: elections that take d each, since the votes wait for a busy
// disk; one that is overtaken comes to nothing. They must not overtake each other for
// ever.
func TestSlowElectionsEnd(t *testing.T) {
	for _, d := range []time.Duration{200 * time.Millisecond, 500 * time.Millisecond, 800 * time.Millisecond, 1500 * time.Millisecond} {
		inBubble(t, 3, 1, func(w *watched) {
			w.wins = func(r *watchedReplica) bool {
				turn := len(w.stood)
				time.AfterFunc(d, func() {
					w.mu.Lock()
					defer w.mu.Unlock()
					if len(w.stood) != turn { // a later term has begun
						return
					}
					for _, n := range w.nodes {
						n.replicas[0].state.Leader = r.state.Replica
					}
				})
				return false
			}
			w.fault(func() { w.kill(1) })
			w.pass(time.Minute)
			w.mu.Lock()
			defer w.mu.Unlock()
			if leader := w.nodes[1].replicas[0].state.Leader; leader == "" || len(w.stood) > 8 {
				t.Errorf("elections of %v: %d in a minute, and %q leads", d, len(w.stood), leader)
			}
		})
	}
}

// TestManyElectionsAreNotOvertaken: a thousand elections at once take longer than one.
// The second choice does not begin them anew.
func TestManyElectionsAreNotOvertaken(t *testing.T) {
	const groups = 1000
	inBubble(t, 3, groups, func(w *watched) {
		w.wins = func(r *watchedReplica) bool {
			time.AfterFunc(1500*time.Millisecond, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				for _, n := range w.nodes {
					n.replicas[r.state.Group.Partition].state.Leader = r.state.Replica
				}
			})
			return false
		}
		w.fault(func() { w.kill(1) })
		w.pass(time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.stood) != groups {
			t.Errorf("%d elections of %d groups", len(w.stood), groups)
		}
	})
}

// TestCampaignsThatDoNotBeginAreBounded: raft sits in a sync in every group. What waits
// for it does not grow with the number of groups, and the others go on when it ends.
func TestCampaignsThatDoNotBeginAreBounded(t *testing.T) {
	const groups = 3 * maxCampaigns
	inBubble(t, 3, groups, func(w *watched) {
		var begun []func()
		w.hangs = func(f func()) { begun = append(begun, f) }
		w.fault(func() { w.kill(1) })
		for _, want := range []int{maxCampaigns, 2 * maxCampaigns, groups} {
			w.pass(100 * time.Millisecond)
			w.mu.Lock()
			if len(w.stood) != want {
				t.Errorf("%d campaigns, want %d", len(w.stood), want)
			}
			ended := begun
			begun = nil
			w.mu.Unlock()
			for _, f := range ended {
				f()
			}
		}
	})
}

// TestLateAnswerIsNoReasonToStandAgain: a peer is too busy with the elections to answer
// in one round. What has stood waits for the outcome all the same.
func TestLateAnswerIsNoReasonToStandAgain(t *testing.T) {
	inBubble(t, 3, 1, func(w *watched) {
		w.wins = func(*watchedReplica) bool { return false }
		w.fault(func() { w.kill(1) })
		w.pass(20 * time.Millisecond)
		w.network.Delay(watchedHost(3), watchedHost(2), askTimeout+50*time.Millisecond)
		w.pass(askTimeout + 100*time.Millisecond)
		w.network.Delay(watchedHost(3), watchedHost(2), 0)
		w.pass(campaignAgain - askTimeout - 200*time.Millisecond)
		w.mu.Lock()
		defer w.mu.Unlock()
		stood := 0
		for _, c := range w.stood {
			if c.node == 2 {
				stood++
			}
		}
		if stood != 1 {
			t.Errorf("the first choice stood %d times: %+v", stood, w.stood)
		}
	})
}
