package crashfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestConformance runs the same checks over the real file system and this one:
// what passes on the one must mean something on the other.
func TestConformance(t *testing.T) {
	systems := []struct {
		name string
		make func(t *testing.T) (vfs.FS, string)
	}{
		{"os", func(t *testing.T) (vfs.FS, string) { return vfs.OS(), t.TempDir() }},
		{"disk", func(t *testing.T) (vfs.FS, string) { return crashfs.New(1), "/" }},
		{"mount", func(t *testing.T) (vfs.FS, string) { return crashfs.New(1).Mount(), "." }},
	}
	for _, system := range systems {
		for _, c := range conformance {
			t.Run(system.name+"/"+c.name, func(t *testing.T) {
				fsys, root := system.make(t)
				c.run(t, fsys, root)
			})
		}
	}
}

// conformance are the checks of TestConformance, one for each promise of vfs.
var conformance = []struct {
	name string
	run  func(t *testing.T, fsys vfs.FS, root string)
}{
	{"create and open", func(t *testing.T, fsys vfs.FS, root string) {
		name := filepath.Join(root, "a")
		wantError(t, errOf(fsys.Open(name)), fs.ErrNotExist)
		file := must(fsys.Create(name))(t)
		wantError(t, errOf(fsys.Create(name)), fs.ErrExist)
		write(t, file, "hello", 0)
		wantRead(t, file, 0, "hello")
		check(t, file.Close())
		wantError(t, file.Sync(), fs.ErrClosed)
		again := must(fsys.OpenReadOnly(name))(t)
		wantRead(t, again, 1, "ello")
		if _, err := again.WriteAt([]byte("x"), 0); err == nil {
			t.Error("a file opened to read was written")
		}
		check(t, again.Close())
		wantError(t, errOf(fsys.Create(filepath.Join(root, "no", "such"))), fs.ErrNotExist)
		if _, err := fsys.OpenReadOnly(root); err == nil {
			t.Error("a directory was opened as a file")
		}
	}},
	{"read at the end", func(t *testing.T, fsys vfs.FS, root string) {
		file := must(fsys.Create(filepath.Join(root, "a")))(t)
		defer file.Close()
		write(t, file, "hello", 0)
		n, err := file.ReadAt(make([]byte, 9), 2)
		if n != 3 || err != io.EOF {
			t.Errorf("ReadAt over the end = %d, %v; want 3, EOF", n, err)
		}
		if n, err := file.ReadAt(make([]byte, 1), 100); n != 0 || err != io.EOF {
			t.Errorf("ReadAt behind the end = %d, %v; want 0, EOF", n, err)
		}
	}},
	{"vectors and holes", func(t *testing.T, fsys vfs.FS, root string) {
		file := must(fsys.Create(filepath.Join(root, "a")))(t)
		defer file.Close()
		var buffers [][]byte
		var want []byte
		for i := range 3000 { // above IOV_MAX, with empty ones between
			b := bytes.Repeat([]byte{byte(i)}, i%50)
			buffers, want = append(buffers, b), append(want, b...)
		}
		n, err := file.WritevAt(buffers, 100_000)
		if n != len(want) || err != nil {
			t.Fatalf("WritevAt = %d, %v; want %d", n, err, len(want))
		}
		wantRead(t, file, 0, string(make([]byte, 100_000))+string(want))
		if n, err := file.WritevAt(nil, 1<<30); n != 0 || err != nil {
			t.Errorf("empty WritevAt = %d, %v", n, err)
		}
		wantSize(t, file, int64(100_000+len(want)))
	}},
	{"truncate", func(t *testing.T, fsys vfs.FS, root string) {
		file := must(fsys.Create(filepath.Join(root, "a")))(t)
		defer file.Close()
		write(t, file, "hello", 0)
		check(t, file.Truncate(2))
		wantSize(t, file, 2)
		check(t, file.Truncate(40_000))
		wantRead(t, file, 0, "he"+string(make([]byte, 39_998)))
		if err := file.Truncate(-1); err == nil {
			t.Error("negative length accepted")
		}
	}},
	{"preallocate", func(t *testing.T, fsys vfs.FS, root string) {
		file := must(fsys.Create(filepath.Join(root, "a")))(t)
		defer file.Close()
		write(t, file, "hello", 0)
		check(t, file.Preallocate(0, 50_000))
		wantRead(t, file, 0, "hello"+string(make([]byte, 49_995)))
		check(t, file.Preallocate(10, 20))
		wantSize(t, file, 50_000)
		check(t, file.Preallocate(0, 0))
		check(t, file.Sync())
		if err := file.Preallocate(-1, 5); err == nil {
			t.Error("negative offset accepted")
		}
	}},
	{"rename", func(t *testing.T, fsys vfs.FS, root string) {
		check(t, vfs.WriteFile(fsys, filepath.Join(root, "a"), []byte("A")))
		check(t, vfs.WriteFile(fsys, filepath.Join(root, "b"), []byte("B")))
		b := must(fsys.OpenReadOnly(filepath.Join(root, "b")))(t)
		defer b.Close()
		check(t, fsys.Rename(filepath.Join(root, "a"), filepath.Join(root, "b")))
		wantRead(t, b, 0, "B") // readers of the old file keep it
		wantFile(t, fsys, filepath.Join(root, "b"), "A")
		wantError(t, fsys.Rename(filepath.Join(root, "a"), filepath.Join(root, "c")), fs.ErrNotExist)
		check(t, fsys.MkdirAll(filepath.Join(root, "d", "e")))
		check(t, fsys.Rename(filepath.Join(root, "b"), filepath.Join(root, "d", "f")))
		check(t, fsys.Rename(filepath.Join(root, "d"), filepath.Join(root, "g")))
		wantFile(t, fsys, filepath.Join(root, "g", "f"), "A")
		if err := fsys.Rename(filepath.Join(root, "g"), filepath.Join(root, "g", "e", "x")); err == nil {
			t.Error("a directory was moved into itself")
		}
		wantList(t, fsys, root, "g")
	}},
	{"directories", func(t *testing.T, fsys vfs.FS, root string) {
		deep := filepath.Join(root, "x", "y", "z")
		check(t, fsys.MkdirAll(deep))
		check(t, fsys.MkdirAll(deep))
		check(t, vfs.WriteFile(fsys, filepath.Join(deep, "b"), nil))
		check(t, vfs.WriteFile(fsys, filepath.Join(deep, "a"), []byte("a")))
		wantList(t, fsys, deep, "a", "b")
		if err := fsys.Remove(filepath.Join(root, "x")); err == nil {
			t.Error("a directory that is not empty was removed")
		}
		info, err := fsys.Stat(deep)
		if err != nil || !info.IsDir() || info.Name() != "z" || !info.Mode().IsDir() {
			t.Errorf("Stat of a directory = %v, %v", info, err)
		}
		info, err = fsys.Stat(filepath.Join(deep, "a"))
		if err != nil || info.IsDir() || info.Size() != 1 || info.Name() != "a" || !info.Mode().IsRegular() {
			t.Errorf("Stat of a file = %v, %v", info, err)
		}
		if err := fsys.MkdirAll(filepath.Join(deep, "a", "c")); err == nil {
			t.Error("a directory was made below a file")
		}
		check(t, fsys.SyncDir(deep))
		wantError(t, fsys.SyncDir(filepath.Join(root, "no")), fs.ErrNotExist)
		check(t, fsys.RemoveAll(filepath.Join(root, "x")))
		check(t, fsys.RemoveAll(filepath.Join(root, "x")))
		wantError(t, errOf(fsys.List(filepath.Join(root, "x"))), fs.ErrNotExist)
		wantError(t, errOf(fsys.Stat(deep)), fs.ErrNotExist)
		wantError(t, fsys.Remove(filepath.Join(root, "x")), fs.ErrNotExist)
	}},
	{"removed while open", func(t *testing.T, fsys vfs.FS, root string) {
		file := must(fsys.Create(filepath.Join(root, "a")))(t)
		write(t, file, "still here", 0)
		check(t, fsys.Remove(filepath.Join(root, "a")))
		wantRead(t, file, 0, "still here")
		check(t, file.Close())
		wantError(t, errOf(fsys.Open(filepath.Join(root, "a"))), fs.ErrNotExist)
	}},
	{"lock", func(t *testing.T, fsys vfs.FS, root string) {
		name := filepath.Join(root, "LOCK")
		held := must(fsys.Lock(name))(t)
		wantError(t, errOf(fsys.Lock(name)), vfs.ErrLocked)
		check(t, held.Close())
		check(t, must(fsys.Lock(name))(t).Close())
		wantFile(t, fsys, name, "")
		wantError(t, errOf(fsys.Lock(filepath.Join(root, "no", "LOCK"))), fs.ErrNotExist)
	}},
	{"write file", func(t *testing.T, fsys vfs.FS, root string) {
		name := filepath.Join(root, "manifest")
		check(t, vfs.WriteFile(fsys, name, []byte("one")))
		check(t, vfs.WriteFile(fsys, name+vfs.TempSuffix, []byte("left by a crash")))
		check(t, vfs.WriteFile(fsys, name, []byte("two")))
		wantFile(t, fsys, name, "two")
		wantList(t, fsys, root, "manifest")
		wantError(t, errOf(vfs.ReadFile(fsys, name, 2)), vfs.ErrTooLarge)
		wantError(t, vfs.WriteFile(fsys, filepath.Join(root, "no", "x"), nil), fs.ErrNotExist)
	}},
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// must returns the value of a call that has to succeed.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		check(t, err)
		return value
	}
}

