package metadata

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/millrace/millrace/segment"
)

// Bounds of a topic.
const (
	// MaxPartitions is the most partitions a topic can have.
	MaxPartitions = 10_000
	// MaxReplicas is the most replicas a partition can have.
	MaxReplicas = 32
	// MaxConfigs is the most configuration keys a topic can have.
	MaxConfigs = 1_000
)

// Replica is one copy of a partition: which broker holds it and as who.
type Replica struct {
	// Node is the broker that holds the replica.
	Node NodeID
	// Incarnation identifies the replica's folder: 64 random bits, not zero. A
	// replica that lost its folder comes back as another incarnation.
	Incarnation uint64
	// NodeIncarnation is the disk of the broker that the replica was meant for
	// when it was created; only that one may make the folder.
	NodeIncarnation Incarnation
	// Index is where in the metadata log the replica was given to its node; 0 for one
	// that the topic was created with, see Topic.Since.
	Index uint64
}

const replicaSize = 4 + 8 + 8

func codeReplica(c *coder, r *Replica) {
	code32(c, &r.Node)
	code64(c, &r.Incarnation)
	code64(c, &r.NodeIncarnation)
}

// codeStoredReplica is codeReplica in snapshots.
func codeStoredReplica(c *coder, r *Replica) {
	codeReplica(c, r)
	code64(c, &r.Index)
}

// Partition is the intended state of a partition; what its raft group has made of
// it is known to that group.
type Partition struct {
	// Replicas are the copies that it is to have, the preferred leader first.
	Replicas []Replica
	// Leaving are replicas that it is to have no longer, and that may still be members
	// of the group: their nodes keep them, and run them if they can. A node that is in
	// both lists has lost the one in this.
	Leaving []Replica
	// Changed is where in the metadata log Replicas changed last, 0 if never since the
	// topic was created.
	Changed uint64
	// Reached is the last Changed that the group's committed configuration came up to.
	Reached uint64
}

// codePartition codes a partition as it is created.
func codePartition(c *coder, p *Partition) { list(c, &p.Replicas, replicaSize, codeReplica) }

// codeStoredPartition is a partition in snapshots; before version 4 the one it was
// created with.
func codeStoredPartition(c *coder, p *Partition) {
	if c.version < 4 {
		codePartition(c, p)
		return
	}
	list(c, &p.Replicas, replicaSize+8, codeStoredReplica)
	list(c, &p.Leaving, replicaSize+8, codeStoredReplica)
	code64(c, &p.Changed)
	code64(c, &p.Reached)
}

// Topic is a topic as created and configured. It is never changed once it is in
// a View: a change makes another one.
type Topic struct {
	// Name is the topic's name.
	Name string
	// ID is the topic's identity; a re-created topic has another.
	ID segment.TopicID
	// Index is where in the metadata log it was created.
	Index uint64
	// Configs are the configurations set on the topic, as text.
	Configs map[string]string
	// Partitions are its partitions, by number.
	Partitions []Partition
	// StartTerm is where the terms of its groups begin: above every leader epoch
	// that clients can have seen of a deleted topic of this name.
	StartTerm uint64
	// Internal topics are the system's own, such as __consumer_offsets.
	Internal bool
}

const topicSize = 4 + 16 + 8 + 4 + 4 + 8 + 1

// codeTopic codes a topic in snapshots:
//
//	u32 length, name | 16 id | u64 index | configs | partitions | u64 start term | u8 internal
//
// where configs are u32 n, n x (u32 length, key, u32 length, value) in key order,
// partitions u32 n, n x (replicas, and from version 4 on: leaving, u64 changed, u64 reached), and
// replicas and leaving u32 m, m x (i32 node, u64 replica, u64 node incarnation, and from
// version 4 on: u64 index).
func codeTopic(c *coder, t *Topic) {
	c.text(&t.Name)
	c.fixed(t.ID[:])
	code64(c, &t.Index)
	c.configs(&t.Configs)
	list(c, &t.Partitions, 4, codeStoredPartition)
	code64(c, &t.StartTerm)
	c.bool(&t.Internal)
}

// Deletion is a topic that is deleted, but whose folders may still exist. A broker
// that was down removes its replicas when it sees the record.
type Deletion struct {
	// ID is the deleted topic.
	ID segment.TopicID
	// Name is the name it had.
	Name string
	// Index is where in the metadata log it was deleted.
	Index uint64
	// Waiting are the brokers that have not confirmed, ascending.
	Waiting []NodeID
}

const deletionSize = 16 + 4 + 8 + 4

