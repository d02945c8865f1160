package replication

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// newForgetfulTrio is a trio whose leader does not wait long for a member with trims.
func newForgetfulTrio(t *testing.T) *trio {
	g := newTrioOf(t, 4<<10)
	g.patience = 50 * time.Millisecond
	for _, n := range g.nodes {
		n.stop()
		n.start()
	}
	return g
}

// fill proposes records to whoever leads until count are acknowledged.
func (g *trio) fill(count int) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), testWait)
	defer cancel()
	for acked := 0; acked < count; {
		p := g.leader().partition
		var proposals []*Proposal
		for v := range min(count-acked, 50) {
			proposals = append(proposals, p.Propose(ctx, batch(-1, -1, -1, uint64(acked+v)), Guard{}))
		}
		for _, proposal := range proposals {
			if _, err := await(ctx, proposal); err == nil {
				acked++
			} else if ctx.Err() != nil {
				g.t.Fatal(err)
			}
		}
	}
}

// trimPast writes and trims until the running replicas have no entry left that a
// replica which ends with last can go on with.
func (g *trio) trimPast(last segment.Index, keep segment.Offset) {
	g.t.Helper()
	g.fill(300)
	policy := Policy{Delete: true, Retention: log.Retention{Age: -1, Bytes: int64(keep) * 100}}
	var held heldBack
	eventually(g.t, "the log to be trimmed", func() bool {
		n := g.ready()
		if n == nil {
			return false
		}
		n.partition.retain(policy, time.Now().Add(time.Hour), &held)
		g.reclaim()
		for _, p := range g.running() {
			if p.Log().FirstIndex() <= last+1 {
				return false
			}
		}
		return true
	})
}

// equal waits until all replicas run and are in step, and checks that they hold the
// same bytes from the last of their first entries on, and the leader's records.
func (g *trio) equal() {
	g.t.Helper()
	g.agree()
	leader := g.leader().partition
	want := values(g.t, leader.Log())
	for _, n := range g.nodes {
		n.mu.Lock()
		p := n.partition
		n.mu.Unlock()
		if got := values(g.t, p.Log()); !mapsEqual(got, want) {
			g.t.Errorf("node %d holds %d records, the leader %d", n.id, len(got), len(want))
		}
		first := max(p.Log().FirstIndex(), leader.Log().FirstIndex())
		for i := first; i <= min(p.Log().LastIndex(), leader.Log().LastIndex()); i++ {
			ours, _, err := p.Log().ReadEntries(i, 1, 1<<20)
			must(g.t, err)
			theirs, _, err := leader.Log().ReadEntries(i, 1, 1<<20)
			must(g.t, err)
			if !bytes.Equal(ours, theirs) {
				g.t.Fatalf("node %d: entry %d differs from the leader's", n.id, i)
			}
		}
	}
}

func mapsEqual(a, b map[segment.Offset]uint64) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// TestFollowerBelowTheLogComesBack (M1, M2): a follower is away while the log is trimmed
// past its end, or past all sealed segments; it is seeded, is in step and equal, and
// serves everything from the log start when it leads.
func TestFollowerBelowTheLogComesBack(t *testing.T) {
	for name, keep := range map[string]segment.Offset{"sealed segments are left": 60, "none is left": 0} {
		t.Run(name, func(t *testing.T) {
			g := newForgetfulTrio(t)
			g.fill(60)
			g.inStep()
			away := g.nodes[int(g.leader().id)%3]
			last := away.partition.Log().LastIndex()
			old := away.partition.Log()
			away.stop()
			g.trimPast(last, keep)
			away.start()
			g.equal()
			if away.partition.Log().FirstIndex() <= last+1 {
				t.Fatalf("it begins with entry %d and ended with %d: it was not seeded", away.partition.Log().FirstIndex(), last)
			}
			if old == away.partition.Log() || away.died() != nil || away.partition.Failed() != nil {
				t.Errorf("died of %v, out because of %v", away.died(), away.partition.Failed())
			}
			eventually(t, "it to lead", func() bool {
				if n := g.ready(); n != nil && n != away {
					_ = n.partition.Transfer(t.Context(), away.id, n.mux.Up)
				}
				return away.role().Ready
			})
			g.fill(10)
			g.equal()
		})
	}
}

