package vfs_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/segment/vfs"
)

// TestNoSpace writes to a device that is always full.
func TestNoSpace(t *testing.T) {
	file, err := vfs.OS().Open("/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, write := range map[string]func() (int, error){
		"WriteAt":  func() (int, error) { return file.WriteAt([]byte("x"), 0) },
		"WritevAt": func() (int, error) { return file.WritevAt([][]byte{[]byte("x"), []byte("y")}, 0) },
	} {
		n, err := write()
		if n != 0 || !errors.Is(err, vfs.ErrNoSpace) || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s = %d, %v", name, n, err)
		}
	}
}

// TestPreallocateReserves checks that space is taken, not only the length set.
func TestPreallocateReserves(t *testing.T) {
	name := t.TempDir() + "/a"
	file, err := vfs.OS().Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Preallocate(0, 1<<20); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(name, &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Size != 1<<20 || stat.Blocks*512 < 1<<20 {
		t.Errorf("%d bytes, %d allocated", stat.Size, stat.Blocks*512)
	}
}

// TestCreateWithoutDescriptors: nothing was made, and it passes, as with a lack of
// space. Other calls may come after a change; there it is an error like any other.
func TestCreateWithoutDescriptors(t *testing.T) {
	dir := t.TempDir()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	_, createErr := vfs.OS().Create(dir + "/a")
	syncErr := vfs.OS().SyncDir(dir)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(createErr, vfs.ErrNoSpace) || !errors.Is(createErr, unix.EMFILE) {
		t.Errorf("Create: %v", createErr)
	}
	if errors.Is(syncErr, vfs.ErrNoSpace) || !errors.Is(syncErr, unix.EMFILE) {
		t.Errorf("SyncDir: %v", syncErr)
	}
}
