package log

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// trimDraft is a trim of a term.
func trimDraft(term segment.Term, start segment.Offset, through segment.Index) draft {
	return draft{term: term, kind: segment.KindTrim, frame: segment.EncodeTrim(0, segment.Trim{Start: start, Through: through})}
}

// trimmed is a log of 24 records, about four a segment, of one entry each, all of them
// applied, that was trimmed, and its entries, the trim as number 25.
func trimmed(t *testing.T, o Options, start segment.Offset, through segment.Index) (*Log, []stored) {
	t.Helper()
	l := create(t, o)
	var all []stored
	for i := range 24 {
		all = append(all, mustAppend(t, l, batchOfRecords(1, 1, 1900, uint64(i), int64(i)))...)
	}
	all = append(all, mustAppend(t, l, trimDraft(1, start, through))...)
	if _, err := l.Apply(25); err != nil {
		t.Fatal(err)
	}
	return l, all
}

// kept is what a log must hold of a list after a trim.
func kept(l *Log, all []stored) []stored { return all[l.FirstIndex()-1:] }

// TestTrim removes whole segments below the new start, which lies inside of one.
func TestTrim(t *testing.T) {
	disk := crashfs.New(1)
	l, all := trimmed(t, smallOptions(disk.Mount()), 10, 24)
	if l.StartOffset() != 10 || l.FirstIndex() != 1 {
		t.Fatalf("start %d, first index %d before the files go", l.StartOffset(), l.FirstIndex())
	}
	if _, err := l.Read(9, 24, 1, true); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Errorf("read below the start: %v", err)
	}
	must(t, l.Reclaim())
	first := l.FirstIndex()
	if first != 9 || l.parts[0].base != 8 {
		t.Errorf("first index %d, base %d", first, l.parts[0].base)
	}
	must(t, checkInvariants(l, kept(l, all)))
	for _, o := range []Options{smallOptions(disk.Mount()), smallOptions(disk.Mount())} {
		must(t, l.Close())
		l = open(t, o)
		if l.FirstIndex() != first || l.StartOffset() != 10 {
			t.Errorf("after a restart: first index %d, start %d", l.FirstIndex(), l.StartOffset())
		}
		must(t, checkInvariants(l, kept(l, all)))
	}
	must(t, l.Close())
	if n := len(names(t, disk, ".log")); n != 4 {
		t.Errorf("%d files of frames are left", n)
	}
}

// TestTrimLimits: what each rule keeps.
func TestTrimLimits(t *testing.T) {
	for name, tt := range map[string]struct {
		start   segment.Offset
		through segment.Index
		first   segment.Index
		visible segment.Offset
	}{
		"nothing acknowledged":         {start: 20, through: 0, first: 1, visible: 20},
		"acknowledged within":          {start: 20, through: 10, first: 9, visible: 20},
		"acknowledged to its end":      {start: 20, through: 12, first: 13, visible: 20},
		"behind the end of the log":    {start: 99, through: 99, first: 25, visible: 24},
		"not back":                     {start: 0, through: 24, first: 1, visible: 0},
		"all records, the trim begins": {start: 24, through: 24, first: 25, visible: 24},
	} {
		t.Run(name, func(t *testing.T) {
			l, all := trimmed(t, smallOptions(crashfs.New(1).Mount()), tt.start, tt.through)
			defer l.Close()
			must(t, l.Reclaim())
			if l.FirstIndex() != tt.first || l.StartOffset() != tt.visible {
				t.Errorf("first index %d, start %d; want %d, %d", l.FirstIndex(), l.StartOffset(), tt.first, tt.visible)
			}
			must(t, checkInvariants(l, kept(l, all)))
		})
	}
}

