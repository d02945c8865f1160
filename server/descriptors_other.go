//go:build !linux && !darwin

package server

// fileLimit is how many files this process may have open at a time, 0 if that is
// not known.
func fileLimit() int64 { return 0 }
