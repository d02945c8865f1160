package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// Switch makes the collected seed the replica's log, in place of all segments that it
// has of its own, and with the checkpoint S. The replica's Log must be closed; Open
// opens the new one. The staging is used up, whatever Switch
// returns; after ErrNoSpace the log is the old one, or Open makes it the new one.
//
// What decides is one rename, that of the manifest. It says which segments make the
// log, and that they are still in the staging folder: Open, in whatever process, moves
// them from there to their places before it does anything else. So a crash leaves the
// old log, or the new one, and never files of both.
func (s *Staging) Switch() error {
	if s.fatal != nil {
		return s.fatal
	}
	if s.tail == nil {
		return fmt.Errorf("switch to seed: %d of %d files are there", s.file, len(s.seed.Files))
	}
	if err := s.fillTail(); err != nil {
		return s.fail("stage the end of a seed", err)
	}
	m := &manifest{identity: s.identity, start: s.seed.Start, switching: true, segments: s.refs}
	m.segments = append(m.segments, segmentRef{base: s.tail.BaseOffset, index: s.tail.BaseIndex})
	old, err := readManifest(s.fsys, s.dir)
	if err == nil {
		m.dropped = droppedBy(old, m)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return s.fail("read manifest", err)
	}
	return s.fail("switch to seed", finishSwitch(s.fsys, s.dir, m))
}

// fillTail makes what the log has behind the seed: an empty segment, and the
// checkpoint.
func (s *Staging) fillTail() error {
	t := s.tail
	if err := segment.Remove(s.fsys, s.folder, t.BaseOffset); err != nil {
		return err
	}
	w, err := segment.Create(s.fsys, s.folder, t)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	c := &checkpoint{
		Checkpoint: Checkpoint{
			Index: t.PrevIndex(), Term: t.PrevTerm, Configuration: t.Configuration, ConfigurationIndex: t.ConfigurationIndex,
			HighWatermark: t.BaseOffset,
		},
		incarnation: s.identity.Incarnation, base: t.BaseOffset, terms: t.Terms, producers: t.Producers,
	}
	return vfs.WriteFile(s.fsys, filepath.Join(s.folder, checkpointName), c.encode())
}

// droppedBy are the segments of an old manifest that a new one does not list.
func droppedBy(old, m *manifest) []segment.Offset {
	gone := slices.Clone(old.dropped)
	for _, r := range old.segments {
		gone = append(gone, r.base)
	}
	return slices.DeleteFunc(gone, func(base segment.Offset) bool {
		return slices.ContainsFunc(m.segments, func(r segmentRef) bool { return r.base == base })
	})
}

// finishSwitch commits a switch, or finds it committed, and carries it out; m is the
// normal manifest when it returns nil. The old segments are in m.dropped, Open removes
// them.
//
// It writes the manifest also where that was read from the disk: the rename of an
// earlier process may be in memory alone, and no file may be replaced before the
// manifest that replaces the log is durable. For the same reason a file that is at
// its place already gets its name once more: a SyncDir makes durable what was
// renamed since, not what an earlier one failed to.
func finishSwitch(fsys vfs.FS, dir string, m *manifest) error {
	if err := writeManifest(fsys, dir, m); err != nil {
		return err
	}
	staging := filepath.Join(dir, stagingName)
	files := []string{checkpointName}
	for _, r := range m.segments {
		files = append(files, segment.LogName(r.base), segment.IndexName(r.base), segment.HeaderName(r.base))
	}
	for _, name := range files {
		if err := moveStaged(fsys, filepath.Join(staging, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("move staged file: %w", err)
		}
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("move staged files: %w", noSyncSpace(err))
	}
	done := *m
	done.switching = false
	if err := writeManifest(fsys, dir, &done); err != nil {
		return err
	}
	*m = done
	if err := fsys.RemoveAll(staging); err != nil {
		return fmt.Errorf("remove staging folder: %w", err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("remove staging folder: %w", noSyncSpace(err))
	}
	return nil
}

// movingSuffix ends the name of a file of a seed between two renames.
const movingSuffix = ".moving"

// moveStaged moves a file to its place, where it may be already.
func moveStaged(fsys vfs.FS, from, to string) error {
	staged, err := exists(fsys, from)
	if err != nil {
		return err
	}
	if staged {
		return fsys.Rename(from, to)
	}
	arrived, err := exists(fsys, to)
	if err == nil && arrived {
		err = fsys.Rename(to, to+movingSuffix)
	}
	if err != nil {
		return err
	}
	return fsys.Rename(to+movingSuffix, to)
}

// A manifest between the commit of a switch and its end is the new manifest, whole, in
// an envelope of format segment.FormatSwitch1.

// wrapSwitch is the file of a manifest.
func wrapSwitch(m *manifest) []byte {
	if !m.switching {
		return m.encode()
	}
	return segment.Wrap(segment.FormatSwitch1, m.encode())
}

// unwrapSwitch reads what wrapSwitch wrote. The error is segment.ErrFormat.
func unwrapSwitch(data []byte) (*manifest, error) {
	inner, err := segment.Unwrap(segment.FormatSwitch1, data)
	if err != nil {
		return decodeManifest(data)
	}
	m, err := decodeManifest(inner)
	if err == nil {
		m.switching = true
	}
	return m, err
}
