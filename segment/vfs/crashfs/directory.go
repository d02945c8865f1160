package crashfs

import (
	"io/fs"
	"slices"
)

// entry is what a name stands for: one of the two.
type entry struct {
	file *inode
	dir  *directory
}

// directory maps names, durable and volatile, with the changes between them.
// Guarded by FS.mu.
type directory struct {
	names   map[string]entry
	durable map[string]entry
	pending []nameChange
}

// nameChange is an unsynced change in one directory: a name removed, a name set,
// or both at once.
type nameChange struct {
	remove string // "" for none
	set    string // "" for none
	entry  entry
	move   *move // of a rename between directories
	lost   bool  // by a SyncDir that failed
}

// move ties the halves of a rename between two directories together: the old
// name goes only after the new one is durable, or the file would be lost.
type move struct {
	arrived bool // the new name is durable
	decided bool // at a crash: whether the new name made it
}

func newDirectory() *directory {
	return &directory{names: make(map[string]entry), durable: make(map[string]entry)}
}

// apply carries out a change on one of the maps.
func (c nameChange) apply(names map[string]entry) {
	if c.remove != "" {
		delete(names, c.remove)
	}
	if c.set != "" {
		names[c.set] = c.entry
	}
}

// sync makes the names durable. The first half of a move whose other half is not
// durable yet stays undone, and so does what was done to that name after it. What
// an earlier failed one lost stays lost, until the name is changed again.
func (d *directory) sync() {
	var kept []nameChange
	for i, c := range d.pending {
		if c.lost {
			again := func(later nameChange) bool { return !later.lost && later.touches(c) }
			if !slices.ContainsFunc(d.pending[i+1:], again) {
				kept = append(kept, c)
			}
			continue
		}
		waits := c.move != nil && c.set == "" && !c.move.arrived
		waits = waits || slices.ContainsFunc(kept, func(k nameChange) bool { return !k.lost && k.touches(c) })
		if waits {
			kept = append(kept, c)
			continue
		}
		c.apply(d.durable)
		if c.move != nil && c.set != "" {
			c.move.arrived = true
		}
	}
	d.pending = kept
}

// failSync is a SyncDir that failed: no later one makes what was to be synced
// durable. It may be on the disk all the same.
func (d *directory) failSync() {
	for i := range d.pending {
		d.pending[i].lost = true
	}
}

// touches reports that two changes have a name in common.
func (c nameChange) touches(other nameChange) bool {
	for _, a := range []string{c.remove, c.set} {
		if a != "" && (a == other.remove || a == other.set) {
			return true
		}
	}
	return false
}

// link sets a name that does not exist. The caller holds mu.
func (d *FS) link(dir *directory, name string, e entry) {
	dir.names[name] = e
	if e.file != nil {
		e.file.links++
	}
	dir.pending = append(dir.pending, nameChange{set: name, entry: e})
}

// unlink removes a name that exists. The caller holds mu.
func (d *FS) unlink(dir *directory, name string) {
	e := dir.names[name]
	delete(dir.names, name)
	dir.pending = append(dir.pending, nameChange{remove: name})
	d.unref(e)
}

// unref takes a name away from what it stood for.
func (d *FS) unref(e entry) {
	if e.file != nil {
		e.file.links--
		d.release(e.file)
	}
}

// release gives the space of a file back that nothing refers to any more. The
// caller holds mu.
func (d *FS) release(node *inode) {
	if node.links > 0 || node.handles > 0 {
		return
	}
	node.mu.RLock()
	d.used.Add(-node.volatile.allocated())
	node.mu.RUnlock()
}

// removeTree unlinks a name and all below it. The caller holds mu.
func (d *FS) removeTree(dir *directory, name string) {
	if e := dir.names[name]; e.dir != nil {
		for _, child := range e.dir.sorted() {
			d.removeTree(e.dir, child)
		}
	}
	d.unlink(dir, name)
}

// rename moves a name. The caller holds mu.
func (d *FS) rename(oldPath, newPath string) error {
	from, oldName, err := d.parent(oldPath)
	if err != nil {
		return err
	}
	to, newName, err := d.parent(newPath)
	if err != nil {
		return err
	}
	e, ok := from.names[oldName]
	if !ok {
		return fs.ErrNotExist
	}
	target, exists := to.names[newName]
	switch {
	case from == to && oldName == newName:
		return nil
	case e.dir != nil && d.within(to, e.dir):
		return fs.ErrInvalid
	case exists && e.dir == nil && target.dir != nil:
		return errIsDir
	case exists && e.dir != nil && target.dir == nil:
		return errNotDir
	case exists && target.dir != nil && len(target.dir.names) > 0:
		return errNotEmpty
	}
	delete(from.names, oldName)
	to.names[newName] = e
	if exists {
		d.unref(target)
	}
	if from == to {
		from.pending = append(from.pending, nameChange{remove: oldName, set: newName, entry: e})
		return nil
	}
	half := new(move)
	to.pending = append(to.pending, nameChange{set: newName, entry: e, move: half})
	from.pending = append(from.pending, nameChange{remove: oldName, move: half})
	return nil
}

// within reports that dir is tree or lies below it.
func (d *FS) within(dir, tree *directory) bool {
	if dir == tree {
		return true
	}
	for _, e := range tree.names {
		if e.dir != nil && d.within(dir, e.dir) {
			return true
		}
	}
	return false
}
