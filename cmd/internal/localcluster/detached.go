package localcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// startDetached starts a node that outlives this process, unless it runs.
func (c *Cluster) startDetached(n int) error {
	if c.detachedPid(n) != 0 {
		return nil
	}
	command, err := c.launch(n)
	if err != nil {
		return err
	}
	pid := command.Process.Pid
	if err := os.WriteFile(c.pidFile(n), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		command.Process.Kill()
		command.Wait()
		return fmt.Errorf("note process of node %d: %w", n, err)
	}
	go command.Wait() // so that a node that fails at once is no zombie here
	return nil
}

// detachedPid is the process of a node, 0 if there is none. A process id can
// belong to somebody else by now; where the system tells command lines, the one
// of a node names its data folder.
func (c *Cluster) detachedPid(n int) int {
	text, err := os.ReadFile(c.pidFile(n))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0
	}
	process, err := os.FindProcess(pid)
	if err != nil || process.Signal(syscall.Signal(0)) != nil {
		return 0
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err == nil && !strings.Contains(string(line), "\x00"+c.DataDir(n)+"\x00") {
		return 0
	}
	return pid
}

// StopDetached ends a detached node with SIGTERM and waits until it is gone;
// was tells whether it ran.
func (c *Cluster) StopDetached(ctx context.Context, n int) (was bool, err error) {
	pid := c.detachedPid(n)
	if pid == 0 {
		return false, c.forget(n)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return true, fmt.Errorf("find broker %d: %w", n, err)
	}
	if err := process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return true, fmt.Errorf("stop broker %d: %w", n, err)
	}
	for c.detachedPid(n) == pid {
		select {
		case <-ctx.Done():
			return true, fmt.Errorf("broker %d (process %d) did not end: %w", n, pid, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
	return true, c.forget(n)
}

func (c *Cluster) forget(n int) error {
	if err := os.Remove(c.pidFile(n)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget broker %d: %w", n, err)
	}
	return nil
}
