package localcluster

import "syscall"

// processAttributes puts a node in a process group of its own, so that Ctrl-C
// reaches this process alone, which then ends the nodes in its own order. An
// attached node gets SIGKILL when this process dies in whatever way.
func processAttributes(detached bool) *syscall.SysProcAttr {
	if detached {
		return &syscall.SysProcAttr{Setsid: true}
	}
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