// codeDeletion codes a deletion in snapshots:
//
//	16 id | u32 length, name | u64 index | u32 n, n x i32 node
func codeDeletion(c *coder, d *Deletion) {
	c.fixed(d.ID[:])
	c.text(&d.Name)
	code64(c, &d.Index)
	list(c, &d.Waiting, 4, code32[NodeID])
}

// CreateTopic makes a topic. The sender has drawn the ids, so a second copy
// creates nothing: it is recognised by the topic id. The result has the StartTerm.
//
//	u32 length, name | 16 id | configs | partitions | u8 internal     as in codeTopic, version 1
type CreateTopic struct {
	// Name is the topic's name.
	Name string
	// ID is its new identity.
	ID segment.TopicID
	// Configs are its configurations.
	Configs map[string]string
	// Partitions are the replicas of each partition, placed and with their
	// incarnations; the node incarnations must still be the registered ones.
	Partitions []Partition
	// Internal marks one of the system's own topics.
	Internal bool
}

func (*CreateTopic) number() number { return numberCreateTopic }

func (t *CreateTopic) fields(c *coder) {
	c.text(&t.Name)
	c.fixed(t.ID[:])
	c.configs(&t.Configs)
	list(c, &t.Partitions, 4, codePartition)
	c.bool(&t.Internal)
}

func (t *CreateTopic) apply(d *draft) Result {
	if err := CheckTopicName(t.Name); err != nil {
		return refuse(InvalidTopicName, "%v", err)
	}
	if same, ok := d.topics.get(t.ID[:]); ok && same.Name == t.Name {
		return Result{StartTerm: same.StartTerm, Index: same.Index}
	}
	if _, used := d.topics.get(t.ID[:]); used || t.ID.IsZero() {
		return refuse(Malformed, "topic id %s cannot be used for %s", t.ID, t.Name)
	}
	if _, used := d.deletions.get(t.ID[:]); used {
		return refuse(UnknownTopic, "topic %s with id %s was deleted", t.Name, t.ID)
	}
	if other, ok := d.names.get(collisionKey(t.Name)); ok {
		if other.Name == t.Name {
			return refuse(TopicExists, "topic %s exists", t.Name)
		}
		return refuse(InvalidTopicName, "topic %s differs from topic %s only in '.' and '_'", t.Name, other.Name)
	}
	if len(t.Configs) > MaxConfigs {
		return refuse(Malformed, "%d configurations, at most %d", len(t.Configs), MaxConfigs)
	}
	if r := t.checkPartitions(d); r.Code != OK {
		return r
	}
	// Fewer brokers than the cluster will have would get its replicas, for good.
	if progress, founding := (*View)(&d.View).Founding(); founding {
		return refuse(BeingFounded, "%s; topics can be created after that", progress)
	}
	last, _ := d.terms.get([]byte(t.Name))
	topic := &Topic{Name: t.Name, ID: t.ID, Index: d.index, Configs: t.Configs, Partitions: t.Partitions, StartTerm: last + 1, Internal: t.Internal}
	d.terms = d.terms.remove([]byte(t.Name))
	d.putTopic(topic)
	return Result{StartTerm: topic.StartTerm}
}

func (t *CreateTopic) checkPartitions(d *draft) Result {
	if n := len(t.Partitions); n < 1 || n > MaxPartitions {
		return refuse(InvalidPartitions, "%d partitions, 1 to %d are possible", n, MaxPartitions)
	}
	for i, p := range t.Partitions {
		if n := len(p.Replicas); n < 1 || n > MaxReplicas {
			return refuse(InvalidReplicas, "partition %d has %d replicas, 1 to %d are possible", i, n, MaxReplicas)
		}
		for j, r := range p.Replicas {
			broker, ok := d.brokers.get(nodeKey(r.Node))
			switch {
			case !ok || r.Node < 0:
				return refuse(InvalidReplicas, "partition %d: no broker %d", i, r.Node)
			case slices.ContainsFunc(p.Replicas[:j], func(o Replica) bool { return o.Node == r.Node }):
				return refuse(InvalidReplicas, "partition %d has broker %d twice", i, r.Node)
			case r.Incarnation == 0:
				return refuse(Malformed, "partition %d: broker %d without a replica incarnation", i, r.Node)
			case broker.Incarnation != r.NodeIncarnation:
				return refuse(StaleBroker, "partition %d: broker %d is incarnation %s, not %s", i, r.Node, broker.Incarnation, r.NodeIncarnation)
			case broker.Drained:
				return refuse(DrainedBroker, "partition %d: broker %d is drained", i, r.Node)
			}
		}
	}
	return Result{}
}

