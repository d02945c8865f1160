package replication

import (
	"errors"
	"testing"
	"time"

	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestTransferAtLoad: a transfer waits for what was handed to raft and is not in
// the log yet. Otherwise the successor lacks the entry that comes in behind the look
// at the log's end, is refused every vote, and the stop costs an election time-out
// (seen in the soak: one SIGTERM in ten).
func TestTransferAtLoad(t *testing.T) {
	const syncTime = 2 * time.Millisecond // disks as slow as real ones
	g := newTrio(t)
	for _, n := range g.nodes {
		n.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: ".log", Repeat: true, Do: func() { <-time.After(syncTime) }})
	}
	w := startWorkload(g, 4, 2)
	began := time.Now()
	for found := 0; found < 20; {
		if time.Since(began) > testWait {
			t.Fatalf("a successor was found %d times in %v", found, testWait)
		}
		w.progress(20)
		n := g.leader()
		p := n.partition
		in, role := p.current(), p.Leadership()
		if in == nil || !role.Leader {
			continue
		}
		must(t, p.holdQueue(t.Context()))
		successor, err := p.awaitSuccessor(t.Context(), in, NoLeader, n.mux.Up)
		end := p.Log().LastIndex()
		match := in.facade.Matches(role.Term)[successor]
		if err == nil {
			<-time.After(5 * syncTime) // what raft had would be in the log now
		}
		later, still := p.Log().LastIndex(), p.Leadership() == role
		p.letQueueGo()
		switch {
		case !still, errors.Is(err, ErrNoSuccessor): // the machine is busy
		case err != nil:
			t.Fatal(err)
		case match.Index < end || later != end:
			t.Fatalf("%s holds all up to entry %d and is to succeed; the log ended at %d, and then at %d", successor, match.Index, end, later)
		default:
			found++
		}
	}
	w.finish()
}
