//go:build unix && !linux

package localcluster

import "syscall"

// processAttributes is as on Linux, without the signal at this process's death.
func processAttributes(detached bool) *syscall.SysProcAttr {
	if detached {
		return &syscall.SysProcAttr{Setsid: true}
	}
	return &syscall.SysProcAttr{Setpgid: true}
}
