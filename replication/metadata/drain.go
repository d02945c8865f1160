package metadata

// DrainBroker marks a broker as drained, or takes the mark away. A drained broker
// keeps the replicas it has; the state machine refuses it new ones, and the brokers
// give it no leadership that another in-sync replica can have. The mark belongs to the
// node id: it outlives restarts of the broker and the replacement of its disk.
//
//	i32 node | u8 drained
type DrainBroker struct {
	// Node is a registered broker.
	Node NodeID
	// Drained is whether it is to be drained.
	Drained bool
}

func (*DrainBroker) number() number { return numberDrainBroker }

func (b *DrainBroker) fields(c *coder) {
	code32(c, &b.Node)
	c.bool(&b.Drained)
}

func (b *DrainBroker) apply(d *draft) Result {
	present, ok := (*View)(&d.View).Broker(b.Node)
	if !ok {
		return refuse(UnknownBroker, "no broker %d is registered", b.Node)
	}
	next := *present
	next.Drained = b.Drained
	d.brokers = d.brokers.put(nodeKey(b.Node), &next)
	return Result{}
}

// Drained reports whether a broker is registered and drained.
func (v *View) Drained(node NodeID) bool {
	b, ok := v.Broker(node)
	return ok && b.Drained
}
