package replication

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// votesPath is the file in these tests' disks.
const votesPath = "data/votes.log"

// votesDisk is an empty disk with the directory of the file of votes.
func votesDisk(t testing.TB, seed int64) *crashfs.FS {
	t.Helper()
	disk := crashfs.New(seed)
	if err := errors.Join(disk.MkdirAll("data"), disk.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	return disk
}

// openVotes opens the file and closes it at the end of the test.
func openVotes(t testing.TB, fsys vfs.FS) *Votes {
	t.Helper()
	v, err := OpenVotes(fsys, votesPath)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// votesGroup is the nth group of these tests.
func votesGroup(n int) transport.GroupID {
	return transport.GroupID{Topic: segment.TopicID{0: 1, 15: byte(n >> 8)}, Partition: int32(n)}
}

// vote does what raft's persistVote does.
func vote(g *GroupVotes, term uint64, candidate string) error {
	if err := g.SetUint64(keyLastVoteTerm, term); err != nil {
		return err
	}
	return g.Set(keyLastVoteCand, []byte(candidate))
}

// must fails the test if any error is not nil.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// stored is what a group's stable store answers.
func stored(t testing.TB, g *GroupVotes) groupState {
	t.Helper()
	var s groupState
	var err error
	if s.term, err = g.GetUint64(keyCurrentTerm); err != nil && err.Error() != "not found" {
		t.Fatal(err)
	}
	if s.voteTerm, err = g.GetUint64(keyLastVoteTerm); err != nil && err.Error() != "not found" {
		t.Fatal(err)
	}
	candidate, err := g.Get(keyLastVoteCand)
	if err != nil && err.Error() != "not found" {
		t.Fatal(err)
	}
	s.voteCandidate = string(candidate)
	return s
}

func TestVotesMissingKeysReadAsRaftExpects(t *testing.T) {
	v := openVotes(t, votesDisk(t, 1))
	must(t, v.Register(votesGroup(1), 7))
	for name, g := range map[string]*GroupVotes{"registered": v.Group(votesGroup(1)), "unknown": v.Group(votesGroup(2))} {
		_, e1 := g.GetUint64([]byte("CurrentTerm"))
		_, e2 := g.GetUint64([]byte("LastVoteTerm"))
		_, e3 := g.Get([]byte("LastVoteCand"))
		_, e4 := g.Get([]byte("other"))
		for _, err := range []error{e1, e2, e3, e4} {
			if err == nil || err.Error() != "not found" {
				t.Errorf("%s: %v, raft needs the text %q", name, err, "not found")
			}
		}
	}
}

func TestVotesSyncsExactlyWhatRaftRelies(t *testing.T) {
	disk := votesDisk(t, 1)
	v := openVotes(t, disk)
	must(t, v.Register(votesGroup(1), 7))
	g := v.Group(votesGroup(1))
	steps := []struct {
		name  string
		do    func() error
		syncs int64
	}{
		{"a new term", func() error { return g.SetUint64(keyCurrentTerm, 3) }, 1},
		{"the same term", func() error { return g.SetUint64(keyCurrentTerm, 3) }, 0},
		{"a vote's term alone", func() error { return g.SetUint64(keyLastVoteTerm, 3) }, 0},
		{"its candidate", func() error { return g.Set(keyLastVoteCand, []byte("node/a")) }, 1},
		{"the same vote", func() error { return vote(g, 3, "node/a") }, 0},
		{"a later vote for the same", func() error { return vote(g, 4, "node/a") }, 1},
		{"another candidate", func() error { return vote(g, 4, "node/b") }, 1},
		{"the same registration", func() error { return v.Register(votesGroup(1), 7) }, 0},
		{"forgetting what is unknown", func() error { return v.Forget(votesGroup(9)) }, 0},
	}
	for _, step := range steps {
		before := disk.Count(crashfs.OpSync)
		must(t, step.do())
		if got := disk.Count(crashfs.OpSync) - before; got != step.syncs {
			t.Errorf("%s: %d syncs, want %d", step.name, got, step.syncs)
		}
	}
	want := groupState{term: 3, voteTerm: 4, voteCandidate: "node/b"}
	if got := stored(t, g); got != want {
		t.Errorf("stored %+v, want %+v", got, want)
	}
}

// TestVotesPairTermAndCandidate: between LastVoteTerm and LastVoteCand a crash
// must leave the old pair, never the new term with the old candidate.
func TestVotesPairTermAndCandidate(t *testing.T) {
	disk := votesDisk(t, 1)
	v := openVotes(t, disk)
	must(t, v.Register(votesGroup(1), 7))
	g := v.Group(votesGroup(1))
	must(t, vote(g, 3, "node/a"), g.SetUint64(keyLastVoteTerm, 5))
	if got := stored(t, g); got.voteTerm != 3 {
		t.Errorf("a vote that is not stored yet is read: %+v", got)
	}
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepEverything})
	got := stored(t, openVotes(t, disk).Group(votesGroup(1)))
	if want := (groupState{voteTerm: 3, voteCandidate: "node/a"}); got != want {
		t.Errorf("after the crash %+v, want %+v", got, want)
	}
}

