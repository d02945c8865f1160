package checker

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// e is event id of key, with its sequence.
func e(id uint64, key uint32, seq uint64) Event { return Event{ID: id, Key: key, Seq: seq} }

func TestReport(t *testing.T) {
	tests := []struct {
		name string
		do   func(c *Checker)
		want Report
		ok   bool
	}{
		{"nothing", func(*Checker) {}, Report{}, true},
		{"acknowledged and consumed", func(c *Checker) {
			c.Acknowledged(e(0, 0, 0), 0, 0)
			c.Consumed(e(0, 0, 0), 0, 0)
		}, Report{Acknowledged: 1, Consumed: 1}, true},
		{"consumed before its acknowledgement arrives", func(c *Checker) {
			c.Consumed(e(0, 0, 0), 0, 0)
			c.Acknowledged(e(0, 0, 0), 0, 0)
		}, Report{Acknowledged: 1, Consumed: 1}, true},
		{"lost", func(c *Checker) {
			c.Acknowledged(e(0, 0, 0), 0, 0)
			c.Acknowledged(e(1, 0, 1), 0, 1)
			c.Consumed(e(1, 0, 1), 0, 1)
		}, Report{Acknowledged: 2, Consumed: 1, Lost: 1}, false},
		{"redelivered from the same offset", func(c *Checker) {
			c.Consumed(e(0, 0, 0), 0, 0)
			c.Consumed(e(1, 0, 1), 0, 1)
			c.Consumed(e(0, 0, 0), 0, 0)
		}, Report{Consumed: 2, Redelivered: 1}, true},
		{"duplicated at another offset", func(c *Checker) {
			c.Consumed(e(0, 0, 0), 0, 0)
			c.Consumed(e(0, 0, 0), 0, 1)
		}, Report{Consumed: 1, Duplicated: 1}, false},
		{"duplicated in another partition", func(c *Checker) {
			c.Consumed(e(0, 0, 0), 0, 0)
			c.Consumed(e(0, 0, 0), 1, 0)
		}, Report{Consumed: 1, Duplicated: 1}, false},
		{"a duplicate that is redelivered counts once", func(c *Checker) {
			c.Consumed(e(0, 0, 0), 0, 0)
			c.Consumed(e(0, 0, 0), 0, 1)
			c.Consumed(e(0, 0, 0), 0, 1)
		}, Report{Consumed: 1, Duplicated: 1, Redelivered: 1}, false},
		{"out of order within a key", func(c *Checker) {
			c.Consumed(e(1, 0, 1), 0, 0)
			c.Consumed(e(0, 0, 0), 0, 1)
		}, Report{Consumed: 2, OutOfOrder: 1}, false},
		{"two keys have no order", func(c *Checker) {
			c.Consumed(e(1, 1, 1), 0, 0)
			c.Consumed(e(0, 0, 0), 0, 1)
		}, Report{Consumed: 2}, true},
		{"one offset, two values", func(c *Checker) {
			c.Consumed(e(0, 0, 0), 0, 0)
			c.Consumed(e(1, 0, 1), 0, 0)
		}, Report{Consumed: 1, Conflicting: 1}, false},
		{"read elsewhere than acknowledged", func(c *Checker) {
			c.Acknowledged(e(0, 0, 0), 0, 7)
			c.Consumed(e(0, 0, 0), 0, 8)
		}, Report{Acknowledged: 1, Consumed: 1, Conflicting: 1}, false},
		{"acknowledged elsewhere than read", func(c *Checker) {
			c.Consumed(e(0, 0, 0), 0, 8)
			c.Acknowledged(e(0, 0, 0), 0, 7)
		}, Report{Acknowledged: 1, Consumed: 1, Conflicting: 1}, false},
		{"acknowledged twice", func(c *Checker) {
			c.Acknowledged(e(0, 0, 0), 0, 0)
			c.Acknowledged(e(0, 0, 0), 0, 0)
			c.Consumed(e(0, 0, 0), 0, 0)
		}, Report{Acknowledged: 1, Consumed: 1, Conflicting: 1}, false},
		{"acknowledged, then refused, and lost", func(c *Checker) {
			c.Acknowledged(e(0, 0, 0), 0, 0)
			c.Failed(e(0, 0, 0), true)
		}, Report{Acknowledged: 1, Conflicting: 1, Lost: 1}, false},
		{"acknowledged, then unknown", func(c *Checker) {
			c.Acknowledged(e(0, 0, 0), 0, 0)
			c.Failed(e(0, 0, 0), false)
			c.Consumed(e(0, 0, 0), 0, 0)
		}, Report{Acknowledged: 1, Consumed: 1, Conflicting: 1}, false},
		{"refused, then acknowledged", func(c *Checker) {
			c.Failed(e(0, 0, 0), true)
			c.Acknowledged(e(0, 0, 0), 0, 0)
		}, Report{Refused: 1, Conflicting: 1}, false},
		{"refused and read", func(c *Checker) {
			c.Failed(e(0, 0, 0), true)
			c.Consumed(e(0, 0, 0), 0, 0)
		}, Report{Refused: 1, Consumed: 1, RefusedRead: 1}, false},
		{"read and then refused", func(c *Checker) {
			c.Consumed(e(0, 0, 0), 0, 0)
			c.Failed(e(0, 0, 0), true)
		}, Report{Refused: 1, Consumed: 1, RefusedRead: 1}, false},
		{"refused and not read", func(c *Checker) { c.Failed(e(0, 0, 0), true) }, Report{Refused: 1}, true},
		{"unknown outcomes may be read or not", func(c *Checker) {
			c.Failed(e(0, 0, 0), false)
			c.Failed(e(1, 0, 1), false)
			c.Consumed(e(1, 0, 1), 0, 0)
		}, Report{Unknown: 2, Consumed: 1}, true},
		{"absurd numbers", func(c *Checker) {
			c.Consumed(e(MaxEvents, 0, 0), 0, 0)
			c.Consumed(e(0, maxKeys, 0), 0, 0)
			c.Consumed(e(0, 0, 0), -1, 0)
			c.Consumed(e(0, 0, 0), 0, MaxEvents)
			c.Acknowledged(e(0, 0, 0), 0, -1)
			c.Failed(e(MaxEvents, 0, 0), true)
			c.Strange(0, 0, "no header")
		}, Report{Strange: 7}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := New()
			test.do(c)
			got := c.Report()
			if diff := cmp.Diff(test.want, got, cmpopts.IgnoreFields(Report{}, "Examples")); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			if got.OK() != test.ok {
				t.Errorf("OK() = %v, want %v", got.OK(), test.ok)
			}
			if !got.OK() && len(got.Examples) == 0 {
				t.Error("no example of the fault")
			}
		})
	}
}

