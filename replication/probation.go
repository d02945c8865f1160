package replication

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// Probation (DESIGN 4.4). The end of this replica's log was cut where a torn write,
// which nobody was promised, and a rotten disk cannot be told apart (DESIGN 3, class
// b). If it was the latter, entries are missing that this replica acknowledged, and
// that were committed because of it. Its vote could then elect a leader without them.
// So it takes entries, and acknowledges those that it really holds, but gives no vote
// and asks for none, until one of these has happened:
//
//  1. A leader of a term that began after the damage has brought it to a commit index
//     of that leader's own term. Such a leader was elected without this replica's
//     vote, so it holds every committed entry; all of them are below the entry of its
//     own term, up to which this replica's log now equals the leader's. The doubt is
//     over.
//  2. The voters that are not in doubt are no majority, a majority of all is present,
//     and 10 s have brought no leader: nobody else could ever elect one. Most likely
//     nothing is missing. It votes, in doubt as it is, and the longest log wins; who
//     then leads logs it as a possible loss.
//
// Why the term must be a later one: a leader that was in office when the damage
// happened goes on counting the entries that this replica acknowledged before (raft
// never lowers what it believes a follower to hold). It might tell a commit index of
// its own term below them while they are committed by that belief alone, and the vote
// would come back without them. So such a leader hands its leadership over as soon as
// a replica on probation says "group up" (relieve): that is a matter of milliseconds,
// and the next leader believes only what it is told. Where nobody can take over the
// replica waits; it still counts for what it acknowledges.

const (
	// probationInterval is the pause between two looks at whether it may end.
	probationInterval = 100 * time.Millisecond
	// leaderlessLimit is how long a majority is present without a leader before a
	// replica on probation votes all the same.
	leaderlessLimit = 10 * time.Second
	// probationReminder is how often the leader is told once more that this replica
	// waits for another term.
	probationReminder = 5 * time.Second
)

// probation is what a replica knows of its own doubt.
type probation struct {
	// since is 0 without doubt, else the last term whose leaders may have been told
	// more than the log now holds.
	since atomic.Uint64
	// waived: it votes all the same, because nobody else can.
	waived atomic.Bool
}

func (b *probation) doubt() segment.Term { return segment.Term(b.since.Load()) }

// withholds reports whether the replica gives no votes.
func (b *probation) withholds() bool { return b.since.Load() != 0 && !b.waived.Load() }

// beginProbation puts a replica whose end is in doubt on probation, before its first
// instance. The term is durable before anything is acknowledged in it, so no leader
// of a later one was told anything by the log as it was.
func (p *Partition) beginProbation() error {
	recovery := p.Log().Recovery()
	if !recovery.Uncertain {
		return nil
	}
	term, err := p.stable.GetUint64(keyCurrentTerm)
	if err != nil && !errors.Is(err, errNotFound) {
		return fmt.Errorf("term of a replica on probation: %w", err)
	}
	p.probation.since.Store(max(1, term, uint64(p.Log().LastTerm())))
	p.logger.Warn("replica gives no votes until a leader has brought it up to date: the end of its log was cut, and may have been acknowledged",
		"topic", p.topic, "partition", p.group.Partition, "dir", p.Log().Dir(), "bytes", recovery.CutBytes, "term", term)
	return nil
}

// serveProbation looks after the replica until its probation is over.
func (p *Partition) serveProbation() {
	tick := time.NewTicker(probationInterval)
	defer tick.Stop()
	var leaderless, reminded time.Time
	for {
		var now time.Time
		select {
		case <-p.stop:
			return
		case now = <-tick.C:
		}
		in := p.current()
		switch {
		case in == nil:
			continue
		case p.settled(in):
			p.restarted(p) // the others count on its vote now
			return
		case p.probation.waived.Load():
		case !p.nobodyElse(in):
			leaderless = time.Time{}
		case leaderless.IsZero():
			leaderless = now
		case now.Sub(leaderless) >= leaderlessLimit:
			p.waiveProbation(in)
			reminded = time.Time{}
		}
		if now.Sub(reminded) >= probationReminder {
			reminded = now
			p.restarted(p)
		}
	}
}