func TestVotesRefusals(t *testing.T) {
	v := openVotes(t, votesDisk(t, 1))
	id := votesGroup(1)
	unregistered := v.Group(id)
	must(t, v.Register(id, 7))
	first := v.Group(id)
	must(t, first.SetUint64(keyCurrentTerm, 5), vote(first, 5, "node/a"), v.Register(id, 8))
	second := v.Group(id)
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"never registered", unregistered.SetUint64(keyCurrentTerm, 1), ErrVotesIncarnation},
		{"vote of a replaced incarnation", vote(first, 6, "node/a"), ErrVotesIncarnation},
		{"unknown key", second.SetUint64([]byte("other"), 1), ErrVotesKey},
		{"unknown text key", second.Set([]byte("other"), nil), ErrVotesKey},
		{"no error", errors.Join(second.SetUint64(keyCurrentTerm, 2)), nil},
		{"term going back", second.SetUint64(keyCurrentTerm, 1), ErrVotesTermBack},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.err, c.want)
		}
	}
	if err := second.Set(keyLastVoteCand, make([]byte, votesMaxText+1)); err == nil {
		t.Error("a candidate longer than the format holds was taken")
	}
	if got, want := stored(t, second), (groupState{term: 2}); got != want {
		t.Errorf("the new incarnation begins with %+v, want %+v", got, want)
	}
	must(t, v.Forget(id))
	if err := second.SetUint64(keyCurrentTerm, 9); !errors.Is(err, ErrVotesIncarnation) {
		t.Errorf("a forgotten group stored a term: %v", err)
	}
	if _, ok := v.Incarnation(id); ok {
		t.Error("a forgotten group has an incarnation")
	}
	must(t, v.Close())
	if err := v.Register(id, 1); !errors.Is(err, ErrVotesClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestVotesShareASync holds the first sync until a hundred groups wait: they
// must all go with the second.
func TestVotesShareASync(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	disk := votesDisk(t, 1)
	v, err := OpenVotes(disk, votesPath)
	must(t, err)
	defer v.Close()
	release := make(chan struct{})
	disk.Inject(crashfs.Fault{Op: crashfs.OpSync, Stall: release})
	before := disk.Count(crashfs.OpSync)
	var wg sync.WaitGroup
	errs := make(chan error, 101)
	start := func(n int) {
		wg.Go(func() { errs <- v.Register(votesGroup(n), uint64(n)) })
	}
	start(0)
	eventually(t, "the first round is being synced", func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.writing != nil })
	for n := 1; n <= 100; n++ {
		start(n)
	}
	eventually(t, "all others wait", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.next != nil && len(v.next.records) == 100
	})
	close(release)
	wg.Wait()
	close(errs)
	for err := range errs {
		must(t, err)
	}
	if got := disk.Count(crashfs.OpSync) - before; got != 2 {
		t.Errorf("%d syncs for 101 groups, want 2", got)
	}
}

// TestVotesUnchangedWaitsForTheWriteItRepeats: a second Set of a term that is
// still being written must not return before the first is durable.
func TestVotesUnchangedWaitsForTheWriteItRepeats(t *testing.T) {
	disk := votesDisk(t, 1)
	v := openVotes(t, disk)
	must(t, v.Register(votesGroup(1), 7))
	g := v.Group(votesGroup(1))
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release) // before the file is closed
	disk.Inject(crashfs.Fault{Op: crashfs.OpSync, Stall: hold})
	results := make(chan error, 2)
	go func() { results <- g.SetUint64(keyCurrentTerm, 4) }()
	eventually(t, "the term is being synced", func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.writing != nil })
	go func() { results <- g.SetUint64(keyCurrentTerm, 4) }()
	batch, _, err := v.enqueue(votesGroup(1), func(s groupState, known bool) (*voteRecord, error) { return nil, nil })
	if err != nil || batch == nil {
		t.Fatalf("a look at a state that is not durable waits for nothing (%v)", err)
	}
	if len(results) != 0 {
		t.Error("returned before the sync")
	}
	release()
	must(t, <-results, <-results)
}

