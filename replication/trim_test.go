package replication

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// running are the replicas that run.
func (g *trio) running() []*Partition {
	var all []*Partition
	for _, n := range g.nodes {
		n.mu.Lock()
		if n.partition != nil {
			all = append(all, n.partition)
		}
		n.mu.Unlock()
	}
	return all
}

// reclaim frees what was trimmed on all replicas, and checks what must be true then.
func (g *trio) reclaim() {
	g.t.Helper()
	for _, p := range g.running() {
		if err := p.Log().Reclaim(); err != nil && !errors.Is(err, crashfs.ErrCrashed) {
			g.t.Error(err)
		}
		if first := p.Log().FirstIndex(); first > 1 && first > p.Log().Checkpoint().Index {
			g.t.Errorf("first index %d, checkpoint %d", first, p.Log().Checkpoint().Index)
		}
		if _, err := p.Log().Info(p.Log().FirstIndex() - 1); err != nil {
			g.t.Errorf("entry before the first: %v", err)
		}
	}
}

// trimAll trims the log to the high watermark less some records, if there is a leader
// who can.
func (w *workload) trimAll(keep segment.Offset) {
	if p, start := w.remember(keep); p != nil {
		w.trim(p, start)
	}
}

// remember keeps for the check what a trim will remove: by whom, nil without a leader,
// and the new start.
func (w *workload) remember(keep segment.Offset) (p *Partition, start segment.Offset) {
	t := w.group.t
	t.Helper()
	n := w.group.ready()
	if n == nil {
		return nil, 0
	}
	n.mu.Lock()
	p = n.partition
	n.mu.Unlock()
	if p == nil {
		return nil, 0
	}
	if w.trimmed == nil {
		w.trimmed = map[segment.Offset]uint64{}
	}
	start = max(0, p.Log().HighWatermark()-keep)
	for offset, v := range values(t, p.Log()) {
		if offset < start {
			w.trimmed[offset] = v
		}
	}
	return p, start
}

// trim trims what was remembered, if that is possible within a second.
func (w *workload) trim(p *Partition, start segment.Offset) {
	ctx, cancel := context.WithTimeout(w.group.t.Context(), time.Second)
	defer cancel()
	if _, err := p.Trim(ctx, start); err != nil {
		w.group.t.Logf("trim to %d: %v", start, err)
	}
}

// agree checks that all replicas have the same log start, and returns it.
func (g *trio) agree() segment.Offset {
	g.t.Helper()
	g.inStep()
	first := g.running()[0].Log()
	for _, p := range g.running() {
		if p.Log().StartOffset() != first.StartOffset() {
			g.t.Errorf("log starts %d and %d", p.Log().StartOffset(), first.StartOffset())
		}
	}
	return first.StartOffset()
}

// TestTrimsUnderLoad: trims, elections and power cuts while producers write: nothing
// that was not trimmed is lost, and the replicas agree, also after all have restarted.
func TestTrimsUnderLoad(t *testing.T) {
	g := newTrioOf(t, 4<<10)
	g.leader()
	w := startWorkload(g, 3, 2)
	random := rand.New(rand.NewPCG(5, 6))
	for round := range 12 {
		w.progress(60)
		w.trimAll(segment.Offset(random.IntN(100)))
		switch round % 4 {
		case 1:
			if in := g.nodes[random.IntN(3)].partition.current(); in != nil {
				_ = in.facade.Campaign(t.Context())
			}
		case 3:
			n := g.nodes[random.IntN(3)]
			n.powerCut()
			w.progress(20)
			w.trimAll(10)
			n.start()
		}
		g.reclaim()
	}
	w.finish()
	start := g.agree()
	if n := g.leader(); start == 0 || n.partition.Log().FirstIndex() == 1 {
		t.Errorf("log start %d, first index %d: the test proved nothing", start, n.partition.Log().FirstIndex())
	}
	for _, n := range g.nodes {
		n.stop()
	}
	for _, n := range g.nodes {
		n.start()
	}
	g.leader()
	if again := g.agree(); again != start {
		t.Errorf("log start %d after the restart, was %d", again, start)
	}
	for _, n := range g.nodes {
		w.check(t, n, values(t, n.partition.Log()), n.partition.Log().HighWatermark())
	}
}