// TestTrimStaysAboveTheCheckpoint: no segment goes that the next start would begin in
// or before, whatever was acknowledged: raft panics on an entry that it must apply and
// cannot read.
func TestTrimStaysAboveTheCheckpoint(t *testing.T) {
	disk := crashfs.New(1)
	o := smallOptions(disk.Mount())
	o.CheckpointBytes = 1 << 30
	l, _ := trimmed(t, o, 24, 24)
	defer l.Close()
	must(t, l.WriteCheckpoint())
	for _, checkpoint := range []segment.Index{1, 4, 5, 8, 12, 13, 25} {
		l.mu.RLock()
		n := l.trimmableLocked(checkpoint)
		l.mu.RUnlock()
		if n < len(l.parts) && n > 0 && l.parts[n-1].header.Seal.LastIndex >= checkpoint {
			t.Errorf("%d segments may go below checkpoint %d", n, checkpoint)
		}
		if want := min(int(checkpoint-1)/4, 6); n != want {
			t.Errorf("checkpoint %d: %d segments may go, want %d", checkpoint, n, want)
		}
	}
}

// TestTrimmedReaders: who has a file open reads on, who comes later is out of range.
func TestTrimmedReaders(t *testing.T) {
	disk := crashfs.New(1)
	o := smallOptions(disk.Mount())
	o.SegmentBytes, o.RoundBytes = 64<<10, 64<<10
	l := create(t, o)
	defer l.Close()
	want := mustAppend(t, l, batchOfRecords(1, 1, 40<<10, 1, 0))
	mustAppend(t, l, batchOfRecords(1, 1, 40<<10, 2, 0))
	if _, err := l.Apply(2); err != nil {
		t.Fatal(err)
	}
	s, err := l.Read(0, 2, 50<<10, true)
	must(t, err)
	if s.File == nil {
		t.Fatal("the slice is no range of a file")
	}
	old := l.parts[0]
	mustAppend(t, l, trimDraft(1, 2, 2))
	if _, err := l.Apply(3); err != nil {
		t.Fatal(err)
	}
	must(t, l.Reclaim())
	b, err := sliceBytes(s)
	must(t, err)
	if string(b) != string(want[0].frame) {
		t.Error("the reader got other bytes")
	}
	if old.handle != nil {
		t.Error("the files stay open")
	}
	if _, err := l.files.acquire(l, old); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Errorf("open a trimmed segment: %v", err)
	}
	if _, _, err := l.ReadEntries(1, 1, 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("read trimmed entries: %v", err)
	}
	if n := len(names(t, disk, "")); n != 3+2 {
		t.Errorf("files: %v", names(t, disk, ""))
	}
}

// TestTrimCrashes cuts the power, or the process, at each change of the disk while a
// trim is applied and its space freed: the next start finds a valid log, the log start
// comes with the trim's entry, and a second trim ends as if nothing had happened.
func TestTrimCrashes(t *testing.T) {
	for _, kill := range []bool{false, true} {
		for seed, keep := range []crashfs.Keep{crashfs.KeepNothing, crashfs.KeepEverything, crashfs.KeepRandom, crashfs.KeepRandom, crashfs.KeepRandom, crashfs.KeepRandom} {
			for nth := 1; crashInTrim(t, int64(seed), nth, keep, kill); nth++ {
			}
		}
	}
}