// DeleteTopic removes a topic and leaves a Deletion that every broker registered
// now must confirm.
//
//	16 id | u64 last term
type DeleteTopic struct {
	// ID is the topic to delete.
	ID segment.TopicID
	// LastTerm is the highest leader epoch any of its partitions announced, as
	// far as the sender knows; a topic of this name that comes later starts above.
	LastTerm uint64
}

func (*DeleteTopic) number() number { return numberDeleteTopic }

func (t *DeleteTopic) fields(c *coder) {
	c.fixed(t.ID[:])
	code64(c, &t.LastTerm)
}

func (t *DeleteTopic) apply(d *draft) Result {
	topic, ok := d.topics.get(t.ID[:])
	if !ok {
		return refuse(UnknownTopic, "no topic has the id %s", t.ID)
	}
	gone := &Deletion{ID: topic.ID, Name: topic.Name, Index: d.index}
	for b := range d.brokers.values() {
		gone.Waiting = append(gone.Waiting, b.Node)
	}
	d.names = d.names.remove(collisionKey(topic.Name))
	d.topics = d.topics.remove(topic.ID[:])
	d.deletions = d.deletions.put(topic.ID[:], gone)
	d.terms = d.terms.put([]byte(topic.Name), max(t.LastTerm, topic.StartTerm))
	return Result{}
}

// ConfirmDelete says that a broker holds nothing of deleted topics any more. The
// last broker's confirmation removes the record. Topics without a record are
// passed over.
//
//	i32 node | u32 n, n x 16 id
type ConfirmDelete struct {
	// Node is the broker that has removed its replicas, durably.
	Node NodeID
	// IDs are the deleted topics.
	IDs []segment.TopicID
}

func (*ConfirmDelete) number() number { return numberConfirmDelete }

func (t *ConfirmDelete) fields(c *coder) {
	code32(c, &t.Node)
	list(c, &t.IDs, 16, func(c *coder, id *segment.TopicID) { c.fixed(id[:]) })
}

func (t *ConfirmDelete) apply(d *draft) Result {
	for _, id := range t.IDs {
		if gone, ok := d.deletions.get(id[:]); ok {
			d.confirm(gone, t.Node)
		}
	}
	return Result{}
}

// confirm takes a broker from those that a deletion waits for.
func (d *draft) confirm(gone *Deletion, node NodeID) {
	next := *gone
	next.Waiting = slices.DeleteFunc(slices.Clone(gone.Waiting), func(n NodeID) bool { return n == node })
	if len(next.Waiting) == 0 {
		d.deletions = d.deletions.remove(gone.ID[:])
		return
	}
	d.deletions = d.deletions.put(gone.ID[:], &next)
}

// AlterTopicConfigs sets and removes configurations of a topic; keys in neither
// list stay as they are.
//
//	16 id | set: configs as in codeTopic | u32 n, n x (u32 length, key)
type AlterTopicConfigs struct {
	// ID is the topic.
	ID segment.TopicID
	// Set are new values by key.
	Set map[string]string
	// Remove are keys that return to their default.
	Remove []string
}

func (*AlterTopicConfigs) number() number { return numberAlterTopicConfigs }

func (t *AlterTopicConfigs) fields(c *coder) {
	c.fixed(t.ID[:])
	c.configs(&t.Set)
	list(c, &t.Remove, 4, (*coder).text)
}

func (t *AlterTopicConfigs) apply(d *draft) Result {
	topic, ok := d.topics.get(t.ID[:])
	if !ok {
		return refuse(UnknownTopic, "no topic has the id %s", t.ID)
	}
	configs := maps.Clone(topic.Configs)
	if configs == nil {
		configs = map[string]string{}
	}
	for _, key := range t.Remove {
		delete(configs, key)
	}
	maps.Copy(configs, t.Set)
	if len(configs) > MaxConfigs {
		return refuse(Malformed, "%d configurations, at most %d", len(configs), MaxConfigs)
	}
	next := *topic
	next.Configs = configs
	d.putTopic(&next)
	return Result{}
}

func (d *draft) putTopic(t *Topic) {
	d.names = d.names.put(collisionKey(t.Name), t)
	d.topics = d.topics.put(t.ID[:], t)
}

// termSize is the least size of a last known term: a name and the term.
const termSize = 4 + 8

// lastTerm is the highest term known of a deleted topic's name.
type lastTerm struct {
	name string
	term uint64
}

func codeTerm(c *coder, t *lastTerm) {
	c.text(&t.name)
	code64(c, &t.term)
}

// keyNode reads what nodeKey wrote.
func keyNode(key []byte) NodeID { return NodeID(binary.BigEndian.Uint32(key)) }
