package metadata

import (
	"iter"

	"github.com/millrace/millrace/segment"
)

// View is the cluster as of one index of the metadata log. It never changes: a
// request reads one View from begin to end and sees one consistent picture, and
// what its methods return must not be modified. The zero value is the state
// before the first command.
type View struct {
	index          uint64
	cluster        string
	founders       uint32 // brokers that found the cluster together; 0: it is founded
	nextProducerID int64
	brokers        table[*Broker]     // by node
	names          table[*Topic]      // by collision key
	topics         table[*Topic]      // by id
	deletions      table[*Deletion]   // by topic id
	terms          table[uint64]      // last terms of deleted topics, by name
	sessions       table[*session]    // by node
	retired        table[Incarnation] // of unregistered brokers, by itself
}

// draft is the next view while a command makes it.
type draft struct{ View }

// Index is the position in the metadata log that the view reflects.
func (v *View) Index() uint64 { return v.index }

// ClusterID is the cluster's id, empty before it was founded.
func (v *View) ClusterID() string { return v.cluster }

// Broker returns a registered broker.
func (v *View) Broker(node NodeID) (*Broker, bool) {
	if node < 0 {
		return nil, false
	}
	return v.brokers.get(nodeKey(node))
}

// BrokerOf returns the broker that has this incarnation now.
func (v *View) BrokerOf(i Incarnation) (*Broker, bool) {
	for b := range v.brokers.values() {
		if b.Incarnation == i {
			return b, true
		}
	}
	return nil, false
}

// Brokers yields the registered brokers in order of their ids.
func (v *View) Brokers() iter.Seq[*Broker] { return v.brokers.values() }

// BrokerCount is the number of registered brokers.
func (v *View) BrokerCount() int { return v.brokers.size() }

// Topic returns the topic with this id.
func (v *View) Topic(id segment.TopicID) (*Topic, bool) { return v.topics.get(id[:]) }

// TopicNamed returns the topic with this name.
func (v *View) TopicNamed(name string) (*Topic, bool) {
	t, ok := v.names.get(collisionKey(name))
	if !ok || t.Name != name {
		return nil, false
	}
	return t, true
}

// Topics yields all topics in order of their names ('.' sorts as '_').
func (v *View) Topics() iter.Seq[*Topic] { return v.names.values() }

// TopicCount is the number of topics.
func (v *View) TopicCount() int { return v.topics.size() }

// Deletion returns the record of a deleted topic that some broker has not yet
// confirmed.
func (v *View) Deletion(id segment.TopicID) (*Deletion, bool) { return v.deletions.get(id[:]) }

// Deletions yields the records of deleted topics in order of their ids.
func (v *View) Deletions() iter.Seq[*Deletion] { return v.deletions.values() }

// NextProducerID is where the next block of producer ids begins.
func (v *View) NextProducerID() int64 { return v.nextProducerID }

// HasSession reports whether a process is the registered one of its node, so
// that its commands are admitted.
func (v *View) HasSession(node NodeID, id uint64) bool {
	if node < 0 {
		return false
	}
	s, ok := v.sessions.get(nodeKey(node))
	return ok && s.ID == id
}
