package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestAppendReadReopen goes once through everything: entries of all kinds, several
// segments, reading back, closing and opening.
func TestAppendReadReopen(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	var all []stored
	all = append(all, mustAppend(t, l, internalFrame(1, segment.KindConfiguration, "three voters"))...)
	all = append(all, mustAppend(t, l, internalFrame(2, segment.KindNoop, ""))...)
	for i := range 60 {
		all = append(all, mustAppend(t, l,
			batchOfRecords(2, 3, 100, uint64(i), int64(i)), batchOfRecords(2, 1, 700, uint64(i)+1000, int64(i)))...)
		if i == 30 {
			void := draft{term: 2, kind: segment.KindVoid, frame: segment.EncodeVoid(0, segment.Void{Code: segment.VoidDuplicate, Offset: 7})}
			all = append(all, mustAppend(t, l, void)...)
		}
	}
	if n := len(names(t, disk, ".log")); n < 5 {
		t.Fatalf("%d segments", n)
	}
	if _, err := l.Apply(l.LastIndex() - 1); err != nil {
		t.Fatal(err)
	}
	must(t, checkInvariants(l, all))
	configuration, err := l.Payload(1)
	must(t, err)
	if string(configuration) != "three voters" {
		t.Errorf("configuration %q", configuration)
	}
	must(t, l.Close())

	o := smallOptions(disk.Mount())
	o.CleanStop = true
	l = open(t, o)
	defer l.Close()
	must(t, checkInvariants(l, all))
	if l.Recovery() != (Recovery{}) {
		t.Errorf("recovery after a clean stop: %+v", l.Recovery())
	}
	if c := l.Checkpoint(); c.Index != l.LastIndex()-1 || string(c.Configuration) != "three voters" || c.ConfigurationIndex != 1 {
		t.Errorf("checkpoint %+v", c)
	}
	if info, err := l.Info(65); err != nil || info.Void == nil || *info.Void != (segment.Void{Code: segment.VoidDuplicate, Offset: 7}) {
		t.Errorf("void %+v, %v", info, err)
	}
}

// calls are the changes of a trace, as "op suffix".
func calls(events []crashfs.Event) []string {
	var list []string
	for _, e := range events {
		switch e.Op {
		case crashfs.OpSync, crashfs.OpWrite, crashfs.OpTruncate, crashfs.OpSyncDir, crashfs.OpRename, crashfs.OpRemove, crashfs.OpCreate:
			name := e.Path[strings.LastIndexByte(e.Path, '/')+1:]
			if e.Op == crashfs.OpSyncDir {
				name = "folder"
			}
			if base, ok := segment.ParseName(name); ok {
				name = fmt.Sprintf("%d%s", base, name[strings.LastIndexByte(name, '.'):])
			}
			if !strings.HasSuffix(name, ".tmp") {
				list = append(list, e.Op.String()+" "+name)
			}
		}
	}
	return list
}

// TestOneSync: an ordinary StoreLogs is one write and one sync, of the .log, and
// nothing else is synced.
func TestOneSync(t *testing.T) {
	disk := crashfs.New(1)
	o := smallOptions(disk.Mount())
	o.SegmentBytes, o.RoundBytes = 1<<20, 1<<20
	l := create(t, o)
	defer l.Close()
	mustAppend(t, l, batchOfRecords(1, 1, 30_000, 1, 0)) // raises the round limit, once
	for n := 1; n < 40; n += 7 {
		var drafts []draft
		for i := range n {
			drafts = append(drafts, batchOfRecords(1, 2, 300, uint64(i), 0))
		}
		trace := disk.Trace()
		mustAppend(t, l, drafts...)
		trace.Stop()
		if syncs, writes := trace.Count(crashfs.OpSync, ""), trace.Count(crashfs.OpWrite, ".log"); syncs != 1 || writes != 1 || trace.Count(crashfs.OpSync, ".log") != 1 {
			t.Errorf("%d entries: %d syncs, %d writes of frames", n, syncs, writes)
		}
		if trace.Count(crashfs.OpSyncDir, "") != 0 {
			t.Error("a folder was synced")
		}
	}
}

