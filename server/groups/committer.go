package groups

import (
	"errors"

	"github.com/millrace/millrace/segment"
)

// write is what one request adds to the log: all of it in one batch, or nothing.
type write struct {
	records []segment.Record
	size    int
	// done is called once, with the shard's lock held, in the order of the queue;
	// nil: durable. It must not block.
	done func(error)
}

// enqueue adds a write behind all others and returns nil, after which done will
// be called; or it says why not and done is not called. The shard must be active
// and its lock held.
func (s *shard) enqueue(records []segment.Record, done func(error)) error {
	w := &write{records: records, done: done}
	for _, r := range records {
		w.size += recordSize(r)
	}
	if w.size > s.c.cfg.MaxAppendBytes {
		return errTooLarge
	}
	if s.queued+w.size > s.c.cfg.MaxQueuedBytes {
		return errQueueFull
	}
	s.queue = append(s.queue, w)
	s.queued += w.size
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// writeQueue appends what is queued, as much as fits in one Append at a time:
// while one is under way the next gathers. It returns true when an outcome is
// unknown and the memory was dropped, false when the shard is over.
func (s *shard) writeQueue() bool {
	for {
		batch := s.takeBatch()
		if len(batch) == 0 {
			select {
			case <-s.wake:
				continue
			case <-s.ctx.Done():
				return false
			}
		}
		var records []segment.Record
		for _, w := range batch {
			records = append(records, w.records...)
		}
		if s.finish(batch, s.append(records)) {
			continue
		}
		return s.ctx.Err() == nil
	}
}

// takeBatch removes the head of the queue, at most MaxAppendBytes.
func (s *shard) takeBatch() []*write {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, size := 0, 0
	for n < len(s.queue) && (n == 0 || size+s.queue[n].size <= s.c.cfg.MaxAppendBytes) {
		size += s.queue[n].size
		n++
	}
	batch := s.queue[:n:n]
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	return batch
}

// finish makes a batch visible, or ends it with err. It returns false when the
// memory does not count any more. After an unknown outcome it is dropped in the
// same step: from then on no position is answered that the batch may have
// overtaken. It is dropped when the log refuses the term, too: another leader may
// have written meanwhile.
func (s *shard) finish(batch []*write, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == shardClosed && err == nil {
		// Resigned while the batch was under way. It is durable, and the memory it
		// belongs to is gone; its requests are told to ask the next coordinator.
		err = ErrNotCoordinator
	}
	for _, w := range batch {
		s.queued -= w.size
		w.done(err)
	}
	switch {
	case s.state == shardClosed:
		return false
	case err == nil:
		return true
	case errors.Is(err, ErrRefused):
		s.log.Warn("offsets log refused a write", "err", err)
		return true
	case errors.Is(err, ErrNotCoordinator):
		s.log.Warn("offsets log is led by another", "err", err)
		s.state = shardDeposed
		s.dropLocked(err, codeNotCoordinator)
	default:
		s.log.Warn("outcome of a write is unknown, loading the partition again", "err", err)
		s.state = shardLoading
		s.dropLocked(err, codeNotAvailable)
	}
	return false
}
