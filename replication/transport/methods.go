package transport

import "fmt"

// Class is one of the separate connections to a peer, so that a large transfer
// never stands in front of a vote. It travels in the handshake.
type Class uint8

// The classes. Numbers are part of the protocol.
const (
	// Control carries what is small and urgent: votes, heartbeats, metadata,
	// gossip. It is dialled as soon as an address is known and kept up.
	Control Class = 0
	// Bulk carries entries. It is dialled by the first call.
	Bulk Class = 1
	// Seed carries segment files. It is dialled by the first call.
	Seed Class = 2

	// classes is the number of classes a peer is dialled for.
	classes = 3

	// probe is a connection made by CallAddress for one call.
	probe Class = 3
)

// String names the class in logs.
func (c Class) String() string {
	switch c {
	case Control:
		return "control"
	case Bulk:
		return "bulk"
	case Seed:
		return "seed"
	case probe:
		return "probe"
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// Method is what a request asks for. It travels in the frame, so a number never
// changes its meaning and a retired one is never used again.
type Method uint8

// The methods, in the order they were added.
const (
	// MethodFounding asks a node that may have an empty disk who it is (CallAddress).
	MethodFounding Method = 1
	// MethodJoin asks a member of a cluster to take a node in.
	MethodJoin Method = 2
	// MethodMetaChange forwards a command to the metadata leader.
	MethodMetaChange Method = 3
	// MethodReadIndex asks the metadata leader for its commit index.
	MethodReadIndex Method = 4
	// MethodRaftAppend is raft's AppendEntries of one group.
	MethodRaftAppend Method = 5
	// MethodRaftVote is raft's RequestVote of one group.
	MethodRaftVote Method = 6
	// MethodRaftPreVote is raft's RequestPreVote of one group.
	MethodRaftPreVote Method = 7
	// MethodRaftTimeoutNow is raft's TimeoutNow of one group.
	MethodRaftTimeoutNow Method = 8
	// MethodRaftSnapshot is raft's InstallSnapshot of one group.
	MethodRaftSnapshot Method = 9
	// MethodGroupUp says that a replica's raft instance has started.
	MethodGroupUp Method = 10
	// MethodGossip spreads leadership, batched.
	MethodGossip Method = 11
	// MethodGossipPull asks a peer for all it knows of leadership.
	MethodGossipPull Method = 12
	// MethodForward passes a client's request to the broker that must answer it.
	MethodForward Method = 13
	// MethodMoveLeader asks the leader of a partition to hand its leadership over.
	MethodMoveLeader Method = 14
	// MethodQuorum asks the metadata leader how the members of its group are.
	MethodQuorum Method = 15
	// MethodSuspect asks a peer whether it, too, takes the leaders of groups for dead.
	MethodSuspect Method = 16
	// MethodSeedDescribe asks a replica what its log can be seeded with.
	MethodSeedDescribe Method = 17
	// MethodSeedRead reads a part of a file of a seed.
	MethodSeedRead Method = 18
	// MethodRaftHandOver asks a replica to campaign while the leader that hands over
	// waits. MethodRaftTimeoutNow, which it replaces, has no end.
	MethodRaftHandOver Method = 19
)

// methodNames is String's table; index 0 is no method.
var methodNames = [...]string{
	MethodFounding: "Founding", MethodJoin: "Join", MethodMetaChange: "MetaChange", MethodReadIndex: "ReadIndex",
	MethodRaftAppend: "RaftAppend", MethodRaftVote: "RaftVote", MethodRaftPreVote: "RaftPreVote",
	MethodRaftTimeoutNow: "RaftTimeoutNow", MethodRaftSnapshot: "RaftSnapshot", MethodGroupUp: "GroupUp",
	MethodGossip: "Gossip", MethodGossipPull: "GossipPull", MethodForward: "Forward",
	MethodMoveLeader: "MoveLeader", MethodQuorum: "Quorum", MethodSuspect: "Suspect",
	MethodSeedDescribe: "SeedDescribe", MethodSeedRead: "SeedRead",
	MethodRaftHandOver: "RaftHandOver",
}

// String names the method in logs.
func (m Method) String() string {
	if int(m) < len(methodNames) && methodNames[m] != "" {
		return methodNames[m]
	}
	return fmt.Sprintf("method(%d)", uint8(m))
}
