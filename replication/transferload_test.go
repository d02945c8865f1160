package replication

import (
	"context"
	"testing"
	"time"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestTransferAtLoad: a transfer waits for what was handed to raft and is not in
// the log yet. Otherwise the successor lacks the entry that comes in behind the look
// at the log's end, is refused every vote, and the stop costs an election time-out
// (seen in the soak: one SIGTERM in ten).
func TestTransferAtLoad(t *testing.T) {
	g := newTrio(t)
	for _, n := range g.nodes { // disks as slow as real ones
		n.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: ".log", Repeat: true, Do: func() { <-time.After(2 * time.Millisecond) }})
	}
	w := startWorkload(g, 4, 2)
	leader, term := g.leaderAfter(0)
	for range 30 {
		w.progress(20)
		leader.mu.Lock()
		p, up := leader.partition, leader.mux.Up
		leader.mu.Unlock()
		if err := p.Transfer(context.Background(), NoLeader, up); err != nil {
			t.Errorf("transfer from node %d: %v", leader.id, err)
		}
		next, now := g.leaderAfter(term)
		if now != term+1 {
			t.Errorf("a transfer from node %d in term %d led to term %d: an election was lost", leader.id, term, now)
		}
		leader, term = next, now
	}
	w.finish()
}

// leaderAfter waits for the ready leader of a later term.
func (g *trio) leaderAfter(term segment.Term) (leader *trioNode, now segment.Term) {
	g.t.Helper()
	eventually(g.t, "the next leader", func() bool {
		for _, n := range g.nodes {
			if role := n.role(); role.Ready && role.Term > term {
				leader, now = n, role.Term
				return true
			}
		}
		return false
	})
	return leader, now
}