// TestSeededAgainAndAgain (M2): twenty times a follower falls below the log, comes back
// and loses its power at a random call that changes its disk, while it copies, switches
// or starts again; and once more from what that left.
func TestSeededAgainAndAgain(t *testing.T) {
	g := newForgetfulTrio(t)
	g.fill(30)
	g.inStep()
	away := g.nodes[int(g.leader().id)%3]
	random := rand.New(rand.NewPCG(7, 8))
	crashes, switches := 0, 0
	for range 20 {
		last := away.partition.Log().LastIndex()
		away.stop()
		g.trimPast(last, segment.Offset(random.IntN(100)))
		for crashed := true; crashed; {
			before := false
			fault := crashfs.Fault{Op: crashfs.OpChange, Nth: 1 + random.IntN(120), Do: func() { away.fs.Crash(crashfs.CrashOptions{}) }}
			if random.IntN(2) == 0 {
				fault.Do, fault.After = nil, fault.Do
			}
			away.start()
			armed := away.fs.Inject(fault)
			eventually(t, "the crash, or the replica to be in step", func() bool {
				n := g.ready()
				before = armed.Fired() > 0
				return before || n != nil && n != away && away.partition.Log().LastIndex() >= n.partition.Log().FirstIndex() &&
					away.partition.Log().HighWatermark() == n.partition.Log().HighWatermark()
			})
			armed.Remove()
			if crashed = before || armed.Fired() > 0; crashed {
				crashes++
				away.stop()
				away.fs.Crash(crashfs.CrashOptions{})
			}
		}
		if away.partition.Log().FirstIndex() > last+1 {
			switches++
		}
		g.equal()
	}
	t.Logf("%d crashes, %d switches", crashes, switches)
	if crashes < 10 || switches < 20 {
		t.Errorf("%d crashes, %d switches", crashes, switches)
	}
}

// TestSeedThatIsNotNeeded: a replica that holds S, or something behind it that is
// committed, copies nothing and cuts nothing; one of an earlier term is refused.
func TestSeedThatIsNotNeeded(t *testing.T) {
	g := newForgetfulTrio(t)
	g.fill(200)
	g.inStep()
	leader := g.leader()
	follower := g.nodes[int(leader.id)%3]
	index, term, found := leader.partition.Log().SeedEnd()
	if !found {
		t.Fatal("nothing is sealed")
	}
	before := follower.partition.Log()
	last := before.LastIndex()
	for _, r := range []transport.SeedRequest{
		{Node: leader.id, Term: leader.role().Term, Index: index, IndexTerm: term},
		{Node: leader.id, Term: leader.role().Term, Index: last, IndexTerm: before.LastTerm()},
		{Node: leader.id, Term: leader.role().Term, Index: 1, IndexTerm: term + 7}, // committed here, whatever it says
	} {
		if err := follower.partition.seed(t.Context(), r); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if follower.partition.Log() != before || before.LastIndex() < last {
		t.Error("the log was replaced")
	}
}

// TestDivergentTailIsReplaced (M3): an old leader comes back with a tail that nobody
// else has and that is longer than the log was when it went; the others have trimmed
// what it shares with them.
func TestDivergentTailIsReplaced(t *testing.T) {
	g := newForgetfulTrio(t)
	g.fill(20)
	g.inStep()
	old := g.leader()
	shared := old.partition.Log().LastIndex()
	for _, n := range g.nodes {
		if n != old {
			g.network.Cut(transporttest.Host(old.address), transporttest.Host(n.address))
			g.network.Cut(transporttest.Host(n.address), transporttest.Host(old.address))
		}
	}
	var lost []*Proposal
	for v := range uint64(600) { // more than the others will have
		lost = append(lost, old.partition.Propose(t.Context(), batch(-1, -1, -1, 1<<40+v), Guard{}))
	}
	eventually(t, "the tail", func() bool { return old.partition.Log().LastIndex() > shared+500 || !old.role().Leader })
	eventually(t, "another leader", func() bool { n := g.ready(); return n != nil && n != old && !old.role().Leader })
	tail := old.partition.Log().LastIndex()
	old.stop()
	g.trimPast(shared, 20)
	if first := g.leader().partition.Log().FirstIndex(); tail <= first {
		t.Fatalf("the tail ends with %d, the log begins with %d: this test shows nothing", tail, first)
	}
	g.network.RestoreAll()
	old.start()
	g.equal()
	for _, n := range g.nodes {
		for offset, v := range values(t, n.partition.Log()) {
			if v >= 1<<40 {
				t.Fatalf("node %d: offset %d holds what was never committed", n.id, offset)
			}
		}
	}
	for _, proposal := range lost {
		select {
		case <-proposal.Done():
			if result, err := proposal.Result(); err == nil {
				t.Fatalf("what is gone was acknowledged at %d", result.Base)
			}
		default:
		}
	}
}

// TestSeedsOfANode: a broker that was away while retention ran, for longer than it is
// waited for, gets every replica back, and leaves no copy behind; also one that a
// process before it began and that is not needed any more.
func TestSeedsOfANode(t *testing.T) {
	c := newHosts(t, 3)
	topics := []*metadata.Topic{c.create("one", 3), c.create("two", 3)}
	for _, topic := range topics {
		for p := range int32(3) {
			c.produce(topic, p, 1)
		}
	}
	c.policy = func(*metadata.Topic) Policy {
		return Policy{SegmentBytes: 4 << 10, Delete: true, Retention: log.Retention{Age: -1, Bytes: 8 << 10}}
	}
	c.retentionInterval, c.retentionWait = 10*time.Millisecond, 50*time.Millisecond
	for _, n := range c.nodes {
		n.stop()
	}
	for _, n := range c.nodes[:2] {
		n.start()
	}
	for _, topic := range topics {
		for p := range int32(3) {
			c.leader(topic, p)
			for v := range uint64(300) {
				c.produce(topic, p, v)
			}
		}
	}
	each := func(n *hostNode, holds func(p *Partition) bool) func() bool {
		return func() bool {
			for _, topic := range topics {
				for i := range int32(3) {
					if p, ok := n.host.Partition(topic.ID, i); !ok || !holds(p) {
						return false
					}
				}
			}
			return true
		}
	}
	for _, n := range c.nodes[:2] {
		eventually(t, "the logs to be trimmed", each(n, func(p *Partition) bool { return p.Log().FirstIndex() > 100 }))
	}
	away := c.nodes[2]
	away.start()
	c.ready()
	eventually(t, "the replicas to be seeded and in step", each(away, func(p *Partition) bool {
		return p.Log().FirstIndex() > 100 && p.Log().HighWatermark() == 301
	}))
	p, _ := away.host.Partition(topics[0].ID, 0)
	copied := filepath.Join(p.Log().Dir(), "seed")
	if _, err := away.fs.Stat(copied); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the switch the copy is there: %v", err)
	}
	away.stop()
	must(t, away.fs.MkdirAll(copied)) // what a process has begun to copy, and does not need after all
	away.start()
	c.ready()
	eventually(t, "the copy to be removed", func() bool {
		c.produce(topics[0], 0, 7) // something to apply
		_, err := away.fs.Stat(copied)
		return errors.Is(err, fs.ErrNotExist)
	})
}

