package log

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// busyCommit cuts into a sealed segment and appends over two segments: every kind
// of change of the disk that a commit makes.
func busyCommit(l *Log) error {
	if err := l.CutFrom(6); err != nil {
		return err
	}
	_, err := appendTo(l, batchOfRecords(2, 1, 3000, 100, 0), batchOfRecords(2, 1, 3000, 101, 0), batchOfRecords(2, 1, 5000, 102, 0))
	return err
}

// busyLog is a log of several segments, five entries applied.
func busyLog(t *testing.T, disk *crashfs.FS) (*Log, []stored) {
	t.Helper()
	l := create(t, smallOptions(disk.Mount()))
	var all []stored
	for i := range 12 {
		all = append(all, mustAppend(t, l, batchOfRecords(1, 1, 2000, uint64(i), 0))...)
	}
	if _, err := l.Apply(5); err != nil {
		t.Fatal(err)
	}
	return l, all
}

// TestIOErrorIsFatal fails each change of the disk in turn: the commit fails with a
// FatalError, the log takes nothing more and asks the disk for nothing more, and
// the next start finds one of the allowed histories.
func TestIOErrorIsFatal(t *testing.T) {
	for nth := 1; ; nth++ {
		disk := crashfs.New(int64(nth))
		l, all := busyLog(t, disk)
		fault := disk.Inject(crashfs.Fault{Op: crashfs.OpChange, Nth: nth})
		err := busyCommit(l)
		if fault.Fired() == 0 {
			must(t, err)
			fault.Remove()
			must(t, l.Close())
			if nth < 20 {
				t.Errorf("only %d changes", nth)
			}
			return
		}
		var fatal *FatalError
		if !errors.As(err, &fatal) {
			t.Fatalf("change %d: %v", nth, err)
		}
		trace := disk.Trace()
		if _, err := appendTo(l, batchOfRecords(9, 1, 10, 1, 0)); !errors.As(err, &fatal) {
			t.Errorf("change %d: the next commit: %v", nth, err)
		}
		if err := l.WriteCheckpoint(); !errors.As(err, &fatal) {
			t.Errorf("change %d: a checkpoint: %v", nth, err)
		}
		if err := l.Close(); !errors.As(err, &fatal) {
			t.Errorf("change %d: close: %v", nth, err)
		}
		trace.Stop()
		if n := trace.Count(crashfs.OpChange, ""); n != 0 {
			t.Errorf("change %d: %d changes after the error", nth, n)
		}
		fault.Remove()
		disk.Crash(crashfs.CrashOptions{})
		l = open(t, smallOptions(disk.Mount()))
		content, err := contents(l)
		must(t, err)
		if len(content) < 5 || !isPrefix(content[:5], all) {
			t.Errorf("change %d: %d entries are left, or others", nth, len(content))
		}
		must(t, l.Close())
	}
}

// TestSyncOfFullDiskIsFatal: a sync that fails for lack of space is no harmless
// lack of space.
func TestSyncOfFullDiskIsFatal(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	disk.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: ".log", Err: vfs.ErrNoSpace})
	_, err := appendTo(l, batchOfRecords(1, 1, 10, 1, 0))
	var fatal *FatalError
	if !errors.As(err, &fatal) || errors.Is(err, ErrNoSpace) {
		t.Errorf("error %v", err)
	}
	_ = l.Close()
}

