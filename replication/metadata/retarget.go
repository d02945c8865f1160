package metadata

import "slices"

// retarget makes target the replicas that a partition is to have, in that order. Replicas
// that stay or come back are named by node and incarnation, and keep what else is known
// of them; new ones have an incarnation that the sender has drawn, and the node
// incarnation that is registered. Replicas that are not in target leave.
func (d *draft) retarget(topic *Topic, number int32, target []Replica) Result {
	p := topic.Partitions[number]
	if n := len(target); n < 1 || n > MaxReplicas {
		return refuse(InvalidReplicas, "partition %d would have %d replicas, 1 to %d are possible", number, n, MaxReplicas)
	}
	next := Partition{Changed: d.index, Reached: p.Reached}
	for i, r := range target {
		if find(target[:i], r.Node, 0) >= 0 {
			return refuse(InvalidReplicas, "partition %d would have broker %d twice", number, r.Node)
		}
		kept, refusal := d.target(&p, number, r)
		if refusal.Code != OK {
			return refusal
		}
		next.Replicas = append(next.Replicas, kept)
	}
	for _, r := range append(slices.Clone(p.Leaving), p.Replicas...) {
		if find(next.Replicas, r.Node, r.Incarnation) < 0 {
			next.Leaving = append(next.Leaving, r)
		}
	}
	if len(next.Replicas)+len(next.Leaving) > MaxReplicas {
		return refuse(InvalidReplicas, "partition %d would have %d replicas, those on their way out included; at most %d are possible",
			number, len(next.Replicas)+len(next.Leaving), MaxReplicas)
	}
	if slices.Equal(next.Replicas, p.Replicas) && slices.Equal(next.Leaving, p.Leaving) {
		return Result{}
	}
	d.putPartition(topic, number, next)
	return Result{}
}

// target is one replica of retarget, with what is known of it.
func (d *draft) target(p *Partition, number int32, r Replica) (Replica, Result) {
	if i := find(p.Replicas, r.Node, r.Incarnation); i >= 0 && r.Incarnation != 0 {
		return p.Replicas[i], Result{}
	}
	broker, ok := d.brokers.get(nodeKey(r.Node))
	switch i := find(p.Leaving, r.Node, r.Incarnation); {
	case r.Node < 0 || !ok:
		return r, refuse(InvalidReplicas, "partition %d: no broker %d", number, r.Node)
	case r.Incarnation == 0:
		return r, refuse(Malformed, "partition %d: broker %d without a replica incarnation", number, r.Node)
	case find(p.Replicas, r.Node, 0) >= 0:
		// Also one that was lost and replaced must not come back.
		return r, refuse(InvalidReplicas, "partition %d: broker %d has another replica", number, r.Node)
	case i >= 0:
		return p.Leaving[i], Result{}
	case find(p.Leaving, r.Node, 0) >= 0:
		return r, refuse(InvalidReplicas, "partition %d: the replica that broker %d has must have left first", number, r.Node)
	case broker.Incarnation != r.NodeIncarnation:
		return r, refuse(StaleBroker, "partition %d: broker %d is incarnation %s, not %s", number, r.Node, broker.Incarnation, r.NodeIncarnation)
	}
	r.Index = d.index
	return r, Result{}
}
