package crashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestCrashEndsTheBoot checks that nothing of an earlier boot reaches the disk.
func TestCrashEndsTheBoot(t *testing.T) {
	disk := crashfs.New(1)
	old := disk.Mount()
	file := must(old.Create("a"))(t)
	lock := must(old.Lock("LOCK"))(t)
	write(t, file, "synced", 0)
	check(t, file.Sync())
	check(t, old.SyncDir("/"))
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})

	wantError(t, errOf(file.WriteAt([]byte("late"), 0)), crashfs.ErrCrashed)
	wantError(t, errOf(file.ReadAt(make([]byte, 1), 0)), crashfs.ErrCrashed)
	wantError(t, file.Sync(), crashfs.ErrCrashed)
	wantError(t, file.Close(), crashfs.ErrCrashed)
	wantError(t, lock.Close(), crashfs.ErrCrashed)
	wantError(t, old.Remove("a"), crashfs.ErrCrashed)
	wantError(t, errOf(old.Open("a")), crashfs.ErrCrashed)
	wantFile(t, disk, "a", "synced")
	check(t, must(disk.Lock("LOCK"))(t).Close())
}

// TestKeep checks the two crashes that are not random.
func TestKeep(t *testing.T) {
	build := func() *crashfs.FS {
		disk := crashfs.New(1)
		file := must(disk.Create("a"))(t)
		write(t, file, "one", 0)
		check(t, file.Sync())
		check(t, disk.SyncDir("/"))
		write(t, file, "two, longer", 0)
		check(t, disk.Rename("a", "b"))
		check(t, errOf(disk.Create("c")))
		return disk
	}
	disk := build()
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	wantList(t, disk, "/", "a")
	wantFile(t, disk, "a", "one")

	disk = build()
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepEverything})
	wantList(t, disk, "/", "b", "c")
	wantFile(t, disk, "b", "two, longer")
}

// TestCrashReaches checks that each kind of damage that recovery must survive
// does occur: a crash that is too kind proves nothing.
func TestCrashReaches(t *testing.T) {
	const sectors = 16
	seen := make(map[string]int)
	for seed := range int64(300) {
		disk := crashfs.New(seed)
		file := must(disk.Create("a"))(t)
		check(t, file.Sync())
		check(t, disk.SyncDir("/"))
		write(t, file, string(bytes.Repeat([]byte{'x'}, sectors*512)), 0)
		check(t, errOf(disk.Create("new")))
		check(t, errOf(disk.Create("newer")))
		disk.Crash(crashfs.CrashOptions{})
		data, err := vfs.ReadFile(disk, "a", 1<<20)
		check(t, err)
		seen[shape(data, sectors*512)]++
		names, err := disk.List("/")
		check(t, err)
		seen[fmt.Sprint(names)]++
	}
	for _, want := range []string{
		"length lost", "data lost", "complete", "torn in front", "torn behind", "[a]", "[a new]", "[a newer]", "[a new newer]",
	} {
		if seen[want] == 0 {
			t.Errorf("never seen: %s (%v)", want, seen)
		}
	}
}

// shape classifies what is left of a file of full bytes 'x'.
func shape(data []byte, full int) string {
	first, last := bytes.IndexByte(data, 'x'), bytes.LastIndexByte(data, 'x')
	switch {
	case len(data) < full:
		return "length lost"
	case first < 0:
		return "data lost"
	case first > 0:
		return "torn in front"
	case last < full-1 || bytes.Count(data, []byte("x")) < full:
		return "torn behind"
	}
	return "complete"
}

// TestRenameIsAtomic checks that a rename that is not synced has happened or has
// not: one name, or the other.
func TestRenameIsAtomic(t *testing.T) {
	outcomes := make(map[string]int)
	for seed := range int64(100) {
		disk := crashfs.New(seed)
		check(t, vfs.WriteFile(disk, "old", []byte("content")))
		check(t, disk.Rename("old", "new"))
		disk.Crash(crashfs.CrashOptions{})
		names, err := disk.List("/")
		check(t, err)
		outcomes[fmt.Sprint(names)]++
		wantFile(t, disk, names[0], "content")
	}
	if len(outcomes) != 2 || outcomes["[old]"] == 0 || outcomes["[new]"] == 0 {
		t.Errorf("outcomes %v", outcomes)
	}
}

// TestMoveNeedsBothDirectories checks renames between directories: the file is
// never lost, and safe under its new name only after SyncDir of both.
func TestMoveNeedsBothDirectories(t *testing.T) {
	for _, synced := range [][]string{nil, {"from"}, {"to"}, {"to", "from"}, {"from", "to", "from"}} {
		testMove(t, "from", "to", synced)
	}
	testMove(t, "to", "from", nil) // a crash decides for directories by name
}