// TestNoSpace fails each change in turn for lack of space: the commit fails with
// ErrNoSpace, nothing of it is visible, reads go on, and when there is space the
// same entries go in.
func TestNoSpace(t *testing.T) {
	fails := 0
	for nth := 1; ; nth++ {
		disk := crashfs.New(int64(nth))
		l, all := busyLog(t, disk)
		fault := disk.Inject(crashfs.Fault{Op: crashfs.OpPreallocate, Nth: nth, Err: vfs.ErrNoSpace})
		if nth > 3 {
			fault.Remove()
			fault = disk.Inject(crashfs.Fault{Op: crashfs.OpCreate, Nth: nth - 3, Repeat: nth%2 == 0, Err: vfs.ErrNoSpace})
		}
		err := busyCommit(l)
		if fault.Fired() == 0 {
			must(t, err)
			must(t, l.Close())
			if nth > 3 {
				break
			}
			continue
		}
		fails++
		if !errors.Is(err, ErrNoSpace) {
			t.Fatalf("change %d: %v", nth, err)
		}
		must(t, checkInvariants(l, all[:5]))
		fault.Remove()
		again := append(all[:5:5], mustAppend(t, l, batchOfRecords(3, 1, 3000, 200, 0), batchOfRecords(3, 1, 7000, 201, 0))...)
		must(t, checkInvariants(l, again))
		disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
		_ = l.Close()
		l = open(t, smallOptions(disk.Mount()))
		must(t, checkInvariants(l, again))
		must(t, l.Close())
	}
	if fails < 6 {
		t.Errorf("only %d failures", fails)
	}
}

// TestCheckpointWithoutSpace: the log goes on and keeps the old checkpoint.
func TestCheckpointWithoutSpace(t *testing.T) {
	disk := crashfs.New(1)
	l, _ := busyLog(t, disk)
	defer l.Close()
	before := l.Checkpoint()
	fault := disk.Inject(crashfs.Fault{Op: crashfs.OpCreate, PathContains: "checkpoint", Repeat: true, Err: vfs.ErrNoSpace})
	if err := l.WriteCheckpoint(); before.Index != 5 && !errors.Is(err, ErrNoSpace) {
		t.Errorf("error %v", err)
	}
	if _, err := l.Apply(12); err != nil {
		t.Errorf("apply: %v", err)
	}
	if got := l.Checkpoint(); got.Index != before.Index {
		t.Errorf("checkpoint %d without space", got.Index)
	}
	fault.Remove()
	must(t, l.WriteCheckpoint())
	if got := l.Checkpoint(); got.Index != 12 {
		t.Errorf("checkpoint %d", got.Index)
	}
}

// TestDamagedFolder: whatever is damaged below the end is reported with its file,
// and nothing is changed. An index is made anew.
func TestDamagedFolder(t *testing.T) {
	base := segment.Offset(4) // of a sealed segment
	for name, harm := range map[string]struct {
		file string
		do   func(d *crashfs.FS, path string) error
		fine bool
	}{
		"manifest bit":       {file: manifestName, do: flip(20)},
		"checkpoint bit":     {file: checkpointName, do: flip(20)},
		"checkpoint missing": {file: checkpointName, do: remove},
		"header bit":         {file: segment.HeaderName(base), do: flip(20)},
		"header missing":     {file: segment.HeaderName(base), do: remove},
		"frames missing":     {file: segment.LogName(base), do: remove},
		"frames shorter":     {file: segment.LogName(base), do: shorten},
		"frames of no list":  {file: segment.LogName(99), do: plant},
		"index missing":      {file: segment.IndexName(base), do: remove, fine: true},
		"index shorter":      {file: segment.IndexName(base), do: shorten, fine: true},
		"index bit":          {file: segment.IndexName(base), do: flip(3), fine: true},
		"last index missing": {file: segment.IndexName(20), do: remove, fine: true},
		"empty of no list":   {file: segment.LogName(99), do: plantEmpty, fine: true},
		"temporary":          {file: "manifest.tmp", do: plant, fine: true},
	} {
		t.Run(name, func(t *testing.T) {
			disk := crashfs.New(1)
			l := create(t, smallOptions(disk.Mount()))
			var all []stored
			for i := range 24 {
				all = append(all, mustAppend(t, l, batchOfRecords(1, 1, 1900, uint64(i), 0))...)
			}
			if _, err := l.Apply(22); err != nil {
				t.Fatal(err)
			}
			must(t, l.Close())
			must(t, harm.do(disk, testDir+"/"+harm.file))
			trace := disk.Trace()
			l, err := Open(smallOptions(disk.Mount()))
			trace.Stop()
			if harm.fine {
				must(t, err)
				must(t, checkInvariants(l, all))
				must(t, l.Close())
				return
			}
			var corruption *CorruptionError
			if !errors.As(err, &corruption) || corruption.File != harm.file || corruption.Dir != testDir {
				t.Fatalf("error %v", err)
			}
			for _, op := range []crashfs.Op{crashfs.OpWrite, crashfs.OpTruncate, crashfs.OpRemove, crashfs.OpRename} {
				if trace.Count(op, "") != 0 {
					t.Errorf("%v in a damaged folder", op)
				}
			}
		})
	}
}

