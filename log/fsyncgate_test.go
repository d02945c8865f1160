package log

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// The process ends itself after a sync that failed, and its supervisor starts it
// again, in the same boot. What the kernel could not write it takes for clean: it is
// read back, with right checksums, and no sync writes it. Raft counts it as stored
// all the same, so Open must not believe the page cache.

// TestFailedSyncIsNotBelieved: frames whose sync failed are read back, acknowledged
// by raft, and must be there after a power cut. Small and large frames, and many.
func TestFailedSyncIsNotBelieved(t *testing.T) {
	for name, sizes := range map[string][]int{
		"small": {100}, "many": make([]int, 5000), "large": {700_000}, "mixed": {100, 5000, 300_000, 0, 0, 200_000, 90_000, 700_000, 1},
	} {
		for _, sameBoot := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, same boot %v", name, sameBoot), func(t *testing.T) {
				disk := crashfs.New(1)
				o := smallOptions(disk.Mount())
				o.SegmentBytes, o.RoundBytes, o.SameBoot = 8<<20, 4<<20, sameBoot
				l := create(t, o)
				mustAppend(t, l, batchOfRecords(1, 1, 100, 1, 0))
				disk.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: ".log"})
				var drafts []draft
				for i, size := range sizes {
					drafts = append(drafts, batchOfRecords(1, 1, size, uint64(i), 0))
				}
				_, err := appendTo(l, drafts...)
				var fatal *FatalError
				if !errors.As(err, &fatal) {
					t.Fatal(err)
				}
				_ = l.Close()
				l = open(t, o)
				found, err := contents(l)
				must(t, err)
				if len(found) != 1+len(sizes) {
					t.Fatalf("%d entries found, the page cache has them all", len(found))
				}
				must(t, powerCut(t, disk, l, o, found))
			})
		}
	}
}

// powerCut leaves exactly what was synced, and compares it.
func powerCut(t *testing.T, disk *crashfs.FS, l *Log, o Options, want []stored) error {
	t.Helper()
	checkpoint := l.Checkpoint().Index
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	_ = l.Close() // of a dead disk
	o.FS, o.SameBoot = disk.Mount(), false
	l, err := Open(o)
	if err != nil {
		return err
	}
	if now := l.Checkpoint().Index; now != checkpoint {
		return fmt.Errorf("the checkpoint was at %d and is at %d", checkpoint, now)
	}
	if err := checkInvariants(l, want); err != nil {
		return err
	}
	return l.Close()
}

// TestKeptIsDurable: entries that a killed process had written and not synced are
// read back by the next one, and raft counts them as stored.
func TestKeptIsDurable(t *testing.T) {
	disk := crashfs.New(1)
	o := smallOptions(disk.Mount())
	l := create(t, o)
	mustAppend(t, l, batchOfRecords(1, 1, 100, 1, 0))
	killed := make(chan struct{})
	disk.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: ".log", Do: func() { close(killed) }, Stall: make(chan struct{})})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _, _ = appendTo(l, batchOfRecords(1, 1, 100, 2, 0)) })
	<-killed
	o.SameBoot = true
	next := open(t, o)
	found, err := contents(next)
	must(t, err)
	if len(found) != 2 {
		t.Errorf("%d entries found", len(found))
	}
	must(t, powerCut(t, disk, next, o, found))
}

// TestUnsyncedCutOfTheIndex: a process is killed between a cut of the index and its
// sync. The next one sees the short index, and cuts the frames, too; after a power cut
// the old entries must not be there, for frames that are gone.
func TestUnsyncedCutOfTheIndex(t *testing.T) {
	disk := crashfs.New(1)
	o := smallOptions(disk.Mount())
	l := create(t, o)
	mustAppend(t, l, batchOfRecords(1, 1, 3000, 1, 1))
	mustAppend(t, l, batchOfRecords(1, 1, 3000, 2, 1)) // an index entry before it
	must(t, l.CutFrom(2))
	mustAppend(t, l, internalFrame(1, segment.KindNoop, "")) // the entry stays, and would not be due
	must(t, l.Close())
	o.CleanStop = true
	l = open(t, o)
	must(t, l.CutFrom(1))
	fault := disk.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: ".idx", Err: crashfs.ErrCrashed}) // killed before it
	if _, err := appendTo(l, internalFrame(2, segment.KindNoop, "")); err == nil || fault.Fired() != 1 {
		t.Fatalf("error %v, fired %d", err, fault.Fired())
	}
	_ = l.Close()
	o.CleanStop, o.SameBoot = false, true
	l = open(t, o)
	must(t, l.CutFrom(1))
	all := mustAppend(t, l, internalFrame(2, segment.KindNoop, ""))
	must(t, powerCut(t, disk, l, o, all))
}

