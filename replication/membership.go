package replication

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// The metadata says which replicas a partition is to have, its raft configuration which
// it has. The partition's leader makes the second follow the first, one change after the
// other, each only when the one before is committed. It keeps no state of its own: it
// looks at both and takes the next step, so whatever crashes, the next leader goes on.
//
//	1. a replica that is wanted and no member   becomes one without a vote
//	2. one that holds everything                gets its vote
//	3. when all that are wanted vote            the others leave, the leader last: it
//	                                            first hands its leadership over
//	4. when the configuration is what is wanted the metadata hears of it (ReplicasLeft),
//	                                            and the nodes of those that left delete them
//
// A step after which the voters that are connected and hold everything were no majority
// is not taken (DESIGN 4.4).

const (
	// memberInterval is how often a leader looks at partitions that are being changed.
	memberInterval = 100 * time.Millisecond
	// memberEnqueue bounds how long raft's main goroutine may take to accept a change;
	// it is not waited for longer, since others need their changes too.
	memberEnqueue = 200 * time.Millisecond
	// memberReport bounds how long the metadata group may take to hear of a change.
	memberReport = 2 * time.Second
)

// membershipLoop drives the groups led here toward what the metadata says, until the
// host stops. It costs nothing while nothing is being changed.
func (h *Host) membershipLoop() {
	changed := make(chan struct{}, 1)
	defer h.meta.Watch(changed)()
	for {
		var again <-chan time.Time
		if moving := unsettled(h.meta.View()); len(moving) > 0 {
			again = time.After(memberInterval)
			for _, a := range moving {
				h.driveMembers(a)
			}
		}
		select {
		case <-h.stop:
			return
		case <-changed:
		case <-again:
		}
	}
}

// unsettled lists the partitions of which the replicas are being changed.
func unsettled(view *metadata.View) (moving []assignment) {
	for topic := range view.Topics() {
		for i, p := range topic.Partitions {
			if !p.IsSettled() {
				moving = append(moving, assignment{topic: topic, partition: int32(i)})
			}
		}
	}
	return moving
}

// driveMembers takes the next step for one partition, if this node leads it.
func (h *Host) driveMembers(a assignment) {
	p, ok := h.Partition(a.topic.ID, a.partition)
	if !ok || !p.Leadership().Ready {
		return
	}
	in, term := p.current(), p.Leadership().Term
	if in == nil {
		return
	}
	commit := in.raft.CommitIndex()
	config := in.raft.GetConfiguration()
	if config.Error() != nil || config.Index() > commit {
		return // a change is on its way
	}
	// The commit index was read before: what a follower acknowledged up to there is
	// everything that anybody was told to be safe.
	matches := in.facade.Matches(term)
	wanted := a.topic.Partitions[a.partition]
	group := memberState{
		own: p.local, servers: config.Configuration().Servers, target: serverIDs(wanted.Replicas), leaving: serverIDs(wanted.Leaving),
		up: p.connected, holdsAll: func(id raft.ServerID) bool { return matches[id].Index >= segment.Index(commit) },
	}
	step := group.next()
	if err := h.takeStep(a, p, in, step, config.Index()); err != nil {
		p.logger.Debug("change of the replicas", "topic", p.topic, "partition", p.group.Partition, "step", step.what, "replica", string(step.id), "err", err)
	}
}

// takeStep makes one change. previous is the index of the configuration that it was
// decided by: raft refuses it after any other change.
func (h *Host) takeStep(a assignment, p *Partition, in *instance, step replicaStep, previous uint64) error {
	if step.what == stepNone {
		return nil
	}
	level := slog.LevelInfo
	if step.what == stepHandOver || step.what == stepReport { // may be tried again at each look
		level = slog.LevelDebug
	}
	p.logger.Log(h.context, level, "change of the replicas", "topic", p.topic, "partition", p.group.Partition, "step", step.what, "replica", string(step.id))
	address := raft.ServerAddress(step.id)
	// The futures are not waited for: the next look tells what came of it, and after a
	// shutdown they would never answer.
	switch step.what {
	case stepAdd:
		in.raft.AddNonvoter(step.id, address, previous, memberEnqueue)
	case stepPromote:
		in.raft.AddVoter(step.id, address, previous, memberEnqueue)
	case stepRemove:
		in.raft.RemoveServer(step.id, previous, memberEnqueue)
	case stepHandOver:
		node, _, err := transport.ParseServerID(step.id)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(h.context, moveTimeout)
		defer cancel()
		return h.MoveLeader(ctx, p.group.Topic, p.group.Partition, node)
	case stepReport:
		ctx, cancel := context.WithTimeout(h.context, memberReport)
		defer cancel()
		_, _, err := h.meta.Change(ctx, &metadata.ReplicasLeft{Topic: p.group.Topic, Partition: p.group.Partition, Changed: a.topic.Partitions[a.partition].Changed})
		return err
	}
	return nil
}

// The steps toward what is wanted.
const (
	stepNone     = ""
	stepAdd      = "add without a vote"
	stepPromote  = "give a vote"
	stepRemove   = "remove"
	stepHandOver = "hand the leadership over"
	stepReport   = "done"
)

// replicaStep is a step and the replica that it is about.
type replicaStep struct {
	what string
	id   raft.ServerID
}