func flip(at int64) func(*crashfs.FS, string) error {
	return func(d *crashfs.FS, path string) error { return d.FlipBit(path, at*8) }
}

func remove(d *crashfs.FS, path string) error { return d.Remove(path) }

func shorten(d *crashfs.FS, path string) error {
	file, err := d.Open(path)
	if err != nil {
		return err
	}
	size, err := file.Size()
	return errors.Join(err, file.Truncate(size-1), file.Sync(), file.Close())
}

func plant(d *crashfs.FS, path string) error { return vfs.WriteFile(d, path, []byte("something")) }

func plantEmpty(d *crashfs.FS, path string) error { return vfs.WriteFile(d, path, make([]byte, 100)) }

// TestUncertainStays: a replica whose end was cut where torn and rotten cannot be
// told apart says so at every start, and keeps what was cut.
func TestUncertainStays(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	mustAppend(t, l, batchOfRecords(1, 1, 100, 1, 0))
	at := l.Size()
	mustAppend(t, l, batchOfRecords(1, 1, 1500, 2, 0))
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	_ = l.Close()
	must(t, disk.FlipBit(testDir+"/"+segment.LogName(0), (at+700)*8))
	for i := range 3 {
		l = open(t, smallOptions(disk.Mount()))
		r := l.Recovery()
		if !r.Uncertain || r.Torn || (r.CutBytes > 0) != (i == 0) || l.LastIndex() != 1 {
			t.Errorf("start %d: %+v, last index %d", i, r, l.LastIndex())
		}
		if len(names(t, disk, segment.TornSuffix)) != 1 {
			t.Error("what was cut is not kept")
		}
		must(t, l.Close())
	}
	l = open(t, smallOptions(disk.Mount()))
	must(t, l.SettleEnd())
	must(t, l.SettleEnd()) // again is nothing more
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	_ = l.Close()
	l = open(t, smallOptions(disk.Mount()))
	if r := l.Recovery(); r.Uncertain {
		t.Errorf("in doubt after SettleEnd and a power cut: %+v", r)
	}
	if len(names(t, disk, ".torn.kept")) != 1 {
		t.Error("what was cut is not kept")
	}
	must(t, l.Close())
}

// TestRecoveryCrashes cuts the power twenty times during the recovery from a power
// cut: the result is that of a single recovery.
func TestRecoveryCrashes(t *testing.T) {
	for seed := range int64(30) {
		disk := crashfs.New(seed)
		l, _ := busyLog(t, disk)
		nth := int(1 + seed)
		disk.Inject(crashfs.Fault{Op: crashfs.OpChange, Nth: nth, After: func() { disk.Crash(crashfs.CrashOptions{}) }})
		_ = busyCommit(l)
		disk.Crash(crashfs.CrashOptions{})
		_ = l.Close()

		single := open(t, smallOptions(disk.Clone(1).Mount()))
		want, err := contents(single)
		must(t, err)
		must(t, checkInvariants(single, want))
		must(t, single.Close())

		again := disk.Clone(2)
		for n := range 20 {
			fault := again.Inject(crashfs.Fault{Op: crashfs.OpChange, Nth: 1 + n%7, Do: func() { again.Crash(crashfs.CrashOptions{}) }})
			if l, err := Open(smallOptions(again.Mount())); err == nil {
				again.Crash(crashfs.CrashOptions{})
				_ = l.Close()
			} else if !errors.Is(err, crashfs.ErrCrashed) {
				t.Fatalf("seed %d, crash %d: %v", seed, n, err)
			}
			fault.Remove()
		}
		l = open(t, smallOptions(again.Mount()))
		if err := checkInvariants(l, want); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		must(t, l.Close())
	}
}

