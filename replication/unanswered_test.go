package replication

import (
	"testing"
	"testing/synctest"
)

// answerer is an answerer that records what it is given once it may go on.
func answerer(release <-chan struct{}, answered *[]*Proposal) func(pending) {
	return func(p pending) {
		<-release
		*answered = append(*answered, p.proposal)
	}
}

func TestUnansweredKeepsOrderAndBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var answered, want []*Proposal
		u := unanswered{answer: answerer(release, &answered)}
		added := 0
		go func() {
			for range 2 * maxUnanswered {
				p := sized(0)
				want = append(want, p)
				u.add(pending{proposal: p})
				added++
			}
		}()
		synctest.Wait()
		if added != maxUnanswered+1 { // one is being answered
			t.Errorf("%d went in before the first answer", added)
		}
		close(release)
		synctest.Wait()
		if len(answered) != len(want) || u.done() != nil {
			t.Fatalf("%d of %d are answered, and somebody waits: %t", len(answered), len(want), u.done() != nil)
		}
		for i := range want {
			if answered[i] != want[i] {
				t.Fatalf("answer %d is another's", i)
			}
		}
	})
}

// Raft was shut down and answers nothing: whoever waits for room goes on, and all
// that is left comes out, each once.
func TestUnansweredIsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var answered []*Proposal
		u := unanswered{answer: answerer(release, &answered)}
		const count = maxUnanswered + 10
		added := make(chan struct{})
		go func() {
			defer close(added)
			for range count {
				u.add(pending{proposal: sized(0)})
			}
		}()
		synctest.Wait()
		u.release()
		<-added
		done := u.done()
		left := map[*Proposal]bool{}
		for _, p := range u.abandon() {
			left[p] = true
		}
		if len(left) != count {
			t.Errorf("%d of %d are left", len(left), count)
		}
		close(release)
		<-done
		if len(answered) != 1 || u.done() != nil {
			t.Errorf("%d were answered after that; only the one under way could be", len(answered))
		}
	})
}
