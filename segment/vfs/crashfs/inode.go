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

	mu        sync.RWMutex
	durable   image
	volatile  image
	pending   []change
	unsynced  int64 // bytes in pending
	syncFails bool  // a Sync failed: nothing becomes durable any more
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
	if n.syncFails {
		return
	}
	for i := range n.pending[:count] {
		n.pending[i].apply(&n.durable)
		n.unsynced -= int64(len(n.pending[i].data))
	}
	n.pending = append([]change(nil), n.pending[count:]...)
}

// sync makes the volatile image durable, by sharing the pages that changed.
func (n *inode) sync() {
	if n.syncFails {
		return
	}
	for i := range n.pending {
		c := &n.pending[i]
		switch c.kind {
		case changeCut, changeExtend:
			n.durable.truncate(c.size)
		default:
			n.volatile.share(&n.durable, c.off/pageSize, (c.off+c.length+pageSize-1)/pageSize)
		}
	}
	n.durable.pages = n.durable.pages[:min(len(n.durable.pages), len(n.volatile.pages))]
	n.durable.size = n.volatile.size
	clear(n.pending)
	n.pending, n.unsynced = n.pending[:0], 0
}
