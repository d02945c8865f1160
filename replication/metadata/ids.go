package metadata

import "fmt"

// NodeID is the number of a broker, Kafka's broker id: chosen by the operator,
// unique in a cluster, not negative.
type NodeID int32

// Incarnation is the identity of one disk of a broker: 64 random bits, drawn
// when the data folder is made and never zero. A broker that comes back with an
// empty or rolled-back disk is another incarnation of the same NodeID, because
// it has forgotten what it voted for and what it acknowledged.
type Incarnation uint64

// String is the incarnation as 16 hexadecimal digits.
func (i Incarnation) String() string { return fmt.Sprintf("%016x", uint64(i)) }