func crashInTrim(t *testing.T, seed int64, nth int, keep crashfs.Keep, kill bool) (fired bool) {
	t.Helper()
	disk := crashfs.New(seed)
	l := create(t, smallOptions(disk.Mount()))
	var all []stored
	for i := range 24 {
		all = append(all, mustAppend(t, l, batchOfRecords(1, 1, 1900, uint64(i), 0))...)
	}
	all = append(all, mustAppend(t, l, trimDraft(1, 14, 24))...)
	if _, err := l.Apply(7); err != nil {
		t.Fatal(err)
	}
	fault := crashfs.Fault{Op: crashfs.OpChange, Nth: nth, Do: func() { disk.Crash(crashfs.CrashOptions{Keep: keep}) }}
	if kill {
		fault = crashfs.Fault{Op: crashfs.OpChange, Nth: nth, Repeat: true, Err: crashfs.ErrCrashed}
	}
	armed := disk.Inject(fault)
	_, err := l.Apply(25)
	if err == nil {
		err = l.Reclaim()
	}
	if err == nil {
		err = l.Close()
	}
	fired = armed.Fired() > 0
	if !fired {
		must(t, err)
		if nth < 15 {
			t.Errorf("only %d changes", nth)
		}
	}
	_ = l.Close()
	armed.Remove()
	o := smallOptions(disk.Mount())
	o.SameBoot = kill
	l = open(t, o)
	defer l.Close()
	what := fmt.Sprintf("change %d, keep %v, kill %v", nth, keep, kill)
	if l.FirstIndex() > l.Checkpoint().Index || l.Applied() == 25 && l.StartOffset() != 14 {
		t.Fatalf("%s: first index %d, checkpoint %d, start %d", what, l.FirstIndex(), l.Checkpoint().Index, l.StartOffset())
	}
	if _, err := l.Apply(25); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if err := l.Reclaim(); err != nil || l.FirstIndex() != 13 || l.StartOffset() != 14 {
		t.Fatalf("%s: %v, first index %d, start %d", what, err, l.FirstIndex(), l.StartOffset())
	}
	if err := checkInvariants(l, kept(l, all)); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if n := len(names(t, disk, ".log")); n != 3 {
		t.Errorf("%s: %d files of frames", what, n)
	}
	return fired
}

// TestTrimNeedsNoSpace: an append goes on, and what could not be freed is freed later.
func TestTrimNeedsNoSpace(t *testing.T) {
	disk := crashfs.New(1)
	l, all := trimmed(t, smallOptions(disk.Mount()), 24, 24)
	defer l.Close()
	fault := disk.Inject(crashfs.Fault{Op: crashfs.OpCreate, Repeat: true, Err: ErrNoSpace})
	if err := l.Reclaim(); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("error %v", err)
	}
	must(t, checkInvariants(l, kept(l, all)))
	fault.Remove()
	must(t, l.Reclaim())
	all = append(all, mustAppend(t, l, batchOfRecords(1, 1, 100, 1, 0))...)
	if l.FirstIndex() != 25 {
		t.Errorf("first index %d", l.FirstIndex())
	}
	must(t, checkInvariants(l, kept(l, all)))
}

// TestRollAndCutAfterTrim: the manifest of a later roll or cut does not bring trimmed
// segments back.
func TestRollAndCutAfterTrim(t *testing.T) {
	disk := crashfs.New(1)
	l, all := trimmed(t, smallOptions(disk.Mount()), 24, 24)
	must(t, l.Reclaim())
	for i := range 9 {
		all = append(all, mustAppend(t, l, batchOfRecords(2, 1, 1900, uint64(i), 0))...)
	}
	must(t, l.CutFrom(28))
	all = append(all[:27], mustAppend(t, l, batchOfRecords(3, 1, 5000, 50, 0), batchOfRecords(3, 1, 5000, 51, 0))...)
	must(t, checkInvariants(l, kept(l, all)))
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	_ = l.Close()
	l = open(t, smallOptions(disk.Mount()))
	defer l.Close()
	if l.FirstIndex() != 25 || l.StartOffset() != 24 {
		t.Errorf("first index %d, start %d", l.FirstIndex(), l.StartOffset())
	}
	must(t, checkInvariants(l, kept(l, all)))
}

// TestCutAfterTrim: nor does that of a cut whose segments were listed before the trim.
func TestCutAfterTrim(t *testing.T) {
	disk := crashfs.New(1)
	l, all := trimmed(t, smallOptions(disk.Mount()), 14, 24)
	for i := range 9 {
		all = append(all, mustAppend(t, l, batchOfRecords(2, 1, 1900, uint64(i), 0))...)
	}
	must(t, l.Reclaim())
	must(t, l.CutFrom(28))
	all = append(all[:27], mustAppend(t, l, batchOfRecords(3, 1, 100, 50, 0))...)
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	_ = l.Close()
	l = open(t, smallOptions(disk.Mount()))
	defer l.Close()
	must(t, checkInvariants(l, kept(l, all)))
}