// TestRollOrder holds the order of calls that the package comment names.
func TestRollOrder(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	defer l.Close()
	mustAppend(t, l, batchOfRecords(1, 7, 1000, 1, 0))
	trace := disk.Trace()
	mustAppend(t, l, batchOfRecords(1, 1, 1900, 2, 0))
	want := []string{
		"sync 0.idx", "truncate 0.log", "sync 0.log", "rename 0.hdr", "sync folder",
		"create 7.log", "create 7.idx", "write 7.idx", "rename 7.hdr", "sync folder",
		"rename manifest", "sync folder", "write 7.log", "sync 7.log",
	}
	got := calls(trace.Stop())
	got = slicesDelete(got, func(s string) bool { return strings.HasPrefix(s, "remove ") })
	for i := range got {
		got[i] = strings.Replace(got[i], "syncdir", "sync", 1)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func slicesDelete(list []string, drop func(string) bool) []string {
	var kept []string
	for _, s := range list {
		if !drop(s) {
			kept = append(kept, s)
		}
	}
	return kept
}

// TestCutOrder: the index is cut and synced before the file, the file before
// anything new is written.
func TestCutOrder(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	defer l.Close()
	mustAppend(t, l, batchOfRecords(1, 1, 100, 1, 0))
	mustAppend(t, l, batchOfRecords(1, 1, 5000, 2, 0))
	mustAppend(t, l, batchOfRecords(1, 1, 100, 3, 0))
	trace := disk.Trace()
	must(t, l.CutFrom(2))
	if got := calls(trace.Events()); len(got) != 0 {
		t.Errorf("CutFrom changed the disk: %v", got)
	}
	mustAppend(t, l, batchOfRecords(2, 1, 200, 4, 0))
	want := []string{"truncate 0.idx", "sync 0.idx", "truncate 0.log", "sync 0.log", "write 0.log", "sync 0.log"}
	if diff := cmp.Diff(want, calls(trace.Stop())); diff != "" {
		t.Error(diff)
	}
}

// TestCutAcrossSegments: the manifest goes first, then the seal, then the bytes.
func TestCutAcrossSegments(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	var all []stored
	for i := range 12 {
		all = append(all, mustAppend(t, l, batchOfRecords(1, 1, 3000, uint64(i), 0))...)
	}
	before := len(names(t, disk, ".log"))
	must(t, l.CutFrom(4))
	must(t, checkInvariants(l, all[:3]))
	trace := disk.Trace()
	all = append(all[:3:3], mustAppend(t, l, batchOfRecords(2, 1, 50, 99, 0))...)
	got := calls(trace.Stop())
	if got[0] != "rename manifest" || got[len(got)-1] != "sync 2.log" {
		t.Errorf("calls %v", got)
	}
	must(t, checkInvariants(l, all))
	if after := len(names(t, disk, ".log")); before != 6 || after != 2 {
		t.Errorf("%d segments, then %d", before, after)
	}
	must(t, l.Close())
	l = open(t, smallOptions(disk.Mount()))
	defer l.Close()
	must(t, checkInvariants(l, all))
}

// TestStageRefuses: what does not fit the end of the log is refused, and nothing
// of the append is stored.
func TestStageRefuses(t *testing.T) {
	l := create(t, smallOptions(crashfs.New(1).Mount()))
	defer l.Close()
	all := mustAppend(t, l, batchOfRecords(3, 2, 10, 1, 0))
	good := func() Entry {
		d := batchOfRecords(3, 1, 10, 2, 0)
		segment.Stamp(d.frame, 2, 3)
		return Entry{Index: 2, Term: 3, Kind: segment.KindRecords, Frame: d.frame}
	}
	for name, change := range map[string]func(*Entry){
		"index":     func(e *Entry) { e.Index = 3 },
		"term":      func(e *Entry) { e.Term = 2; segment.Stamp(e.Frame, 2, 2) },
		"huge term": func(e *Entry) { e.Term = segment.MaxTerm + 1 },
		"stamp":     func(e *Entry) { segment.Stamp(e.Frame, 2, 4) },
		"offset":    func(e *Entry) { segment.Stamp(e.Frame, 1, 3) },
		"length":    func(e *Entry) { e.Frame = append(e.Frame, 0) },
		"short":     func(e *Entry) { e.Frame = e.Frame[:60] },
		"empty":     func(e *Entry) { e.Frame = nil },
		"kind":      func(e *Entry) { e.Kind = segment.KindNoop },
		"other kind": func(e *Entry) {
			e.Frame = segment.EncodeInternal(segment.KindNoop, 2, nil)
			segment.Stamp(e.Frame, 2, 3)
		},
		"bad void": func(e *Entry) {
			e.Frame, e.Kind = segment.EncodeInternal(segment.KindVoid, 2, []byte{1}), segment.KindVoid
			segment.Stamp(e.Frame, 2, 3)
		},
	} {
		a := l.Begin()
		e := good()
		change(&e)
		if err := a.Stage(e); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
		a.Abort()
		if err := a.Commit(); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: commit after abort: %v", name, err)
		}
	}
	must(t, checkInvariants(l, all))
	a := l.Begin()
	must(t, a.Stage(good()))
	must(t, a.Commit())
}

// TestCreate: it fails where a replica is, makes anew what a crash left, and
// touches nothing that holds frames.
func TestCreate(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	mustAppend(t, l, batchOfRecords(1, 1, 10, 1, 0))
	must(t, l.Close())
	if _, err := Create(smallOptions(disk.Mount())); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a replica: %v", err)
	}
	got, err := ReadIdentity(disk, testDir)
	if err != nil || got != testIdentity {
		t.Errorf("identity %+v, %v", got, err)
	}
	other := smallOptions(disk.Mount())
	other.Identity.Incarnation++
	if _, err := Open(other); err == nil {
		t.Error("opened as another replica")
	}
	must(t, disk.Remove(testDir+"/manifest"))
	if _, err := Create(smallOptions(disk.Mount())); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over frames without a manifest: %v", err)
	}
	if _, err := ReadIdentity(disk, testDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("identity without a manifest: %v", err)
	}
}

