package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const (
	fileMode = 0o640 // owner writes, group reads (backup tools); nobody else sees records
	dirMode  = 0o750
)

// OS is the file system of the operating system. It keeps no state: all its
// values are equal and safe for concurrent use.
func OS() FS { return osFS{} }

// osFS implements FS with package os; what differs between systems is in
// os_linux.go, os_unix.go, os_windows.go and os_other.go.
type osFS struct{}

// osFile is an open file. os.File is safe for concurrent use, so the rules of
// File about goroutines are for the benefit of the other implementation.
type osFile struct{ file *os.File }

// Create makes a new file; see FS.
func (osFS) Create(name string) (File, error) {
	file, err := openFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		err = lackError{err}
	}
	return file, err
}

// lackError is a lack of descriptors where a file was to be made: as with a lack of
// space nothing was changed, and it passes, so that callers need not know it. It is
// not said of other calls, which may come after a change.
type lackError struct{ error }

func (e lackError) Is(target error) bool { return target == ErrNoSpace }
func (e lackError) Unwrap() error        { return e.error }

// Open opens a file for reading and writing; see FS.
func (osFS) Open(name string) (File, error) { return openFile(name, os.O_RDWR) }

// OpenReadOnly opens a file for reading; see FS.
func (osFS) OpenReadOnly(name string) (File, error) { return openFile(name, os.O_RDONLY) }

func openFile(name string, flags int) (File, error) {
	file, err := os.OpenFile(name, flags, fileMode)
	if err != nil {
		return nil, mapError(err)
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() { // opening a directory to read succeeds on Unix
		err = &fs.PathError{Op: "open", Path: name, Err: errIsDir}
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return &osFile{file: file}, nil
}

// Rename replaces newName; see FS.
func (osFS) Rename(oldName, newName string) error { return mapError(os.Rename(oldName, newName)) }

// Remove unlinks a file or an empty directory; see FS.
func (osFS) Remove(name string) error { return mapError(os.Remove(name)) }

// RemoveAll removes a tree; see FS.
func (osFS) RemoveAll(name string) error { return mapError(os.RemoveAll(name)) }

// MkdirAll makes a directory and its parents; see FS.
func (osFS) MkdirAll(name string) error { return mapError(os.MkdirAll(name, dirMode)) }

// List returns the sorted names in a directory; see FS.
func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, mapError(err)
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, nil
}

// Stat describes a file or directory; see FS.
func (osFS) Stat(name string) (fs.FileInfo, error) {
	info, err := os.Stat(name)
	return info, mapError(err)
}

// SyncDir makes the names in a directory durable; see FS.
func (osFS) SyncDir(dir string) error { return mapError(syncDir(dir)) }

// Lock takes an advisory lock on a file; see FS.
func (osFS) Lock(name string) (io.Closer, error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, mapError(err)
	}
	if err := lockFile(file); err != nil {
		file.Close()
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	return file, nil // closing the last descriptor releases the lock
}

// ReadAt reads at an offset; see File.
func (f *osFile) ReadAt(p []byte, off int64) (int, error) { return f.file.ReadAt(p, off) }

// WriteAt writes at an offset; see File.
func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.file.WriteAt(p, off)
	return n, mapError(err)
}

// WritevAt writes several buffers in a row; see File.
func (f *osFile) WritevAt(buffers [][]byte, off int64) (int, error) {
	n, err := writev(f.file, buffers, off)
	return n, mapError(err)
}

// Truncate sets the length; see File.
func (f *osFile) Truncate(size int64) error { return mapError(f.file.Truncate(size)) }

// Preallocate reserves zeroed space; see File.
func (f *osFile) Preallocate(off, length int64) error {
	if off < 0 || length < 0 || off+length < 0 {
		return &fs.PathError{Op: "preallocate", Path: f.file.Name(), Err: fs.ErrInvalid}
	}
	if length == 0 {
		return nil
	}
	return mapError(preallocate(f.file, off, length))
}

// Sync makes data and length durable; see File.
func (f *osFile) Sync() error { return mapError(syncData(f.file)) }

// Size is the present length; see File.
func (f *osFile) Size() (int64, error) {
	info, err := f.file.Stat()
	if err != nil {
		return 0, mapError(err)
	}
	return info.Size(), nil
}

// Close closes the descriptor; it does not sync.
func (f *osFile) Close() error { return mapError(f.file.Close()) }

// Fd is the descriptor for sendfile, valid until Close; see Descriptor.
func (f *osFile) Fd() uintptr { return f.file.Fd() }

// errIsDir is the cause when a directory is opened as a file.
var errIsDir = errors.New("is a directory")

// mapError makes a lack of space recognisable as ErrNoSpace and keeps the rest.
func mapError(err error) error {
	if err != nil && isNoSpace(err) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// extend makes the file at least size bytes long, without reserving space: what
// Preallocate does where the system cannot reserve.
func extend(file *os.File, size int64) error {
	info, err := file.Stat()
	if err != nil || info.Size() >= size {
		return err
	}
	return file.Truncate(size)
}

// TempSuffix ends the name of the file that WriteFile fills before it renames.
// A crash can leave one behind; it never holds anything that was promised.
const TempSuffix = ".tmp"

// WriteFile replaces the whole content of a file so that a crash leaves the old
// or the new content under the name, never a mixture, and the new one once it
// has returned: temporary file, Sync, Rename, SyncDir. The directory of name
// must exist. One goroutine at a time a name.
func WriteFile(fsys FS, name string, data []byte) error {
	temp := name + TempSuffix
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := writeNew(fsys, temp, data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := fsys.Rename(temp, name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		if errors.Is(err, ErrNoSpace) {
			// The new content is there, and maybe on the disk: who takes this for a
			// write that did not happen goes on with the old one.
			err = errors.New(err.Error())
		}
		return fmt.Errorf("write %s: sync its name: %w", name, err)
	}
	return nil
}

// writeNew creates a file with a content and syncs it.
func writeNew(fsys FS, name string, data []byte) error {
	file, err := fsys.Create(name)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(data, 0)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// ReadFile reads a whole file of at most limit bytes; a longer one is
// ErrTooLarge, before anything is allocated for it.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	file, err := fsys.OpenReadOnly(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("read %s: %w: %d bytes, at most %d", name, ErrTooLarge, size, limit)
	}
	data := make([]byte, size)
	if _, err := file.ReadAt(data, 0); err != nil && size > 0 {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}