// TestReclaimDuringAnAppend: what an append had listed, or made durable, before the
// segments went, and goes on with after it, does not bring them back: neither in memory
// nor, after a power cut, on the disk. Reclaim runs at every change of a segment's files
// while an append closes two segments and begins two.
func TestReclaimDuringAnAppend(t *testing.T) {
	for _, files := range []string{".log", ".idx", ".hdr"} {
		nth := 1
		for ; reclaimInAppend(t, files, nth); nth++ {
		}
		if nth < 4 {
			t.Errorf("only %d changes of %s", nth-1, files)
		}
	}
}

func reclaimInAppend(t *testing.T, files string, nth int) (fired bool) {
	t.Helper()
	disk := crashfs.New(1)
	l, all := trimmed(t, smallOptions(disk.Mount()), 14, 24)
	fault := disk.Inject(crashfs.Fault{Op: crashfs.OpChange, PathContains: files, Nth: nth, Do: func() { must(t, l.Reclaim()) }})
	all = append(all, mustAppend(t, l, batchOfRecords(1, 1, 1900, 60, 0), batchOfRecords(1, 1, 7900, 61, 0))...)
	fault.Remove()
	if fired = fault.Fired() > 0; !fired {
		must(t, l.Reclaim())
	}
	check := func(what string) {
		t.Helper()
		if err := checkInvariants(l, kept(l, all)); err != nil || l.FirstIndex() != 13 {
			t.Errorf("%s change %d of %s: first index %d, %v", what, nth, files, l.FirstIndex(), err)
		}
	}
	check("reclaimed at")
	all = append(all, mustAppend(t, l, batchOfRecords(1, 1, 7900, 62, 0))...) // closes one more
	if len(l.tail.chain) != len(l.parts) {
		t.Errorf("%d segments are kept for the next roll, the log has %d", len(l.tail.chain), len(l.parts))
	}
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	_ = l.Close()
	l = open(t, smallOptions(disk.Mount()))
	defer l.Close()
	check("restarted after")
	return fired
}

// TestTrimmedNamesAreForgottenLast: a manifest that does not name trimmed segments any
// more is on the disk only after their files are not. Otherwise a power cut brings
// files back that nothing explains, which is corruption.
func TestTrimmedNamesAreForgottenLast(t *testing.T) {
	for seed := range int64(30) {
		disk := crashfs.New(seed)
		l, all := trimmed(t, smallOptions(disk.Mount()), 24, 24)
		fault := disk.Inject(crashfs.Fault{Op: crashfs.OpRename, PathContains: manifestName, Nth: 2,
			After: func() { disk.Crash(crashfs.CrashOptions{}) }})
		if err := l.Reclaim(); !errors.Is(err, crashfs.ErrCrashed) || fault.Fired() == 0 {
			t.Fatalf("seed %d: %v", seed, err)
		}
		_ = l.Close()
		l = open(t, smallOptions(disk.Mount()))
		must(t, checkInvariants(l, kept(l, all)))
		must(t, l.Close())
	}
}

// TestTrimsNeverGoBack: neither the log start nor what may be removed.
func TestTrimsNeverGoBack(t *testing.T) {
	l, all := trimmed(t, smallOptions(crashfs.New(1).Mount()), 14, 24)
	defer l.Close()
	all = append(all, mustAppend(t, l, trimDraft(1, 5, 1))...)
	if _, err := l.Apply(26); err != nil {
		t.Fatal(err)
	}
	must(t, l.Reclaim())
	if l.StartOffset() != 14 || l.FirstIndex() != 13 {
		t.Errorf("start %d, first index %d", l.StartOffset(), l.FirstIndex())
	}
	must(t, checkInvariants(l, kept(l, all)))
}

