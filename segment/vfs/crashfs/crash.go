package crashfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Keep says how much of what was not synced survives a crash.
type Keep uint8

const (
	// KeepRandom draws it, as the package comment says.
	KeepRandom Keep = iota
	// KeepNothing leaves exactly what was synced.
	KeepNothing
	// KeepEverything leaves all: the process died, the machine did not.
	KeepEverything
)

// CrashOptions say what a crash leaves. The zero value is a power cut.
type CrashOptions struct {
	// Keep is how much of what was not synced survives.
	Keep Keep
	// TearSectors also lets single sectors keep only a first part of a write;
	// disks are assumed not to do that, so this is for tests of that assumption.
	TearSectors bool
}

// Crash cuts the power: calls that are under way end first or fail, everything
// of this boot fails with ErrCrashed from then on, stalled calls included, and
// the disk is left as the options say. Locks are gone, faults stay armed.
func (d *FS) Crash(o CrashOptions) {
	d.mu.Lock()
	b := d.boot
	d.mu.Unlock()
	b.held.Lock() // waits for calls under way, keeps later ones out
	defer b.held.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.over {
		return // somebody else's crash came first
	}
	b.over = true
	close(b.dead)
	d.boot = newBoot()
	d.lose(o)
}

// Clone copies the disk as it is, unsynced changes included, for a test that
// tries several crashes of one state. Faults and traces are not copied, and the
// copy has its own seed. It must not race with calls that are under way.
func (d *FS) Clone(seed int64) *FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := cloner{files: make(map[*inode]*inode), dirs: make(map[*directory]*directory), moves: make(map[*move]*move)}
	clone := New(seed)
	clone.root = c.directory(d.root)
	clone.limit.Store(d.limit.Load())
	clone.count()
	return clone
}

// lose leaves on the disk what survives. The caller holds mu, and no call is
// under way.
func (d *FS) lose(o CrashOptions) {
	l := loss{CrashOptions: o, rng: d.rng, seen: make(map[*inode]bool)}
	l.directory(d.root)
	d.count()
}

// count takes links and space anew from the names that there are.
func (d *FS) count() {
	used := int64(0)
	seen := make(map[*inode]bool)
	d.root.walk(func(node *inode) {
		if !seen[node] {
			seen[node] = true
			node.links, node.handles, node.locked = 0, 0, false
			used += node.volatile.allocated()
		}
		node.links++
	})
	d.used.Store(used)
}

// walk visits all names of files below a directory, sorted.
func (d *directory) walk(visit func(*inode)) {
	for _, name := range d.sorted() {
		if e := d.names[name]; e.dir != nil {
			e.dir.walk(visit)
		} else {
			visit(e.file)
		}
	}
}

// loss decides what survives a crash.
type loss struct {
	CrashOptions
	rng  *rand.Rand
	seen map[*inode]bool
}

// odds draws the odds with which a change of one file or directory survives.
func (l *loss) odds() float64 {
	switch l.Keep {
	case KeepNothing:
		return 0
	case KeepEverything:
		return 1
	}
	switch l.rng.IntN(4) {
	case 0:
		return 0
	case 1:
		return 1
	default:
		return l.rng.Float64()
	}
}

// directory decides for the names of a directory, then for what they stand for.
func (l *loss) directory(d *directory) {
	odds := l.odds()
	for _, c := range d.pending {
		if l.survives(c, odds) {
			c.apply(d.durable)
		}
	}
	d.pending = nil
	d.names = make(map[string]entry, len(d.durable))
	for name, e := range d.durable {
		d.names[name] = e
	}
	for _, name := range d.sorted() {
		switch e := d.names[name]; {
		case e.dir != nil:
			l.directory(e.dir)
		case !l.seen[e.file]:
			l.seen[e.file] = true
			l.file(e.file)
		}
	}
}

// survives decides for one change of a name. Of a move, the new name is decided
// first, whichever directory comes first: without it the old one stays.
func (l *loss) survives(c nameChange, odds float64) bool {
	kept := l.rng.Float64() < odds
	if c.move == nil {
		return kept
	}
	if !c.move.decided {
		c.move.decided = true
		c.move.arrived = c.move.arrived || kept
	}
	if c.set != "" {
		return c.move.arrived
	}
	return c.move.arrived && kept
}

