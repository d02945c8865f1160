package log

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestExpired: the rules of age and size.
func TestExpired(t *testing.T) {
	const hour = int64(time.Hour / time.Millisecond)
	clock := int64(0)
	o := smallOptions(crashfs.New(1).Mount())
	o.Clock = func() int64 { return clock }
	l := create(t, o)
	defer l.Close()
	// Segments of two records each, appended at 100, 110, ..., with timestamps of 1970,
	// of then, of an hour later, of 2100, of then.
	for n, ts := range []int64{5, 110 * hour, 121 * hour, 4_102_444_800_000, 140 * hour} {
		clock = int64(100+10*n) * hour
		mustAppend(t, l, batchOfRecords(1, 1, 4000, uint64(n), ts), batchOfRecords(1, 1, 4000, uint64(n), ts))
	}
	if _, err := l.Apply(10); err != nil || len(l.parts) != 5 {
		t.Fatal(err, len(l.parts))
	}
	size := l.Size()
	for name, tt := range map[string]struct {
		retention Retention
		now       int64
		through   segment.Index
		start     segment.Offset
		held      bool
	}{
		"none":                  {Retention{-1, -1}, 10_000, 10, 0, false},
		"1970 is not old":       {Retention{20 * time.Hour, -1}, 120, 10, 0, false},
		"1970, appended before": {Retention{20 * time.Hour, -1}, 121, 10, 2, false},
		"then":                  {Retention{20 * time.Hour, -1}, 131, 10, 4, false},
		"later than appended":   {Retention{20 * time.Hour, -1}, 141, 10, 4, false},
		"an hour later":         {Retention{20 * time.Hour, -1}, 142, 10, 6, false},
		"2100 is its append":    {Retention{20 * time.Hour, -1}, 151, 10, 8, false},
		"the last one too":      {Retention{20 * time.Hour, -1}, 161, 10, 10, false},
		"held":                  {Retention{20 * time.Hour, -1}, 161, 5, 4, true},
		"held from the first":   {Retention{20 * time.Hour, -1}, 161, 1, 0, true},
		"size, all":             {Retention{-1, size}, 0, 10, 0, false},
		"size, nearly one":      {Retention{-1, size - size/5 + 1}, 0, 10, 0, false},
		"size, one":             {Retention{-1, size - size/5}, 0, 10, 2, false},
		"size, none":            {Retention{-1, 0}, 0, 10, 10, false},
		"size, held":            {Retention{-1, 0}, 0, 3, 2, true},
	} {
		start, held := l.Expired(tt.retention, time.UnixMilli(tt.now*hour), tt.through)
		if start != tt.start || held != tt.held {
			t.Errorf("%s: start %d, held %v; want %d, %v", name, start, held, tt.start, tt.held)
		}
	}
}

// TestExpiredAfterClockJumps: a clock that was wrong while a segment was written, for
// days or for years, neither removes what is not old nor stops retention for ever.
func TestExpiredAfterClockJumps(t *testing.T) {
	const day = int64(24 * time.Hour / time.Millisecond)
	const today = 20_000 * day
	for name, tt := range map[string]struct {
		appended []int64 // days from today, a segment each
		later    int64   // days from today
		start    segment.Offset
	}{
		"steady":                   {[]int64{-9, -8, -3}, 0, 4},
		"ahead for a segment":      {[]int64{-9, 30_000, -3}, 0, 2},
		"and a week later":         {[]int64{-9, 30_000, -3}, 5, 6},
		"ahead for two":            {[]int64{-9, 30_000, 30_000, -8}, 0, 8},
		"ahead to the end":         {[]int64{-9, -8, 30_000}, 0, 4},
		"behind for a segment":     {[]int64{-9, -15_000, -3}, 0, 2},
		"and days later":           {[]int64{-9, -15_000, -3}, 5, 6},
		"behind to the end":        {[]int64{-9, -8, -15_000}, 0, 4},
		"ahead, and then behind":   {[]int64{-9, 30_000, -15_000}, 0, 2},
		"ahead, behind, and right": {[]int64{-9, 30_000, -15_000, -8}, 0, 8},
	} {
		clock := int64(0)
		o := smallOptions(crashfs.New(1).Mount())
		o.Clock = func() int64 { return clock }
		l := create(t, o)
		for n, at := range tt.appended {
			clock = today + at*day
			// Without a timestamp that says how old they are.
			mustAppend(t, l, batchOfRecords(1, 1, 4000, uint64(n), -1), batchOfRecords(1, 1, 4000, uint64(n), -1))
		}
		if _, err := l.Apply(l.LastIndex()); err != nil || len(l.parts) != len(tt.appended) {
			t.Fatal(err, len(l.parts))
		}
		now := time.UnixMilli(today + tt.later*day)
		if start, _ := l.Expired(Retention{7 * 24 * time.Hour, -1}, now, l.Applied()); start != tt.start {
			t.Errorf("%s: start %d, want %d", name, start, tt.start)
		}
		must(t, l.Close())
	}
}

