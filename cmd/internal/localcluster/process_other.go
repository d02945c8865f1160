//go:build !unix

package localcluster

import "syscall"

// processAttributes has nothing to set here.
func processAttributes(bool) *syscall.SysProcAttr { return nil }
