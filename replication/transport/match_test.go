package transport

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// TestMatches (DESIGN 4.3 d): what followers acknowledge is remembered by leader
// term, and forgotten with the leadership.
func TestMatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []segment.Index
		network := newFakeNetwork(t)
		a := newEndpoint(t, network, 1, FacadeConfig{OnMatch: func(_ raft.ServerID, index segment.Index) { told = append(told, index) }})
		instance := leading(5, 4)
		a.Bind(instance)
		success := true
		newEndpoint(t, network, 2, FacadeConfig{}).answer(t, func(command any) any {
			resp := accepts(command).(*raft.AppendEntriesResponse)
			resp.Success = success
			return resp
		})
		send := func(term, prev uint64, entries ...*raft.Log) {
			t.Helper()
			if _, err := a.appendTo(2, &raft.AppendEntriesRequest{Term: term, PrevLogEntry: prev, PrevLogTerm: min(prev, 1), Entries: entries}); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(term segment.Term, want map[raft.ServerID]Match) {
			t.Helper()
			if diff := cmp.Diff(want, a.Matches(term)); diff != "" {
				t.Fatal(diff)
			}
		}
		none := map[raft.ServerID]Match{}

		expect(5, none)
		success = false
		send(5, 3)
		expect(5, none) // a refusal
		success = true
		send(5, 0)
		expect(5, none) // a heartbeat
		t0 := time.Now()
		send(5, 1, entry(2, 2, raft.LogNoop))
		expect(5, map[raft.ServerID]Match{testID(2): {Index: 2, Term: 2, At: t0}})
		<-time.After(time.Second)
		t1 := time.Now()
		send(5, 1) // an earlier entry does not lower it
		expect(5, map[raft.ServerID]Match{testID(2): {Index: 2, Term: 2, At: t1}})
		expect(4, none)
		expect(6, none)

		instance.change(func(r *fakeRaft) { r.state = raft.Follower })
		expect(5, none) // even before anybody was told
		a.LeadershipChanged()
		instance.change(func(r *fakeRaft) { r.state, r.term = raft.Leader, 7 })
		a.LeadershipChanged()
		expect(5, none)
		expect(7, none)
		send(7, 1)
		expect(5, none)
		expect(7, map[raft.ServerID]Match{testID(2): {Index: 1, Term: 1, At: t1}})
		if diff := cmp.Diff([]segment.Index{2, 1}, told); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestLateAnswer: an answer that arrives after the leadership ended, or is of
// another term than the request, is no match.
func TestLateAnswer(t *testing.T) {
	network := newFakeNetwork(t)
	a, instance := newEndpoint(t, network, 1, FacadeConfig{}), leading(5, 4)
	a.Bind(instance)
	later := false
	newEndpoint(t, network, 2, FacadeConfig{}).answer(t, func(command any) any {
		resp := accepts(command).(*raft.AppendEntriesResponse)
		if later {
			resp.Term++
		} else {
			instance.change(func(r *fakeRaft) { r.term = 7 })
		}
		return resp
	})
	if _, err := a.appendTo(2, proving(5)); err != nil {
		t.Fatal(err)
	}
	if got := a.Matches(5); len(got) > 0 {
		t.Fatalf("%v", got)
	}
	later = true
	if _, err := a.appendTo(2, proving(7)); err != nil {
		t.Fatal(err)
	}
	if got := a.Matches(7); len(got) > 0 {
		t.Fatalf("%v", got)
	}
}

// TestAnswerOfAnEarlierReign: nor is one that was overtaken by the next leadership
// of this same instance.
func TestAnswerOfAnEarlierReign(t *testing.T) {
	a, instance := newEndpoint(t, newFakeNetwork(t), 1, FacadeConfig{}), leading(5, 4)
	a.Bind(instance)
	p, err := a.replica(testID(2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.lead(5); err != nil {
		t.Fatal(err)
	}
	instance.change(func(r *fakeRaft) { r.term = 7 })
	if _, err := a.lead(7); err != nil {
		t.Fatal(err)
	}
	a.acknowledge(p, proving(5), &raft.AppendEntriesResponse{Term: 5, Success: true})
	if got := a.Matches(7); len(got) > 0 {
		t.Fatalf("%v", got)
	}
}

// TestCaughtUp: a follower is in sync while it keeps acknowledging what the leader
// had a moment ago, also if it never has the very last entry; one that stays
// behind falls out.
func TestCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a, instance := newEndpoint(t, network, 1, FacadeConfig{}), leading(5, 100)
		a.Bind(instance)
		newEndpoint(t, network, 2, FacadeConfig{}).answer(t, accepts)
		const lag = 3 * time.Second
		inSync := func() bool { return len(a.InSync(5, lag)) == 1 }
		send := func(prev uint64) {
			t.Helper()
			if _, err := a.appendTo(2, &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: prev, PrevLogTerm: 5}); err != nil {
				t.Fatal(err)
			}
		}
		send(50)
		if inSync() {
			t.Fatal("in sync with half of the log")
		}
		send(100)
		if !inSync() {
			t.Fatal("not in sync with all of the log")
		}
		// The leader goes on; the follower is always ten entries behind.
		for last := uint64(110); last < 300; last += 10 {
			instance.change(func(r *fakeRaft) { r.last = last })
			<-time.After(time.Second)
			send(last - 10)
			if !inSync() {
				t.Fatalf("out of sync at %d", last)
			}
		}
		// It stays where it is, and answers all the time.
		instance.change(func(r *fakeRaft) { r.last = 1000 })
		for range 5 {
			<-time.After(time.Second)
			send(290)
		}
		if inSync() {
			t.Fatal("in sync though it stays behind")
		}
		send(1000)
		if !inSync() {
			t.Fatal("not in sync again")
		}
		<-time.After(lag + time.Millisecond)
		if inSync() {
			t.Fatal("in sync without a word")
		}
	})
}
