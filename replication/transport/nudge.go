package transport

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// nudgeDelay is how long a moved commit index waits for an AppendEntries that
// carries it anyway, before it is sent by itself: below the 5 ms of DESIGN 4.3
// (b), and long enough that under load nearly every one is carried.
const nudgeDelay = 2 * time.Millisecond

// nudges is the timer of the next round of nudges; guarded by Facade.mu.
type nudges struct {
	timer *time.Timer
	armed bool // the timer runs, and holds Facade.work
}

// stop ends the timer; a round that has begun ends by itself.
func (n *nudges) stop(work *sync.WaitGroup) {
	if n.armed && n.timer.Stop() {
		n.armed = false
		work.Done()
	}
}

// CommitMoved says that this instance's commit index may have moved. Raft would
// tell idle followers only after CommitTimeout, which is long because it is what
// an idle group costs. It is cheap, does not wait, and does nothing on a follower.
func (f *Facade) CommitMoved() {
	if instance := f.instance(); instance == nil || instance.State() != raft.Leader {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armLocked()
}

// armLocked starts the timer of a round, unless it runs.
func (f *Facade) armLocked() {
	if f.isClosed || f.nudges.armed {
		return
	}
	f.nudges.armed = true
	f.work.Add(1)
	f.nudges.timer = time.AfterFunc(nudgeDelay, f.nudgeRound)
}

// nudgeRound sends the commit index to every follower that has not heard it and
// that no AppendEntries is under way to.
func (f *Facade) nudgeRound() {
	defer f.work.Done()
	f.mu.Lock()
	f.nudges.armed = false // before the commit index is read: a later move arms anew
	f.mu.Unlock()

	// In this order. The commit index, then: leader, and only then: of which term.
	// Read after the term, it could be one that this instance learned as follower
	// of a later leader; sent in the old term, it would make a follower that still
	// believes in that term apply a tail that the later leader has cut.
	instance := f.instance()
	commit := instance.CommitIndex()
	if instance.State() != raft.Leader {
		return
	}
	term := instance.CurrentTerm()

	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed || f.reign.term != term || f.reign.ctx.Err() != nil {
		return
	}
	for _, p := range f.replicas {
		if !p.wantsNudge(commit) || !f.config.Network.Up(p.node) { // peersChanged arms when it is
			continue
		}
		p.nudging = true
		match, ctx := p.progress.match, f.reign.ctx
		args := &raft.AppendEntriesRequest{
			RPCHeader: rpcHeader(f.config.LocalID), Term: term,
			PrevLogEntry: uint64(match.Index), PrevLogTerm: uint64(match.Term),
			LeaderCommitIndex: min(commit, uint64(match.Index)),
		}
		f.work.Go(func() { f.nudge(ctx, p, args) })
	}
}

// wantsNudge reports whether the follower holds committed entries that it does
// not know to be committed, and nothing is on its way that would tell it.
func (p *replica) wantsNudge(commit uint64) bool {
	return p.appending == 0 && !p.nudging && min(commit, uint64(p.progress.match.Index)) > p.progress.commit
}

// nudge sends one, and the next if it was lost or the commit index has moved. A
// refusal is left to raft's own AppendEntries, which also looks at a later term in
// the answer.
func (f *Facade) nudge(ctx context.Context, p *replica, args *raft.AppendEntriesRequest) {
	var resp raft.AppendEntriesResponse
	err := f.sendAppend(ctx, p, args, &resp)
	if err != nil {
		pause(ctx, p.lostNudge())
	} else {
		p.nudgesLost.Store(0)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p.nudging = false
	if err != nil || resp.Success {
		f.rearmLocked(p)
	}
}

// lostNudge counts a nudge that was lost, and returns the failures to pause for.
func (p *replica) lostNudge() int { return int(p.nudgesLost.Add(1)) + 1 }

// begin counts an AppendEntries that goes to the peer.
func (f *Facade) begin(p *replica) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.appending++
}

// end counts it off. The commit index may have moved while it was under way.
func (f *Facade) end(p *replica) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.appending--
	f.rearmLocked(p)
}

// rearmLocked starts a round if the follower wants a nudge by now.
func (f *Facade) rearmLocked(p *replica) {
	if instance := f.instance(); instance != nil && p.wantsNudge(instance.CommitIndex()) {
		f.armLocked()
	}
}