// TestNoSpaceToCutTheIndex: a cut whose truncation of the index fails for lack of
// space is made by the next commit, and takes the entries off the disk then. Left
// there, they would prove frames that are gone, and the next start would find
// corruption.
func TestNoSpaceToCutTheIndex(t *testing.T) {
	disk := crashfs.New(1)
	o := smallOptions(disk.Mount())
	o.SegmentBytes, o.RoundBytes, o.CheckpointBytes = 1<<20, 64<<10, 1<<20
	l := create(t, o)
	all := mustAppend(t, l, batchOfRecords(1, 1, 100, 1, 1), batchOfRecords(1, 1, 100, 2, 1))
	for i := range uint64(20) { // entries of the index, not applied
		mustAppend(t, l, batchOfRecords(1, 1, 5000, i, 1))
	}
	must(t, l.CutFrom(3))
	fault := disk.Inject(crashfs.Fault{Op: crashfs.OpTruncate, PathContains: ".idx", Err: vfs.ErrNoSpace})
	if _, err := appendTo(l, batchOfRecords(2, 1, 100, 50, 1)); !errors.Is(err, ErrNoSpace) || fault.Fired() != 1 {
		t.Fatalf("error %v, fired %d", err, fault.Fired())
	}
	for i := range uint64(4) {
		all = append(all, mustAppend(t, l, batchOfRecords(2, 1, 6000, 60+i, 1))...)
	}
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepEverything})
	_ = l.Close() // of a dead disk
	o.FS, o.SameBoot = disk.Mount(), true
	l = open(t, o)
	defer l.Close()
	must(t, checkInvariants(l, all))
}

// TestSyncedRoundsAreNotTorn: the first of many small rounds, all synced, has gone
// bad, and holds zeros of its own, which look like a sector that was never written; and
// a power cut has taken the index entries that prove it. Rounds of this size cannot
// be the last one together: nothing is cut, and nobody votes without them.
func TestSyncedRoundsAreNotTorn(t *testing.T) {
	for _, size := range []int{100, 1000, 3000} {
		disk := crashfs.New(1)
		o := smallOptions(disk.Mount())
		o.SegmentBytes, o.CheckpointBytes, o.RoundBytes = 1<<30, 64<<20, 8<<20
		l := create(t, o)
		mustAppend(t, l, draft{term: 1, kind: segment.KindRecords, frame: segment.Build(
			[]segment.Record{{Value: make([]byte, 2000)}}, segment.BuildOptions{})})
		for i := range uint64(200) {
			mustAppend(t, l, batchOfRecords(1, 1, size, i, 1))
		}
		disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
		_ = l.Close() // of a dead disk
		must(t, disk.FlipBit(testDir+"/"+segment.LogName(0), 30*8))
		o.FS = disk.Mount()
		var corruption *CorruptionError
		if l, err := Open(o); !errors.As(err, &corruption) {
			t.Errorf("batches of %d bytes: error %v, recovery %+v", size, err, l.Recovery())
		}
	}
}

// TestRoundLimitIsInherited: a segment begins with half of the limit of the one before.
func TestRoundLimitIsInherited(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	defer l.Close()
	mustAppend(t, l, batchOfRecords(1, 1, 40_000, 1, 0))
	for i := range uint64(40) {
		mustAppend(t, l, batchOfRecords(1, 1, 1500, i, 0))
	}
	var limits []int64
	for _, p := range l.parts {
		limits = append(limits, p.header.RoundLimit)
	}
	want := []int64{128 << 10, 64 << 10, 32 << 10, 16 << 10, 8 << 10, 4 << 10, 4 << 10}
	if diff := cmp.Diff(want, limits[:min(len(limits), len(want))]); diff != "" {
		t.Error(diff)
	}
}
