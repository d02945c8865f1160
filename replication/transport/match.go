package transport

import (
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// Match is what a follower has acknowledged to this leader in its current term.
// Raft itself tells nobody.
type Match struct {
	// Index is the last entry it acknowledged; it holds everything up to there, as
	// this leader does.
	Index segment.Index
	// Term is the term of that entry.
	Term segment.Term
	// At is when its last acknowledgement came.
	At time.Time
	// CaughtUpAt is the latest moment of which is known that the follower came to
	// hold everything that the leader held then, zero for none. A follower is in
	// sync while that is not long ago, as Kafka's replica.lag.time.max.ms has it.
	CaughtUpAt time.Time
}

// progress is the match of a follower and what goes with it; all of it belongs to
// one leader term and is forgotten with it, because a later leader may cut what
// was acknowledged to this one.
type progress struct {
	match  Match
	commit uint64 // the highest commit index that it is known to have heard

	// One moment at a time is watched: when the follower acknowledges what the
	// leader's last entry was then, it was caught up as of then.
	watchedAt    time.Time
	watchedIndex uint64
}

// mark begins to watch the moment before a request is sent, unless an earlier one
// is still watched.
func (f *Facade) mark(p *replica) {
	instance := f.instance()
	if instance == nil {
		return
	}
	now, last := time.Now(), instance.LastIndex()
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.progress.watchedAt.IsZero() {
		p.progress.watchedAt, p.progress.watchedIndex = now, last
	}
}

// acknowledge notes what an answer proves: a follower that accepts a request has
// the entry before it and those in it. Answers of another term than the reign's
// prove nothing any more, and neither does a heartbeat's.
func (f *Facade) acknowledge(p *replica, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	index, term := lastEntry(args)
	if !resp.Success || resp.Term != args.Term || index == 0 {
		return
	}
	advanced := f.advance(p, args.Term, index, term, args.LeaderCommitIndex)
	if advanced && f.config.OnMatch != nil {
		f.config.OnMatch(p.id, segment.Index(index))
	}
}

// advance writes an acknowledgement down and reports whether the match grew.
func (f *Facade) advance(p *replica, leaderTerm, index, term, commit uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reign.term != leaderTerm || f.reign.ctx.Err() != nil {
		return false
	}
	now, pr := time.Now(), &p.progress
	pr.match.At = now
	pr.commit = max(pr.commit, min(commit, index)) // the receiver clamps likewise
	if !pr.watchedAt.IsZero() && index >= pr.watchedIndex {
		pr.match.CaughtUpAt = pr.watchedAt
		pr.watchedAt = time.Time{}
	}
	if segment.Index(index) <= pr.match.Index {
		return false
	}
	pr.match.Index, pr.match.Term = segment.Index(index), segment.Term(term)
	return true
}

// lastEntry is index and term of the last entry that a request proves.
func lastEntry(args *raft.AppendEntriesRequest) (index, term uint64) {
	if n := len(args.Entries); n > 0 {
		return args.Entries[n-1].Index, args.Entries[n-1].Term
	}
	return args.PrevLogEntry, args.PrevLogTerm
}

// Matches is what the followers have acknowledged to this instance as the leader
// of term; empty if it does not lead in it. Followers that acknowledged nothing
// yet are left out.
func (f *Facade) Matches(term segment.Term) map[raft.ServerID]Match {
	f.mu.Lock()
	defer f.mu.Unlock()
	matches := make(map[raft.ServerID]Match)
	if f.reign.term != uint64(term) || f.reign.ctx.Err() != nil || !f.leads(f.reign.term) {
		return matches
	}
	for id, p := range f.replicas {
		if p.progress.match.Index > 0 {
			matches[id] = p.progress.match
		}
	}
	return matches
}

// InSync are the followers that were caught up with the leader of term within the
// last lag, the leader itself not included.
func (f *Facade) InSync(term segment.Term, lag time.Duration) []raft.ServerID {
	now := time.Now()
	var ids []raft.ServerID
	for id, m := range f.Matches(term) {
		if !m.CaughtUpAt.IsZero() && now.Sub(m.CaughtUpAt) <= lag {
			ids = append(ids, id)
		}
	}
	return ids
}