// settled ends the doubt once the log is certain to be the group's: another leader
// made it so, or it leads itself, with what it has.
func (p *Partition) settled(in *instance) bool {
	own := p.Leadership()
	term, brought := p.broughtUp(in)
	leads := own.Ready && own.Term > p.probation.doubt()
	if !brought && !leads {
		return false
	}
	if err := p.Log().SettleEnd(); err != nil {
		if fatal := new(log.FatalError); errors.As(err, &fatal) {
			p.fatal(err)
		}
		p.logger.Warn("replica stays on probation", "topic", p.topic, "partition", p.group.Partition, "err", err)
		return false
	}
	if leads {
		p.logger.Warn("replica leads although the end of its log was cut, since no other could: acknowledged records may be lost",
			"topic", p.topic, "partition", p.group.Partition, "dir", p.Log().Dir(), "term", own.Term)
	} else {
		p.logger.Info("replica is no longer on probation: a leader has brought it up to date",
			"topic", p.topic, "partition", p.group.Partition, "term", term)
	}
	p.probation.since.Store(0)
	if in := p.current(); in != nil {
		in.facade.WithholdVotes(false)
	}
	return true
}

// waiveProbation lets the replica vote in doubt as it is.
func (p *Partition) waiveProbation(in *instance) {
	p.probation.waived.Store(true)
	p.logger.Warn("replica votes although the end of its log was cut: the others cannot elect a leader without it",
		"topic", p.topic, "partition", p.group.Partition, "dir", p.Log().Dir())
	in.facade.WithholdVotes(false)
	p.standForElection()
}

// broughtUp reports whether a leader of a later term than the damage has brought the
// replica to a commit index of its own term, and of which.
func (p *Partition) broughtUp(in *instance) (segment.Term, bool) {
	term := in.raft.CurrentTerm()
	if segment.Term(term) <= p.probation.doubt() {
		return 0, false
	}
	if state := in.raft.State(); state != raft.Follower {
		return 0, false
	}
	// Learned from a leader of this term or of an earlier one: an entry of this very
	// term can have been committed by its leader alone.
	info, err := p.Log().Info(segment.Index(in.raft.CommitIndex()))
	if err != nil || uint64(info.Term) != term || in.raft.CurrentTerm() != term {
		return 0, false
	}
	return info.Term, true
}

// nobodyElse reports whether a majority of the group is present, knows no leader, and
// could elect none of those whose logs are in no doubt.
func (p *Partition) nobodyElse(in *instance) bool {
	members := p.members()
	if _, leader := in.raft.LeaderWithID(); leader != "" {
		return false
	}
	present, doubtful := p.peers.present(members, p.local)
	majority := len(members)/2 + 1
	return present+1 >= majority && len(members)-(doubtful+1) < majority
}

// present counts the other members that have spoken and are connected, and those of
// them whose logs are in doubt.
func (u *upPeers) present(members []raft.ServerID, local raft.ServerID) (present, doubtful int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range members {
		peer, known := u.statuses[id]
		if !known || id == local {
			continue
		}
		present++
		if peer.Probation != 0 {
			doubtful++
		}
	}
	return present, doubtful
}

// relieve hands leadership over if a replica on probation says that this leader may
// believe too much of it. At most one hand-over is under way.
func (p *Partition) relieve(s transport.GroupUp) {
	role := p.Leadership()
	if s.Probation == 0 || !role.Leader || s.Probation < role.Term {
		return
	}
	waiting, _, err := transport.ParseServerID(s.Replica)
	if err != nil || !p.relieving.CompareAndSwap(false, true) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.relieving.Store(false)
		return
	}
	p.restarts.Go(func() {
		defer p.relieving.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), campaignTimeout)
		defer cancel()
		err := p.Transfer(ctx, NoLeader, func(n metadata.NodeID) bool { return n != waiting && p.up(n) })
		p.logger.Info("leadership is handed over, so that a replica on probation can be believed again", "topic", p.topic,
			"partition", p.group.Partition, "replica", s.Replica, "err", err)
	})
}
