package crashfs_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// failSync makes the next Sync of a file fail.
func failSync(t *testing.T, disk *crashfs.FS, file vfs.File) {
	t.Helper()
	fault := disk.Inject(crashfs.Fault{Op: crashfs.OpSync})
	wantError(t, file.Sync(), crashfs.ErrInjected)
	fault.Remove()
}

// TestFailedSync checks fsyncgate: what a failed sync was to write is read back by
// everybody, made durable by no later sync, and by one only after it was written
// again.
func TestFailedSync(t *testing.T) {
	sectors := func(letters string) string {
		b := strings.Builder{}
		for _, c := range letters {
			b.WriteString(strings.Repeat(string(c), 512))
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		after func(file vfs.File) error // between the failed sync and the next
		want  string
	}{
		"nothing":           {func(vfs.File) error { return nil }, sectors("aaaa")},
		"same bytes again":  {func(f vfs.File) error { return errOf(f.WriteAt([]byte(sectors("bbb")), 512)) }, sectors("abbb")},
		"a part again":      {func(f vfs.File) error { return errOf(f.WriteAt([]byte(sectors("b")), 1024)) }, sectors("aaba")},
		"a byte again":      {func(f vfs.File) error { return errOf(f.WriteAt([]byte("b"), 1500)) }, sectors("aaba")},
		"another write":     {func(f vfs.File) error { return errOf(f.WriteAt([]byte("cc"), 0)) }, "cc" + sectors("aaaa")[2:]},
		"behind the end":    {func(f vfs.File) error { return errOf(f.WriteAt([]byte("cc"), 2048)) }, sectors("aaaa") + "cc"},
		"a cut":             {func(f vfs.File) error { return f.Truncate(1600) }, sectors("aaaa")[:1600]},
		"a cut, and longer": {func(f vfs.File) error { return errors.Join(f.Truncate(512), f.Preallocate(512, 512)) }, sectors("a") + strings.Repeat("\x00", 512)},
	} {
		t.Run(name, func(t *testing.T) {
			disk := crashfs.New(1)
			check(t, vfs.WriteFile(disk, "a", []byte(sectors("aaaa"))))
			file := must(disk.Open("a"))(t)
			write(t, file, sectors("bbb"), 512)
			failSync(t, disk, file)
			wantFile(t, disk, "a", sectors("abbb")) // also whoever opens it anew
			check(t, c.after(file))
			check(t, file.Sync())
			check(t, file.Sync())
			clone := disk.Clone(2)
			disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
			wantFile(t, disk, "a", c.want)
			before := must(vfs.ReadFile(clone, "a", 1<<20))(t)
			clone.Crash(crashfs.CrashOptions{Keep: crashfs.KeepEverything})
			wantFile(t, clone, "a", string(before))
		})
	}
}

// TestFailedSyncKeepsLengths: a cut and a reservation are the journal's, and the
// sync after a failed one makes them durable.
func TestFailedSyncKeepsLengths(t *testing.T) {
	disk := crashfs.New(1)
	check(t, vfs.WriteFile(disk, "a", []byte("0123456789")))
	file := must(disk.Open("a"))(t)
	check(t, file.Truncate(4))
	write(t, file, "lost", 4)
	failSync(t, disk, file)
	check(t, file.Sync())
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	wantFile(t, disk, "a", "0123\x00\x00\x00\x00")
}

// TestFailedSyncMayHaveWritten: some of the lost sectors are on the disk after a
// crash, and some are not.
func TestFailedSyncMayHaveWritten(t *testing.T) {
	found := map[string]bool{}
	for seed := range int64(40) {
		disk := crashfs.New(seed)
		check(t, vfs.WriteFile(disk, "a", make([]byte, 2*512)))
		file := must(disk.Open("a"))(t)
		write(t, file, "1", 0)
		write(t, file, "2", 512)
		failSync(t, disk, file)
		check(t, file.Sync())
		disk.Crash(crashfs.CrashOptions{})
		data := must(vfs.ReadFile(disk, "a", 1<<20))(t)
		found[string([]byte{data[0], data[512]})] = true
	}
	if len(found) != 4 {
		t.Errorf("found %v, all four mixtures must occur", found)
	}
}

// TestFailedSyncDir checks the same of names.
func TestFailedSyncDir(t *testing.T) {
	build := func(t *testing.T) *crashfs.FS {
		disk := crashfs.New(1)
		check(t, vfs.WriteFile(disk, "m", []byte("old")))
		check(t, vfs.WriteFile(disk, "other", []byte("old")))
		fault := disk.Inject(crashfs.Fault{Op: crashfs.OpSyncDir})
		check(t, disk.Remove("other"))
		wantError(t, vfs.WriteFile(disk, "m", []byte("new")), crashfs.ErrInjected)
		fault.Remove()
		wantFile(t, disk, "m", "new")
		return disk
	}
	disk := build(t)
	check(t, disk.SyncDir("/"))
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	wantFile(t, disk, "m", "old")
	wantFile(t, disk, "other", "old")

	disk = build(t)
	check(t, vfs.WriteFile(disk, "m", []byte("new")))
	check(t, disk.SyncDir("/"))
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	wantFile(t, disk, "m", "new")
	wantFile(t, disk, "other", "old")

	disk = build(t)
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepEverything})
	wantFile(t, disk, "m", "new")
	wantList(t, disk, "/", "m")
}