// TestOffsetsAfterTrim: times below the start answer nothing that cannot be read.
func TestOffsetsAfterTrim(t *testing.T) {
	l := create(t, smallOptions(crashfs.New(1).Mount()))
	defer l.Close()
	records := func(timestamps ...int64) draft {
		var list []segment.Record
		for _, at := range timestamps {
			list = append(list, segment.Record{Timestamp: at, Value: []byte("value")})
		}
		return draft{term: 1, kind: segment.KindRecords, frame: segment.Build(list, segment.BuildOptions{})}
	}
	mustAppend(t, l, records(900, 100), records(800, 120, 110), records(700), records(130), trimDraft(1, 3, 0))
	if _, err := l.Apply(5); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		for ts, want := range map[int64]segment.Offset{0: 3, 115: 3, 125: 5, 700: 5} {
			if at, _, ok, err := l.OffsetForTime(ts, 99); err != nil || !ok || at != want {
				t.Errorf("time %d: offset %d, %v, %v; want %d", ts, at, ok, err, want)
			}
		}
		if at, _, ok, err := l.OffsetForTime(701, 99); ok || err != nil {
			t.Errorf("time 701: offset %d, %v", at, err)
		}
		if at, ts, ok, err := l.MaxTimestamp(99); at != 5 || ts != 700 || !ok || err != nil {
			t.Errorf("largest timestamp %d at %d, %v, %v", ts, at, ok, err)
		}
	}
	check()
	mustAppend(t, l, batchOfRecords(1, 1, 9000, 1, 1)) // closes the segment
	if _, err := l.Apply(6); err != nil || len(l.parts) != 2 {
		t.Fatal(err, len(l.parts))
	}
	check()
}

// TestOffsetsWhileTrimming: a segment that goes between the moment when it is looked up
// and the moment when its files are open has no part in the answer, and makes no error:
// a client that asks for a time must not hear that an offset is out of range.
func TestOffsetsWhileTrimming(t *testing.T) {
	for name, ask := range map[string]func(l *Log) (segment.Offset, int64, bool, error){
		"time":    func(l *Log) (segment.Offset, int64, bool, error) { return l.OffsetForTime(3, 24) },
		"largest": func(l *Log) (segment.Offset, int64, bool, error) { return l.MaxTimestamp(24) },
	} {
		disk := crashfs.New(1)
		o := smallOptions(disk.Mount())
		o.Files = NewFileCache(1)
		l := create(t, o)
		mustAppend(t, l, batchOfRecords(1, 1, 1900, 0, 100)) // the newest comes first
		for i := range int64(23) {
			mustAppend(t, l, batchOfRecords(1, 1, 1900, uint64(i), i+1))
		}
		mustAppend(t, l, trimDraft(1, 14, 24))
		if _, err := l.Apply(24); err != nil {
			t.Fatal(err)
		}
		var trimming sync.WaitGroup
		fault := disk.Inject(crashfs.Fault{Op: crashfs.OpOpen, PathContains: segment.LogName(0), Do: func() {
			if _, err := l.Apply(25); err != nil {
				t.Error(err)
			}
			trimming.Go(func() { // it waits for whoever opens the files
				if err := l.Reclaim(); err != nil {
					t.Error(err)
				}
			})
			for l.FirstIndex() == 1 {
				runtime.Gosched()
			}
		}})
		offset, ts, found, err := ask(l)
		trimming.Wait()
		want, at := segment.Offset(14), int64(14)
		if name == "largest" {
			want, at = 23, 23
		}
		if offset != want || ts != at || !found || err != nil || fault.Fired() == 0 {
			t.Errorf("%s: offset %d of time %d, %v, %v; want %d of %d", name, offset, ts, found, err, want, at)
		}
		must(t, l.Close())
	}
}
