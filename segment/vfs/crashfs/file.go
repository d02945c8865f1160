package crashfs

import (
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/millrace/millrace/segment/vfs"
)

// file is an open file of one boot.
type file struct {
	mount  *Mount
	node   *inode
	path   string // as opened, for faults and errors
	write  bool
	closed atomic.Bool
}

// handle opens a file. The caller holds mu.
func (m *Mount) handle(node *inode, path string, write bool) *file {
	node.handles++
	return &file{mount: m, node: node, path: path, write: write}
}

// run is the frame of every operation on a file. It passes on whether a fault
// wants the write to be short.
func (f *file) run(op Op, off, length int64, do func(short bool) error) error {
	short, err := f.mount.disk.fire(f.mount.boot, op, f.path)
	if err == nil || short {
		injected := err
		err = f.mount.boot.during(func() error {
			if f.closed.Load() {
				return fs.ErrClosed
			}
			return do(short)
		})
		if err == nil {
			err = injected
		}
	} else if op == OpSync && err != ErrCrashed {
		f.node.mu.Lock()
		f.node.failSync()
		f.node.mu.Unlock()
	}
	err = f.mount.disk.done(f.mount.boot, Event{Op: op, Path: f.path, Offset: off, Length: length, Err: err})
	if err != nil && err != io.EOF {
		return &fs.PathError{Op: op.String(), Path: f.path, Err: err}
	}
	return err
}

// ReadAt reads at an offset; see vfs.File.
func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.run(OpRead, off, int64(len(p)), func(bool) error {
		if off < 0 {
			return fs.ErrInvalid
		}
		f.node.mu.RLock()
		defer f.node.mu.RUnlock()
		n = int(min(int64(len(p)), max(f.node.volatile.size-off, 0)))
		f.node.volatile.readAt(p[:n], off)
		if n < len(p) {
			return io.EOF
		}
		return nil
	})
	return n, err
}

// WriteAt writes at an offset; see vfs.File.
func (f *file) WriteAt(p []byte, off int64) (int, error) { return f.WritevAt([][]byte{p}, off) }

// WritevAt writes buffers in a row as one change; see vfs.File. A lack of space
// or a short-write fault leaves the first part written.
func (f *file) WritevAt(buffers [][]byte, off int64) (n int, err error) {
	total := 0
	for _, b := range buffers {
		total += len(b)
	}
	err = f.run(OpWrite, off, int64(total), func(short bool) error {
		if off < 0 || !f.write {
			return fs.ErrInvalid
		}
		data := make([]byte, 0, total)
		for _, b := range buffers {
			data = append(data, b...)
		}
		if short {
			data = data[:len(data)/2]
		}
		f.node.mu.Lock()
		defer f.node.mu.Unlock()
		fits := f.mount.disk.take(&f.node.volatile, off, int64(len(data)))
		if n = int(fits); n > 0 {
			f.node.volatile.writeAt(data[:n], off)
			f.node.note(change{kind: changeWrite, off: off, length: fits, data: data[:n]})
		}
		if n < len(data) {
			return vfs.ErrNoSpace
		}
		return nil
	})
	return n, err
}

// take counts the space of a range in, as far as there is any, and returns how
// many bytes of the range have space. The caller holds the inode's lock.
func (d *FS) take(m *image, off, length int64) int64 {
	need := m.holes(off, length) * pageSize
	limit := d.limit.Load()
	if limit < 0 || need == 0 {
		d.used.Add(need)
		return length
	}
	if d.used.Add(need) <= limit {
		return length
	}
	d.used.Add(-need)
	fits := int64(0)
	for fits < length { // page by page, up to the first without space
		n := min(length-fits, pageSize-(off+fits)%pageSize)
		need := m.holes(off+fits, n) * pageSize
		if d.used.Add(need) > limit {
			d.used.Add(-need)
			break
		}
		fits += n
	}
	return fits
}

// Truncate sets the length; see vfs.File.
func (f *file) Truncate(size int64) error {
	return f.run(OpTruncate, size, 0, func(bool) error {
		if size < 0 || !f.write {
			return fs.ErrInvalid
		}
		f.node.mu.Lock()
		defer f.node.mu.Unlock()
		kind := changeExtend
		switch old := f.node.volatile.size; {
		case size == old:
			return nil
		case size < old:
			kind = changeCut
			before := f.node.volatile.allocated()
			f.node.volatile.truncate(size)
			f.mount.disk.used.Add(f.node.volatile.allocated() - before)
		default:
			f.node.volatile.truncate(size)
		}
		f.node.note(change{kind: kind, off: size})
		return nil
	})
}

// Preallocate reserves zeroed space; see vfs.File. Without enough of it nothing
// is reserved.
func (f *file) Preallocate(off, length int64) error {
	return f.run(OpPreallocate, off, length, func(bool) error {
		if off < 0 || length < 0 || off+length < 0 || !f.write {
			return fs.ErrInvalid
		}
		if length == 0 {
			return nil
		}
		f.node.mu.Lock()
		defer f.node.mu.Unlock()
		need := f.node.volatile.holes(off, length) * pageSize
		if limit := f.mount.disk.limit.Load(); f.mount.disk.used.Add(need) > limit && limit >= 0 && need > 0 {
			f.mount.disk.used.Add(-need)
			return vfs.ErrNoSpace
		}
		f.node.volatile.reserve(off, length)
		f.node.note(change{kind: changeReserve, off: off, length: length})
		return nil
	})
}

// Sync makes data and length durable; see vfs.File.
func (f *file) Sync() error {
	return f.run(OpSync, 0, 0, func(bool) error {
		f.node.mu.Lock()
		defer f.node.mu.Unlock()
		f.node.sync()
		return nil
	})
}

// Size is the present length; see vfs.File.
func (f *file) Size() (size int64, err error) {
	err = f.run(OpStat, 0, 0, func(bool) error {
		f.node.mu.RLock()
		defer f.node.mu.RUnlock()
		size = f.node.volatile.size
		return nil
	})
	return size, err
}

// Close ends the handle. After a crash it fails like everything else.
func (f *file) Close() error {
	return f.run(OpClose, 0, 0, func(bool) error {
		if f.closed.Swap(true) {
			return fs.ErrClosed
		}
		f.mount.disk.mu.Lock()
		defer f.mount.disk.mu.Unlock()
		f.node.handles--
		f.mount.disk.release(f.node)
		return nil
	})
}
