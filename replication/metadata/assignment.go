package metadata

import "github.com/millrace/millrace/segment"

// AlterAssignment gives a partition the replicas that it is to have, the preferred
// leader first; see retarget. It names the picture that it was planned by: a replica
// that is to come back may have left since, and must not be made again as who it was.
//
//	16 topic id | u32 partition | u64 seen | u8 settled | u32 n, n x (i32 node, u64 replica, u64 node incarnation)
type AlterAssignment struct {
	// Topic and Partition name the group.
	Topic     segment.TopicID
	Partition int32
	// Seen is Partition.Changed as the sender saw it, Settled what IsSettled was.
	Seen    uint64
	Settled bool
	// Target are the replicas, 1 to MaxReplicas: those that stay and come back by their
	// incarnations, new ones with one that the sender has drawn.
	Target []Replica
}

func (*AlterAssignment) number() number { return numberAlterAssignment }

func (a *AlterAssignment) fields(c *coder) {
	c.fixed(a.Topic[:])
	code32(c, &a.Partition)
	code64(c, &a.Seen)
	c.bool(&a.Settled)
	list(c, &a.Target, replicaSize, codeReplica)
}

func (a *AlterAssignment) apply(d *draft) Result {
	topic, p, refusal := d.partitionOf(a.Topic, a.Partition)
	switch {
	case refusal.Code != OK:
		return refusal
	case p.Changed != a.Seen || p.IsSettled() != a.Settled:
		return refuse(AssignmentChanged, "topic %s, partition %d: its replicas are as of index %d, reached %t", topic.Name, a.Partition, p.Changed, p.IsSettled())
	}
	for _, r := range a.Target {
		// What it has it keeps, and what leaves may come back.
		present := find(p.Replicas, r.Node, 0) >= 0 || find(p.Leaving, r.Node, 0) >= 0
		if !present && (*View)(&d.View).Drained(r.Node) {
			return refuse(DrainedBroker, "partition %d: broker %d is drained", a.Partition, r.Node)
		}
	}
	return d.retarget(topic, a.Partition, a.Target)
}
