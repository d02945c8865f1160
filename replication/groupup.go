package replication

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// "Group up" (DESIGN 4.3 i). After each start of its instance a replica tells
// its peers that it is there, how far its log goes, and whether it knows a
// leader. Two things follow: calls that a leader's transport held for it go on
// at once, and when a majority is up and nobody knows a leader (a new group, a
// restarted cluster) the longest log campaigns, ties in replica order, without
// waiting for raft's election time-out.

// upPeers is what a partition's peers last said of themselves, for as long as
// they are connected.
type upPeers struct {
	mu       sync.Mutex
	statuses map[raft.ServerID]transport.GroupUp
}

// heard records a peer's status and says whether it was news.
func (u *upPeers) heard(s transport.GroupUp) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.statuses == nil {
		u.statuses = map[raft.ServerID]transport.GroupUp{}
	}
	if u.statuses[s.Replica] == s {
		return false
	}
	u.statuses[s.Replica] = s
	return true
}

// gone forgets a peer that is no longer connected.
func (u *upPeers) gone(id raft.ServerID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.statuses, id)
}

// shouldCampaign decides for the replica own of a group with these members, in
// preference order: a majority is up, nobody knows a leader, and no log among
// them is longer, or equally long and preferred. A member that is expected to
// speak soon is waited for.
func (u *upPeers) shouldCampaign(own transport.GroupUp, members []raft.ServerID, expected func(raft.ServerID) bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if own.Leader != "" {
		return false
	}
	up, before := 0, true // before: members ahead of own in the order
	for _, id := range members {
		if id == own.Replica {
			up++
			before = false
			continue
		}
		peer, known := u.statuses[id]
		if !known && expected(id) {
			return false
		}
		if !known {
			continue
		}
		if peer.Withholds && peer.Leader == "" {
			continue // it gives no vote, and does not campaign
		}
		up++
		if peer.Leader != "" || longer(peer, own) || before && !longer(own, peer) {
			return false
		}
	}
	return !before && up > len(members)/2
}

// longer reports that a's log is ahead of b's, as an election would judge it
// (section 5.4.1 of the Raft paper).
func longer(a, b transport.GroupUp) bool {
	if a.LastTerm != b.LastTerm {
		return a.LastTerm > b.LastTerm
	}
	return a.LastIndex > b.LastIndex
}

// status is this replica's own line, absent while it has no instance.
func (p *Partition) status() (transport.GroupUp, bool) {
	in := p.current()
	if in == nil {
		return transport.GroupUp{}, false
	}
	_, leader := in.raft.LeaderWithID()
	if leader == p.local && in.hasResigned() {
		leader = "" // raft does not hear of another while it waits for the disk
	}
	return transport.GroupUp{
		Group:     p.group,
		Replica:   p.local,
		LastTerm:  p.Log().LastTerm(),
		LastIndex: p.Log().LastIndex(),
		Term:      segment.Term(in.raft.CurrentTerm()),
		Leader:    leader,
		Probation: p.probation.doubt(),
		Withholds: p.probation.withholds(),
	}, true
}

// peerUp takes a peer's status and campaigns if it is this replica's turn. True
// says that it was news, so that the peer should hear of this replica too.
func (p *Partition) peerUp(s transport.GroupUp) bool {
	news := p.peers.heard(s)
	p.relieve(s)
	p.campaignIfFirst(p.connected)
	return news
}

const (
	// campaignTimeout bounds how long raft may take to begin an election.
	campaignTimeout = 5 * time.Second
	// secondChoice is how long replicas on connected nodes are waited for before
	// those that spoke decide without them.
	secondChoice = 300 * time.Millisecond
)

// standForElection campaigns now if it is this replica's turn, and looks once
// more when connected peers had their time to speak.
func (p *Partition) standForElection() {
	p.campaignIfFirst(p.connected)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.restarts.Go(func() {
		select {
		case <-p.stop:
		case <-time.After(secondChoice):
			p.campaignIfFirst(func(raft.ServerID) bool { return false })
		}
	})
}

// connected reports whether a replica's node is there, so that the replica will
// say "group up" as soon as it runs.
func (p *Partition) connected(id raft.ServerID) bool {
	node, _, err := transport.ParseServerID(id)
	return err == nil && p.up(node)
}

// campaignIfFirst starts an election at once if this replica is the one to win
// it. A single voter is always the one. It does not wait for raft, whose main
// goroutine may sit in a slow sync for as long as campaignTimeout: the callers go
// through many groups, of which one must not hold up the others.
func (p *Partition) campaignIfFirst(expected func(raft.ServerID) bool) {
	own, running := p.status()
	in := p.current()
	if !running || in == nil || !p.peers.shouldCampaign(own, p.members(), expected) {
		return
	}
	p.startCampaign(in, func() {})
}

// startCampaign asks raft for an election, unless it has been asked and has not
// begun, and returns at once. ended is called when raft has begun, or will not; it is
// not called where false is returned.
func (p *Partition) startCampaign(in *instance, ended func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.retired || p.campaigning {
		return false // raft has been asked, or nobody is there to ask
	}
	p.campaigning = true
	p.restarts.Go(func() {
		defer ended()
		p.campaign(in)
	})
	return true
}

// campaign asks raft for an election. One at a time runs for each replica; Close
// ends it with the instance's facade, and joins it.
func (p *Partition) campaign(in *instance) {
	defer func() {
		p.mu.Lock()
		p.campaigning = false
		p.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), campaignTimeout)
	defer cancel()
	if err := in.facade.Campaign(ctx); err != nil {
		p.logger.Debug("no election started", "topic", p.topic, "partition", p.group.Partition, "err", err)
	}
}

// members are the raft ids of all replicas that vote, in preference order.
func (p *Partition) members() []raft.ServerID {
	return serverIDs(p.voters())
}
