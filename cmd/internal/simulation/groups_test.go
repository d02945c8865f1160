package simulation

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestPositionModel: each history but the first three breaks one rule.
func TestPositionModel(t *testing.T) {
	for name, c := range map[string]struct {
		tell  func(h *positionHistory, now func() int64)
		legal bool
	}{
		"commits and fetches": {func(h *positionHistory, now func() int64) {
			h.fetched(1, now(), -1)
			h.committed(2, now(), 5, true)
			h.fetched(1, now(), 5)
			h.committed(2, now(), 3, true) // a consumer may go back
			h.fetched(1, now(), 3)
		}, true},
		"an unanswered commit that happens later": {func(h *positionHistory, now func() int64) {
			h.committed(2, now(), 5, false)
			h.fetched(1, now(), -1)
			h.committed(2, now(), 6, true)
			h.fetched(1, now(), 5)
		}, true},
		"an unanswered commit that nobody sees": {func(h *positionHistory, now func() int64) {
			h.committed(2, now(), 5, false)
			h.fetched(1, now(), -1)
		}, true},
		"a commit that is lost": {func(h *positionHistory, now func() int64) {
			h.committed(2, now(), 5, true)
			h.fetched(1, now(), -1)
		}, false},
		"a stale fetch": {func(h *positionHistory, now func() int64) {
			h.committed(2, now(), 5, true)
			h.committed(2, now(), 6, true)
			h.fetched(1, now(), 5)
		}, false},
		"a position that goes back by itself": {func(h *positionHistory, now func() int64) {
			h.committed(2, now(), 5, true)
			h.committed(2, now(), 6, false)
			h.fetched(1, now(), 6)
			h.fetched(1, now(), 5)
		}, false},
		"a position of nobody": {func(h *positionHistory, now func() int64) {
			h.committed(2, now(), 5, true)
			h.fetched(1, now(), 7)
		}, false},
		"a position before it was committed": {func(h *positionHistory, now func() int64) {
			h.fetched(1, now(), 5)
			h.committed(2, now(), 5, true)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := &positionHistory{history: newHistory(new(atomic.Int64))}
			c.tell(h, func() int64 { return h.clock.Add(1) })
			if _, err := h.linearizable(time.Minute); (err == nil) != c.legal {
				t.Errorf("legal: %v, porcupine says %v", c.legal, err)
			}
		})
	}
}
