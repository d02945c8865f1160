package server

import (
	"context"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// hostCluster is a replication.Host as the handlers see it.
type hostCluster struct{ host *replication.Host }

// Node implements cluster.
func (h hostCluster) Node() metadata.NodeID { return h.host.Node() }

// ClusterID implements cluster.
func (h hostCluster) ClusterID() string { return h.host.ClusterID() }

// View implements cluster.
func (h hostCluster) View() *metadata.View { return h.host.Meta().View() }

// Controller implements cluster.
func (h hostCluster) Controller() (metadata.NodeID, bool) { return h.host.Meta().Leader() }

// Alive implements cluster.
func (h hostCluster) Alive(node metadata.NodeID) bool { return h.host.Reachable(node) }

// Leader implements cluster.
func (h hostCluster) Leader(topic segment.TopicID, number int32) (replication.LeaderInfo, bool) {
	return h.host.Leader(topic, number)
}

// Partition implements cluster.
func (h hostCluster) Partition(topic segment.TopicID, number int32) (partition, bool) {
	p, ok := h.host.Partition(topic, number)
	if !ok {
		return nil, false
	}
	return hostPartition{p, h.host}, true
}

// ReplicaFailed implements cluster.
func (h hostCluster) ReplicaFailed(topic segment.TopicID, number int32) error {
	return h.host.ReplicaFailed(topic, number)
}

// Change implements cluster.
func (h hostCluster) Change(ctx context.Context, cmd metadata.Command) (metadata.Result, error) {
	result, _, err := h.host.Meta().Change(ctx, cmd)
	return result, err
}

// MoveLeader implements cluster.
func (h hostCluster) MoveLeader(ctx context.Context, topic segment.TopicID, number int32, to metadata.NodeID) error {
	return h.host.MoveLeader(ctx, topic, number, to)
}

// Quorum implements cluster.
func (h hostCluster) Quorum(ctx context.Context) (replication.Quorum, error) {
	return h.host.Meta().Quorum(ctx)
}

// WatchLeaders implements cluster.
func (h hostCluster) WatchLeaders(ch chan<- struct{}) (cancel func()) {
	return h.host.WatchLeaders(ch)
}

// WatchMetadata implements cluster.
func (h hostCluster) WatchMetadata(ch chan<- struct{}) (cancel func()) {
	return h.host.Meta().Watch(ch)
}

// hostPartition is a replication.Partition as the handlers see it.
type hostPartition struct {
	*replication.Partition
	host *replication.Host
}

// Propose implements partition.
func (p hostPartition) Propose(ctx context.Context, frame []byte, guard replication.Guard) proposal {
	return p.Partition.Propose(ctx, frame, guard)
}

// InSync implements partition.
func (p hostPartition) InSync() int {
	id := p.ID()
	l, ok := p.host.Leader(id.Topic, id.Partition)
	if !ok || l.Node != p.host.Node() {
		return 1
	}
	return len(l.InSync)
}

// Log implements partition.
func (p hostPartition) Log() partitionLog { return p.Partition.Log() }