// file decides for the content of a file.
func (l *loss) file(n *inode) {
	n.mu.Lock()
	defer n.mu.Unlock()
	odds := l.odds()
	result, size := n.durable.clone(), n.durable.size
	if l.Keep == KeepEverything { // what a failed Sync lost is still in memory
		result, size = n.volatile.clone(), n.volatile.size
	} else {
		l.found(n, &result, odds)
		sized := l.sizedUpTo(len(n.pending), odds)
		l.replay(n, &result, sized, odds)
		if sized > 0 {
			size = n.pending[sized-1].size
		}
	}
	result.size = max(result.size, size)
	result.truncate(size)
	n.durable, n.volatile = result, result.clone()
	n.pending, n.unsynced, n.lost, n.failed = nil, 0, nil, nil
}

// found lets some of the sectors that a failed Sync lost be on the disk after all.
func (l *loss) found(n *inode, result *image, odds float64) {
	for _, s := range slices.Sorted(maps.Keys(n.lost)) {
		if l.rng.Float64() < odds {
			n.failed.copySector(result, s)
		}
	}
}

// sizedUpTo draws how many changes of the length survive: a first part of them.
func (l *loss) sizedUpTo(n int, odds float64) int {
	switch odds {
	case 0:
		return 0
	case 1:
		return n
	}
	if n == 0 {
		return 0
	}
	return l.rng.IntN(n + 1)
}

// replay carries out what survives of the unsynced changes, in their order:
// lengths of the first sized, data sector by sector. In each sector a change
// survives only if all earlier ones did, since the later version of a sector
// holds the earlier one.
func (l *loss) replay(n *inode, result *image, sized int, odds float64) {
	stopped := make(map[int64]bool)
	for i := range n.pending {
		c := &n.pending[i]
		switch c.kind {
		case changeCut:
			if i >= sized {
				return
			}
			result.truncate(c.size)
		case changeReserve, changeExtend:
			if i < sized {
				c.apply(result)
			}
		case changeWrite:
			l.write(result, c, stopped, odds)
		}
	}
}

// write carries a write out sector by sector.
func (l *loss) write(result *image, c *change, stopped map[int64]bool, odds float64) {
	for done := int64(0); done < c.length; {
		off := c.off + done
		part := min(c.length-done, sectorSize-off%sectorSize)
		data := c.data[done : done+part]
		done += part
		sector := off / sectorSize
		if stopped[sector] {
			continue
		}
		if l.rng.Float64() >= odds {
			stopped[sector] = true
			if !l.TearSectors {
				continue
			}
			data = data[:l.rng.IntN(len(data)+1)]
		}
		result.writeAt(data, off)
	}
}

// cloner copies a tree, keeping shared nodes shared.
type cloner struct {
	files map[*inode]*inode
	dirs  map[*directory]*directory
	moves map[*move]*move
}

func (c *cloner) directory(d *directory) *directory {
	if known, ok := c.dirs[d]; ok {
		return known
	}
	clone := newDirectory()
	c.dirs[d] = clone
	for name, e := range d.names {
		clone.names[name] = c.entry(e)
	}
	for name, e := range d.durable {
		clone.durable[name] = c.entry(e)
	}
	clone.pending = slices.Clone(d.pending)
	for i := range clone.pending {
		p := &clone.pending[i]
		p.entry = c.entry(p.entry)
		if p.move == nil {
			continue
		}
		if c.moves[p.move] == nil {
			copied := *p.move
			c.moves[p.move] = &copied
		}
		p.move = c.moves[p.move]
	}
	return clone
}

func (c *cloner) entry(e entry) entry {
	switch {
	case e.dir != nil:
		return entry{dir: c.directory(e.dir)}
	case e.file == nil:
		return entry{}
	}
	if c.files[e.file] == nil {
		n := e.file
		n.mu.Lock()
		defer n.mu.Unlock()
		c.files[n] = &inode{
			durable: n.durable.clone(), volatile: n.volatile.clone(), pending: slices.Clone(n.pending),
			unsynced: n.unsynced, lost: maps.Clone(n.lost), failed: n.failed,
		}
	}
	return entry{file: c.files[e.file]}
}
