//go:build linux || darwin

package server

import "syscall"

// fileLimit is how many files this process may have open at a time, 0 if that is
// not known. Go's runtime has raised the soft limit to the hard one at the start.
func fileLimit() int64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int64(min(limit.Cur, maxFileLimit))
}