func errOf[T any](_ T, err error) error { return err }

func wantError(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("error %v, want %v", got, want)
	}
}

func write(t *testing.T, file vfs.File, text string, off int64) {
	t.Helper()
	if n, err := file.WriteAt([]byte(text), off); n != len(text) || err != nil {
		t.Fatalf("WriteAt = %d, %v", n, err)
	}
}

func wantSize(t *testing.T, file vfs.File, want int64) {
	t.Helper()
	if got, err := file.Size(); got != want || err != nil {
		t.Errorf("Size = %d, %v; want %d", got, err, want)
	}
}

// wantRead compares the rest of the file from off on.
func wantRead(t *testing.T, file vfs.File, off int64, want string) {
	t.Helper()
	wantSize(t, file, off+int64(len(want)))
	got := make([]byte, len(want))
	if _, err := file.ReadAt(got, off); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("content differs: %s", cmp.Diff(want, string(got)))
	}
}

func wantFile(t *testing.T, fsys vfs.FS, name, want string) {
	t.Helper()
	got, err := vfs.ReadFile(fsys, name, 1<<20)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v; want %q", name, got, err, want)
	}
}

func wantList(t *testing.T, fsys vfs.FS, dir string, want ...string) {
	t.Helper()
	got, err := fsys.List(dir)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("List(%s): %v %s", dir, err, diff)
	}
}
