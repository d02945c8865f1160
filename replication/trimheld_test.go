package replication

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestTrimWaitsForAMemberThatIsUnknown: a member that has acknowledged nothing in the
// leader's term holds every file back, wherever it stands in the configuration: raft
// knows what it held in an earlier term, this leader does not.
func TestTrimWaitsForAMemberThatIsUnknown(t *testing.T) {
	for _, silent := range []int{1, 2} { // never first: the others come before it, with all they hold
		g := newTrioOf(t, 4<<10)
		ctx, cancel := context.WithTimeout(t.Context(), testWait)
		defer cancel()
		for v := range uint64(100) {
			g.write(ctx, v)
		}
		g.inStep()
		away := g.nodes[silent]
		away.stop()
		eventually(t, "a trim by a leader that never heard of the silent member", func() bool {
			leader := g.ready()
			if leader == nil {
				return false
			}
			p, term := leader.partition, leader.role().Term
			facade := p.current().facade
			matches := facade.Matches(term)
			if _, heard := matches[g.replicaID(away)]; heard {
				for _, n := range g.nodes {
					if n != away && n != leader {
						_ = n.partition.current().facade.Campaign(ctx)
					}
				}
				return false
			}
			through, slowest := p.acknowledged(term)
			if len(matches) == 0 || len(facade.Matches(term)) == 0 {
				return false // the other follower has not spoken yet, or the term is over
			}
			if through != 0 || slowest != g.replicaID(away) {
				t.Errorf("acknowledged through %d, slowest %s", through, slowest)
			}
			start, err := p.Trim(ctx, 100)
			return err == nil && start == 100
		})
		g.reclaim()
		for _, p := range g.running() {
			if first := p.Log().FirstIndex(); first != 1 {
				t.Errorf("entries up to %d went, which member %s may need", first-1, g.replicaID(away))
			}
		}
		away.start()
		g.agree()
		g.stop()
	}
}

// write appends a value, by whoever leads; again, and so maybe twice, where that is
// not known to have worked.
func (g *trio) write(ctx context.Context, v uint64) {
	g.t.Helper()
	eventually(g.t, "a record to be appended", func() bool {
		leader := g.ready()
		if leader == nil {
			return false
		}
		_, err := await(ctx, leader.partition.Propose(ctx, batch(-1, -1, -1, v), Guard{}))
		return err == nil
	})
}

// TestTrimByALeaderThatIsNotReady is refused: its high watermark, and what it takes for
// the start of its log, may be those of a leader long before it.
func TestTrimByALeaderThatIsNotReady(t *testing.T) {
	g := newTrio(t)
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	g.write(ctx, 1)
	var p *Partition
	eventually(t, "the record to be acknowledged by all", func() bool {
		leader := g.ready()
		if leader == nil {
			return false
		}
		p = leader.partition
		through, _ := p.acknowledged(p.Leadership().Term)
		info, err := p.Log().Info(through)
		return err == nil && info.Next > 0
	})
	p.leadership.Store(&Leadership{Leader: true, Term: p.Leadership().Term})
	for _, start := range []segment.Offset{0, 1} { // also where there is nothing to do
		if _, err := p.Trim(ctx, start); !errors.Is(err, ErrNotLeader) {
			t.Errorf("trim to %d: %v", start, err)
		}
	}
	var held heldBack
	p.retain(Policy{Delete: true, Retention: log.Retention{Age: 0, Bytes: -1}}, time.Now().Add(time.Hour), &held)
	if p.trimming.Load() != nil || p.Log().StartOffset() != 0 {
		t.Error("a trim was proposed")
	}
}

// TestSpaceOfAFormerRunIsFreed: a trim that was applied, and whose files were still
// there when the broker died, is carried out by the next run without another trim.
func TestSpaceOfAFormerRunIsFreed(t *testing.T) {
	c := newHosts(t, 1)
	topic := c.create("events", 1)
	for v := range uint64(3) {
		c.produce(topic, 0, v)
	}
	n := c.nodes[0]
	p, ok := n.host.Partition(topic.ID, 0)
	if !ok {
		t.Fatal("no replica")
	}
	options, term := log.Options{Dir: p.Log().Dir()}, p.Leadership().Term
	n.stop()

	// What raft and the broker did until they died: the trim is applied, and in a
	// checkpoint, so that no start sees it again.
	options.FS = n.fs.Mount()
	l, err := log.Open(options)
	must(t, err)
	frame := segment.EncodeTrim(0, segment.Trim{Start: 3, Through: l.LastIndex()})
	a := l.Begin()
	segment.Stamp(frame, a.NextOffset(), term)
	must(t, a.Stage(log.Entry{Index: a.NextIndex(), Term: term, Kind: segment.KindTrim, Frame: frame}))
	trimmed := a.NextIndex() - 1
	must(t, a.Commit())
	_, err = l.Apply(trimmed)
	must(t, err)
	must(t, l.WriteCheckpoint())
	if l.FirstIndex() != 1 {
		t.Fatal("the files went with the trim")
	}
	n.fs.Crash(crashfs.CrashOptions{})
	_ = l.Close()

	n.start()
	c.ready()
	eventually(t, "the space to be freed", func() bool {
		p, ok := n.host.Partition(topic.ID, 0)
		return ok && p.Log().StartOffset() == 3 && p.Log().FirstIndex() == trimmed
	})
}
