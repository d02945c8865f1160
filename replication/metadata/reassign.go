package metadata

import "slices"

// What a client names are brokers; what the metadata holds are replicas. Here the one
// becomes the other, by one picture of the cluster.

// Reassign is the change that gives a partition replicas on these nodes, the preferred
// leader first: those that it has there stay, one that is on its way out comes back, and
// the others are new, with incarnations from draw. The topic must be of this view. What
// is wrong with the nodes is said by the state machine, when the change is applied.
func (v *View) Reassign(topic *Topic, number int32, nodes []NodeID, draw func() uint64) *AlterAssignment {
	p := topic.Partitions[number]
	a := &AlterAssignment{Topic: topic.ID, Partition: number, Seen: p.Changed, Settled: p.IsSettled()}
	for _, node := range nodes {
		if r, ok := p.On(node); ok {
			a.Target = append(a.Target, r)
			continue
		}
		r := Replica{Node: node, Incarnation: draw()}
		if b, ok := v.Broker(node); ok {
			r.NodeIncarnation = b.Incarnation
		}
		a.Target = append(a.Target, r)
	}
	return a
}

// returning is the replica on its way out that can come back to a node: the last one,
// since those before it were lost and replaced by it.
func (p Partition) returning(node NodeID) (Replica, bool) {
	for i := len(p.Leaving) - 1; i >= 0; i-- {
		if p.Leaving[i].Node == node {
			return p.Leaving[i], true
		}
	}
	return Replica{}, false
}

// On is the replica that a node is to run: its one of Replicas, else the one that it has
// until that has left.
func (p Partition) On(node NodeID) (Replica, bool) {
	if i := find(p.Replicas, node, 0); i >= 0 {
		return p.Replicas[i], true
	}
	return p.returning(node)
}

// CancelReassignment is the change that takes the moves of a partition back: it gets the
// brokers that it had when its group was last as it was to be. False if it is to have
// these already. A lost replica that is being replaced is no move: that goes on.
func (v *View) CancelReassignment(topic *Topic, number int32) (*AlterAssignment, bool) {
	p := topic.Partitions[number]
	a := &AlterAssignment{Topic: topic.ID, Partition: number, Seen: p.Changed, Settled: p.IsSettled()}
	adding, removing := p.Moves()
	for _, r := range p.Replicas {
		if !slices.Contains(adding, r.Node) {
			a.Target = append(a.Target, r)
		}
	}
	for _, node := range removing {
		if r, ok := p.returning(node); ok && p.had(node) {
			a.Target = append(a.Target, r)
		}
	}
	return a, len(adding) > 0 || len(a.Target) > len(p.Replicas)
}

// Moves tells which brokers a partition is being moved to and which away from, until its
// group has come to what it is to be. One whose lost replica is replaced is neither.
func (p Partition) Moves() (adding, removing []NodeID) {
	for _, r := range p.Replicas {
		if !p.had(r.Node) {
			adding = append(adding, r.Node)
		}
	}
	for _, r := range p.Leaving {
		if find(p.Replicas, r.Node, 0) < 0 && !slices.Contains(removing, r.Node) {
			removing = append(removing, r.Node)
		}
	}
	return adding, removing
}

// had reports whether a broker had a replica when the group was last as it was to be.
func (p Partition) had(node NodeID) bool {
	old := func(r Replica) bool { return r.Node == node && !p.IsJoining(r) }
	return slices.ContainsFunc(p.Replicas, old) || slices.ContainsFunc(p.Leaving, old)
}
