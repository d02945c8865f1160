package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// leftovers are what a crash left in a folder.
type leftovers struct {
	temporary []string         // names of files
	segments  []segment.Offset // that the manifest does not list
	dropped   []segment.Offset // of these, or gone already: by a cut
}

// findLeftovers looks through the folder, and changes nothing.
func (l *Log) findLeftovers(m *manifest) (leftovers, error) {
	listed, dropped := map[segment.Offset]bool{}, map[segment.Offset]bool{}
	for _, s := range m.segments {
		listed[s.base] = true
	}
	var left leftovers
	for _, base := range m.dropped {
		if !listed[base] {
			dropped[base] = true
			left.dropped = append(left.dropped, base)
		}
	}
	names, err := l.options.FS.List(l.options.Dir)
	if err != nil {
		return leftovers{}, fmt.Errorf("list folder: %w", err)
	}
	for _, name := range names {
		base, ours := segment.ParseName(name)
		switch {
		case strings.HasSuffix(name, vfs.TempSuffix):
			left.temporary = append(left.temporary, name)
		case strings.HasSuffix(name, segment.TornSuffix):
			l.recovery.Uncertain = true
		case ours && !listed[base]:
			if err := l.mayRemove(base, dropped[base]); err != nil {
				return leftovers{}, err
			}
			left.segments = append(left.segments, base)
		}
	}
	return left, nil
}

// mayRemove refuses a segment that the manifest does not list, unless a cut dropped
// it, or a roll made it before a crash kept it from listing it. Others cannot come
// from a crash.
func (l *Log) mayRemove(base segment.Offset, dropped bool) error {
	if dropped {
		return nil
	}
	empty, err := segment.Empty(l.options.FS, l.options.Dir, base)
	if err == nil && !empty {
		err = &segment.DamageError{File: segment.LogName(base), Position: -1, Detail: "the manifest does not list it, but it holds frames"}
	}
	return err
}

// claim makes the folder this process's own: the first changes of an Open. After a
// stop that was not clean the manifest and the checkpoint are replaced by
// themselves, so that they are on the disk as they were read. The rename that put
// them there may not be: the process before may have ended before its sync, or
// because that failed, and then a later sync of the folder would do nothing for it.
// Leftovers go after that, and only then: a manifest that comes back after a crash
// must not list segments that are gone. What a cut dropped goes once more, also
// where it is gone already: a removal can be lost like a rename.
func (l *Log) claim(m *manifest, c *checkpoint, left leftovers) error {
	fsys, dir := l.options.FS, l.options.Dir
	if !l.options.CleanStop {
		if err := writeManifest(fsys, dir, m); err != nil {
			return err
		}
		if err := vfs.WriteFile(fsys, filepath.Join(dir, checkpointName), c.encode()); err != nil {
			return fmt.Errorf("write checkpoint: %w", err)
		}
		for _, base := range left.dropped {
			if err := placeholders(fsys, dir, base); err != nil {
				return fmt.Errorf("tidy folder: %w", err)
			}
		}
		left.segments = append(left.segments, left.dropped...)
	}
	for _, name := range left.temporary {
		if err := removeIfThere(fsys, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("tidy folder: %w", err)
		}
	}
	for _, base := range left.segments {
		if err := segment.Remove(fsys, dir, base); err != nil {
			return fmt.Errorf("tidy folder: %w", err)
		}
	}
	if len(left.temporary)+len(left.segments) == 0 {
		return nil
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("tidy folder: %w", err)
	}
	return nil
}

// placeholders makes empty files where a segment has none, so that there is
// something to remove.
func placeholders(fsys vfs.FS, dir string, base segment.Offset) error {
	for _, name := range []string{segment.HeaderName(base), segment.IndexName(base), segment.LogName(base)} {
		file, err := fsys.Create(filepath.Join(dir, name))
		if err == nil {
			err = file.Close()
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func removeIfThere(fsys vfs.FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
