package metadata

import (
	"encoding/binary"
	"slices"
)

// UnregisterBroker forgets a broker that is gone for good. It is refused while the
// broker is to hold a replica of any partition. Its disks stay known as retired: one
// that comes back after all joins as a new, empty one.
//
// The incarnation guards against a copy of the command that is applied late, when the
// node id belongs to another broker.
//
//	i32 node | u64 incarnation
type UnregisterBroker struct {
	// Node is the broker to forget.
	Node NodeID
	// Incarnation is the disk it has; another one is not forgotten.
	Incarnation Incarnation
}

func (*UnregisterBroker) number() number { return numberUnregisterBroker }

func (u *UnregisterBroker) fields(c *coder) {
	code32(c, &u.Node)
	code64(c, &u.Incarnation)
}

func (u *UnregisterBroker) apply(d *draft) Result {
	v := (*View)(&d.View)
	b, ok := v.Broker(u.Node)
	switch {
	case !ok:
		return refuse(UnknownBroker, "no broker %d is registered", u.Node)
	case b.Incarnation != u.Incarnation:
		return refuse(StaleBroker, "broker %d is incarnation %s, not %s", u.Node, b.Incarnation, u.Incarnation)
	}
	if count := v.ReplicaCounts()[u.Node]; count > 0 {
		return refuse(HoldsReplicas, "broker %d holds replicas of %d partitions", u.Node, count)
	}
	d.brokers = d.brokers.remove(nodeKey(u.Node))
	d.sessions = d.sessions.remove(nodeKey(u.Node))
	for _, i := range append(slices.Clone(b.Retired), b.Incarnation) {
		d.retired = d.retired.put(incarnationKey(i), i)
	}
	// It confirms nothing any more.
	for gone := range v.Deletions() {
		if slices.Contains(gone.Waiting, u.Node) {
			d.confirm(gone, u.Node)
		}
	}
	return Result{}
}

// Retired reports whether a disk belonged to a broker that was unregistered. Those
// that a registered broker had before are in its Broker.Retired.
func (v *View) Retired(i Incarnation) bool {
	_, ok := v.retired.get(incarnationKey(i))
	return ok
}

func incarnationKey(i Incarnation) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }
