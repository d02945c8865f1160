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
// highest term wins; within a term only that term's leader speaks, and its
// reports are numbered, because two of its messages may be handled in any order.
type leaderTable struct {
	mu      sync.RWMutex
	leaders map[transport.GroupID]leaderEntry
}

// leaderEntry is the last report on a group.
type leaderEntry struct {
	LeaderInfo
	by       metadata.NodeID // who said so: the leader of Term
	sequence uint64          // of by's reports on this group in Term, from 1
}

func newLeaderTable() *leaderTable {
	return &leaderTable{leaders: map[transport.GroupID]leaderEntry{}}
}

// learn takes a report of another node and says whether it was news.
func (t *leaderTable) learn(by metadata.NodeID, r leaderReport) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.leaders[r.group]
	if ok && (r.info.Term < known.Term ||
		r.info.Term == known.Term && (by != known.by || r.sequence <= known.sequence)) {
		return false
	}
	t.leaders[r.group] = leaderEntry{r.info, by, r.sequence}
	return true
}

// announce takes what this node says of a partition that it leads or led, and
// says whether it was news.
func (t *leaderTable) announce(own metadata.NodeID, group transport.GroupID, info LeaderInfo) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.leaders[group]
	sequence := uint64(1)
	switch {
	case ok && info.Term < known.Term:
		return false
	case ok && info.Term == known.Term && (known.by != own ||
		info.Node == known.Node && slices.Equal(info.InSync, known.InSync)):
		return false
	case ok && info.Term == known.Term:
		sequence = known.sequence + 1
	}
	t.leaders[group] = leaderEntry{info, own, sequence}
	return true
}

// get returns the last report on the group.
func (t *leaderTable) get(group transport.GroupID) (LeaderInfo, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	entry, ok := t.leaders[group]
	return entry.LeaderInfo, ok
}

// saidBy returns the last report on the group if the node itself made it.
func (t *leaderTable) saidBy(node metadata.NodeID, group transport.GroupID) (leaderReport, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	entry, ok := t.leaders[group]
	return leaderReport{group, entry.LeaderInfo, entry.sequence}, ok && entry.by == node
}

// forget drops a deleted group.
func (t *leaderTable) forget(group transport.GroupID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.leaders, group)
}

// leaderReport is one line of gossip.
type leaderReport struct {
	group    transport.GroupID
	info     LeaderInfo
	sequence uint64 // of the sender's reports on the group in this term
}

// mayCome reports whether a node may say this: a node speaks for its own
// leadership alone, that it leads or that it stepped down. What it heard of
// others it does not pass on, so another name is a mistake or worse.
func (r leaderReport) mayCome(from metadata.NodeID) bool {
	return r.info.Node == from || r.info.Node == NoLeader && len(r.info.InSync) == 0
}

// A gossip message is a sequence of reports, big-endian:
//
//	0   16  topic id
//	16   4  partition
//	20   4  node that leads, -1 for none
//	24   8  term
//	32   8  sequence of the sender's reports on the group in this term
//	40   2  n, number of in-sync nodes
//	42  4n  their ids
const (
	reportSize = 42
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
		b = binary.BigEndian.AppendUint64(b, r.sequence)
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
		r.sequence = binary.BigEndian.Uint64(b[32:])
		n := int(binary.BigEndian.Uint16(b[40:]))
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
