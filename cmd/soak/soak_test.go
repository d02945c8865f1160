package main

import (
	"context"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/cmd/internal/durability"
	"github.com/millrace/millrace/cmd/internal/testbinary"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestShortSoak is make soak in little: real processes, a few kills, every check.
func TestShortSoak(t *testing.T) {
	o := options{binary: testbinary.Build(t), duration: 5 * time.Second, kills: 2, records: 20_000, limit: 2 * time.Minute,
		seed: time.Now().UnixNano() % 1_000_000}
	line, err := run(t.Context(), o)
	if err != nil {
		t.Fatalf("seed %d: %v", o.seed, err)
	}
	if !regexp.MustCompile(`^soak: ok seed=\d+ seconds=\d+ kills=\d+ acknowledged=\d+ .*lost=0 duplicated=0`).MatchString(line) {
		t.Errorf("last line: %s", line)
	}
}

// TestSoakGivesUp: a run that cannot reach what it must is no success.
func TestSoakGivesUp(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // the data of a failure is kept
	o := options{binary: testbinary.Build(t), duration: time.Second, kills: 1_000, records: 1_000, limit: 4 * time.Second, seed: 1}
	if line, err := run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "not done after 4s") {
		t.Errorf("%q, %v", line, err)
	}
}

// TestMinimums: a run is not over before all three measures are reached, whatever
// the other two are; and make soak demands what was promised.
func TestMinimums(t *testing.T) {
	var o options
	o.define(flag.NewFlagSet("", flag.ContinueOnError))
	if o.duration < 10*time.Minute || o.kills < 100 || o.records < 10_000_000 {
		t.Errorf("make soak demands %+v", o)
	}
	for _, test := range []struct {
		elapsed time.Duration
		kills   int
		records int64
		enough  bool
	}{
		{time.Hour, 5, 3, true}, {time.Hour, 4, 3, false}, {time.Hour, 5, 2, false}, {time.Minute, 5, 3, false}, {time.Minute, 500, 300, false},
	} {
		faults := durability.NewFaults()
		s := &soak{options: options{duration: 10 * time.Minute, kills: 5, records: 3}, kills: test.kills, began: time.Now().Add(-test.elapsed),
			ledger: durability.NewLedger(1, faults)}
		load := durability.NewLoad(durability.Target{Seeds: []string{"127.0.0.1:1"}, Partitions: 1}, s.ledger, faults)
		if err := load.Producer(); err != nil { // so that its events are known
			t.Fatal(err)
		}
		for i := range test.records {
			s.ledger.Acked(durability.Event{Sequence: 1000 + i}, i)
		}
		if s.enough() != test.enough {
			t.Errorf("%+v: enough is %v", test, s.enough())
		}
		load.Close()
	}
}

// TestInterrupt: Ctrl-C ends everything, and leaves no folder.
func TestInterrupt(t *testing.T) {
	binary := testbinary.Build(t)
	for _, after := range []time.Duration{time.Millisecond, 300 * time.Millisecond, 3 * time.Second} {
		dir := t.TempDir()
		t.Setenv("TMPDIR", dir)
		ctx, cancel := context.WithTimeout(t.Context(), after)
		o := options{binary: binary, duration: time.Minute, kills: 1_000, records: 1_000_000, limit: time.Minute, seed: 1}
		if line, err := run(ctx, o); err == nil {
			t.Errorf("after %s: %q", after, line)
		}
		cancel()
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("after %s: %v is left, %v", after, left, err)
		}
	}
}
