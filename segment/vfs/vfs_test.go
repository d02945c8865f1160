package vfs_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestWriteFileSurvivesCrashes cuts the power before and after every call of
// WriteFile, many times each: the name always holds the old or the new content,
// and the new one once WriteFile has returned. (That both file systems do the
// same is crashfs.TestConformance.)
func TestWriteFileSurvivesCrashes(t *testing.T) {
	const calls = 6 // remove, create, write, sync, rename, syncdir
	for call := 1; call <= calls+1; call++ {
		for seed := range int64(30) {
			for _, after := range []bool{false, true} {
				crashDuringWriteFile(t, call, call <= calls, after, seed)
			}
		}
	}
}

func crashDuringWriteFile(t *testing.T, call int, fires, after bool, seed int64) {
	t.Helper()
	disk := crashfs.New(seed)
	if err := vfs.WriteFile(disk, "manifest", []byte("old")); err != nil {
		t.Fatal(err)
	}
	crash := func() { disk.Crash(crashfs.CrashOptions{}) }
	fault := crashfs.Fault{Op: crashfs.OpChange, Nth: call, Do: crash}
	if after {
		fault.Do, fault.After = nil, crash
	}
	injected := disk.Inject(fault)
	err := vfs.WriteFile(disk.Mount(), "manifest", []byte("new!"))
	if fires != (injected.Fired() == 1) || fires != errors.Is(err, crashfs.ErrCrashed) {
		t.Fatalf("call %d: fired %d times, %v", call, injected.Fired(), err)
	}
	injected.Remove()
	if !fires {
		crash()
	}
	got, readErr := vfs.ReadFile(disk, "manifest", 100)
	if readErr != nil || string(got) != "new!" && (string(got) != "old" || err == nil) {
		t.Fatalf("seed %d, call %d, after %v: the file holds %q, %v; WriteFile said %v", seed, call, after, got, readErr, err)
	}
}

// TestRewriteMakesDurableWhatAFailedSyncLeft: the content that another process
// wrote and could not sync reads well, and is lost in a crash unless it is
// rewritten. A crash during that leaves a file that can be rewritten again.
func TestRewriteMakesDurableWhatAFailedSyncLeft(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // several pieces
	for call := 1; call <= 10; call++ {
		disk := crashfs.New(int64(call))
		if err := vfs.WriteFile(disk, "db", []byte("old")); err != nil {
			t.Fatal(err)
		}
		file, err := disk.Open("db")
		if err != nil {
			t.Fatal(err)
		}
		disk.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: "db"})
		if _, err := file.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
		if err := file.Sync(); !errors.Is(err, crashfs.ErrInjected) {
			t.Fatal(err)
		}
		crash := func() { disk.Crash(crashfs.CrashOptions{}) }
		fault := disk.Inject(crashfs.Fault{Op: crashfs.OpChange, Nth: call, Do: crash})
		err = vfs.Rewrite(disk.Mount(), "db")
		if (fault.Fired() == 1) != errors.Is(err, crashfs.ErrCrashed) {
			t.Fatalf("call %d: fired %d times, %v", call, fault.Fired(), err)
		}
		if fault.Remove(); err == nil {
			crash()
		}
		got, readErr := vfs.ReadFile(disk, "db", 100<<20)
		if readErr != nil || err == nil && !bytes.Equal(got, content) {
			t.Fatalf("call %d: the file holds %d bytes after the crash, %v; Rewrite said %v", call, len(got), readErr, err)
		}
	}
}

// TestWriteFileReportsErrors checks that no error of a call is swallowed.
func TestWriteFileReportsErrors(t *testing.T) {
	for _, op := range []crashfs.Op{crashfs.OpCreate, crashfs.OpWrite, crashfs.OpSync, crashfs.OpClose, crashfs.OpRename, crashfs.OpSyncDir, crashfs.OpRemove} {
		disk := crashfs.New(1)
		disk.Inject(crashfs.Fault{Op: op})
		if err := vfs.WriteFile(disk, "manifest", []byte("x")); !errors.Is(err, crashfs.ErrInjected) {
			t.Errorf("%s fails, WriteFile says %v", op, err)
		}
	}
}

// TestDescriptor checks that real files can be handed to sendfile.
func TestDescriptor(t *testing.T) {
	file, err := vfs.OS().Create(filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d, ok := file.(vfs.Descriptor)
	if !ok || d.Fd() == ^uintptr(0) {
		t.Errorf("no descriptor: %T", file)
	}
}

// TestLockOutlivesNothing checks that a lock is gone with its holder, and that
// what the file held is kept.
func TestLockOutlivesNothing(t *testing.T) {
	name := filepath.Join(t.TempDir(), "LOCK")
	if err := os.WriteFile(name, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		lock, err := vfs.OS().Lock(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vfs.OS().Lock(name); !errors.Is(err, vfs.ErrLocked) {
			t.Errorf("a second lock: %v", err)
		}
		if err := lock.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := os.ReadFile(name); string(data) != "kept" || err != nil {
		t.Errorf("the file holds %q, %v", data, err)
	}
}
