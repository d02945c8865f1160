package replication

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// longBatch is a batch over several sectors: what is written behind a short one would
// bring it to the disk with the rest of its sector.
func longBatch(sequence int32, value uint64) []byte {
	long := append(binary.BigEndian.AppendUint64(nil, value), bytes.Repeat([]byte("sectors "), 250)...)
	return segment.Build([]segment.Record{{Value: long}}, segment.BuildOptions{Producer: &segment.Producer{ID: 9, Sequence: sequence}})
}

// TestRetryAfterFailedSync: a sync fails, the broker ends itself, and its supervisor
// starts it again in the same boot. It finds the batch in the page cache, and answers
// the producer's retry as a duplicate: an acknowledgement. A power cut must not take
// the record.
func TestRetryAfterFailedSync(t *testing.T) {
	c := newHosts(t, 1)
	topic := c.create("events", 1)
	n := c.nodes[0]
	c.produce(topic, 0, 1)
	n.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: ".log"})
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	_, err := await(ctx, c.leader(topic, 0).Propose(ctx, longBatch(0, 2), Guard{}))
	if err == nil {
		t.Fatal("acknowledged in spite of a failed sync")
	}
	n.stop()
	n.start()
	c.ready()
	result, err := await(ctx, c.leader(topic, 0).Propose(ctx, longBatch(0, 2), Guard{}))
	must(t, err)
	n.fs.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	n.stop()
	n.start()
	c.ready()
	if found := values(t, c.leader(topic, 0).Log()); found[result.Base] != 2 {
		t.Errorf("offset %d was acknowledged (as a duplicate: %v), after a power cut there is %v", result.Base, result.Duplicate, found)
	}
}

// TestFollowerAfterFailedSync: a follower whose sync failed is started again, and
// makes a majority with the leader for an entry that it has in its page cache. After
// a power cut of all three the entry must be on its disk: the leader's may be the one
// that does not come back.
func TestFollowerAfterFailedSync(t *testing.T) {
	g := newTrio(t)
	l := g.leader()
	failing, away := g.nodes[int(l.id)%3], g.nodes[(int(l.id)+1)%3]
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	_, err := await(ctx, l.partition.Propose(ctx, longBatch(0, 1), Guard{}))
	must(t, err)
	g.inStep()
	away.stop()
	failing.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: ".log"})
	l.partition.Propose(ctx, longBatch(1, 2), Guard{})
	eventually(t, "the end of the follower's process", func() bool { return failing.died() != nil })
	failing.stop()
	failing.start()
	var result Result
	eventually(t, "an acknowledgement", func() bool {
		n := g.ready()
		if n == nil {
			return false
		}
		once, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		result, err = await(once, n.partition.Propose(once, longBatch(1, 2), Guard{}))
		return err == nil
	})
	for _, n := range g.nodes {
		n.fs.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
		n.stop()
	}
	failing.start()
	away.start()
	if found := values(t, g.leader().partition.Log()); found[result.Base] != 2 {
		t.Errorf("offset %d was acknowledged, after a power cut there is %v", result.Base, found)
	}
}