// TestTrimPowerCutOfAll cuts the power of all nodes at some change of each disk while
// they trim: they come back, agree, and a trim goes on where it was.
func TestTrimPowerCutOfAll(t *testing.T) {
	g := newTrioOf(t, 4<<10)
	w := startWorkload(g, 2, 1)
	for _, nth := range []int{1, 2, 3, 4, 6, 9, 13} {
		g.leader()
		w.progress(100)
		p, start := w.remember(0)
		var faults []*crashfs.Injected
		for _, n := range g.nodes {
			faults = append(faults, n.fs.Inject(crashfs.Fault{Op: crashfs.OpChange, PathContains: "manifest", Nth: nth,
				Do: func() { n.fs.Crash(crashfs.CrashOptions{}) }}))
		}
		if p != nil {
			w.trim(p, start)
		}
		for _, p := range g.running() {
			_ = p.Log().Reclaim()
		}
		for i, n := range g.nodes {
			faults[i].Remove()
			n.fs.Crash(crashfs.CrashOptions{})
		}
		for _, n := range g.nodes {
			n.stop()
		}
		for _, n := range g.nodes {
			n.start()
		}
	}
	g.leader()
	w.progress(50)
	w.trimAll(0)
	w.finish()
	if start := g.agree(); start == 0 {
		t.Error("nothing was trimmed: the test proved nothing")
	}
	g.reclaim()
}

