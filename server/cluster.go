package server

import (
	"context"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// cluster is what the handlers need of the layer below. hostCluster (host.go)
// makes it of a replication.Host; tests have their own.
type cluster interface {
	// Node is this broker's id.
	Node() metadata.NodeID
	// ClusterID is the cluster's id.
	ClusterID() string
	// View is the cluster's metadata as known here.
	View() *metadata.View
	// Controller is the broker that leads the metadata group, if one is known.
	Controller() (metadata.NodeID, bool)
	// Leader is the last ready leader that was heard of.
	Leader(topic segment.TopicID, partition int32) (replication.LeaderInfo, bool)
	// Alive reports whether a broker can be reached, as far as known here: one that
	// was not tried yet counts as alive.
	Alive(node metadata.NodeID) bool
	// Partition is the replica on this node.
	Partition(topic segment.TopicID, partition int32) (partition, bool)
	// ReplicaFailed is why the replica on this node is out of its group, or nil.
	ReplicaFailed(topic segment.TopicID, partition int32) error
	// Change makes a change of the metadata, from any broker, and returns once it
	// is visible in View. A refusal is a *metadata.Refusal.
	Change(ctx context.Context, cmd metadata.Command) (metadata.Result, error)
	// MoveLeader makes the replica on a node lead a partition, if it is in sync; see
	// replication.Host.MoveLeader.
	MoveLeader(ctx context.Context, topic segment.TopicID, partition int32, to metadata.NodeID) error
	// Quorum is the state of the metadata group, as its leader tells it.
	Quorum(ctx context.Context) (replication.Quorum, error)
	// WatchLeaders sends to ch, without blocking, whenever what Leader or a
	// partition's Leadership answers may have changed.
	WatchLeaders(ch chan<- struct{}) (cancel func())
	// WatchMetadata does the same whenever View has changed.
	WatchMetadata(ch chan<- struct{}) (cancel func())
}

// partition is one replica on this node.
type partition interface {
	// Leadership says whether this replica leads, and is ready to serve.
	Leadership() replication.Leadership
	// Confirm returns nil if an answer that only the leader of term may give, and
	// that was taken from this replica before the call, may be given now. It asks the
	// other replicas, and waits for them until ctx ends.
	Confirm(ctx context.Context, term segment.Term) error
	// Propose offers a batch to the log, in the order of calls; it waits for room
	// until ctx ends. The frame belongs to the partition from then on.
	Propose(ctx context.Context, frame []byte, guard replication.Guard) proposal
	// Trim moves the log start to an offset that is not above the high watermark, and
	// returns the log start once that is committed. The errors are those of a proposal.
	Trim(ctx context.Context, start segment.Offset) (segment.Offset, error)
	// InSync is how many replicas hold everything acknowledged, as far as this
	// leader knows.
	InSync() int
	// Log is what consumers read.
	Log() partitionLog
}

// proposal is a batch on its way into the log.
type proposal interface {
	// Done is closed when the outcome is known.
	Done() <-chan struct{}
	// Result is the outcome, once Done is closed.
	Result() (replication.Result, error)
}

// partitionLog is the reading side of *log.Log.
type partitionLog interface {
	Read(from, limit segment.Offset, maxBytes int64, minOne bool) (log.Slice, error)
	HighWatermark() segment.Offset
	StartOffset() segment.Offset
	NextOffset() segment.Offset
	Subscribe(ch chan<- struct{}) (cancel func())
	OffsetForTime(timestamp int64, limit segment.Offset) (segment.Offset, int64, bool, error)
	MaxTimestamp(limit segment.Offset) (segment.Offset, int64, bool, error)
	OffsetForTerm(term segment.Term) (segment.Term, segment.Offset, bool)
	Size() int64
	Dir() string
}
