package replication

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestQuorum: every node tells the same of the metadata group, also of a member that
// has stopped.
func TestQuorum(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	nodes[0].create("a") // so that there is something to hold
	began := time.Now()
	for _, n := range nodes {
		var q Quorum
		eventually(t, "all to hold everything", func() bool {
			var err error
			q, err = n.group.Quorum(t.Context())
			must(t, err)
			held := 0
			for _, m := range q.Members {
				if m.Last == q.Commit {
					held++
				}
			}
			return held == 3
		})
		leader, known := n.group.Leader()
		if !known || q.Leader != leader || q.Term == 0 || q.Commit == 0 || len(q.Members) != 3 {
			t.Fatalf("node %d, of leader %d: %+v", n.id, leader, q)
		}
		for _, m := range q.Members {
			own := m.Node == q.Leader
			if !m.Voter || m.Incarnation == 0 || m.CaughtUpAt.Before(began.Add(-time.Hour)) || m.HeardAt.IsZero() != own {
				t.Errorf("node %d says: %+v", n.id, m)
			}
		}
	}
}

var goldenQuorum = Quorum{Leader: 2, Term: 7, Commit: 300, Members: []QuorumMember{
	{Node: 2, Incarnation: 0xa1a2a3a4a5a6a7a8, Voter: true, Last: 301, CaughtUpAt: time.UnixMilli(1_700_000_000_123)},
	{Node: 3, Incarnation: 0xb1, Last: 299, HeardAt: time.UnixMilli(1_700_000_000_100), CaughtUpAt: time.UnixMilli(1_700_000_000_000)},
}}

const goldenQuorumHex = "00000002" + "0000000000000007" + "000000000000012c" + "00000002" +
	"00000002" + "a1a2a3a4a5a6a7a8" + "01" + "000000000000012d" + "0000000000000000" + "0000018bcfe5687b" +
	"00000003" + "00000000000000b1" + "00" + "000000000000012b" + "0000018bcfe56864" + "0000018bcfe56800"

func TestQuorumFormat(t *testing.T) {
	b := encodeQuorum(goldenQuorum)
	if got := hex.EncodeToString(b); got != goldenQuorumHex {
		t.Errorf("the format changed: %s", got)
	}
	q, err := decodeQuorum(b)
	if diff := cmp.Diff(goldenQuorum, q); err != nil || diff != "" {
		t.Errorf("%v (-encoded +decoded):\n%s", err, diff)
	}
	absurd := bytes.Clone(b)
	absurd[20] = 0xff // members
	for _, bad := range [][]byte{nil, b[:quorumHead-1], b[:len(b)-1], append(bytes.Clone(b), 0), absurd} {
		if _, err := decodeQuorum(bad); !errors.Is(err, errQuorum) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

func FuzzDecodeQuorum(f *testing.F) {
	f.Add(encodeQuorum(goldenQuorum))
	f.Add(encodeQuorum(Quorum{}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := decodeQuorum(b)
		if err != nil {
			return
		}
		again, err := decodeQuorum(encodeQuorum(q))
		if diff := cmp.Diff(q, again); err != nil || diff != "" {
			t.Fatalf("%v\n%s", err, diff)
		}
	})
}
