//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// pausedLeader stops a leader for 30 s. When it goes on it does not know that it was
// away: the watches, which ask every broker, must not be told anything old.
func pausedLeader(ctx context.Context, s *stage) error {
	n, err := s.leader(ctx, topic, 0)
	if err != nil {
		return err
	}
	since := time.Now()
	if err := s.pause(n); err != nil {
		return err
	}
	if _, err := s.leader(ctx, topic, 0, n); err != nil {
		return err
	}
	s.note("another leader after the pause began", time.Since(since))
	s.resumed(ctx, since, "a leader was paused")
	rest(ctx, 30*time.Second-time.Since(since))
	if err := s.resume(n); err != nil {
		return err
	}
	rest(ctx, 3*time.Second)
	return nil
}

func pauseAll(ctx context.Context, s *stage) error {
	for _, n := range s.others() {
		if err := s.pause(n); err != nil {
			return err
		}
	}
	rest(ctx, time.Minute)
	since := time.Now()
	for _, n := range s.others() {
		if err := s.resume(n); err != nil {
			return err
		}
	}
	s.resumed(ctx, since, "all brokers were paused")
	return nil
}

// starved puts all brokers on one core, with as many busy threads beside them as
// there are brokers.
func starved(ctx context.Context, s *stage) error {
	before, err := s.elections(ctx)
	if err != nil {
		return err
	}
	for _, n := range s.others() {
		if err := pinAll(s.cluster.Pid(n), 0); err != nil {
			return err
		}
	}
	busy, stop := context.WithTimeout(ctx, 40*time.Second)
	defer stop()
	var neighbours sync.WaitGroup
	for range s.cluster.Nodes() {
		neighbours.Go(func() { burn(busy, 0) })
	}
	neighbours.Wait()
	after, err := s.elections(ctx)
	if err != nil {
		return err
	}
	s.needless(after-before, "one core had to do for everything")
	return nil
}

// pinAll binds all threads of a process to one core.
func pinAll(pid, core int) error {
	var set unix.CPUSet
	set.Set(core)
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return fmt.Errorf("threads of process %d: %w", pid, err)
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("bind process %d to core %d: %w", pid, core, err)
		}
	}
	return nil
}

// burn keeps a core busy. The thread that is bound to it ends with it.
func burn(ctx context.Context, core int) {
	runtime.LockOSThread() // and never unlocked: the thread is of no use to others
	var set unix.CPUSet
	set.Set(core)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return
	}
	for x := uint64(1); ctx.Err() == nil; {
		for range 100_000 {
			x = x*6364136223846793005 + 1
		}
	}
}
