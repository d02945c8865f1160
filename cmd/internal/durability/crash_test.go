package durability

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// A failing run is repeated with: go test ./cmd/internal/durability -run Test... -seed N
var (
	seedFlag   = flag.Int64("seed", 0, "seed of the crash tests; 0 draws one")
	roundsFlag = flag.Int("rounds", 1, "how often the crash tests go through all faults")
	killsFlag  = flag.Int("kills", 30, "how many leaders TestLatestReader kills")
)

// seedOf draws the seed of a run and prints it.
func seedOf(t *testing.T) int64 {
	seed := *seedFlag
	if seed == 0 {
		seed = time.Now().UnixNano() % 1_000_000
	}
	t.Logf("seed %d", seed)
	return seed
}

// crashRun is a cluster under load, and the oracle.
type crashRun struct {
	*cluster
	rng     *rand.Rand
	load    *Load
	ledger  *Ledger
	readers []*Reader
	groups  []*Group
}

// newCrashRun starts everything.
func newCrashRun(t *testing.T, seed int64, mount func(bootFS) vfs.FS) *crashRun {
	t.Helper()
	faults := NewFaults()
	c := newCluster(t, seed, mount, faults)
	ledger := NewLedger(uint32(seed), faults)
	r := &crashRun{cluster: c, rng: rand.New(rand.NewPCG(uint64(seed), 1)), ledger: ledger, load: NewLoad(c.target(), ledger, faults)}
	t.Cleanup(r.load.Close)
	for name, latest := range map[string]bool{"the reader from the start": false, "the reader from the end": true} {
		reader, err := r.load.Reader(name, latest)
		must(t, err)
		r.readers = append(r.readers, reader)
	}
	group, err := r.load.Group("readers", 2)
	must(t, err)
	r.groups = append(r.groups, group)
	must(t, r.load.Watch(group))
	for range 2 {
		must(t, r.load.Producer())
	}
	for range 3 {
		must(t, r.load.Plain())
	}
	r.resumed(time.Now().Add(-time.Second), "start")
	return r
}

// resumed holds the cluster to the promise that writes go on.
func (r *crashRun) resumed(since time.Time, after string) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	took := r.load.MustResume(ctx, since, after)
	r.t.Logf("%s: writes after %s, %+v", after, took.Round(time.Millisecond), r.ledger.Counts())
	if ctx.Err() != nil {
		r.dump()
		r.t.Fatal(r.faults.Err())
	}
}

// trapLimit is how long a crash waits for the step that it is meant for.
const trapLimit = 700 * time.Millisecond

// fault is something that happens to a cluster.
type fault struct {
	name string
	// all: to every node at once; else to the leader of a partition.
	all bool
	// keep is what the disk keeps; graceful is no crash at all.
	keep     crashfs.Keep
	graceful bool
	// cut: the leader loses the network to the others, and keeps its clients; deaf:
	// only what the others send to it.
	cut, deaf bool
	// reset: the clients' connections break, again and again.
	reset bool
}

// everyFault is what a run goes through.
var everyFault = []fault{
	{name: "power cut of a leader"},
	{name: "power cut of every node", all: true},
	{name: "power cut of every node, nothing unsynced kept", all: true, keep: crashfs.KeepNothing},
	{name: "kill of a leader", keep: crashfs.KeepEverything},
	{name: "kill of every node", all: true, keep: crashfs.KeepEverything},
	{name: "graceful stop of a leader", graceful: true},
	{name: "leader cut off from its followers", cut: true},
	{name: "leader that hears nothing of its followers", cut: true, deaf: true},
	{name: "connections of clients reset", reset: true},
}

// suffer lets a fault happen, heals it, and checks everything.
func (r *crashRun) suffer(f fault) {
	victims := r.nodes
	if !f.all {
		victims = []*node{r.leader(int32(r.rng.IntN(testPartitions)))}
	}
	switch {
	case f.cut:
		r.cutOff(victims[0], f)
		return
	case f.reset:
		r.resetClients()
		return
	case f.graceful:
		victims[0].stopGracefully()
	default:
		r.strike(f.keep, victims)
	}
	since := time.Now()
	if f.all {
		for partition, replicas := range r.recovered() {
			r.ledger.CheckMajority(partition, replicas, len(r.nodes))
		}
	} else {
		r.resumed(since, f.name) // two of three are a majority
	}
	r.crashStarts(f.keep, victims[0])
	majority := r.restart(r.rng, victims)
	r.resumed(majority, "restart after "+f.name)
	r.check()
}