// TestFaultlessLog: whatever a correct log and a group that re-reads do, nothing
// is reported but redeliveries; and one fault put into it is always found.
func TestFaultlessLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := New()
		count := rapid.IntRange(1, 60).Draw(t, "events")
		var log [3][]Event
		seqs := map[uint32]uint64{}
		for id := range count {
			key := rapid.Uint32Range(0, 5).Draw(t, "key")
			event := e(uint64(id), key, seqs[key])
			seqs[key]++
			log[key%3] = append(log[key%3], event)
			c.Acknowledged(event, int32(key%3), int64(len(log[key%3])-1))
		}
		skip := rapid.IntRange(-1, count-1).Draw(t, "skipped")
		redelivered := 0
		for p := range log {
			for i := 0; i < len(log[p]); i++ {
				if int(log[p][i].ID) == skip {
					continue
				}
				c.Consumed(log[p][i], int32(p), int64(i))
				if rapid.IntRange(0, 9).Draw(t, "again") == 0 {
					c.Consumed(log[p][i], int32(p), int64(i))
					redelivered++
				}
			}
		}
		got := c.Report()
		want := Report{Acknowledged: count, Consumed: count, Redelivered: redelivered}
		if skip >= 0 {
			want.Consumed, want.Lost = count-1, 1
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Report{}, "Examples")); diff != "" {
			t.Fatalf("report (-want +got):\n%s", diff)
		}
	})
}

func TestGaps(t *testing.T) {
	g := NewGaps()
	start := time.Unix(1000, 0)
	g.Acknowledged(0, start)
	g.Acknowledged(1, start.Add(5*time.Second)) // another partition: no gap of it yet
	if got := g.Longest(); got != 0 {
		t.Errorf("longest = %v before any gap", got)
	}
	g.Acknowledged(0, start.Add(2*time.Second))
	g.Acknowledged(0, start.Add(3*time.Second))
	if got := g.Longest(); got != 2*time.Second {
		t.Errorf("longest = %v, want 2s", got)
	}
}
