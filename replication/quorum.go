package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// Quorum is the state of the metadata group as its leader sees it (KIP-595, KIP-836).
type Quorum struct {
	// Leader leads the group, in Term.
	Leader metadata.NodeID
	// Term is the leader's term.
	Term segment.Term
	// Commit is the last committed entry of the group's log.
	Commit segment.Index
	// Members are in the order of raft's configuration, the leader included.
	Members []QuorumMember
}

// QuorumMember is one replica of the metadata group.
type QuorumMember struct {
	// Node holds the replica.
	Node metadata.NodeID
	// Incarnation is the node's disk. While a disk is replaced, two of one node may be
	// members.
	Incarnation metadata.Incarnation
	// Voter has a vote; all others follow.
	Voter bool
	// Last is the last entry it is known to hold, 0 if nothing is known.
	Last segment.Index
	// HeardAt is when it last acknowledged something, on the leader's clock; zero for
	// the leader and if it never did in this term.
	HeardAt time.Time
	// CaughtUpAt is the latest moment of which is known that it held everything; zero
	// if there is none in this term.
	CaughtUpAt time.Time
}

// Quorum asks the leader of the metadata group how its members are, from any node. It
// waits for a leader until ctx ends.
func (m *MetaGroup) Quorum(ctx context.Context) (q Quorum, err error) {
	err = m.retry(ctx, func(ctx context.Context) error {
		reply, err := m.askLeader(ctx, transport.MethodQuorum, nil, m.quorumHere)
		if err == nil {
			q, err = decodeQuorum(reply)
		}
		return err
	})
	return q, err
}

// quorumHere answers as the leader.
func (m *MetaGroup) quorumHere(ctx context.Context, _ []byte) ([]byte, error) {
	in := m.current()
	if in == nil || !in.leads() {
		return nil, m.notLeader()
	}
	future := in.raft.GetConfiguration()
	if err := in.await(ctx, future); err != nil {
		return nil, m.notLeader()
	}
	q := Quorum{Leader: m.node.ID(), Term: segment.Term(in.raft.CurrentTerm()), Commit: segment.Index(in.raft.CommitIndex())}
	matches := in.facade.Matches(q.Term)
	last := segment.Index(in.raft.LastIndex())
	for _, s := range future.Configuration().Servers {
		node, incarnation, err := transport.ParseServerID(s.ID)
		if err != nil {
			return nil, fmt.Errorf("member %s of the metadata group: %w", s.ID, err)
		}
		member := QuorumMember{Node: node, Incarnation: metadata.Incarnation(incarnation), Voter: s.Suffrage == raft.Voter}
		if match, known := matches[s.ID]; known {
			member.Last, member.HeardAt, member.CaughtUpAt = match.Index, match.At, match.CaughtUpAt
		}
		if s.ID == in.id {
			member.Last, member.CaughtUpAt = last, time.Now()
		}
		q.Members = append(q.Members, member)
	}
	if !in.leads() { // what was read may be of two terms
		return nil, m.notLeader()
	}
	return encodeQuorum(q), nil
}

// The state of the group, big-endian; times are milliseconds since 1970, 0 for none:
//
//	i32 leader | u64 term | u64 commit | u32 n, n x
//	(i32 node | u64 incarnation | u8 voter | u64 last | i64 heard at | i64 caught up at)
const (
	quorumHead   = 4 + 8 + 8 + 4
	quorumMember = 4 + 8 + 1 + 8 + 8 + 8
)

var errQuorum = errors.New("malformed state of the metadata group")

func encodeQuorum(q Quorum) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(q.Leader))
	b = binary.BigEndian.AppendUint64(b, uint64(q.Term))
	b = binary.BigEndian.AppendUint64(b, uint64(q.Commit))
	b = binary.BigEndian.AppendUint32(b, uint32(len(q.Members)))
	for _, m := range q.Members {
		b = binary.BigEndian.AppendUint32(b, uint32(m.Node))
		b = binary.BigEndian.AppendUint64(b, uint64(m.Incarnation))
		voter := byte(0)
		if m.Voter {
			voter = 1
		}
		b = append(b, voter)
		b = binary.BigEndian.AppendUint64(b, uint64(m.Last))
		b = binary.BigEndian.AppendUint64(b, uint64(milliseconds(m.HeardAt)))
		b = binary.BigEndian.AppendUint64(b, uint64(milliseconds(m.CaughtUpAt)))
	}
	return b
}

func decodeQuorum(b []byte) (q Quorum, err error) {
	if len(b) < quorumHead {
		return q, fmt.Errorf("%w: %d bytes", errQuorum, len(b))
	}
	q.Leader = metadata.NodeID(int32(binary.BigEndian.Uint32(b)))
	q.Term = segment.Term(binary.BigEndian.Uint64(b[4:]))
	q.Commit = segment.Index(binary.BigEndian.Uint64(b[12:]))
	count := int64(binary.BigEndian.Uint32(b[20:]))
	b = b[quorumHead:]
	if int64(len(b)) != count*quorumMember {
		return Quorum{}, fmt.Errorf("%w: %d members in %d bytes", errQuorum, count, len(b))
	}
	for ; len(b) > 0; b = b[quorumMember:] {
		q.Members = append(q.Members, QuorumMember{
			Node:        metadata.NodeID(int32(binary.BigEndian.Uint32(b))),
			Incarnation: metadata.Incarnation(binary.BigEndian.Uint64(b[4:])),
			Voter:       b[12] != 0,
			Last:        segment.Index(binary.BigEndian.Uint64(b[13:])),
			HeardAt:     fromMilliseconds(int64(binary.BigEndian.Uint64(b[21:]))),
			CaughtUpAt:  fromMilliseconds(int64(binary.BigEndian.Uint64(b[29:]))),
		})
	}
	return q, nil
}

func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMilliseconds(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
