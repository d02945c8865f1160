package metadata

import (
	"encoding/binary"
	"slices"
)

// Broker is a registered member of the cluster. It is never changed once it is
// in a View.
type Broker struct {
	// Node is the broker's id.
	Node NodeID
	// Incarnation is the disk that the id belongs to now.
	Incarnation Incarnation
	// Retired lists the incarnations it had before, which must not come back.
	Retired []Incarnation
	// Start counts the registrations of this incarnation's disk: at each process
	// start and each hour the disk's own counter is raised and made known here,
	// so that a disk with a lower one is recognised as an old copy.
	Start uint64
	// Session is the process that registered last.
	Session uint64
	// RPCAddress is where other brokers dial it, host:port.
	RPCAddress string
	// KafkaAddress is what clients are told, host:port.
	KafkaAddress string
	// Rack is its failure domain, empty when it has none.
	Rack string
	// Version is the version of its program.
	Version string
	// Index is where in the metadata log it registered last.
	Index uint64
	// Drained: it gets no new replica, and no leadership that another can have.
	Drained bool
}

// brokerSize is the least size of an encoded broker.
const brokerSize = 4 + 8 + 4 + 8 + 8 + 4*4 + 8

// codeBroker codes a broker in snapshots:
//
//	i32 node | u64 incarnation | u32 n, n x u64 retired | u64 start | u64 session |
//	4 x (u32 length, text): rpc, kafka, rack, version | u64 index | version 3: u8 drained
func codeBroker(c *coder, b *Broker) {
	code32(c, &b.Node)
	code64(c, &b.Incarnation)
	list(c, &b.Retired, 8, code64[Incarnation])
	code64(c, &b.Start)
	code64(c, &b.Session)
	c.text(&b.RPCAddress)
	c.text(&b.KafkaAddress)
	c.text(&b.Rack)
	c.text(&b.Version)
	code64(c, &b.Index)
	if c.version >= 3 {
		c.bool(&b.Drained)
	}
}

// RegisterBroker makes a process known: at each of its starts, when it comes back
// at another address, and each hour. A new incarnation takes a node id over only
// when it names the one it replaces; that name is filled in by the metadata
// leader once it has found the old one dead.
//
//	i32 node | u64 incarnation | u64 replaces | u64 start | u64 session |
//	4 x (u32 length, text): rpc, kafka, rack, version
type RegisterBroker struct {
	// Node is the broker's id, not negative.
	Node NodeID
	// Incarnation is the broker's disk, not zero.
	Incarnation Incarnation
	// Replaces is the incarnation this one takes the node id from; zero: none.
	Replaces Incarnation
	// Start is the disk's start counter, raised durably before it is sent.
	Start uint64
	// Session is the process, see Origin; not zero.
	Session uint64
	// RPCAddress is where other brokers dial it, host:port.
	RPCAddress string
	// KafkaAddress is what clients are told, host:port.
	KafkaAddress string
	// Rack is its failure domain, empty when it has none.
	Rack string
	// Version is the version of its program.
	Version string
}

func (*RegisterBroker) number() number { return numberRegisterBroker }

func (r *RegisterBroker) fields(c *coder) {
	code32(c, &r.Node)
	code64(c, &r.Incarnation)
	code64(c, &r.Replaces)
	code64(c, &r.Start)
	code64(c, &r.Session)
	c.text(&r.RPCAddress)
	c.text(&r.KafkaAddress)
	c.text(&r.Rack)
	c.text(&r.Version)
}

func (r *RegisterBroker) apply(d *draft) Result {
	if r.Node < 0 || r.Incarnation == 0 || r.Session == 0 {
		return refuse(Malformed, "node %d, incarnation %s, session %d", r.Node, r.Incarnation, r.Session)
	}
	if other, ok := (*View)(&d.View).BrokerOf(r.Incarnation); ok && other.Node != r.Node {
		return refuse(DuplicateNode, "incarnation %s is registered as node %d: the data folder was copied", r.Incarnation, other.Node)
	}
	if (*View)(&d.View).Retired(r.Incarnation) {
		return refuse(Retired, "incarnation %s belonged to a broker that was unregistered", r.Incarnation)
	}
	next := Broker{Node: r.Node, Incarnation: r.Incarnation, Start: r.Start, Session: r.Session, RPCAddress: r.RPCAddress,
		KafkaAddress: r.KafkaAddress, Rack: r.Rack, Version: r.Version, Index: d.index}
	present, ok := d.brokers.get(nodeKey(r.Node))
	if ok {
		if refusal := r.judge(present); refusal.Code != OK {
			return refusal
		}
		next.Retired, next.Drained = present.Retired, present.Drained
		if present.Incarnation != r.Incarnation {
			next.Retired = append(slices.Clone(present.Retired), present.Incarnation)
		}
	}
	if !ok || present.Session != r.Session {
		d.sessions = d.sessions.put(nodeKey(r.Node), &session{ID: r.Session})
	}
	d.brokers = d.brokers.put(nodeKey(r.Node), &next)
	return Result{}
}

// judge compares the registration with the one there is.
func (r *RegisterBroker) judge(present *Broker) Result {
	switch {
	case slices.Contains(present.Retired, r.Incarnation):
		return refuse(Retired, "incarnation %s of node %d was replaced by %s", r.Incarnation, r.Node, present.Incarnation)
	case present.Incarnation != r.Incarnation && r.Replaces != present.Incarnation:
		return refuse(DuplicateNode, "node id %d belongs to the broker at %s (incarnation %s)", r.Node, present.RPCAddress, present.Incarnation)
	case present.Incarnation != r.Incarnation:
		return Result{}
	case r.Start < present.Start:
		return refuse(RolledBack, "start %d of node %d, but start %d was registered: the disk is an old copy", r.Start, r.Node, present.Start)
	case r.Start == present.Start && r.Session != present.Session:
		return refuse(RolledBack, "start %d of node %d was registered by another process: the disk is a copy", r.Start, r.Node)
	}
	return Result{}
}

// nodeKey is a node id as a key, in numeric order (ids are not negative).
func nodeKey(n NodeID) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