func TestVotesFileIsReplacedBeforeItGrows(t *testing.T) {
	disk := votesDisk(t, 1)
	v := openVotes(t, disk)
	must(t, v.Register(votesGroup(1), 7))
	g := v.Group(votesGroup(1))
	renames := disk.Count(crashfs.OpRename)
	const terms = 300
	for term := uint64(1); term <= terms; term++ {
		must(t, g.SetUint64(keyCurrentTerm, term))
	}
	if got := disk.Count(crashfs.OpRename) - renames; got < 2 || got > 4 {
		t.Errorf("the file was replaced %d times in %d terms", got, terms)
	}
	info, err := disk.Stat(votesPath)
	must(t, err)
	if info.Size() != votesMinCapacity {
		t.Errorf("the file has %d bytes, want %d", info.Size(), votesMinCapacity)
	}
	must(t, v.Close())
	if got := stored(t, openVotes(t, disk).Group(votesGroup(1))); got.term != terms {
		t.Errorf("stored %+v, want term %d", got, terms)
	}
}

func TestVotesManyGroupsSurviveARestart(t *testing.T) {
	fsys := vfs.OS()
	path := filepath.Join(t.TempDir(), "votes.log")
	v, err := OpenVotes(fsys, path)
	must(t, err)
	const groups = 2000 // more than one round holds
	var wg sync.WaitGroup
	errs := make([]error, groups)
	for n := range groups {
		wg.Go(func() {
			g := transport.GroupID{Topic: segment.TopicID{1, byte(n), byte(n >> 8)}}
			errs[n] = v.Register(g, uint64(n)+1)
			s := v.Group(g)
			errs[n] = errors.Join(errs[n], s.SetUint64(keyCurrentTerm, uint64(n)+2), vote(s, uint64(n)+2, fmt.Sprintf("node/%016x", n)))
		})
	}
	wg.Wait()
	must(t, errs...)
	must(t, v.Close())
	want := v.groups
	v, err = OpenVotes(fsys, path)
	must(t, err)
	defer v.Close()
	if len(v.groups) != groups || !cmp.Equal(v.groups, want, cmp.AllowUnexported(groupState{})) {
		t.Error("the groups differ after a restart")
	}
	if len(v.Groups()) != groups {
		t.Errorf("%d groups listed", len(v.Groups()))
	}
}

// TestVotesFailedSyncIsFinal: after one failed sync nothing may be stored or
// promised, though the disk takes it.
func TestVotesFailedSyncIsFinal(t *testing.T) {
	disk := votesDisk(t, 1)
	v := openVotes(t, disk)
	must(t, v.Register(votesGroup(1), 7))
	g := v.Group(votesGroup(1))
	disk.Inject(crashfs.Fault{Op: crashfs.OpSync})
	if err := g.SetUint64(keyCurrentTerm, 2); !errors.Is(err, ErrVotesFailed) {
		t.Errorf("a failed sync gave %v", err)
	}
	writes := disk.Count(crashfs.OpChange) + disk.Count(crashfs.OpWrite) + disk.Count(crashfs.OpSync)
	for _, err := range []error{g.SetUint64(keyCurrentTerm, 3), vote(g, 3, "x"), v.Register(votesGroup(2), 1), v.Forget(votesGroup(1))} {
		if !errors.Is(err, ErrVotesFailed) {
			t.Errorf("after a failed sync: %v", err)
		}
	}
	if now := disk.Count(crashfs.OpChange) + disk.Count(crashfs.OpWrite) + disk.Count(crashfs.OpSync); now != writes {
		t.Error("something was written after a failed sync")
	}
	if got := stored(t, g); got.term != 0 {
		t.Errorf("a term that was not stored is read: %+v", got)
	}
}

