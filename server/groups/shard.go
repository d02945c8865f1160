package groups

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/millrace/millrace/segment"
)

// shardState says whether a shard can answer.
type shardState int

const (
	shardLoading shardState = iota // building its memory from the log
	shardActive
	shardDeposed // the log says that another leads; until it takes a write again
	shardClosed  // resigned: for ever
)

// maxRetryDelay bounds the pause between two tries of a Load or a barrier.
const maxRetryDelay = 5 * time.Second

// shard is one partition of __consumer_offsets led in one term: its groups and
// the queue of writes to its log. One goroutine, run, loads it and then writes.
type shard struct {
	c         *Coordinator
	partition int32
	term      segment.Term
	log       *slog.Logger
	ctx       context.Context // ends with close
	cancel    context.CancelFunc
	wake      chan struct{} // capacity 1: the queue is not empty

	mu      sync.Mutex // guards everything below, and the groups
	state   shardState
	groups  map[string]*group
	queue   []*write
	queued  int               // bytes in queue and in the Append under way
	deleted map[string]uint64 // topics whose positions are still to be removed -> Topic.Created
}

func newShard(c *Coordinator, partition int32, term segment.Term) *shard {
	s := &shard{
		c: c, partition: partition, term: term,
		log:     c.cfg.Logger.With("component", "groups", "partition", partition, "term", term),
		wake:    make(chan struct{}, 1),
		groups:  make(map[string]*group),
		deleted: make(map[string]uint64),
	}
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	return s
}

// run is the life of a shard: load, write until something is unknown, and then
// start anew behind a barrier (see the package comment).
func (s *shard) run() {
	defer s.close()
	for {
		if !s.retry("load", s.load) {
			return
		}
		if !s.writeQueue() {
			return
		}
		if !s.retry("barrier", s.barrier) {
			return
		}
	}
}

// retry calls step until it succeeds. It returns false when the shard is over:
// that only the server decides, by Resign or a later Lead, because a write can also
// be refused by a leader that was about to hand over and then stayed.
func (s *shard) retry(what string, step func() error) bool {
	delay := s.c.cfg.RetryDelay
	for {
		err := step()
		if s.ctx.Err() != nil {
			return false
		}
		if err == nil {
			return true
		}
		s.unavailable(err)
		s.log.Warn("coordinator is not available, will try again", "step", what, "err", err, "delay", delay)
		clock := time.NewTimer(delay)
		select {
		case <-clock.C:
		case <-s.ctx.Done():
			clock.Stop()
			return false
		}
		delay = min(2*delay, maxRetryDelay)
	}
}

// unavailable sets what requests are told until the next try.
func (s *shard) unavailable(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state == shardClosed:
	case errors.Is(err, ErrNotCoordinator):
		s.state = shardDeposed
	default:
		s.state = shardLoading
	}
}

// barrier appends a record that changes nothing. Once it is durable in this term,
// every write proposed before it in this term is either below it in the log or
// will never be there (the order of proposals is the order of the log), so a Load
// sees all there is to see.
func (s *shard) barrier() error {
	return s.append([]segment.Record{barrierRecord(s.c.cfg.Now())})
}

// append is one Append with its deadline.
func (s *shard) append(records []segment.Record) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.c.cfg.AppendTimeout)
	defer cancel()
	return s.c.cfg.Store.Append(ctx, s.partition, s.term, records)
}

// close ends the shard: its memory goes, everything that waits is answered
// NOT_COORDINATOR, and run returns. It is idempotent.
func (s *shard) close() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == shardClosed {
		return
	}
	s.state = shardClosed
	s.dropLocked(ErrNotCoordinator, codeNotCoordinator)
}

// dropLocked forgets all memory. Queued writes end with err, waiting joins and
// syncs with code. The caller has set a state in which nothing new is let in.
func (s *shard) dropLocked(err error, code int16) {
	for _, w := range s.queue {
		w.done(err)
	}
	s.queue, s.queued = nil, 0
	for _, g := range s.groups {
		g.abandon(code)
	}
	s.groups = make(map[string]*group)
}

// group returns a group, made empty if create is set and there is none.
func (s *shard) group(id string, create bool) *group {
	g := s.groups[id]
	if g == nil && create {
		g = newGroup(s, id)
		s.groups[id] = g
	}
	return g
}

// dropIfVacant forgets a group of which nothing is in the log and nobody waits
// for: one that a refused join or commit left behind.
func (s *shard) dropIfVacant(g *group) {
	if g.vacant() && g.generation == 0 && s.groups[g.id] == g {
		g.abandon(codeUnknownMember)
		delete(s.groups, g.id)
	}
}