// busyLife does everything that changes a folder: a cut across segments, rolls,
// checkpoints.
func busyLife(l *Log) error {
	if err := busyCommit(l); err != nil {
		return err
	}
	if _, err := l.Apply(7); err != nil {
		return err
	}
	return l.WriteCheckpoint()
}

// TestNoFailedSyncIsBelieved fails each sync of a busy life in turn, of files and of
// folders; in a third of the runs one of the next start, too. What a start finds,
// and what is appended after it, is there after a power cut.
func TestNoFailedSyncIsBelieved(t *testing.T) {
	for _, op := range []crashfs.Op{crashfs.OpSync, crashfs.OpSyncDir} {
		for again := range 7 { // 0: none of the next start
			for nth := 1; ; nth++ {
				disk := crashfs.New(int64(nth))
				l, _ := busyLog(t, disk)
				fault := disk.Inject(crashfs.Fault{Op: op, Nth: nth})
				err := busyLife(l)
				fault.Remove()
				if fault.Fired() == 0 {
					must(t, err)
					must(t, l.Close())
					if nth < 8 {
						t.Errorf("only %d of op %v", nth-1, op)
					}
					break
				}
				if err == nil {
					t.Fatalf("%v %d failed, and nobody says so", op, nth)
				}
				_ = l.Close()
				if err := liveOn(t, disk, op, again, nth%2 == 0); err != nil {
					t.Errorf("%v %d failed, and number %d of the next start: %v", op, nth, again, err)
				}
			}
		}
	}
}

// liveOn is the life of a folder after a failed sync.
func liveOn(t *testing.T, disk *crashfs.FS, op crashfs.Op, nth int, sameBoot bool) error {
	o := smallOptions(disk.Mount())
	o.SameBoot = sameBoot
	if nth > 0 {
		fault := disk.Inject(crashfs.Fault{Op: op, Nth: nth})
		_, err := Open(o) // where it comes to life, it is killed
		fault.Remove()
		if (err == nil) != (fault.Fired() == 0) {
			return fmt.Errorf("open: %w, fired %d", err, fault.Fired())
		}
	}
	l, err := Open(o)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	found, err := contents(l)
	if err != nil {
		return err
	}
	for i := range 3 {
		more, err := appendTo(l, batchOfRecords(3, 1, 60+1500*(nth%2), uint64(i), 0)) // without a roll, or with one
		if err != nil {
			return fmt.Errorf("append: %w", err)
		}
		found = append(found, more...)
	}
	return powerCut(t, disk, l, o, found)
}

// TestCreateAfterFailedSync fails each sync of a Create in turn: the next process
// makes the replica, or opens the one that it finds, and it stays.
func TestCreateAfterFailedSync(t *testing.T) {
	for _, op := range []crashfs.Op{crashfs.OpSync, crashfs.OpSyncDir} {
		for nth := 1; ; nth++ {
			disk := crashfs.New(int64(nth))
			o := smallOptions(disk.Mount())
			fault := disk.Inject(crashfs.Fault{Op: op, Nth: nth, PathContains: testDir})
			l, err := Create(o)
			fault.Remove()
			if fault.Fired() == 0 {
				must(t, err)
				must(t, l.Close())
				if nth < 4 {
					t.Errorf("only %d of op %v", nth-1, op)
				}
				break
			}
			if err == nil {
				t.Fatalf("%v %d failed, and nobody says so", op, nth)
			}
			o.SameBoot = true
			if l, err = Create(o); errors.Is(err, fs.ErrExist) {
				l, err = Open(o)
			}
			must(t, err)
			all := mustAppend(t, l, batchOfRecords(1, 1, 100, 1, 0))
			if err := powerCut(t, disk, l, o, all); err != nil {
				t.Errorf("%v %d failed: %v", op, nth, err)
			}
		}
	}
}