// TestSeedIsJudgedAgainAfterTheCopy: while it was copied another leader may have brought
// the log up to S and further, or a later one may lead: then the log stays, with what it
// acknowledged, and raft goes on with it.
func TestSeedIsJudgedAgainAfterTheCopy(t *testing.T) {
	g := newForgetfulTrio(t)
	g.fill(200)
	g.inStep()
	leader := g.leader()
	n := g.nodes[int(leader.id)%3]
	source, err := leader.partition.Log().OpenSeed(0)
	must(t, err)
	seed := source.Seed()
	for name, change := range map[string]func(*transport.SeedRequest){
		"it holds S": func(*transport.SeedRequest) {},
		"a later leader": func(r *transport.SeedRequest) {
			r.Term, r.Index = r.Term-1, n.partition.Log().LastIndex()+1000 // which it does not hold
		},
	} {
		p, before := n.partition, n.partition.Log()
		staging, err := log.OpenStaging(p.options, *seed)
		must(t, err)
		for file, at, lacks, more := staging.Next(); more; file, at, lacks, more = staging.Next() {
			b := make([]byte, lacks)
			if _, err := source.ReadAt(file, b, at); err != nil {
				t.Fatal(err)
			}
			must(t, staging.Write(b))
		}
		r := transport.SeedRequest{Node: leader.id, Term: leader.role().Term, Index: seed.Index, IndexTerm: seed.Term}
		change(&r)
		last, old := before.LastIndex(), p.current()
		switched, err := p.takeSeed(&seedJob{request: r}, staging)
		if switched || err != nil || p.Log() != before || before.LastIndex() < last {
			t.Errorf("%s: switched %v, %v, the log ends with %d, not %d", name, switched, err, p.Log().LastIndex(), last)
		}
		if in := p.current(); in == nil || in == old {
			t.Errorf("%s: no new instance", name)
		}
		g.fill(10)
		g.equal()
	}
}
