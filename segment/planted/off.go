//go:build !plantedbug

package planted

// The bugs, all off; see the names.
const (
	NoCommitClamp    = false
	NoSync           = false
	CheckBeforeApply = false
	NoIncarnation    = false
)
