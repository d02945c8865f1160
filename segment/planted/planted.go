// Package planted names bugs that can be put into the product on purpose, to see
// whether the simulator's oracle finds them (cmd/internal/simulation).
//
// In every ordinary build they are constants that are false, and the compiler
// leaves out what stands behind them. Built with the tag plantedbug, the one that
// the environment variable MILLRACE_PLANTED_BUG names is on. No release is built
// with that tag.
package planted

// Variable is the environment variable that names the bug.
const Variable = "MILLRACE_PLANTED_BUG"

// Names of the bugs, in the order of the simulator's table.
const (
	// NameNoCommitClamp: a follower takes the leader's commit index as it comes, and
	// applies entries of its own that the leader never had (DESIGN 4.3 a).
	NameNoCommitClamp = "commit-clamp-off"
	// NameNoSync: an append returns without having synced the segment.
	NameNoSync = "sync-left-out"
	// NameCheckBeforeApply: a batch's sequence is judged when it is handed to raft,
	// not where it gets its place in the log (DESIGN 4.2).
	NameCheckBeforeApply = "check-before-apply"
	// NameNoIncarnation: a replica whose folder or vote record is gone is made anew
	// and speaks for its old self (DESIGN 4.4).
	NameNoIncarnation = "incarnation-check-off"
)
