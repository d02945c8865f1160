//go:build plantedbug

package planted

import "os"

var chosen = os.Getenv(Variable)

// Chosen reports whether one of them is on.
func Chosen() bool { return NoCommitClamp || NoSync || CheckBeforeApply || NoIncarnation }

// The bugs; at most one is on, see the names.
var (
	NoCommitClamp    = chosen == NameNoCommitClamp
	NoSync           = chosen == NameNoSync
	CheckBeforeApply = chosen == NameCheckBeforeApply
	NoIncarnation    = chosen == NameNoIncarnation
)
