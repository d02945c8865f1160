package crashfs

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/segment/vfs"
)

var (
	// ErrCrashed is what every call gives on a file or mount of an earlier boot.
	ErrCrashed = errors.New("crashfs: the power was cut")
	// ErrInjected is the error of a Fault that names none: an I/O error.
	ErrInjected = errors.New("crashfs: injected input/output error")

	errIsDir    = errors.New("is a directory")
	errNotDir   = errors.New("not a directory")
	errNotEmpty = syscall.ENOTEMPTY
)

// FS is a disk; see the package comment. It implements vfs.FS as a mount of
// whatever its present boot is. A program under test that may outlive a crash
// for a moment should be given a Mount instead, so that it cannot touch the disk
// of the next boot. All methods may be called concurrently.
type FS struct {
	mu     sync.Mutex // names, links, handles, faults, rng
	boot   *boot
	root   *directory
	rng    *rand.Rand
	faults []*armed
	traces []*Trace

	watched atomic.Bool // there are faults or traces
	used    atomic.Int64
	limit   atomic.Int64 // of used; negative: none
	counts  [opCount]atomic.Int64
}

// boot is the time between two crashes.
type boot struct {
	dead chan struct{} // closed by the crash
	// held is read-locked while a call is under way, so that a crash falls
	// between calls and a file operation has happened or has not.
	held sync.RWMutex
	over bool // guarded by held
}

// Mount is a vfs.FS of one boot. All methods may be called concurrently.
type Mount struct {
	disk *FS
	boot *boot
}

// New makes an empty disk without limits. The same seed and the same calls give
// the same crashes.
func New(seed int64) *FS {
	d := &FS{
		boot: newBoot(), root: newDirectory(),
		rng: rand.New(rand.NewPCG(uint64(seed), 0x6d696c6c72616365)),
	}
	d.limit.Store(-1)
	return d
}

func newBoot() *boot { return &boot{dead: make(chan struct{})} }

// Mount is the file system of the present boot.
func (d *FS) Mount() *Mount {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Mount{disk: d, boot: d.boot}
}

// SetFree sets how many more bytes can be allocated, in steps of 8 KiB; negative
// is no limit. At zero, files cannot be created either. Removing or cutting files
// gives space back.
func (d *FS) SetFree(bytes int64) {
	if bytes < 0 {
		d.limit.Store(-1)
		return
	}
	d.limit.Store(d.used.Load() + bytes)
}

// Used is how many bytes are allocated, in steps of 8 KiB.
func (d *FS) Used() int64 { return d.used.Load() }

// FlipBit inverts a bit of a file as it is on the disk (bit 0 is the lowest of
// the first byte), durably.
func (d *FS) FlipBit(path string, bit int64) error {
	return d.change(path, func(m *image) error {
		if bit < 0 || bit/8 >= m.size {
			return fs.ErrInvalid
		}
		m.own(bit / 8 / pageSize).data[bit/8%pageSize] ^= 1 << (bit % 8)
		return nil
	})
}

// Corrupt replaces bytes of a file as they are on the disk, durably, without
// changing its length: a misdirected write, a lost one, bad memory.
func (d *FS) Corrupt(path string, off int64, data []byte) error {
	return d.change(path, func(m *image) error {
		if off < 0 || off+int64(len(data)) > m.size {
			return fs.ErrInvalid
		}
		m.writeAt(data, off)
		return nil
	})
}

