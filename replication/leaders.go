package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// NoLeader as LeaderInfo.Node says that the last known leader stepped down.
const NoLeader metadata.NodeID = -1

// LeaderInfo is what the brokers tell each other about a partition's leadership.
type LeaderInfo struct {
	// Node leads the partition and is ready to serve; NoLeader after it stepped
	// down.
	Node metadata.NodeID
	// Term is the term of that leadership, the Kafka leader epoch.
	Term segment.Term
	// InSync are the nodes whose replicas hold everything acknowledged, the
	// leader included, ascending.
	InSync []metadata.NodeID
}

// leaderTable is a node's view of who leads what, fed by gossip and not by the
// metadata log: an election must not wait for another group's commit. The
// highest term wins; within a term only that term's leader speaks.
type leaderTable struct {
	mu      sync.RWMutex
	leaders map[transport.GroupID]LeaderInfo
}

func newLeaderTable() *leaderTable {
	return &leaderTable{leaders: map[transport.GroupID]LeaderInfo{}}
}

// learn takes a report and says whether it was news.
func (t *leaderTable) learn(group transport.GroupID, info LeaderInfo) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.leaders[group]
	if ok && (info.Term < known.Term || info.Term == known.Term &&
		info.Node == known.Node && slices.Equal(info.InSync, known.InSync)) {
		return false
	}
	t.leaders[group] = info
	return true
}

// get returns the last report on the group.
func (t *leaderTable) get(group transport.GroupID) (LeaderInfo, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	info, ok := t.leaders[group]
	return info, ok
}

// forget drops a deleted group.
func (t *leaderTable) forget(group transport.GroupID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.leaders, group)
}

// leaderReport is one line of gossip.
type leaderReport struct {
	group transport.GroupID
	info  LeaderInfo
}

// A gossip message is a sequence of reports, big-endian:
//
//	0   16  topic id
//	16   4  partition
//	20   4  node that leads, -1 for none
//	24   8  term
//	32   2  n, number of in-sync nodes
//	34  4n  their ids
const (
	reportSize = 34
	// maxInSync bounds the in-sync set of a report.
	maxInSync = 1024
)

var errGossip = errors.New("malformed gossip message")

func encodeReports(reports []leaderReport) []byte {
	var b []byte
	for _, r := range reports {
		b = append(b, r.group.Topic[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(r.group.Partition))
		b = binary.BigEndian.AppendUint32(b, uint32(r.info.Node))
		b = binary.BigEndian.AppendUint64(b, uint64(r.info.Term))
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.info.InSync)))
		for _, node := range r.info.InSync {
			b = binary.BigEndian.AppendUint32(b, uint32(node))
		}
	}
	return b
}

func decodeReports(b []byte) ([]leaderReport, error) {
	var reports []leaderReport
	for len(b) > 0 {
		if len(b) < reportSize {
			return nil, fmt.Errorf("%w: %d bytes left of a report", errGossip, len(b))
		}
		var r leaderReport
		copy(r.group.Topic[:], b)
		r.group.Partition = int32(binary.BigEndian.Uint32(b[16:]))
		r.info.Node = metadata.NodeID(int32(binary.BigEndian.Uint32(b[20:])))
		r.info.Term = segment.Term(binary.BigEndian.Uint64(b[24:]))
		n := int(binary.BigEndian.Uint16(b[32:]))
		b = b[reportSize:]
		if n > maxInSync || len(b) < 4*n {
			return nil, fmt.Errorf("%w: %d in-sync nodes in %d bytes", errGossip, n, len(b))
		}
		for range n {
			r.info.InSync = append(r.info.InSync, metadata.NodeID(int32(binary.BigEndian.Uint32(b))))
			b = b[4:]
		}
		reports = append(reports, r)
	}
	return reports, nil
}
