package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
)

// rewritePiece is how many bytes Rewrite holds in memory at a time.
const rewritePiece = 1 << 20

// Rewrite replaces a file by a copy of itself: what can be read under the name is
// durable when it returns, and a crash leaves the file as it was. It is for what a
// process finds after another one ended because a Sync failed: the kernel holds the
// pages for clean then, reads are served from them, and a Sync of the same file
// writes nothing and succeeds (fsyncgate). Nobody else may have the file open for
// writing. One goroutine at a time a name.
func Rewrite(fsys FS, name string) error {
	temp := name + TempSuffix
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rewrite %s: %w", name, err)
	}
	if err := copyNew(fsys, name, temp); err != nil {
		return fmt.Errorf("rewrite %s: %w", name, err)
	}
	if err := fsys.Rename(temp, name); err != nil {
		return fmt.Errorf("rewrite %s: %w", name, err)
	}
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("rewrite %s: sync its name: %w", name, err)
	}
	return nil
}

// copyNew makes a file with the content of another, and syncs it.
func copyNew(fsys FS, from, to string) (err error) {
	source, err := fsys.OpenReadOnly(from)
	if err != nil {
		return err
	}
	defer source.Close()
	size, err := source.Size()
	if err != nil {
		return err
	}
	file, err := fsys.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buf := make([]byte, min(size, rewritePiece))
	for at := int64(0); at < size; {
		piece := buf[:min(size-at, rewritePiece)]
		if _, err := source.ReadAt(piece, at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := file.WriteAt(piece, at); err != nil {
			return err
		}
		at += int64(len(piece))
	}
	return file.Sync()
}
