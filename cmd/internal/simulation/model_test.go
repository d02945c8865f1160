package simulation

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestModelKnowsWhatIsWrong: each history but the first two breaks one rule.
func TestModelKnowsWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		tell  func(h *history)
		legal bool
	}{
		"appends and reads": {func(h *history) {
			h.called(1, 7)
			h.called(2, 8)
			h.appended(8, 0)
			h.appended(7, 1)
			h.read(3, h.clock.Add(1), 2, 7)
		}, true},
		"a read beside an append sees it or not": {func(h *history) {
			h.called(1, 7)
			call := h.clock.Add(1)
			h.read(3, h.clock.Add(1), 1, 7)
			h.read(4, call, 0, 0)
			h.appended(7, 0)
		}, true},
		"a stale read": {func(h *history) {
			h.called(1, 7)
			h.appended(7, 0)
			h.read(3, h.clock.Add(1), 0, 0)
		}, false},
		"an offset given twice": {func(h *history) {
			h.called(1, 7)
			h.appended(7, 0)
			h.called(1, 8)
			h.appended(8, 0)
		}, false},
		"an end that goes back": {func(h *history) {
			h.called(1, 7)
			h.read(3, h.clock.Add(1), 1, 7)
			h.read(3, h.clock.Add(1), 0, 0)
			h.appended(7, 0)
		}, false},
		"another record than was appended": {func(h *history) {
			h.called(1, 7)
			h.appended(7, 0)
			h.read(3, h.clock.Add(1), 1, 9)
		}, false},
		"a record before it was sent": {func(h *history) {
			h.read(3, h.clock.Add(1), 1, 7)
			h.called(1, 7)
			h.appended(7, 0)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(new(atomic.Int64))
			c.tell(h)
			if _, err := h.linearizable(time.Minute); (err == nil) != c.legal {
				t.Errorf("legal: %v, porcupine says %v", c.legal, err)
			}
		})
	}
}

// TestUnansweredAppend: what was never answered took effect if, and where, the log
// holds it in the end, but not before it was sent.
func TestUnansweredAppend(t *testing.T) {
	for name, c := range map[string]struct {
		final map[uint64]int64
		early bool
		legal bool
	}{
		"it is there, and was read":   {map[uint64]int64{7: 0, 8: 1}, false, true},
		"it is not there, but read":   {map[uint64]int64{8: 0}, false, false},
		"it was read before its call": {map[uint64]int64{7: 0, 8: 1}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(new(atomic.Int64))
			if c.early {
				h.read(3, h.clock.Add(1), 1, 7)
			}
			h.called(1, 7)
			h.called(1, 7) // sent again: one operation
			h.read(3, h.clock.Add(1), 1, 7)
			h.called(2, 8)
			h.appended(8, 1)
			h.final = c.final
			h.complete()
			if _, err := h.linearizable(time.Minute); (err == nil) != c.legal {
				t.Errorf("legal: %v, porcupine says %v", c.legal, err)
			}
		})
	}
}