// memberState is what the leader decides by.
type memberState struct {
	own      raft.ServerID
	servers  []raft.Server   // the committed configuration
	target   []raft.ServerID // in order of preference
	leaving  []raft.ServerID
	up       func(raft.ServerID) bool // its node is connected
	holdsAll func(raft.ServerID) bool // it acknowledged, in this term, all that is committed
}

// next is the step to take now.
func (g *memberState) next() replicaStep {
	var voters []raft.ServerID
	votes := map[raft.ServerID]bool{} // members, and whether they vote
	for _, s := range g.servers {
		votes[s.ID] = s.Suffrage == raft.Voter
		if votes[s.ID] {
			voters = append(voters, s.ID)
		}
	}
	missing := false
	for _, id := range g.target {
		vote, member := votes[id]
		missing = missing || !vote
		switch {
		case !member && g.up(id):
			return replicaStep{stepAdd, id}
		case member && !vote && g.caughtUp(id) && g.safe(append(without(voters, id), id)):
			return replicaStep{stepPromote, id}
		}
	}
	if missing {
		return replicaStep{} // nobody leaves before all are there
	}
	return g.removal(voters, votes)
}

// removal is the step when all voters that are wanted are there.
func (g *memberState) removal(voters []raft.ServerID, votes map[raft.ServerID]bool) replicaStep {
	left := true
	for _, id := range g.leaving {
		vote, member := votes[id]
		left = left && !member
		if member && id != g.own && (!vote || g.safe(without(voters, id))) {
			return replicaStep{stepRemove, id}
		}
	}
	if slices.Contains(g.leaving, g.own) {
		for _, id := range g.target {
			if g.caughtUp(id) {
				return replicaStep{stepHandOver, id}
			}
		}
		return replicaStep{}
	}
	if !left || len(g.servers) != len(g.target) {
		return replicaStep{}
	}
	return replicaStep{what: stepReport}
}

// caughtUp: the replica is connected and holds everything.
func (g *memberState) caughtUp(id raft.ServerID) bool {
	return id == g.own || g.up(id) && g.holdsAll(id)
}

// safe: with these voters a majority is connected and holds everything.
func (g *memberState) safe(voters []raft.ServerID) bool {
	ready := 0
	for _, id := range voters {
		if g.caughtUp(id) {
			ready++
		}
	}
	return ready > len(voters)/2
}

func serverIDs(replicas []metadata.Replica) []raft.ServerID {
	ids := make([]raft.ServerID, len(replicas))
	for i, r := range replicas {
		ids[i] = transport.ServerID(r.Node, r.Incarnation)
	}
	return ids
}

// assigned are the replicas that the partition is to have, in order of preference, and
// behind them those that have not left yet.
func (p *Partition) assigned() []metadata.Replica { return *p.roster.Load() }

// voters are those of them that vote in the group now.
func (p *Partition) voters() []metadata.Replica {
	in := p.current()
	if in == nil {
		return p.assigned()
	}
	config := in.raft.GetConfiguration()
	if config.Error() != nil {
		return p.assigned()
	}
	ids := voterIDs(config.Configuration().Servers)
	return slices.DeleteFunc(slices.Clone(p.assigned()), func(r metadata.Replica) bool {
		return !slices.Contains(ids, transport.ServerID(r.Node, r.Incarnation))
	})
}

// assign tells the running replicas who the others are to be now.
func (h *Host) assign(view *metadata.View) {
	for _, p := range h.allPartitions() {
		topic, ok := view.Topic(p.group.Topic)
		if !ok {
			continue
		}
		now := topic.Partitions[p.group.Partition].Members()
		if slices.Equal(now, p.assigned()) {
			continue
		}
		p.roster.Store(&now)
		h.tellPeers(p) // a new one may be up already, and have heard nothing of this one
		if p.Leadership().Ready {
			h.announce(p)
		}
	}
}

// removeLeft removes the replicas of this node that have left their groups. That is
// said by the metadata only after the group's configuration without them was committed.
func (h *Host) removeLeft(view *metadata.View) (failed error) {
	for _, p := range h.allPartitions() {
		topic, ok := view.Topic(p.group.Topic)
		if !ok || slices.Contains(serverIDs(topic.Partitions[p.group.Partition].Members()), p.local) {
			continue
		}
		h.logger.Info("a replica has left its group and is removed", "topic", p.topic, "partition", p.group.Partition)
		h.dropPartition(p.group)
		if err := p.Close(); err != nil {
			h.logger.Warn("closing a replica that left", "topic", p.topic, "err", err)
		}
		failed = errors.Join(failed, h.removeFolder(assignment{topic: topic, partition: p.group.Partition}))
	}
	for _, group := range h.failedReplicas() {
		topic, ok := view.Topic(group.Topic)
		if !ok {
			continue
		}
		if _, has := topic.Partitions[group.Partition].On(h.node.ID()); !has {
			h.forget(group) // its folder is set aside at the next start
		}
	}
	return failed
}

// removeFolder deletes a replica's vote record, and then its folder: after a crash the
// folder is what is looked for.
func (h *Host) removeFolder(a assignment) error {
	if err := h.votes.Forget(a.group()); err != nil {
		return err
	}
	dir := h.dir(a)
	if err := h.config.FS.RemoveAll(dir); err != nil {
		return err
	}
	h.forget(a.group())
	return h.config.FS.SyncDir(filepath.Dir(dir))
}
