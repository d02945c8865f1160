package main

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/millrace/millrace/cmd/internal/durability"
)

// progressInterval is how often a line of progress is printed.
const progressInterval = 10 * time.Second

func (s *soak) progress() { fmt.Println(s.progressLine()) }

// progressLine says how far the run is.
func (s *soak) progressLine() string {
	counts := s.ledger.Counts()
	elapsed := time.Since(s.began)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return fmt.Sprintf("  %6s  %9d acknowledged (%d/s)  %d refused  %d unknown  %d kills  memory %d MB",
		elapsed.Round(time.Second), counts.Acknowledged, int64(float64(counts.Acknowledged)/elapsed.Seconds()),
		counts.Refused, counts.Unknown, s.kills, m.HeapAlloc>>20)
}

// summary prints what was done and how long writes paused for it, and returns the
// last line.
func (s *soak) summary(counts durability.Counts) string {
	slowest := time.Duration(0)
	for _, name := range slices.Sorted(maps.Keys(s.resumes)) {
		took := slices.Sorted(slices.Values(s.resumes[name]))
		longest := took[len(took)-1]
		slowest = max(slowest, longest)
		fmt.Printf("  %4d times  %-58s writes went on after %5d ms (median), %5d ms (longest)\n",
			len(took), name, took[len(took)/2].Milliseconds(), longest.Milliseconds())
	}
	return fmt.Sprintf("soak: ok seed=%d seconds=%d kills=%d acknowledged=%d refused=%d unknown=%d lost=0 duplicated=0 conflicting=0 slowest_resume_ms=%d longest_gap_ms=%d",
		s.seed, int(time.Since(s.began).Seconds()), s.kills, counts.Acknowledged, counts.Refused, counts.Unknown,
		slowest.Milliseconds(), s.load.Gaps().Longest().Milliseconds())
}
