package vfs

import (
	"errors"
	"fmt"
	"io"
)

// rewritePiece is how many bytes Rewrite holds in memory at a time.
const rewritePiece = 1 << 20

// Rewrite writes a file's bytes to their places once more and syncs them, so that
// what can be read is durable when it returns. It is for what a process finds after
// another one ended because a Sync failed: the kernel holds the pages for clean then,
// reads are served from them, and a Sync of the file writes nothing and succeeds
// (fsyncgate). It needs no space.
//
// A crash in the middle leaves each sector as it can be read now or as it was on the
// disk. So it is for files whose writer synced, with success, what one write needs
// before it began the next; only the last is in doubt, as after any crash. Nobody
// else may have the file open for writing.
func Rewrite(fsys FS, name string) (err error) {
	file, err := fsys.Open(name)
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	size, err := file.Size()
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", name, err)
	}
	buf := make([]byte, min(size, rewritePiece))
	for at := int64(0); at < size; at += int64(len(buf)) {
		buf = buf[:min(size-at, rewritePiece)]
		if _, err := file.ReadAt(buf, at); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("rewrite %s: %w", name, err)
		}
		if _, err := file.WriteAt(buf, at); err != nil {
			return fmt.Errorf("rewrite %s: %w", name, err)
		}
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("rewrite %s: %w", name, err)
	}
	return nil
}
