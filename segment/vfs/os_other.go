//go:build !linux

package vfs

import "os"

// syncData is fsync (F_FULLFSYNC on Darwin): the system has no cheaper call that
// is as safe.
func syncData(file *os.File) error { return file.Sync() }

// preallocate lengthens the file; space is not reserved.
func preallocate(file *os.File, off, length int64) error { return extend(file, off+length) }

// writev writes the buffers one by one: the system has no pwritev.
func writev(file *os.File, buffers [][]byte, off int64) (int, error) {
	written := 0
	for _, b := range buffers {
		n, err := file.WriteAt(b, off+int64(written))
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
