package log

import (
	"container/list"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/millrace/millrace/segment"
)

// defaultFiles is how many segments a log without a FileCache keeps open.
const defaultFiles = 16

// FileCache bounds how many sealed segments the logs of a node keep open. Those
// in use are never closed, so that there may be more for a while; of the others
// the one that was not used for longest is closed first. All methods may be
// called concurrently.
type FileCache struct {
	limit int

	mu   sync.Mutex
	open int        // handles that count: not those being written
	idle *list.List // of *handle without users; the back was used last
}

// NewFileCache makes a cache of at most limit open segments (two descriptors
// each).
func NewFileCache(limit int) *FileCache {
	return &FileCache{limit: limit, idle: list.New()}
}

// part is one segment of a log, as long as the log has it.
type part struct {
	base   segment.Offset
	index  segment.Index // of its first entry
	header *segment.FileHeader
	checks segment.Checks
	// sealed is set once the segment is closed, and unset if a cut opens it again.
	sealed atomic.Bool

	// modified is when the file of frames was changed last as Open found it, in
	// milliseconds since 1970.
	modified int64

	// opening keeps two readers from opening the same files, and one from opening
	// them while they are removed.
	opening sync.Mutex
	// handle is the open segment, gone says that it was trimmed; both are guarded by
	// FileCache.mu.
	handle *handle
	gone   bool
}

// handle is an open segment with users. Its fields are guarded by FileCache.mu
// but for reader and written, which do not change.
type handle struct {
	reader  *segment.Reader
	written bool // opened by the writer, so that its index may need a sync
	users   int
	dropped bool // closed when the last user is gone
	counted bool // part of FileCache.open
	place   *list.Element
}

// acquire opens a segment, or finds it open, and keeps it open until release.
func (c *FileCache) acquire(l *Log, p *part) (*handle, error) {
	if h := c.use(p); h != nil {
		return h, nil
	}
	p.opening.Lock()
	defer p.opening.Unlock()
	if h := c.use(p); h != nil {
		return h, nil
	}
	l.mu.RLock()
	header, closed := p.header, l.closed
	l.mu.RUnlock()
	if c.isGone(p) {
		return nil, errTrimmed
	}
	if closed || header.Seal == nil {
		return nil, ErrClosed // a segment being written has a handle until it is closed or cut
	}
	reader, err := segment.OpenReader(l.options.FS, l.options.Dir, header)
	if err != nil {
		return nil, l.corruption(fmt.Errorf("open segment %d: %w", p.base, err))
	}
	c.mu.Lock()
	if p.gone { // meanwhile: nobody would close it
		c.mu.Unlock()
		return nil, errors.Join(errTrimmed, reader.Close())
	}
	h := &handle{reader: reader, users: 1, counted: true}
	p.handle = h
	c.open++
	stale := c.evictLocked()
	c.mu.Unlock()
	closeAll(stale)
	return h, nil
}

// use adds a user to an open handle.
func (c *FileCache) use(p *part) *handle {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := p.handle
	if h == nil || h.dropped {
		return nil
	}
	if h.place != nil {
		c.idle.Remove(h.place)
		h.place = nil
	}
	h.users++
	return h
}

// release is the end of one use.
func (c *FileCache) release(h *handle) {
	c.mu.Lock()
	h.users--
	var stale []*handle
	switch {
	case h.users > 0:
	case h.dropped:
		stale = append(stale, h)
	default:
		if !h.counted { // its writer has sealed it
			h.counted = true
			c.open++
		}
		h.place = c.idle.PushBack(h)
		stale = c.evictLocked()
	}
	c.mu.Unlock()
	closeAll(stale)
}

// adopt makes a writer's files the open handle of its segment, with the writer as
// a user.
func (c *FileCache) adopt(p *part, reader *segment.Reader) *handle {
	h := &handle{reader: reader, written: true, users: 1}
	c.mu.Lock()
	p.handle = h
	c.mu.Unlock()
	return h
}

// drop forgets a segment's handle: its files are closed when nobody uses them any
// more.
func (c *FileCache) drop(p *part) {
	c.mu.Lock()
	h := p.handle
	p.handle = nil
	var stale []*handle
	if h != nil && !h.dropped { // else evictLocked was first
		h.dropped = true
		if h.counted {
			c.open--
		}
		if h.place != nil {
			c.idle.Remove(h.place)
			h.place = nil
			stale = append(stale, h)
		}
	}
	c.mu.Unlock()
	closeAll(stale)
}

// retire forgets a segment that was trimmed: who uses its files goes on, and nobody
// opens them again.
func (c *FileCache) retire(p *part) {
	c.mu.Lock()
	p.gone = true
	c.mu.Unlock()
	c.drop(p)
}

func (c *FileCache) isGone(p *part) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return p.gone
}

// evictLocked takes out handles that are one too many; the caller closes them.
func (c *FileCache) evictLocked() []*handle {
	var stale []*handle
	for c.open > c.limit && c.idle.Len() > 0 {
		h := c.idle.Remove(c.idle.Front()).(*handle)
		h.place, h.dropped = nil, true // its part opens the files again
		c.open--
		stale = append(stale, h)
	}
	return stale
}

// closeAll closes handles without users. Nothing was written through them that
// was not synced, so an error of close says nothing.
func closeAll(handles []*handle) {
	for _, h := range handles {
		_ = h.reader.Close()
	}
}
