package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// Create makes the folder of a new replica, durably, and opens it. It fails with
// fs.ErrExist if there is a replica in it. What a crash left of an earlier Create,
// a folder without a manifest, is made anew, unless there are frames in it.
func Create(o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := makeFolder(o.FS, o.Dir); err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	if err := clearFolder(o.FS, o.Dir, o.Base.Offset); err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	if err := fillFolder(o); err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	o.CleanStop = true
	return Open(o)
}

// makeFolder makes a folder and its parents and the names of those it made
// durable. The two next parents (topic and topics) are synced in any case: an
// earlier Create may have been killed before it did so.
func makeFolder(fsys vfs.FS, dir string) error {
	if there, err := exists(fsys, filepath.Join(dir, manifestName)); err != nil || there {
		return errors.Join(err, existsError(there, dir))
	}
	return makeFolders(fsys, dir)
}

// makeFolders is makeFolder of one that may hold a replica.
func makeFolders(fsys vfs.FS, dir string) error {
	var parents []string
	for child := filepath.Clean(dir); filepath.Dir(child) != child; child = filepath.Dir(child) {
		there, err := exists(fsys, child)
		if err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		if there && len(parents) >= 2 {
			break
		}
		parents = append(parents, filepath.Dir(child))
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	for _, parent := range parents {
		if err := fsys.SyncDir(parent); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	return nil
}

func existsError(there bool, dir string) error {
	if !there {
		return nil
	}
	return fmt.Errorf("%s holds a replica: %w", dir, fs.ErrExist)
}

// clearFolder removes what an earlier Create may have made before it crashed.
func clearFolder(fsys vfs.FS, dir string, base segment.Offset) error {
	names, err := fsys.List(dir)
	if err != nil {
		return fmt.Errorf("list folder: %w", err)
	}
	for _, name := range names {
		if err := clearFile(fsys, dir, name, base); err != nil {
			return err
		}
	}
	return nil
}

func clearFile(fsys vfs.FS, dir, name string, base segment.Offset) error {
	path := filepath.Join(dir, name)
	found, ours := segment.ParseName(name)
	switch {
	case filepath.Ext(name) == vfs.TempSuffix || name == checkpointName:
	case !ours:
		return fmt.Errorf("%s is in the way: %w", path, fs.ErrExist)
	default:
		empty, err := segment.Empty(fsys, dir, found)
		if err != nil {
			return err
		}
		if !empty || found != base {
			return fmt.Errorf("%s has frames but no manifest: %w", path, fs.ErrExist)
		}
	}
	return fsys.Remove(path)
}

// fillFolder writes the files of an empty log, the manifest last.
func fillFolder(o Options) error {
	b := o.Base
	header := &segment.FileHeader{
		Cluster: o.Identity.Cluster, TopicID: o.Identity.TopicID, Partition: o.Identity.Partition,
		BaseIndex: b.Index + 1, BaseOffset: b.Offset, PrevTerm: b.Term, RoundLimit: segment.MinRoundLimit,
		Configuration: b.Configuration, ConfigurationIndex: b.ConfigurationIndex,
	}
	w, err := segment.Create(o.FS, o.Dir, header)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("close segment: %w", err)
	}
	c := &checkpoint{
		Checkpoint: Checkpoint{
			Index: b.Index, Term: b.Term, Configuration: b.Configuration, ConfigurationIndex: b.ConfigurationIndex,
			HighWatermark: b.Offset,
		},
		incarnation: o.Identity.Incarnation, base: b.Offset,
	}
	if err := vfs.WriteFile(o.FS, filepath.Join(o.Dir, checkpointName), c.encode()); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return writeManifest(o.FS, o.Dir, &manifest{
		identity: o.Identity, start: b.Offset, segments: []segmentRef{{base: b.Offset, index: b.Index + 1}},
	})
}
