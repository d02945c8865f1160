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
		if r := run(t, first+i); r.Err != nil {
			t.Logf("%s is found after %d seeds:\n%v", bug, i+1, r.Err)
			return
		}
	}
	t.Errorf("%s is not found by %d seeds", bug, enoughForBugs)
}
