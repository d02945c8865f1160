package simulation

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// trace is what happened in a run, in order, by the virtual clock.
type trace struct {
	began time.Time

	mu    sync.Mutex
	lines []string
}

// newTrace begins one; it must be called in the run's bubble.
func newTrace() *trace { return &trace{began: time.Now()} }

// add notes an event.
func (t *trace) add(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, fmt.Sprintf("%9.3fs  ", time.Since(t.began).Seconds())+fmt.Sprintf(format, args...))
}

// String is the whole of it, a line an event.
func (t *trace) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
