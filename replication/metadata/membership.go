package metadata

import (
	"slices"

	"github.com/millrace/millrace/segment"
)

// The replicas of a partition as they are meant to be, and how that changes after the
// topic was created. What the raft group makes of it is a fact that only the group
// knows; its leader drives the one toward the other, one change at a time. So a command
// here says only what is wanted, and who is still needed until that has come about:
// a replica that is no longer wanted is kept in Leaving, and by its node, until the
// leader says that the group's committed configuration is without it (ReplicasLeft).

// IsSettled reports whether the group was said to be as it is to be.
func (p Partition) IsSettled() bool { return p.Reached == p.Changed }

// IsJoining reports whether one of Replicas may be no voter yet.
func (p Partition) IsJoining(r Replica) bool { return r.Index > p.Reached }

// Since is the index of the record that gave a replica to its node: only a node that has
// not come that far may make the folder.
func (t *Topic) Since(r Replica) uint64 {
	if r.Index != 0 {
		return r.Index
	}
	return t.Index
}

// Members are the replicas that a partition is to have, in order of preference, and
// behind them those that have not left yet.
func (p Partition) Members() []Replica { return append(slices.Clone(p.Replicas), p.Leaving...) }

// find is where a replica of a node is in a list, -1 without; incarnation 0 is any.
func find(replicas []Replica, node NodeID, incarnation uint64) int {
	return slices.IndexFunc(replicas, func(r Replica) bool {
		return r.Node == node && (incarnation == 0 || r.Incarnation == incarnation)
	})
}

// partitionOf is a topic's partition, or why it is none.
func (d *draft) partitionOf(id segment.TopicID, number int32) (*Topic, *Partition, Result) {
	topic, ok := d.topics.get(id[:])
	if !ok {
		return nil, nil, refuse(UnknownTopic, "no topic has the id %s", id)
	}
	if number < 0 || int(number) >= len(topic.Partitions) {
		return nil, nil, refuse(InvalidPartitions, "topic %s has no partition %d", topic.Name, number)
	}
	return topic, &topic.Partitions[number], Result{}
}

// putPartition stores a topic with one partition changed.
func (d *draft) putPartition(topic *Topic, number int32, p Partition) {
	next := *topic
	next.Partitions = slices.Clone(topic.Partitions)
	next.Partitions[number] = p
	d.putTopic(&next)
}

// ReplicasLeft says, by the leader of a partition, that the committed configuration of
// its group has all replicas that it is to have and none of those that leave: their
// nodes may delete them. It is about one state of the partition, and changes no later one,
// in which a replica may have come back.
//
//	16 topic id | u32 partition | u64 changed
type ReplicasLeft struct {
	// Topic and Partition name the group.
	Topic     segment.TopicID
	Partition int32
	// Changed is Partition.Changed as the leader saw it.
	Changed uint64
}

func (*ReplicasLeft) number() number { return numberReplicasLeft }

func (r *ReplicasLeft) fields(c *coder) {
	c.fixed(r.Topic[:])
	code32(c, &r.Partition)
	code64(c, &r.Changed)
}

func (r *ReplicasLeft) apply(d *draft) Result {
	topic, p, refusal := d.partitionOf(r.Topic, r.Partition)
	if refusal.Code != OK || p.Changed != r.Changed || p.IsSettled() {
		return refusal
	}
	d.putPartition(topic, r.Partition, Partition{Replicas: p.Replicas, Changed: p.Changed, Reached: p.Changed})
	return Result{}
}