// TestVotesOnAFullDisk: terms go on being stored as long as nobody else takes the
// space that a replaced file gives back, also over a restart.
func TestVotesOnAFullDisk(t *testing.T) {
	const terms = 1000 // replaces the file many times
	disk := votesDisk(t, 1)
	v := openVotes(t, disk)
	must(t, v.Register(votesGroup(1), 7))
	disk.SetFree(0)
	renames := disk.Count(crashfs.OpRename)
	for start := range uint64(3) {
		g := v.Group(votesGroup(1))
		for term := uint64(1); term <= terms; term++ {
			must(t, g.SetUint64(keyCurrentTerm, start*terms+term))
		}
		must(t, v.Close())
		v = openVotes(t, disk)
		if got := stored(t, v.Group(votesGroup(1))); got.term != (start+1)*terms {
			t.Fatalf("after a restart: %+v, want term %d", got, (start+1)*terms)
		}
	}
	if got := disk.Count(crashfs.OpRename) - renames; got < 10 {
		t.Errorf("the file was replaced %d times: the test proves nothing", got)
	}
}

// TestVotesCrashInTheSpareFile cuts the power at each change that replaces the file by
// the spare one, on a disk that is full and stays so.
func TestVotesCrashInTheSpareFile(t *testing.T) {
	const terms = 300 // replaces the file a few times
	crashes := 0
	for _, fault := range []crashfs.Fault{{Op: crashfs.OpChange, PathContains: votesSpareSuffix}, {Op: crashfs.OpSyncDir}} {
		for keep := crashfs.Keep(0); keep <= 2; keep++ {
			for fault.Nth = 1; ; fault.Nth++ {
				disk := votesDisk(t, int64(fault.Nth))
				v := openVotes(t, disk)
				must(t, v.Register(votesGroup(1), 7))
				g := v.Group(votesGroup(1))
				disk.SetFree(0)
				fault.Do = func() { disk.Crash(crashfs.CrashOptions{Keep: keep}) }
				injected := disk.Inject(fault)
				term := uint64(1)
				for term <= terms && g.SetUint64(keyCurrentTerm, term) == nil {
					term++
				}
				_ = v.Close()
				if injected.Fired() == 0 {
					break
				}
				crashes++
				injected.Remove()
				got := stored(t, openVotes(t, disk).Group(votesGroup(1))).term
				if got != term && got != term-1 {
					t.Fatalf("crash at %v %d, keep %v: term %d is stored, %d was promised", fault.Op, fault.Nth, keep, got, term-1)
				}
			}
		}
	}
	if crashes < 3*12 {
		t.Errorf("%d crashes: the test proves little", crashes)
	}
}

// TestVotesSpareFileThatIsTooSmall: groups came since it was made.
func TestVotesSpareFileThatIsTooSmall(t *testing.T) {
	disk := votesDisk(t, 1)
	groups := map[transport.GroupID]groupState{votesGroup(1): {incarnation: 7}}
	file := &votesFile{fs: disk, path: votesPath}
	defer file.close()
	must(t, file.rewrite(groups))
	disk.SetFree(0)
	file.spareCapacity = votesMaxRound
	if err := file.rewrite(groups); !errors.Is(err, vfs.ErrNoSpace) || errors.Is(err, ErrVotesFailed) {
		t.Errorf("a file without room for a round was used: %v", err)
	}
	must(t, file.store([]voteRecord{{kind: voteTerm, group: votesGroup(1), value: 2}}, groups))
}

// TestVotesOnADiskThatOthersFill: when the space is gone, terms go on being stored in
// what was preallocated, then are refused without harm, and are stored again when
// there is space.
func TestVotesOnADiskThatOthersFill(t *testing.T) {
	disk := votesDisk(t, 1)
	v := openVotes(t, disk)
	must(t, v.Register(votesGroup(1), 7))
	g := v.Group(votesGroup(1))
	full := disk.Inject(crashfs.Fault{Op: crashfs.OpPreallocate, Err: vfs.ErrNoSpace, Repeat: true})
	term := uint64(0)
	var err error
	for err == nil && term < 10_000 {
		term++
		err = g.SetUint64(keyCurrentTerm, term)
	}
	if !errors.Is(err, vfs.ErrNoSpace) || errors.Is(err, ErrVotesFailed) {
		t.Fatalf("a full disk gave %v at term %d", err, term)
	}
	if term < 180 { // half of the file, and the spare
		t.Errorf("only %d terms fitted", term)
	}
	if err := vote(g, term, "node/a"); !errors.Is(err, vfs.ErrNoSpace) {
		t.Errorf("a vote that has no space gave %v", err)
	}
	if got, want := stored(t, g), (groupState{term: term - 1}); got != want {
		t.Errorf("stored %+v, want %+v", got, want)
	}
	must(t, v.Close())
	reopened := openVotes(t, disk) // no space for a new file: the old one serves
	g = reopened.Group(votesGroup(1))
	if err := g.SetUint64(keyCurrentTerm, term); !errors.Is(err, vfs.ErrNoSpace) {
		t.Errorf("a full disk gave %v", err)
	}
	full.Remove()
	must(t, g.SetUint64(keyCurrentTerm, term), vote(g, term, "node/a"))
	if got, want := stored(t, g), (groupState{term: term, voteTerm: term, voteCandidate: "node/a"}); got != want {
		t.Errorf("stored %+v, want %+v", got, want)
	}
	must(t, reopened.Close())
	names, err := disk.List("data")
	must(t, err)
	if want := []string{"votes.log", "votes.log.spare"}; !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
}

