package vfs

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxVectors is IOV_MAX: the most buffers that one pwritev takes.
const maxVectors = 1024

// syncData is fdatasync: data and length, without the write of the modification
// time that fsync adds to every round.
func syncData(file *os.File) error {
	return withDescriptor(file, "fdatasync", unix.Fdatasync)
}

// preallocate reserves blocks with fallocate, so that a later write cannot fail
// for lack of space. A file system without it gets a longer, sparse file.
func preallocate(file *os.File, off, length int64) error {
	err := withDescriptor(file, "fallocate", func(fd int) error {
		return unix.Fallocate(fd, 0, off, length)
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return extend(file, off+length)
	}
	return err
}

// writev is pwritev, repeated while the kernel takes only a part.
func writev(file *os.File, buffers [][]byte, off int64) (int, error) {
	written := 0
	pending := make([][]byte, 0, len(buffers))
	for _, b := range buffers {
		if len(b) > 0 {
			pending = append(pending, b)
		}
	}
	for len(pending) > 0 {
		n := 0
		err := withDescriptor(file, "pwritev", func(fd int) (err error) {
			n, err = unix.Pwritev(fd, pending[:min(len(pending), maxVectors)], off)
			return err
		})
		if err != nil {
			return written, err
		}
		if n <= 0 {
			return written, &os.PathError{Op: "pwritev", Path: file.Name(), Err: io.ErrShortWrite}
		}
		written, off = written+n, off+int64(n)
		pending = skip(pending, n)
	}
	return written, nil
}

// skip drops the first n bytes of a list of buffers.
func skip(buffers [][]byte, n int) [][]byte {
	for n > 0 && n >= len(buffers[0]) {
		n -= len(buffers[0])
		buffers = buffers[1:]
	}
	if n > 0 {
		buffers[0] = buffers[0][n:]
	}
	return buffers
}

// withDescriptor runs a system call on the file's descriptor, which cannot be
// closed meanwhile, again after EINTR (a signal says nothing about the disk).
func withDescriptor(file *os.File, op string, call func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = raw.Control(func(fd uintptr) {
		for {
			if callErr = call(int(fd)); callErr != unix.EINTR {
				return
			}
		}
	})
	if err != nil { // the only reason is a closed file, which Control names otherwise
		callErr = os.ErrClosed
	}
	if err := callErr; err != nil {
		return &os.PathError{Op: op, Path: file.Name(), Err: err}
	}
	return nil
}