// TestExpiredAfterAStartInThePast: what was appended before a restart does not become
// old because the clock is behind then.
func TestExpiredAfterAStartInThePast(t *testing.T) {
	clock := time.Now().UnixMilli()
	o := smallOptions(vfs.OS())
	o.Dir, o.Clock = t.TempDir(), func() int64 { return clock }
	l := create(t, o)
	mustAppend(t, l, batchOfRecords(1, 1, 100, 1, 0))
	if _, err := l.Apply(1); err != nil {
		t.Fatal(err)
	}
	must(t, l.Close())
	file, err := os.Stat(filepath.Join(o.Dir, segment.LogName(0)))
	must(t, err)
	clock = 1000
	l = open(t, o)
	defer l.Close()
	if start, _ := l.Expired(Retention{time.Hour, -1}, file.ModTime().Add(59*time.Minute), 1); start != 0 {
		t.Error("a record expired before its time")
	}
	if start, _ := l.Expired(Retention{time.Hour, -1}, file.ModTime().Add(61*time.Minute), 1); start != 1 {
		t.Error("a record did not expire")
	}
}

// TestElectionsKeepNothingYoung: a no-op or a barrier that is appended to a segment does
// not put off the day when its records expire.
func TestElectionsKeepNothingYoung(t *testing.T) {
	clock := int64(1_700_000_000_000)
	o := smallOptions(crashfs.New(1).Mount())
	o.Clock = func() int64 { return clock }
	l := create(t, o)
	defer l.Close()
	mustAppend(t, l, batchOfRecords(1, 1, 100, 1, clock))
	for term := segment.Term(2); term < 5; term++ {
		clock += (30 * time.Minute).Milliseconds()
		mustAppend(t, l, internalFrame(term, segment.KindNoop, ""))
	}
	if _, err := l.Apply(4); err != nil {
		t.Fatal(err)
	}
	if start, _ := l.Expired(Retention{time.Hour, -1}, time.UnixMilli(clock), 4); start != 1 {
		t.Errorf("start %d: a record of 90 minutes ago has not expired after an hour", start)
	}
}

// TestSegmentAge rolls by age, before and after a restart, and never without a record.
func TestSegmentAge(t *testing.T) {
	clock := int64(1_700_000_000_000)
	disk := crashfs.New(1)
	o := smallOptions(disk.Mount())
	o.SegmentAge, o.Clock = time.Hour, func() int64 { return clock }
	l := create(t, o)
	advance := func(d time.Duration, want int, drafts ...draft) {
		t.Helper()
		clock += d.Milliseconds()
		mustAppend(t, l, drafts...)
		if len(l.parts) != want {
			t.Errorf("%d segments, want %d", len(l.parts), want)
		}
	}
	advance(0, 1, internalFrame(1, segment.KindNoop, ""))
	advance(2*time.Hour, 1, internalFrame(1, segment.KindNoop, ""))
	advance(0, 1, batchOfRecords(1, 1, 10, 1, clock))
	advance(59*time.Minute, 1, batchOfRecords(1, 1, 10, 1, clock)) // 3 h after the first frame
	advance(time.Minute, 2, batchOfRecords(1, 1, 10, 1, clock))
	advance(59*time.Minute, 2, batchOfRecords(1, 1, 10, 1, clock))
	must(t, l.Close())
	o.FS = disk.Mount()
	l = open(t, o)
	defer l.Close()
	advance(time.Minute, 3, batchOfRecords(1, 1, 10, 1, clock))
	if start, _ := l.Expired(Retention{time.Hour, -1}, time.UnixMilli(clock+time.Hour.Milliseconds()+1), l.Applied()); start != 0 {
		t.Errorf("start %d though nothing is applied", start)
	}
}

// TestRetentionOfManySegments (O7 of the fault catalogue): while the files of a thousand
// segments are unlinked, which a file system may take its time for, the log is appended
// to, closes segments, applies, reads, writes checkpoints, and answers lookups. What
// they may have to wait for, one manifest, does not grow in number with the segments.
func TestRetentionOfManySegments(t *testing.T) {
	const segments = 1000
	disk := crashfs.New(1)
	o := smallOptions(disk.Mount())
	o.SegmentBytes, o.CheckpointBytes = 600, 1<<20
	l := create(t, o)
	defer l.Close()
	var all []stored
	for i := range uint64(segments) {
		all = append(all, mustAppend(t, l, batchOfRecords(1, 1, 500, i, 0))...)
	}
	all = append(all, mustAppend(t, l, trimDraft(1, segments, segments))...)
	if _, err := l.Apply(segments + 1); err != nil || len(l.parts) != segments+1 {
		t.Fatal(err, len(l.parts))
	}
	trace := disk.Trace()
	going := make(chan struct{})
	stalled := disk.Inject(crashfs.Fault{Op: crashfs.OpRemove, PathContains: segment.LogName(segments / 2), Stall: going})
	reclaimed := make(chan error, 1)
	go func() { reclaimed <- l.Reclaim() }()
	for stalled.Fired() == 0 {
		runtime.Gosched()
	}
	for i := range uint64(10) {
		all = append(all, mustAppend(t, l, batchOfRecords(1, 1, 500, i, 0))...)
		if _, err := l.Apply(l.LastIndex()); err != nil {
			t.Fatal(err)
		}
		must(t, l.WriteCheckpoint())
	}
	must(t, checkInvariants(l, kept(l, all)))
	select {
	case err := <-reclaimed:
		t.Fatalf("the files went without the one that is stalled: %v", err)
	default:
	}
	close(going)
	must(t, <-reclaimed)
	trace.Stop()
	if manifests, syncs := trace.Count(crashfs.OpRename, manifestName), trace.Count(crashfs.OpSyncDir, ""); manifests > 10+3 || syncs > 10*4+6 {
		t.Errorf("%d manifests and %d syncs of the folder for 10 closed segments and %d removed", manifests, syncs, segments)
	}
	if n := len(names(t, disk, ".log")); n != len(l.parts) {
		t.Errorf("%d files of frames for %d segments", n, len(l.parts))
	}
}
