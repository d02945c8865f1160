package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/cmd/internal/checker"
)

// load produces the events, as fast as the cluster takes them.
type load struct {
	client  *client.Client
	corpus  *corpus
	count   int
	checker *checker.Checker
	gaps    *checker.Gaps

	acknowledged atomic.Int64
	bytes        atomic.Int64 // keys and values acknowledged
	began, ended time.Time    // of run; read after it

	mu     sync.Mutex
	failed error
	marks  []mark // wait for a number of acknowledgements
}

// mark is closed when so many events are acknowledged.
type mark struct {
	at      int64
	reached chan struct{}
}

func newLoad(c *client.Client, corpus *corpus, count int, check *checker.Checker, gaps *checker.Gaps) *load {
	return &load{client: c, corpus: corpus, count: count, checker: check, gaps: gaps}
}

// run produces everything and waits for the acknowledgements.
func (l *load) run(ctx context.Context) error {
	l.began = time.Now()
	seqs := make([]uint64, len(l.corpus.keys))
	for id := range uint64(l.count) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// A fixed mix of the keys: a big step that shares no factor with their
		// number, so that neighbours differ.
		key := uint32(id * 7919 % uint64(len(seqs)))
		e := checker.Event{ID: id, Key: key, Seq: seqs[key]}
		seqs[key]++
		l.client.ProduceAsync(ctx, l.corpus.event(e), func(r *client.Record, err error) { l.done(e, r, err) })
	}
	if err := l.client.Flush(ctx); err != nil {
		return err
	}
	l.ended = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (l *load) done(e checker.Event, r *client.Record, err error) {
	if err != nil {
		l.checker.Failed(e, false)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.failed == nil {
			l.failed = fmt.Errorf("event %d was not acknowledged: %w", e.ID, err)
		}
		return
	}
	l.checker.Acknowledged(e, r.Partition, r.Offset)
	l.gaps.Acknowledged(r.Partition, time.Now())
	l.bytes.Add(int64(len(r.Key) + len(r.Value)))
	n := l.acknowledged.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.marks) > 0 && l.marks[0].at <= n {
		close(l.marks[0].reached)
		l.marks = l.marks[1:]
	}
}

// reached is closed once n events are acknowledged. Only one may be waited for
// at a time, with growing n.
func (l *load) reached(n int64) <-chan struct{} {
	m := mark{at: n, reached: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acknowledged.Load() >= n {
		close(m.reached)
	} else {
		l.marks = append(l.marks, m)
	}
	return m.reached
}