// change alters both images of a file behind its users' backs.
func (d *FS) change(path string, alter func(*image) error) error {
	d.mu.Lock()
	node, err := d.file(path)
	d.mu.Unlock()
	if err != nil {
		return &fs.PathError{Op: "corrupt", Path: path, Err: err}
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	if err := alter(&node.volatile); err != nil {
		return &fs.PathError{Op: "corrupt", Path: path, Err: err}
	}
	if err := alter(&node.durable); err != nil && !errors.Is(err, fs.ErrInvalid) {
		return err // ErrInvalid: not so long yet on the disk
	}
	return nil
}

// file finds a file. The caller holds mu.
func (d *FS) file(path string) (*inode, error) {
	dir, name, err := d.parent(path)
	if err != nil {
		return nil, err
	}
	e, ok := dir.names[name]
	switch {
	case !ok:
		return nil, fs.ErrNotExist
	case e.dir != nil:
		return nil, errIsDir
	}
	return e.file, nil
}

// directory finds a directory. The caller holds mu.
func (d *FS) directory(path string) (*directory, error) {
	dir := d.root
	for _, name := range split(path) {
		e, ok := dir.names[name]
		switch {
		case !ok:
			return nil, fs.ErrNotExist
		case e.dir == nil:
			return nil, errNotDir
		}
		dir = e.dir
	}
	return dir, nil
}

// parent finds the directory that holds a name. The caller holds mu.
func (d *FS) parent(path string) (dir *directory, name string, err error) {
	names := split(path)
	if len(names) == 0 {
		return nil, "", fs.ErrInvalid
	}
	dir = d.root
	for _, name := range names[:len(names)-1] {
		e, ok := dir.names[name]
		switch {
		case !ok:
			return nil, "", fs.ErrNotExist
		case e.dir == nil:
			return nil, "", errNotDir
		}
		dir = e.dir
	}
	return dir, names[len(names)-1], nil
}

// split cuts a path into names; relative paths begin at the root.
func split(path string) []string {
	path = strings.Trim(filepath.ToSlash(filepath.Clean(path)), "/")
	if path == "" || path == "." {
		return nil
	}
	return strings.Split(path, "/")
}

// run is the frame of every operation on names: faults, the boot, the lock, the
// count, the trace.
func (m *Mount) run(op Op, path string, do func() error) error {
	_, err := m.disk.fire(m.boot, op, path)
	if err == nil {
		err = m.boot.during(func() error {
			m.disk.mu.Lock()
			defer m.disk.mu.Unlock()
			return do()
		})
	}
	err = m.disk.done(m.boot, Event{Op: op, Path: path, Err: err})
	if err != nil {
		return &fs.PathError{Op: op.String(), Path: path, Err: err}
	}
	return nil
}

// during runs a call within a boot.
func (b *boot) during(do func() error) error {
	b.held.RLock()
	defer b.held.RUnlock()
	if b.over {
		return ErrCrashed
	}
	return do()
}

// Create makes a new file; see vfs.FS.
func (m *Mount) Create(name string) (vfs.File, error) {
	var file vfs.File
	err := m.run(OpCreate, name, func() error {
		dir, base, err := m.disk.parent(name)
		if err != nil {
			return err
		}
		if _, ok := dir.names[base]; ok {
			return fs.ErrExist
		}
		if limit := m.disk.limit.Load(); limit >= 0 && m.disk.used.Load() >= limit {
			return vfs.ErrNoSpace
		}
		node := new(inode)
		m.disk.link(dir, base, entry{file: node})
		file = m.handle(node, name, true)
		return nil
	})
	return file, err
}

// Open opens a file; see vfs.FS.
func (m *Mount) Open(name string) (vfs.File, error) { return m.open(name, true) }

// OpenReadOnly opens a file for reading; see vfs.FS.
func (m *Mount) OpenReadOnly(name string) (vfs.File, error) { return m.open(name, false) }

func (m *Mount) open(name string, write bool) (vfs.File, error) {
	var file vfs.File
	err := m.run(OpOpen, name, func() error {
		node, err := m.disk.file(name)
		if err == nil {
			file = m.handle(node, name, write)
		}
		return err
	})
	return file, err
}

// Rename replaces newName; see vfs.FS.
func (m *Mount) Rename(oldName, newName string) error {
	return m.run(OpRename, newName, func() error { return m.disk.rename(oldName, newName) })
}

// Remove unlinks a file or an empty directory; see vfs.FS.
func (m *Mount) Remove(name string) error {
	return m.run(OpRemove, name, func() error {
		dir, base, err := m.disk.parent(name)
		if err != nil {
			return err
		}
		e, ok := dir.names[base]
		switch {
		case !ok:
			return fs.ErrNotExist
		case e.dir != nil && len(e.dir.names) > 0:
			return errNotEmpty
		}
		m.disk.unlink(dir, base)
		return nil
	})
}

// RemoveAll removes a tree, name by name; see vfs.FS.
func (m *Mount) RemoveAll(name string) error {
	return m.run(OpRemove, name, func() error {
		dir, base, err := m.disk.parent(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, ok := dir.names[base]; ok {
			m.disk.removeTree(dir, base)
		}
		return nil
	})
}

// MkdirAll makes a directory and its parents; see vfs.FS.
func (m *Mount) MkdirAll(name string) error {
	return m.run(OpMkdir, name, func() error {
		dir := m.disk.root
		for _, base := range split(name) {
			e, ok := dir.names[base]
			if ok && e.dir == nil {
				return errNotDir
			}
			if !ok {
				e = entry{dir: newDirectory()}
				m.disk.link(dir, base, e)
			}
			dir = e.dir
		}
		return nil
	})
}

// List returns the sorted names in a directory; see vfs.FS.
func (m *Mount) List(dir string) ([]string, error) {
	var names []string
	err := m.run(OpList, dir, func() error {
		d, err := m.disk.directory(dir)
		if err != nil {
			return err
		}
		names = d.sorted()
		return nil
	})
	return names, err
}

// Stat describes a file or directory; see vfs.FS. Times are zero.
func (m *Mount) Stat(name string) (fs.FileInfo, error) {
	var info fileInfo
	err := m.run(OpStat, name, func() error {
		if _, err := m.disk.directory(name); err == nil {
			info = fileInfo{name: filepath.Base(name), dir: true}
			return nil
		}
		node, err := m.disk.file(name)
		if err != nil {
			return err
		}
		node.mu.RLock()
		defer node.mu.RUnlock()
		info = fileInfo{name: filepath.Base(name), size: node.volatile.size}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// SyncDir makes the names in a directory durable; see vfs.FS.
func (m *Mount) SyncDir(dir string) error {
	done := false
	err := m.run(OpSyncDir, dir, func() error {
		d, err := m.disk.directory(dir)
		if err == nil {
			d.sync()
		}
		done = true
		return err
	})
	if err != nil && !done && !errors.Is(err, ErrCrashed) {
		m.disk.mu.Lock()
		defer m.disk.mu.Unlock()
		if d, missing := m.disk.directory(dir); missing == nil {
			d.failSync()
		}
	}
	return err
}

// Lock takes an exclusive lock on a file; see vfs.FS. A crash ends it.
func (m *Mount) Lock(name string) (io.Closer, error) {
	var held *lock
	err := m.run(OpLock, name, func() error {
		node, err := m.disk.file(name)
		if errors.Is(err, fs.ErrNotExist) {
			var dir *directory
			var base string
			if dir, base, err = m.disk.parent(name); err == nil {
				node = new(inode)
				m.disk.link(dir, base, entry{file: node})
			}
		}
		switch {
		case err != nil:
			return err
		case node.locked:
			return vfs.ErrLocked
		}
		node.locked = true
		held = &lock{mount: m, node: node}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return held, nil
}

// lock is a held Lock.
type lock struct {
	mount *Mount
	node  *inode
	once  sync.Once
}

// Close releases the lock.
func (l *lock) Close() error {
	err := fs.ErrClosed
	l.once.Do(func() {
		err = l.mount.boot.during(func() error {
			l.mount.disk.mu.Lock()
			defer l.mount.disk.mu.Unlock()
			l.node.locked = false
			return nil
		})
	})
	return err
}

// fileInfo is what Stat returns.
type fileInfo struct {
	name string
	size int64
	dir  bool
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) ModTime() time.Time { return time.Time{} }
func (i fileInfo) IsDir() bool        { return i.dir }
func (i fileInfo) Sys() any           { return nil }
func (i fileInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o750
	}
	return 0o640
}

// sorted are the names in the directory.
func (d *directory) sorted() []string {
	names := make([]string, 0, len(d.names))
	for name := range d.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
