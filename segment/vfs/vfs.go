// Package vfs is the file-system seam of Millrace: every byte that a broker
// stores goes through FS and File, except the bbolt files of the metadata group.
//
// There are two implementations. OS (os.go) is the real one; it alone decides
// which system call makes a file or a directory durable. crashfs.FS (package
// crashfs below) keeps a durable and a volatile image in memory and can cut the
// power, tear writes, fail or stall the nth operation and run out of space, so
// that a whole broker can be crashed inside a test.
//
// What the interface promises, and all that callers may rely on:
//
//   - A write is visible to later reads at once, durable only after Sync.
//   - Sync makes the data and the length of that file durable, nothing else: a
//     new name, a rename or a removal is durable only after SyncDir of the
//     directory that holds the name.
//   - A failed Sync or SyncDir says nothing about what is durable and must never
//     be retried (fsyncgate): the process stops using the data folder. Nor may its
//     successor believe what it reads: until the machine boots, that may be in memory
//     alone, and a Sync of it may do nothing. What is to count is written again.
//   - Neither writes nor sectors nor length changes are atomic over a crash.
package vfs

import (
	"io"
	"io/fs"
)

// File is an open file. ReadAt may be called concurrently with everything;
// WriteAt, WritevAt, Truncate, Preallocate and Sync belong to one goroutine at
// a time. Close is not concurrent with anything.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// WritevAt writes the buffers one after the other at off, with one system
	// call where the system has one. A short write is an error.
	WritevAt(buffers [][]byte, off int64) (int, error)
	// Truncate sets the length; a longer file reads as zeros.
	Truncate(size int64) error
	// Preallocate makes [off, off+length) readable as zeros and the file at
	// least that long, with the space reserved where the system can do that.
	// Bytes already written in the range are kept. No space is ErrNoSpace.
	Preallocate(off, length int64) error
	// Sync is fdatasync: data and length durable on return.
	Sync() error
	// Size is the file's present length in bytes.
	Size() (int64, error)
}

// Descriptor is implemented by files that have one (the real ones); sendfile
// needs it. The descriptor is valid until Close.
type Descriptor interface {
	Fd() uintptr
}

// FS is a file system. All methods may be called concurrently. Names are paths
// in the system's syntax. Errors satisfy errors.Is with fs.ErrNotExist,
// fs.ErrExist and ErrNoSpace where these apply.
type FS interface {
	// Create makes a new file for reading and writing and fails with
	// fs.ErrExist if there is one. The name is durable after SyncDir.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// OpenReadOnly opens an existing file for reading.
	OpenReadOnly(name string) (File, error)
	// Rename replaces newName atomically; durable after SyncDir of both folders.
	Rename(oldName, newName string) error
	// Remove unlinks a file or an empty directory.
	Remove(name string) error
	// RemoveAll removes a tree; absent is no error.
	RemoveAll(name string) error
	// MkdirAll makes a directory and its parents; each new name is durable
	// after SyncDir of the directory that holds it.
	MkdirAll(name string) error
	// List returns the names in a directory, sorted.
	List(dir string) ([]string, error)
	// Stat describes a file or directory.
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// Lock takes an exclusive lock on a file, made if absent, without waiting;
	// held by somebody else it fails with ErrLocked. Closing releases it; the
	// file stays.
	Lock(name string) (io.Closer, error)
}