func testMove(t *testing.T, from, to string, synced []string) {
	t.Helper()
	outcomes := make(map[string]int)
	for seed := range int64(60) {
		disk := crashfs.New(seed)
		check(t, disk.MkdirAll("from"))
		check(t, disk.MkdirAll("to"))
		check(t, disk.SyncDir("/"))
		check(t, vfs.WriteFile(disk, from+"/a", []byte("content")))
		check(t, disk.Rename(from+"/a", to+"/b"))
		for _, dir := range synced {
			check(t, disk.SyncDir(dir))
		}
		disk.Crash(crashfs.CrashOptions{})
		outcome := ""
		for _, name := range []string{from + "/a", to + "/b"} {
			if _, err := disk.Stat(name); err == nil {
				outcome += name
				wantFile(t, disk, name, "content")
			}
		}
		outcomes[outcome]++
	}
	if outcomes[""] > 0 {
		t.Errorf("synced %v: the file was lost: %v", synced, outcomes)
	}
	if whole := len(synced) > 1; whole != (outcomes[to+"/b"] == 60) {
		t.Errorf("synced %v: outcomes %v", synced, outcomes)
	}
}

// TestSectorsAgeInOrder checks that no sector holds a later write without the
// earlier ones to it: the cache from which it comes holds all of them.
func TestSectorsAgeInOrder(t *testing.T) {
	for seed := range int64(100) {
		disk := crashfs.New(seed)
		check(t, vfs.WriteFile(disk, "a", make([]byte, 2048)))
		file := must(disk.Open("a"))(t)
		for i := range 16 {
			write(t, file, string(bytes.Repeat([]byte{1}, 128)), int64(128*i))
		}
		disk.Crash(crashfs.CrashOptions{})
		data, err := vfs.ReadFile(disk, "a", 1<<20)
		check(t, err)
		for sector := range 4 {
			if part := data[sector*512:][:512]; bytes.Contains(part, []byte{0, 1}) {
				t.Fatalf("seed %d: sector %d holds a later write without an earlier one", seed, sector)
			}
		}
	}
}

// TestUnsyncedDirectoryTakesItsFiles checks that a folder whose name was not
// synced vanishes with synced files in it.
func TestUnsyncedDirectoryTakesItsFiles(t *testing.T) {
	disk := crashfs.New(1)
	check(t, disk.MkdirAll("topic/0"))
	check(t, vfs.WriteFile(disk, "topic/0/manifest", []byte("m")))
	check(t, disk.SyncDir("topic"))
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	wantError(t, errOf(disk.Stat("topic")), fs.ErrNotExist)
}

// TestSpace checks the limit: partial writes, whole preallocations, space that
// comes back.
func TestSpace(t *testing.T) {
	const unit = 8 << 10
	disk := crashfs.New(1)
	file := must(disk.Create("a"))(t)
	disk.SetFree(2 * unit)
	wantError(t, file.Preallocate(0, 3*unit), vfs.ErrNoSpace)
	wantSize(t, file, 0)
	n, err := file.WriteAt(make([]byte, 3*unit), 10)
	if n != 2*unit-10 || !errors.Is(err, vfs.ErrNoSpace) {
		t.Errorf("WriteAt = %d, %v", n, err)
	}
	wantError(t, errOf(disk.Create("b")), vfs.ErrNoSpace)
	check(t, file.Truncate(unit))
	b := must(disk.Create("b"))(t)
	check(t, b.Preallocate(0, unit))
	write(t, b, "reserved space needs no more", 0)
	check(t, disk.Remove("b"))
	if disk.Used() != 2*unit {
		t.Errorf("used %d while a removed file is open", disk.Used())
	}
	check(t, b.Close())
	check(t, disk.Rename("a", "c"))
	if disk.Used() != unit {
		t.Errorf("used %d, want %d", disk.Used(), unit)
	}
	check(t, disk.Remove("c"))
	check(t, file.Close())
	disk.SetFree(-1)
	check(t, vfs.WriteFile(disk, "big", make([]byte, 100*unit)))
	disk.Crash(crashfs.CrashOptions{})
	if disk.Used() != 100*unit {
		t.Errorf("used %d after a crash", disk.Used())
	}
}

// TestDamage checks that bit flips and foreign bytes are there before and after
// a crash.
func TestDamage(t *testing.T) {
	disk := crashfs.New(1)
	check(t, vfs.WriteFile(disk, "a", []byte("abc")))
	check(t, disk.FlipBit("a", 8)) // b becomes c
	wantFile(t, disk, "a", "acc")
	check(t, disk.Corrupt("a", 2, []byte("X")))
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	wantFile(t, disk, "a", "acX")
	wantError(t, disk.FlipBit("a", 24), fs.ErrInvalid)
	wantError(t, disk.Corrupt("b", 0, nil), fs.ErrNotExist)
	clone := disk.Clone(2)
	check(t, clone.FlipBit("a", 0))
	wantFile(t, disk, "a", "acX")
}

// TestUnsyncedIsBounded checks that a file that is never synced is written back
// in part, and that this too leaves only what was written.
func TestUnsyncedIsBounded(t *testing.T) {
	disk := crashfs.New(1)
	file := must(disk.Create("idx"))(t)
	check(t, disk.SyncDir("/"))
	for i := range 20_000 {
		write(t, file, "entry of an index.", int64(18*i))
	}
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	data, err := vfs.ReadFile(disk, "idx", 1<<20)
	check(t, err)
	if len(data) == 0 || len(data) >= 18*20_000 || len(data)%18 != 0 {
		t.Fatalf("%d bytes survived", len(data))
	}
	if want := bytes.Repeat([]byte("entry of an index."), len(data)/18); !bytes.Equal(data, want) {
		t.Error("what survived is not what was written")
	}
}
