package server

import (
	"context"
	"encoding/binary"
	"net"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
)

// DescribeQuorum (key 55, KIP-595). Version 1 brings times (KIP-836), 2 messages,
// directory ids and the nodes' addresses (KIP-853). In Kafka it needs DESCRIBE on the
// cluster.
//
// The one partition there is to describe is __cluster_metadata-0, the metadata group.
// An entry's index is its offset; log end and high watermark are one above the last.
// A directory id holds the incarnation of a broker's disk in its last eight bytes.
// Any broker answers: the group's leader tells it.

// metadataTopic0 is the name of the metadata group as a topic; it has one partition.
const metadataTopic0 = "__cluster_metadata"

// quorumListener is the name of the address at which brokers reach each other.
const quorumListener = "RPC"

// maxQuorumWait bounds how long the metadata group's leader is waited for.
const maxQuorumWait = 5 * time.Second

func handleDescribeQuorum(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.DescribeQuorumRequest)
	resp := kmsg.NewPtrDescribeQuorumResponse()
	ctx, cancel := context.WithTimeout(ctx, maxQuorumWait)
	defer cancel()
	stop := context.AfterFunc(n.stopping, cancel)
	defer stop()
	q, err := n.cluster.Quorum(ctx)
	if err != nil {
		text := "the metadata group has no leader that answers: " + err.Error()
		resp.ErrorCode, resp.ErrorMessage = kerr.RequestTimedOut.Code, &text
		return resp, nil
	}
	for i := range body.Topics {
		t := kmsg.NewDescribeQuorumResponseTopic()
		t.Topic = body.Topics[i].Topic
		for _, p := range body.Topics[i].Partitions {
			if t.Topic != metadataTopic0 || p.Partition != 0 {
				unknown := kmsg.NewDescribeQuorumResponseTopicPartition()
				text := "only " + metadataTopic0 + ", partition 0, has a quorum to describe"
				unknown.Partition, unknown.ErrorCode, unknown.ErrorMessage = p.Partition, kerr.UnknownTopicOrPartition.Code, &text
				t.Partitions = append(t.Partitions, unknown)
				continue
			}
			t.Partitions = append(t.Partitions, describeQuorum(&q))
		}
		resp.Topics = append(resp.Topics, t)
	}
	resp.Nodes = quorumNodes(n.cluster.View(), &q)
	return resp, nil
}

func describeQuorum(q *replication.Quorum) kmsg.DescribeQuorumResponseTopicPartition {
	p := kmsg.NewDescribeQuorumResponseTopicPartition()
	p.LeaderID, p.LeaderEpoch, p.HighWatermark = int32(q.Leader), int32(q.Term), int64(q.Commit)+1
	p.CurrentVoters, p.Observers = []kmsg.DescribeQuorumResponseTopicPartitionReplicaState{}, []kmsg.DescribeQuorumResponseTopicPartitionReplicaState{}
	for _, m := range q.Members {
		s := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
		s.ReplicaID, s.LogEndOffset = int32(m.Node), -1
		binary.BigEndian.PutUint64(s.ReplicaDirectoryID[8:], uint64(m.Incarnation))
		if m.Last > 0 {
			s.LogEndOffset = int64(m.Last) + 1
		}
		if !m.HeardAt.IsZero() {
			s.LastFetchTimestamp = m.HeardAt.UnixMilli()
		}
		if !m.CaughtUpAt.IsZero() {
			s.LastCaughtUpTimestamp = m.CaughtUpAt.UnixMilli()
		}
		if m.Voter {
			p.CurrentVoters = append(p.CurrentVoters, s)
		} else {
			p.Observers = append(p.Observers, s)
		}
	}
	return p
}

// quorumNodes tells where the members are.
func quorumNodes(view *metadata.View, q *replication.Quorum) (nodes []kmsg.DescribeQuorumResponseNode) {
	for _, m := range q.Members {
		b, ok := view.Broker(m.Node)
		if !ok || b.Incarnation != m.Incarnation {
			continue
		}
		node := kmsg.NewDescribeQuorumResponseNode()
		node.NodeID = int32(m.Node)
		if host, port, err := net.SplitHostPort(b.RPCAddress); err == nil {
			l := kmsg.NewDescribeQuorumResponseNodeListener()
			number, _ := strconv.ParseUint(port, 10, 16)
			l.Name, l.Host, l.Port = quorumListener, host, uint16(number)
			node.Listeners = append(node.Listeners, l)
		}
		nodes = append(nodes, node)
	}
	return nodes
}
