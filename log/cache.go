package log

import (
	"slices"
	"sync"

	"github.com/millrace/millrace/segment"
)

// TailCache keeps the frames that a node's logs appended last, for the followers
// and consumers that are close behind. It is bounded by the memory that its
// frames keep alive, not by their length, and drops the oldest first. A log adds
// frames after their sync and takes them out before CutFrom returns. All methods
// may be called concurrently; a nil cache holds nothing.
type TailCache struct {
	capacity int64

	mu    sync.Mutex
	slots map[cacheKey]uint64 // number of the slot
	ring  []cacheSlot         // in order of insertion
	first uint64              // number of ring[0]
	used  int64               // bytes kept alive
}

// cacheKey names a frame. The term is part of it: an index that was cut and
// written again holds another entry.
type cacheKey struct {
	log   *Log
	index segment.Index
	term  segment.Term
}

// cacheSlot is one frame; frame is nil after it was taken out.
type cacheSlot struct {
	key   cacheKey
	frame []byte
	cost  int64
}

const (
	// slotCost is what an entry costs besides its frame.
	slotCost = 128
	// maxShare keeps one frame from emptying the cache.
	maxShare = 4
)

// NewTailCache makes a cache of at most capacity bytes; 0 holds nothing.
func NewTailCache(capacity int64) *TailCache {
	return &TailCache{capacity: capacity, slots: map[cacheKey]uint64{}}
}

// put adds a frame that keeps backing bytes alive. A frame that is smaller than
// half of them is copied, so that a small batch does not pin the large request it
// came in.
func (c *TailCache) put(key cacheKey, frame []byte, backing int) {
	if c == nil {
		return
	}
	backing = max(backing, len(frame))
	if len(frame) < backing/2 {
		frame, backing = slices.Clone(frame), len(frame)
	}
	cost := int64(backing) + slotCost
	if cost > c.capacity/maxShare {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots[key] = c.first + uint64(len(c.ring))
	c.ring = append(c.ring, cacheSlot{key: key, frame: frame, cost: cost})
	c.used += cost
	drop := 0
	for c.used > c.capacity {
		c.clearLocked(drop)
		drop++
	}
	for drop < len(c.ring) && c.ring[drop].frame == nil {
		drop++
	}
	c.ring = c.ring[drop:] // append copies the rest to a new array in time
	c.first += uint64(drop)
}

// clearLocked empties a slot.
func (c *TailCache) clearLocked(i int) {
	slot := &c.ring[i]
	if slot.frame == nil {
		return
	}
	delete(c.slots, slot.key)
	c.used -= slot.cost
	*slot = cacheSlot{}
}

// get returns a frame, not to be changed, or nil.
func (c *TailCache) get(key cacheKey) []byte {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	number, ok := c.slots[key]
	if !ok {
		return nil
	}
	return c.ring[number-c.first].frame
}

// remove takes entries of a log out.
func (c *TailCache) remove(keys []cacheKey) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		if number, ok := c.slots[key]; ok {
			c.clearLocked(int(number - c.first))
		}
	}
}

// forget takes everything of a log out: the cache outlives it.
func (c *TailCache) forget(l *Log) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.ring {
		if c.ring[i].key.log == l {
			c.clearLocked(i)
		}
	}
}