// TestCreateCrash crashes Create at each of its changes: what is left is no
// replica, or a whole one, and Create or Open goes on from there.
func TestCreateCrash(t *testing.T) {
	for nth := 1; ; nth++ {
		disk := crashfs.New(int64(nth))
		fault := disk.Inject(crashfs.Fault{Op: crashfs.OpChange, Nth: nth, Do: func() { disk.Crash(crashfs.CrashOptions{}) }})
		l, err := Create(smallOptions(disk.Mount()))
		fault.Remove()
		if fault.Fired() == 0 {
			must(t, err)
			must(t, l.Close())
			if nth < 10 {
				t.Errorf("only %d changes", nth)
			}
			return
		}
		if err == nil {
			_ = l.Close()
		}
		l, err = Create(smallOptions(disk.Mount()))
		if errors.Is(err, fs.ErrExist) {
			l, err = Open(smallOptions(disk.Mount()))
		}
		must(t, err)
		mustAppend(t, l, batchOfRecords(1, 1, 10, 1, 0))
		disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
		_ = l.Close()
		l = open(t, smallOptions(disk.Mount()))
		if l.LastIndex() != 1 {
			t.Errorf("crash at %d: last index %d", nth, l.LastIndex())
		}
		must(t, l.Close())
	}
}

// TestBase: a log that does not begin with its topic.
func TestBase(t *testing.T) {
	disk := crashfs.New(1)
	o := smallOptions(disk.Mount())
	o.Base = Base{Index: 500, Term: 7, Offset: 900, Configuration: []byte("voters"), ConfigurationIndex: 30}
	l := create(t, o)
	if l.LastIndex() != 500 || l.FirstIndex() != 501 || l.LastTerm() != 7 || l.NextOffset() != 900 || l.HighWatermark() != 900 || l.StartOffset() != 900 {
		t.Errorf("empty log of base 500: %d to %d, term %d", l.FirstIndex(), l.LastIndex(), l.LastTerm())
	}
	if info, err := l.Info(500); err != nil || info.Term != 7 || info.Index != 500 {
		t.Errorf("base %+v, %v", info, err)
	}
	if _, err := l.Info(499); err != ErrNotFound { //nolint:errorlint // raft compares identity
		t.Errorf("below the base: %v", err)
	}
	all := mustAppend(t, l, batchOfRecords(8, 2, 50, 1, 0))
	must(t, checkInvariants(l, all))
	must(t, l.CutFrom(501))
	if l.LastIndex() != 500 || l.LastTerm() != 7 {
		t.Errorf("emptied: last index %d of term %d", l.LastIndex(), l.LastTerm())
	}
	all = mustAppend(t, l, batchOfRecords(9, 2, 50, 1, 0))
	must(t, l.Close())
	l = open(t, smallOptions(disk.Mount()))
	defer l.Close()
	must(t, checkInvariants(l, all))
	if c := l.Checkpoint(); c.Index != 500 || string(c.Configuration) != "voters" || c.ConfigurationIndex != 30 {
		t.Errorf("checkpoint %+v", c)
	}
}

// TestRealFiles goes through a log on the machine's own file system.
func TestRealFiles(t *testing.T) {
	o := smallOptions(vfs.OS())
	o.Dir = filepath.Join(t.TempDir(), "topics", "events", "0-x")
	l := create(t, o)
	var all []stored
	for i := range 30 {
		all = append(all, mustAppend(t, l, batchOfRecords(1, 2, 400, uint64(i), int64(i)), batchOfRecords(1, 1, 1500, uint64(i), int64(i)))...)
	}
	must(t, l.CutFrom(41))
	all = append(all[:40:40], mustAppend(t, l, batchOfRecords(2, 1, 40_000, 77, 0))...)
	if _, err := l.Apply(l.LastIndex()); err != nil {
		t.Fatal(err)
	}
	must(t, checkInvariants(l, all))
	must(t, l.Close())
	o.SameBoot = true
	l = open(t, o)
	defer l.Close()
	must(t, checkInvariants(l, all))
	s, err := l.Read(l.HighWatermark()-1, l.HighWatermark(), 1<<20, true)
	must(t, err)
	defer s.Release()
	if _, ok := s.File.(vfs.Descriptor); !ok {
		t.Error("a large slice has no descriptor to send from")
	}
}