// TestVotesOpenMakesDurableWhatItReads: a round that a process had written but
// not synced when it died is read back by the next one and acted upon (raft
// grants a repeated vote without storing it), so opening must make it durable;
// after a failed sync even another sync of that file would not.
func TestVotesOpenMakesDurableWhatItReads(t *testing.T) {
	for name, fails := range map[string]bool{"died before the sync": false, "sync failed": true} {
		t.Run(name, func(t *testing.T) {
			disk := votesDisk(t, 1)
			leaveUnsynced(t, disk, fails)
			readAndLosePower(t, disk)
		})
	}
}

// TestVotesReopenOnAFullDiskIsDurable is the same where no new file can be made.
func TestVotesReopenOnAFullDiskIsDurable(t *testing.T) {
	disk := votesDisk(t, 1)
	leaveUnsynced(t, disk, false)
	disk.SetFree(0)
	readAndLosePower(t, disk)
}

// leaveUnsynced leaves a file whose last round, term 4 of group 1, was written
// and not synced, or whose sync failed.
func leaveUnsynced(t *testing.T, disk *crashfs.FS, fails bool) {
	t.Helper()
	v := openVotes(t, disk)
	must(t, v.Register(votesGroup(1), 7), v.Close())
	file, err := disk.Open(votesPath)
	must(t, err)
	round := appendVotesRound(nil, v.file.sequence, voteRecord{kind: voteTerm, group: votesGroup(1), value: 4}.append(nil))
	_, err = file.WriteAt(round, v.file.end)
	must(t, err)
	if fails {
		disk.Inject(crashfs.Fault{Op: crashfs.OpSync})
		if file.Sync() == nil {
			t.Fatal("the sync did not fail")
		}
	}
	must(t, file.Close())
}

// readAndLosePower opens the file, sees term 4, cuts the power, and must see it again.
func readAndLosePower(t *testing.T, disk *crashfs.FS) {
	t.Helper()
	if got := stored(t, openVotes(t, disk).Group(votesGroup(1))); got.term != 4 {
		t.Fatalf("what was written is not read: %+v", got)
	}
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	disk.SetFree(-1)
	if got := stored(t, openVotes(t, disk).Group(votesGroup(1))); got.term != 4 {
		t.Errorf("a term that was read after a restart is lost by a power cut: %+v", got)
	}
}

// TestVotesHalfARoundIsNotLeftBehind: a write that had no space may have left a
// part of a long round; a short one written over its beginning would have the
// rest behind it, which recovery must take for corruption.
func TestVotesHalfARoundIsNotLeftBehind(t *testing.T) {
	disk := votesDisk(t, 1)
	groups := map[transport.GroupID]groupState{votesGroup(1): {incarnation: 7}}
	file := &votesFile{fs: disk, path: votesPath}
	must(t, file.rewrite(groups))
	defer file.close()
	long := slices.Repeat([]voteRecord{{kind: voteTerm, group: votesGroup(1), value: 1}}, 1000)
	disk.Inject(crashfs.Fault{Op: crashfs.OpWrite, Err: vfs.ErrNoSpace, Short: true})
	if err := file.store(long, groups); !errors.Is(err, vfs.ErrNoSpace) {
		t.Fatalf("a write without space gave %v", err)
	}
	must(t, file.store([]voteRecord{{kind: voteTerm, group: votesGroup(1), value: 2}}, groups))
	data, err := vfs.ReadFile(disk, votesPath, votesMaxFile)
	must(t, err)
	content, err := scanVotes(data)
	if err != nil || content.tail != votesClean || content.groups[votesGroup(1)].term != 2 {
		t.Errorf("recovery gives %+v, %v", content, err)
	}
}
