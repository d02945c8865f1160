package crashfs

import (
	"io"
	"io/fs"

	"github.com/millrace/millrace/segment/vfs"
)

// A disk is used as the file system of its present boot.
var _ vfs.FS = (*FS)(nil)

// Create makes a new file; see vfs.FS.
func (d *FS) Create(name string) (vfs.File, error) { return d.Mount().Create(name) }

// Open opens a file for reading and writing; see vfs.FS.
func (d *FS) Open(name string) (vfs.File, error) { return d.Mount().Open(name) }

// OpenReadOnly opens a file for reading; see vfs.FS.
func (d *FS) OpenReadOnly(name string) (vfs.File, error) { return d.Mount().OpenReadOnly(name) }

// Rename replaces newName; see vfs.FS.
func (d *FS) Rename(oldName, newName string) error { return d.Mount().Rename(oldName, newName) }

// Remove unlinks a file or an empty directory; see vfs.FS.
func (d *FS) Remove(name string) error { return d.Mount().Remove(name) }

// RemoveAll removes a tree; see vfs.FS.
func (d *FS) RemoveAll(name string) error { return d.Mount().RemoveAll(name) }

// MkdirAll makes a directory and its parents; see vfs.FS.
func (d *FS) MkdirAll(name string) error { return d.Mount().MkdirAll(name) }

// List returns the sorted names in a directory; see vfs.FS.
func (d *FS) List(dir string) ([]string, error) { return d.Mount().List(dir) }

// Stat describes a file or directory; see vfs.FS.
func (d *FS) Stat(name string) (fs.FileInfo, error) { return d.Mount().Stat(name) }

// SyncDir makes the names in a directory durable; see vfs.FS.
func (d *FS) SyncDir(dir string) error { return d.Mount().SyncDir(dir) }

// Lock takes an exclusive lock on a file; see vfs.FS.
func (d *FS) Lock(name string) (io.Closer, error) { return d.Mount().Lock(name) }