// crashStarts starts a node a few times and crashes it again at a random change to
// its disk while it recovers, or soon after: the end must be the same.
func (r *crashRun) crashStarts(keep crashfs.Keep, n *node) {
	for range r.rng.IntN(3) {
		hit := make(chan struct{})
		freeze := sync.OnceFunc(func() {
			n.freeze(keep)
			close(hit)
		})
		armed := n.disk.Inject(crashfs.Fault{Op: crashfs.OpChange, Nth: 1 + r.rng.IntN(40), Do: freeze})
		err := n.tryStart()
		patience, cancel := context.WithTimeout(context.Background(), trapLimit)
		select {
		case <-hit:
		case <-patience.Done():
		}
		cancel()
		freeze()
		armed.Remove()
		switch {
		case err == nil:
			n.bury()
		case errors.Is(err, crashfs.ErrCrashed):
			n.broker = nil
			r.network.Kill(n.host())
		default:
			r.faults.Add(CE, "broker %d does not start: %v", n.id, err)
		}
		r.t.Logf("broker %d crashed at its start", n.id)
	}
}

// cutOff takes the network between a leader and the others away for a while. It
// learns of its end late, with batches that are never committed; or, where it only
// hears nothing, with batches that the next leader commits.
func (r *crashRun) cutOff(victim *node, f fault) {
	since := time.Now()
	for _, other := range r.nodes {
		if other == victim {
			continue
		}
		r.network.Drop(other.host(), victim.host())
		if !f.deaf {
			r.network.Drop(victim.host(), other.host())
		}
	}
	r.resumed(since, f.name)
	r.network.RestoreAll()
	r.resumed(time.Now(), "network back after "+f.name)
	r.check()
}

// resetClients breaks connections between requests and their answers: what is sent
// again must not be there twice.
func (r *crashRun) resetClients() {
	for range 50 {
		rest(context.Background(), time.Duration(1+r.rng.IntN(20))*time.Millisecond)
		r.network.Reset("client", r.nodes[r.rng.IntN(len(r.nodes))].host())
	}
	r.resumed(time.Now(), "connections of clients reset")
	r.check()
}

// strike crashes nodes in the middle of a random change to the first one's disk, so
// that every step of every write is hit sooner or later; or, if there is no such
// change, at any moment.
func (r *crashRun) strike(keep crashfs.Keep, nodes []*node) {
	// Most changes are to logs; the rest are rolls, checkpoints and terms.
	spots := []struct {
		op   crashfs.Op
		path string
		most int
	}{
		{crashfs.OpChange, "", 200}, {crashfs.OpWrite, ".log", 60}, {crashfs.OpSync, ".log", 60}, {crashfs.OpPreallocate, ".log", 4},
		{crashfs.OpCreate, testTopic, 2}, {crashfs.OpSyncDir, testTopic, 3}, {crashfs.OpRename, testTopic, 3}, {crashfs.OpTruncate, "", 2},
		{crashfs.OpWrite, ".idx", 20}, {crashfs.OpChange, ".hdr", 8}, {crashfs.OpChange, "manifest", 3}, {crashfs.OpSync, "__consumer_offsets", 3},
	}
	spot := spots[r.rng.IntN(len(spots))]
	hit := make(chan struct{})
	freeze := sync.OnceFunc(func() {
		for _, n := range nodes {
			n.freeze(keep)
		}
		close(hit)
	})
	trap := crashfs.Fault{Op: spot.op, PathContains: spot.path, Nth: 1 + r.rng.IntN(spot.most), Do: freeze}
	where := fmt.Sprintf("before %s %d of %q", trap.Op, trap.Nth, trap.PathContains)
	if r.rng.IntN(2) == 0 {
		trap.Do, trap.After = nil, freeze
		where = "after" + where[len("before"):]
	}
	armed := nodes[0].disk.Inject(trap)
	patience, cancel := context.WithTimeout(context.Background(), trapLimit)
	select {
	case <-hit:
	case <-patience.Done():
		where = "at no particular step"
	}
	cancel()
	freeze()
	armed.Remove()
	r.t.Logf("crash of %d nodes %s", len(nodes), where)
	for _, n := range nodes {
		n.bury()
	}
}

// check holds all replicas against the ledger.
func (r *crashRun) check() {
	r.t.Helper()
	defer r.load.Pause()()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	ends, err := r.load.Ends(ctx)
	must(r.t, err)
	for partition, replicas := range r.replicas(func(n *node) vfs.FS { return n.disk.Mount() }) {
		replicas = slices.DeleteFunc(replicas, func(replica Replica) bool {
			if !replica.Doubtful() {
				return false
			}
			r.t.Logf("%s is on probation: its end was torn or rotten, and it cannot tell", replica)
			return true
		})
		if len(replicas) < 2 {
			r.t.Fatalf("partition %d has %d good replicas", partition, len(replicas))
		}
		for _, replica := range replicas {
			for !replica.Reaches(ends[partition]) && rest(ctx, 10*time.Millisecond) {
			}
		}
		r.ledger.CheckAll(replicas, ends[partition])
	}
	if err := r.faults.Err(); err != nil {
		r.dump()
		r.t.Fatal(err)
	}
}

