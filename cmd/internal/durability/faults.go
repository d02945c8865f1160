package durability

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Mark names a promise, as the fault catalogue does.
type Mark string

// The promises; the package comment says what they mean.
const (
	NL Mark = "NL"
	OI Mark = "OI"
	NP Mark = "NP"
	MN Mark = "MN"
	ND Mark = "ND"
	LV Mark = "LV"
	// CE is anything else that must not be: an error that no client should get, a
	// broker that ends by itself.
	CE Mark = "CE"
)

// maxExamples bounds how many violations of a promise are described.
const maxExamples = 8

// Faults collects violations. Its methods may be called concurrently.
type Faults struct {
	mu       sync.Mutex
	counts   map[Mark]int
	examples map[Mark][]string
	first    chan struct{}
}

// NewFaults makes a collection without any.
func NewFaults() *Faults {
	return &Faults{counts: map[Mark]int{}, examples: map[Mark][]string{}, first: make(chan struct{})}
}

// Add notes a violation.
func (f *Faults) Add(m Mark, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.counts) == 0 {
		close(f.first)
	}
	f.counts[m]++
	if len(f.examples[m]) < maxExamples {
		f.examples[m] = append(f.examples[m], fmt.Sprintf(format, args...))
	}
}

// Any is closed at the first violation.
func (f *Faults) Any() <-chan struct{} { return f.first }

// Counts is how often each promise was broken.
func (f *Faults) Counts() map[Mark]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.counts)
}

// Err describes all violations, nil without one.
func (f *Faults) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.counts) == 0 {
		return nil
	}
	var b strings.Builder
	for _, m := range slices.Sorted(maps.Keys(f.counts)) {
		fmt.Fprintf(&b, "%s broken %d times:\n", m, f.counts[m])
		for _, example := range f.examples[m] {
			fmt.Fprintf(&b, "  %s\n", example)
		}
	}
	return fmt.Errorf("promises broken: %s", strings.TrimSpace(b.String()))
}
