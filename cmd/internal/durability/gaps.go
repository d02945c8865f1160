package durability

import (
	"context"
	"sync"
	"time"
)

// ResumeLimit is how soon writes must go on once a majority is ready.
const ResumeLimit = 5 * time.Second

// Gaps knows when each partition acknowledged something. Its methods may be called
// concurrently.
type Gaps struct {
	mu      sync.Mutex
	last    []time.Time
	longest time.Duration // between two acknowledgements of a partition
	changed chan struct{} // closed and replaced at each acknowledgement that is waited for
}

func newGaps(partitions int32) *Gaps {
	return &Gaps{last: make([]time.Time, partitions), changed: make(chan struct{})}
}

func (g *Gaps) acked(partition int32, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if last := g.last[partition]; !last.IsZero() {
		g.longest = max(g.longest, now.Sub(last))
	}
	g.last[partition] = now
	close(g.changed)
	g.changed = make(chan struct{})
}

// Longest is the longest time between two acknowledgements of a partition.
func (g *Gaps) Longest() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.longest
}

// quiet lists the partitions that have acknowledged nothing since a time, and what
// to wait for.
func (g *Gaps) quiet(since time.Time) (partitions []int, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p, last := range g.last {
		if !last.After(since) {
			partitions = append(partitions, p)
		}
	}
	return partitions, g.changed
}

// WaitResumed waits until every partition has acknowledged something since a time,
// and returns how long after it the last one did; the partitions that are still
// quiet when ctx ends.
func (g *Gaps) WaitResumed(ctx context.Context, since time.Time) (took time.Duration, quiet []int) {
	for {
		var changed <-chan struct{}
		if quiet, changed = g.quiet(since); len(quiet) == 0 {
			return time.Since(since), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return time.Since(since), quiet
		}
	}
}

// MustResume is WaitResumed with the limit of the promise LV. It goes on waiting
// behind the limit, so that what follows finds a cluster that works.
func (l *Load) MustResume(ctx context.Context, since time.Time, after string) time.Duration {
	took, quiet := l.gaps.WaitResumed(ctx, since)
	switch {
	case len(quiet) > 0 && ctx.Err() == context.DeadlineExceeded:
		l.faults.Add(LV, "%s: partitions %v still acknowledge nothing after %s", after, quiet, took.Round(time.Millisecond))
	case len(quiet) == 0 && took > ResumeLimit:
		l.faults.Add(LV, "%s: writes resumed after %s", after, took.Round(time.Millisecond))
	}
	return took
}
