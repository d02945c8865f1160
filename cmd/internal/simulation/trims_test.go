package simulation

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestStartModel: each history but the first three breaks one rule.
func TestStartModel(t *testing.T) {
	for name, c := range map[string]struct {
		tell  func(h *history, now func() int64)
		legal bool
	}{
		"trims and readings": {func(h *history, now func() int64) {
			h.began(1, now(), 0)
			h.trimmed(2, now(), 5, true)
			h.began(1, now(), 5)
			h.trimmed(2, now(), 3, true) // it is trimmed further already
			h.began(1, now(), 5)
		}, true},
		"a trim that is never answered happens": {func(h *history, now func() int64) {
			h.trimmed(2, now(), 5, false)
			h.began(1, now(), 0)
			h.began(1, now(), 5)
		}, true},
		"a trim that is never answered does not happen": {func(h *history, now func() int64) {
			h.trimmed(2, now(), 5, false)
			h.began(1, now(), 0)
		}, true},
		"a trim that is lost": {func(h *history, now func() int64) {
			h.trimmed(2, now(), 5, true)
			h.began(1, now(), 0)
		}, false},
		"a start that goes back": {func(h *history, now func() int64) {
			h.trimmed(2, now(), 5, false)
			h.began(1, now(), 5)
			h.began(1, now(), 0)
		}, false},
		"a start that nobody asked for": {func(h *history, now func() int64) {
			h.trimmed(2, now(), 5, true)
			h.began(1, now(), 7)
		}, false},
		"a trim before it was asked for": {func(h *history, now func() int64) {
			h.began(1, now(), 5)
			h.trimmed(2, now(), 5, true)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(new(atomic.Int64))
			c.tell(h, func() int64 { return h.clock.Add(1) })
			if _, err := h.startLinearizable(time.Minute); (err == nil) != c.legal {
				t.Errorf("legal: %v, porcupine says %v", c.legal, err)
			}
		})
	}
}

// TestTrimmedUnanswered: an append that was never answered took effect if its record
// was read before it was trimmed; a reading of nothing says nothing of the last one.
func TestTrimmedUnanswered(t *testing.T) {
	for _, read := range []bool{true, false} {
		h := newHistory(new(atomic.Int64))
		h.called(1, 7)
		if read {
			h.sawAt(7, 0)
		}
		h.read(3, h.clock.Add(1), 1, unread)
		h.called(2, 8)
		h.appended(8, 1)
		h.final = h.sightings()
		h.final[8] = 1
		h.complete()
		if _, err := h.linearizable(time.Minute); (err == nil) != read {
			t.Errorf("read before the trim: %v, porcupine says %v", read, err)
		}
	}
}
