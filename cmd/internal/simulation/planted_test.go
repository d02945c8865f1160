//go:build plantedbug

package simulation

import (
	"os"
	"testing"

	"github.com/millrace/millrace/segment/planted"
)

// enoughForBugs is by how many seeds every planted bug must be found.
const enoughForBugs = 400

// TestPlantedBugIsFound runs seeds on a product with the bug that
// MILLRACE_PLANTED_BUG names, and wants one to fail; the oracle is the same as ever.
func TestPlantedBugIsFound(t *testing.T) {
	bug := os.Getenv(planted.Variable)
	if !planted.Chosen() {
		t.Fatalf("%s=%q names no planted bug", planted.Variable, bug)
	}
	first := max(1, *seedFlag)
	for i := range uint64(enoughForBugs) {
		if r := run(t, first+i); found(r) {
			t.Logf("%s is found after %d seeds:\n%v", bug, i+1, r.Err)
			return
		}
	}
	t.Errorf("%s is not found by %d seeds", bug, enoughForBugs)
}

// found reports whether a run shows a bug other than a reading that ends too early,
// which the product has of itself: the package comment tells of it.
func found(r *Result) bool {
	if r.broken != nil {
		return true
	}
	for _, h := range r.histories {
		appends := newHistory(h.clock)
		for _, op := range h.ops {
			if op.Input.(input).append {
				appends.ops = append(appends.ops, op)
			}
		}
		if _, err := appends.linearizable(checkLimit); err != nil {
			return true
		}
	}
	return false
}