// TestTrimWaitsForMembers: records go at once, their files only when every member of
// the group has acknowledged them to this leader; then a later check lets them go.
func TestTrimWaitsForMembers(t *testing.T) {
	g := newTrioOf(t, 4<<10)
	leader := g.leader()
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	produce := func(p *Partition) {
		t.Helper()
		for v := range uint64(100) {
			if _, err := await(ctx, p.Propose(ctx, batch(-1, -1, -1, v), Guard{})); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := leader.partition
	produce(p)
	away := g.nodes[int(leader.id)%3]
	g.inStep()
	held := segment.Index(0)
	eventually(t, "every member to be known", func() bool {
		held, _ = p.acknowledged(p.Leadership().Term)
		return held >= 100
	})
	away.stop()
	produce(p)
	if through, slowest := p.acknowledged(p.Leadership().Term); through > held+2 || slowest != g.replicaID(away) {
		t.Errorf("acknowledged through %d by %s, all held %d", through, slowest, held)
	}
	if through, _ := p.acknowledged(p.Leadership().Term - 1); through != 0 {
		t.Errorf("acknowledged through %d in a term that is over", through)
	}
	start, err := p.Trim(ctx, 200)
	if err != nil || start != 200 {
		t.Fatalf("log start %d, %v", start, err)
	}
	g.reclaim()
	if first := p.Log().FirstIndex(); first == 1 || first > held+3 {
		t.Errorf("first index %d, all members held %d", first, held)
	}
	var waits heldBack
	policy := Policy{Delete: true, Retention: log.Retention{Age: 0, Bytes: -1}}
	produce(p)
	for range 2 {
		p.retain(policy, time.Now().Add(time.Hour), &waits)
	}
	if waits.partitions != 1 || waits.members[g.replicaID(away)] != 1 {
		t.Errorf("held back: %+v", waits)
	}
	if p.Log().StartOffset() != 200 {
		t.Errorf("records expired that a member has not acknowledged: log start %d", p.Log().StartOffset())
	}
	away.start()
	eventually(t, "what all members hold now to go", func() bool {
		n := g.ready()
		if n == nil {
			return false
		}
		n.partition.retain(policy, time.Now().Add(time.Hour), &waits)
		g.reclaim()
		for _, p := range g.running() {
			if p.Log().StartOffset() < 300 || p.Log().FirstIndex() < 300 {
				return false
			}
		}
		return true
	})
}

// TestTrimOfAnEarlierTerm is refused where it would be appended.
func TestTrimOfAnEarlierTerm(t *testing.T) {
	g := newTrio(t)
	p := g.leader().partition
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	if _, err := await(ctx, p.Propose(ctx, batch(-1, -1, -1, 1), Guard{})); err != nil {
		t.Fatal(err)
	}
	var void *VoidError
	_, err := await(ctx, p.proposeTrim(ctx, p.Leadership().Term-1, segment.Trim{Start: 1, Through: 1}))
	if !errors.As(err, &void) || void.Void.Code != segment.VoidStaleTerm || p.Log().StartOffset() != 0 {
		t.Errorf("%v, log start %d", err, p.Log().StartOffset())
	}
	for _, n := range g.nodes {
		if !n.role().Leader {
			if _, err := n.partition.Trim(ctx, 1); !errors.Is(err, ErrNotLeader) {
				t.Errorf("a follower trims: %v", err)
			}
		}
	}
}

// TestClockWatch: the clock is believed unless it moved by more than an hour against
// the monotonic one, at once or little by little, and again an hour later.
func TestClockWatch(t *testing.T) {
	wall, since := time.Unix(1_700_000_000, 0), time.Duration(0)
	watch := newClockWatch(func() (time.Time, time.Duration) { return wall, since })
	step := func(passed, jump time.Duration, want bool) {
		t.Helper()
		wall, since = wall.Add(passed+jump), since+passed
		if now, steady := watch.look(); steady != want || !now.Equal(wall) {
			t.Errorf("at %v: believed %v", since, steady)
		}
	}
	step(0, 0, true)
	step(24*time.Hour, 0, true)
	step(time.Minute, 59*time.Minute, true)
	step(time.Minute, 2*time.Minute, false) // together more than an hour
	step(58*time.Minute, 0, false)
	step(2*time.Minute, 0, true)
	step(time.Minute, -400*24*time.Hour, false)
	step(30*time.Minute, 400*24*time.Hour, false) // and back
	step(59*time.Minute, 0, false)
	step(time.Minute, 0, true)
}

// TestRetentionRestsAfterAJump of the wall clock, for an hour.
func TestRetentionRestsAfterAJump(t *testing.T) {
	c := newHosts(t, 1)
	topic := c.create("events", 1)
	c.produce(topic, 0, 1)
	host := c.nodes[0].host
	p, ok := host.Partition(topic.ID, 0)
	if !ok {
		t.Fatal("no replica")
	}
	host.config.Policy = func(*metadata.Topic) Policy {
		return Policy{Delete: true, Retention: log.Retention{Age: 24 * time.Hour, Bytes: -1}}
	}
	wall, since := time.Now(), time.Duration(0)
	r := newRetainer(host)
	r.clock = newClockWatch(func() (time.Time, time.Duration) { return wall, since })
	r.check()
	wall = wall.Add(1000 * time.Hour)
	r.check()
	wall, since = wall.Add(59*time.Minute), since+59*time.Minute
	r.check()
	if p.trimming.Load() != nil || p.Log().StartOffset() != 0 {
		t.Error("records expired though the clock jumped")
	}
	wall, since = wall.Add(time.Minute), since+time.Minute
	r.check()
	eventually(t, "the record to expire an hour later", func() bool { return p.Log().StartOffset() == 1 })
}

// TestRetentionOfANode: what expired goes on all replicas of a topic, not from an
// internal one, and not from one that keeps everything.
func TestRetentionOfANode(t *testing.T) {
	c := newHosts(t, 3)
	for _, n := range c.nodes {
		n.stop()
	}
	c.retentionInterval = 10 * time.Millisecond
	c.policy = func(topic *metadata.Topic) Policy {
		return Policy{SegmentBytes: 1 << 20, Delete: topic.Name != "kept", Retention: log.Retention{Age: 0, Bytes: -1}}
	}
	for _, n := range c.nodes {
		n.start()
	}
	c.ready()
	short, kept, internal := c.create("short", 1), c.create("kept", 1), c.create("__internal", 1)
	for v := range uint64(20) {
		c.produce(kept, 0, v)
		c.produce(internal, 0, v)
		c.produce(short, 0, v)
	}
	eventually(t, "records to expire on all replicas", func() bool {
		for _, n := range c.nodes {
			p, ok := n.host.Partition(short.ID, 0)
			if !ok || p.Log().StartOffset() < 20 || p.Log().FirstIndex() < 20 {
				return false
			}
		}
		return true
	})
	for _, n := range c.nodes {
		for _, topic := range []*metadata.Topic{kept, internal} {
			if p, ok := n.host.Partition(topic.ID, 0); !ok || p.Log().StartOffset() != 0 {
				t.Errorf("node %d: topic %s was trimmed", n.id, topic.Name)
			}
		}
	}
}
