package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// isNoSpace recognises a full disk and a used-up quota.
func isNoSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

// lockFile locks the first byte of the file.
func lockFile(file *os.File) error {
	err := windows.LockFileEx(windows.Handle(file.Fd()),
		windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return ErrLocked
	}
	return err
}

// syncDir does nothing: NTFS journals names, and a directory cannot be flushed.
// Windows is for development; nothing is promised about its power cuts.
func syncDir(dir string) error {
	_, err := os.Stat(dir)
	return err
}
