package metadata

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// NodeID is the number of a broker, Kafka's broker id: chosen by the operator,
// unique in a cluster, not negative.
type NodeID int32

// Incarnation is the identity of one disk of a broker: 64 random bits, drawn
// when the data folder is made and never zero. A broker that comes back with an
// empty or rolled-back disk is another incarnation of the same NodeID, because
// it has forgotten what it voted for and what it acknowledged.
type Incarnation uint64

// serverPrefix begins the raft ServerID of every member of the metadata group.
const serverPrefix = "node/"

// ErrServerID is returned by ParseServerID for text that no ServerID produced.
var ErrServerID = errors.New("metadata: not a server id of the metadata group")

// ServerID is the incarnation as raft's ServerID and ServerAddress in the
// metadata group: "node/" and 16 hexadecimal digits. Network addresses never
// enter a raft configuration; they are looked up in the metadata.
func (i Incarnation) ServerID() string { return fmt.Sprintf("%s%016x", serverPrefix, uint64(i)) }

// String is the incarnation as 16 hexadecimal digits.
func (i Incarnation) String() string { return fmt.Sprintf("%016x", uint64(i)) }

// ParseServerID reads what ServerID wrote.
func ParseServerID(text string) (Incarnation, error) {
	digits, ok := strings.CutPrefix(text, serverPrefix)
	if !ok || len(digits) != 16 {
		return 0, fmt.Errorf("%w: %q", ErrServerID, text)
	}
	v, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("%w: %q", ErrServerID, text)
	}
	return Incarnation(v), nil
}
