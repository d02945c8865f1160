package transport

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// GroupID names a raft group in a cluster. The zero value is the metadata group;
// every other group is one partition, under its topic's id and not its name,
// because a topic may be deleted and created again.
type GroupID struct {
	// Topic is the id of the partition's topic.
	Topic segment.TopicID
	// Partition is the partition's number in its topic, from 0.
	Partition int32
}

// String is "metadata" or the topic id and the partition, as in folder names.
func (g GroupID) String() string {
	if g == (GroupID{}) {
		return "metadata"
	}
	return g.Topic.String() + "/" + strconv.Itoa(int(g.Partition))
}

// ErrServerID is returned by ParseServerID for text that ServerID did not make.
var ErrServerID = errors.New("transport: server id is not NODE/INCARNATION")

// maxServerID bounds the text of a server id on the wire: ten digits, a slash
// and sixteen hexadecimal digits, and some room.
const maxServerID = 64

// ServerID is raft's ServerID and, byte for byte, its ServerAddress of one
// replica: "node/incarnation", as in "3/00c0ffee00c0ffee". A replica that lost
// its disk has another incarnation, hence is another server: it can neither vote
// nor acknowledge as the one that forgot (DESIGN 4.4). Network addresses are in
// the metadata only; the mux finds the node by its number.
func ServerID(node metadata.NodeID, incarnation uint64) raft.ServerID {
	return raft.ServerID(fmt.Sprintf("%d/%016x", node, incarnation))
}

// ParseServerID reads what ServerID wrote.
func ParseServerID(id raft.ServerID) (node metadata.NodeID, incarnation uint64, err error) {
	number, digits, ok := strings.Cut(string(id), "/")
	n, nodeErr := strconv.ParseInt(number, 10, 32)
	incarnation, hexErr := strconv.ParseUint(digits, 16, 64)
	node = metadata.NodeID(n)
	// The one text that ServerID makes of the two, without making it: this runs for each
	// message.
	canonical := len(digits) == 16 && !strings.ContainsAny(digits, "ABCDEF") &&
		(number == "0" || number != "" && number[0] >= '1' && number[0] <= '9')
	if !ok || nodeErr != nil || hexErr != nil || !canonical {
		return 0, 0, fmt.Errorf("%w: %q", ErrServerID, string(id))
	}
	return node, incarnation, nil
}
