package vfs

import "errors"

// Errors of the seam. Test with errors.Is.
var (
	// ErrNoSpace is a write, create or preallocation refused for lack of space
	// or quota (ENOSPC, EDQUOT). It says nothing bad about what is stored.
	ErrNoSpace = errors.New("no space left on the device")
	// ErrLocked is a Lock that another process, or another FS user, holds.
	ErrLocked = errors.New("locked by another process")
	// ErrTooLarge is a file that ReadFile finds longer than its limit.
	ErrTooLarge = errors.New("file too large")
)
