package checker

import (
	"sync"
	"time"
)

// Gaps finds the longest time in which a partition acknowledged nothing, between
// two acknowledgements of it. It may be used concurrently.
type Gaps struct {
	mu      sync.Mutex
	last    map[int32]time.Time
	longest time.Duration
}

// NewGaps makes one that has seen nothing.
func NewGaps() *Gaps { return &Gaps{last: map[int32]time.Time{}} }

// Acknowledged notes an acknowledgement of the partition.
func (g *Gaps) Acknowledged(partition int32, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if before, ok := g.last[partition]; ok {
		g.longest = max(g.longest, now.Sub(before))
	}
	g.last[partition] = now
}

// Longest is the longest gap that has ended.
func (g *Gaps) Longest() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.longest
}
