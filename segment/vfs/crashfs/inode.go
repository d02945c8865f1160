package crashfs

import (
	"sync"
)

const (
	sectorSize = 512
	// maxPendingBytes and maxPendingOps bound what a file keeps unsynced before
	// the older half is written back.
	maxPendingBytes = 16 << 20
	maxPendingOps   = 16 << 10
)

// changeKind is what an unsynced change does to a file.
type changeKind uint8

const (
	changeWrite   changeKind = iota // data at off
	changeExtend                    // length, zeros
	changeReserve                   // length and space, zeros
	changeCut                       // length, to less
)

// change is an unsynced change of a file.
type change struct {
	kind   changeKind
	off    int64
	length int64
	data   []byte // changeWrite: a copy, for a sector may keep an old version
	size   int64  // of the file afterwards
}

// inode is a file. Names point to it; it lives on while it is open.
type inode struct {
	links   int // names in the volatile tree; guarded by FS.mu
	handles int // open ones; guarded by FS.mu
	locked  bool

	mu       sync.RWMutex
	durable  image
	volatile image
	pending  []change
	unsynced int64 // bytes in pending
	// lost are the sectors that a failed Sync left in the volatile image alone,
	// clean, so that no later Sync writes them; failed is the volatile image of
	// that moment, nil without one.
	lost   map[int64]bool
	failed *image
}

// apply carries a change out on an image.
func (c *change) apply(m *image) {
	switch c.kind {
	case changeWrite:
		m.writeAt(c.data, c.off)
	case changeReserve:
		m.reserve(c.off, c.length)
	case changeExtend, changeCut:
		m.truncate(c.size)
	}
}

// note adds a change that was made to the volatile image.
func (n *inode) note(c change) {
	c.size = n.volatile.size
	n.pending = append(n.pending, c)
	n.unsynced += int64(len(c.data))
	if n.unsynced > maxPendingBytes || len(n.pending) > maxPendingOps {
		n.writeBack(len(n.pending) / 2)
	}
}

// writeBack makes the first changes durable.
func (n *inode) writeBack(count int) {
	for i := range n.pending[:count] {
		c := &n.pending[i]
		n.unsynced -= int64(len(c.data))
		if len(n.lost) > 0 {
			n.settle(c)
			continue
		}
		c.apply(&n.durable)
	}
	n.pending = append([]change(nil), n.pending[count:]...)
}

// sync makes the volatile image durable, by sharing the pages that changed, but
// for what an earlier failed one lost.
func (n *inode) sync() {
	for i := range n.pending {
		c := &n.pending[i]
		switch {
		case len(n.lost) > 0:
			n.settle(c)
		case c.kind == changeCut || c.kind == changeExtend:
			n.durable.truncate(c.size)
		default:
			n.volatile.share(&n.durable, c.off/pageSize, (c.off+c.length+pageSize-1)/pageSize)
		}
	}
	n.durable.truncate(n.volatile.size)
	n.durable.pages = n.durable.pages[:min(len(n.durable.pages), len(n.volatile.pages))]
	clear(n.pending)
	n.pending, n.unsynced = n.pending[:0], 0
}

// failSync is a Sync that failed, as Linux does it: the kernel could not write the
// data, says so once, and takes the pages for clean. They can still be read, and
// no later Sync writes them, unless they are written to again. Lengths are the
// journal's, and stay to be synced.
func (n *inode) failSync() {
	if n.lost == nil {
		n.lost = make(map[int64]bool)
	}
	kept, size := n.pending[:0], n.durable.size
	for _, c := range n.pending {
		if c.kind == changeWrite {
			c.sectors(func(s int64) { n.lost[s] = true })
			c = change{kind: changeExtend, off: c.size, size: c.size}
		}
		if c.kind != changeExtend || c.size != size {
			kept = append(kept, c)
		}
		size = c.size
	}
	clear(n.pending[len(kept):])
	n.pending, n.unsynced = kept, 0
	failed := n.volatile.clone()
	n.failed = &failed
}

// settle makes one change durable and nothing else: sectors that are written to go
// to the disk whole.
func (n *inode) settle(c *change) {
	switch c.kind {
	case changeWrite:
		c.sectors(func(s int64) {
			n.volatile.copySector(&n.durable, s)
			delete(n.lost, s)
		})
	case changeReserve:
		n.durable.reserve(c.off, c.length)
	case changeExtend, changeCut:
		n.durable.truncate(c.size)
		for s := range n.lost {
			if c.kind == changeCut && s*sectorSize >= c.size {
				delete(n.lost, s) // zeros, here and there
			}
		}
	}
}

// sectors visits the sectors of a write.
func (c *change) sectors(visit func(sector int64)) {
	for s := c.off / sectorSize; s*sectorSize < c.off+c.length; s++ {
		visit(s)
	}
}
