package main

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

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

// TestInterrupt: Ctrl-C ends everything, and leaves no folder.
func TestInterrupt(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	o := options{binary: testbinary.Build(t), duration: time.Minute, kills: 1_000, records: 1_000_000, limit: time.Minute, seed: 1}
	if line, err := run(ctx, o); err == nil {
		t.Errorf("%q", line)
	}
}