// finish ends the load, waits until everything was read, and checks the replicas of
// the running and of the stopped brokers.
func (r *crashRun) finish() {
	r.t.Helper()
	r.load.StopProducers()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	ends, err := r.load.Ends(ctx)
	must(r.t, err)
	r.load.WaitRead(ctx, ends, r.readers, r.groups...)
	r.check()
	r.load.Close()
	for _, i := range r.rng.Perm(len(r.nodes)) {
		r.nodes[i].stopGracefully()
	}
	for partition, replicas := range r.replicas(func(n *node) vfs.FS { return n.disk.Mount() }) {
		replicas = slices.DeleteFunc(replicas, Replica.Doubtful)
		if len(replicas) < 2 {
			r.t.Errorf("partition %d has %d good replicas", partition, len(replicas))
		}
		r.ledger.CheckAll(replicas, ends[partition])
	}
	counts := r.ledger.Counts()
	r.t.Logf("%+v, longest gap %s", counts, r.load.Gaps().Longest().Round(time.Millisecond))
	if counts.Acknowledged == 0 || counts.Refused == 0 {
		r.t.Errorf("%+v: the run proved nothing", counts)
	}
	if err := r.faults.Err(); err != nil {
		r.dump()
		r.t.Fatal(err)
	}
}

// honest is a disk as it should be.
func honest(fs bootFS) vfs.FS { return fs }

// lyingFS answers each sync of a segment file without having synced it.
type lyingFS struct{ bootFS }

// Create implements vfs.FS.
func (l lyingFS) Create(name string) (vfs.File, error) { return lying(name)(l.bootFS.Create(name)) }

// Open implements vfs.FS.
func (l lyingFS) Open(name string) (vfs.File, error) { return lying(name)(l.bootFS.Open(name)) }

func lying(name string) func(f vfs.File, err error) (vfs.File, error) {
	return func(f vfs.File, err error) (vfs.File, error) {
		if err == nil && strings.HasSuffix(name, ".log") && strings.Contains(name, testTopic) {
			f = lyingFile{f}
		}
		return f, err
	}
}

type lyingFile struct{ vfs.File }

// Sync implements vfs.File.
func (lyingFile) Sync() error { return nil }

// TestOracleSeesLyingDisks: a broker that acknowledges what is not on the disk is
// found out by the first power cut. Without this, the other tests prove nothing.
func TestOracleSeesLyingDisks(t *testing.T) {
	r := newCrashRun(t, seedOf(t), func(fs bootFS) vfs.FS { return lyingFS{fs} })
	rest(t.Context(), 300*time.Millisecond)
	for _, n := range r.nodes {
		n.freeze(crashfs.KeepNothing)
	}
	for _, n := range r.nodes {
		n.bury()
	}
	for partition, replicas := range r.recovered() {
		r.ledger.CheckMajority(partition, replicas, len(r.nodes))
	}
	if r.faults.Counts()[NL] == 0 {
		t.Errorf("nothing was found to be missing: %v", r.faults.Err())
	}
}

// TestCrashes: whatever happens to one broker or to all of them under load, what
// was promised to clients is true on every replica's disk.
func TestCrashes(t *testing.T) {
	r := newCrashRun(t, seedOf(t), honest)
	for range *roundsFlag {
		for _, i := range r.rng.Perm(len(everyFault)) {
			rest(t.Context(), time.Duration(100+r.rng.IntN(400))*time.Millisecond)
			r.suffer(everyFault[i])
		}
	}
	r.finish()
}

// TestLatestReader: a consumer with auto.offset.reset=latest is given every record
// once, though leaders are killed again and again, and the whole cluster at times.
// A leader that serves before its no-op is applied (its high watermark is old), or
// says OFFSET_OUT_OF_RANGE without being sure, makes it skip or read again.
func TestLatestReader(t *testing.T) {
	r := newCrashRun(t, seedOf(t), honest)
	for kill := range *killsFlag {
		victims := []*node{r.leader(int32(r.rng.IntN(testPartitions)))}
		if kill%5 == 4 {
			victims = r.nodes
		}
		for _, n := range victims {
			n.freeze(crashfs.KeepEverything)
		}
		for _, n := range victims {
			n.bury()
		}
		since := time.Now()
		if len(victims) == 1 {
			r.resumed(since, fmt.Sprintf("kill %d", kill))
		}
		r.resumed(r.restart(r.rng, victims), fmt.Sprintf("restart %d", kill))
	}
	r.finish()
}
