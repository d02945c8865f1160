//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace/millrace/cmd/internal/durability"
)

func killLeaders(ctx context.Context, s *stage) error {
	for i := range 8 {
		n, err := s.leader(ctx, topic, i%partitions)
		if err != nil {
			return err
		}
		if err := s.cluster.Kill(n); err != nil {
			return err
		}
		s.resumed(ctx, time.Now(), "SIGKILL of a leader")
		rest(ctx, time.Second)
		if err := s.restart(ctx, n); err != nil {
			return err
		}
		if missing := s.waitInStep(ctx); missing != "" {
			return errors.New(missing)
		}
	}
	return nil
}

func killAll(ctx context.Context, s *stage) error {
	for range 4 {
		var ending sync.WaitGroup
		errs := make([]error, s.cluster.Nodes())
		for i := range errs {
			ending.Go(func() { errs[i] = s.cluster.Kill(i + 1) })
		}
		ending.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		for _, i := range s.rng.Perm(s.cluster.Nodes()) {
			if err := s.cluster.StartNode(i + 1); err != nil {
				return err
			}
			rest(ctx, time.Duration(s.rng.IntN(300))*time.Millisecond)
		}
		for _, n := range s.others() {
			if err := s.cluster.WaitReady(ctx, n); err != nil {
				return err
			}
		}
		s.resumed(ctx, time.Now(), "all brokers are ready again")
		rest(ctx, 500*time.Millisecond)
	}
	return nil
}

// pausedMajorities is the recipe that made another system serve two histories: each
// majority of five knows only what it saw itself.
func pausedMajorities(ctx context.Context, s *stage) error {
	for range 2 {
		order := s.rng.Perm(5)
		a, b, c, d, e := order[0]+1, order[1]+1, order[2]+1, order[3]+1, order[4]+1
		if err := errors.Join(s.pause(a), s.pause(b)); err != nil {
			return err
		}
		rest(ctx, 2*time.Second)
		if err := s.cluster.Kill(c); err != nil {
			return err
		}
		if err := errors.Join(s.resume(a), s.resume(b), s.pause(d), s.pause(e)); err != nil {
			return err
		}
		rest(ctx, 4*time.Second) // a and b alone are no majority
		if err := s.cluster.StartNode(c); err != nil {
			return err
		}
		s.resumed(ctx, time.Now(), "the killed broker makes a majority with two old ones")
		if err := errors.Join(s.resume(d), s.resume(e)); err != nil {
			return err
		}
		if missing := s.waitInStep(ctx); missing != "" {
			return errors.New(missing)
		}
	}
	return nil
}

func killWhileRecovering(ctx context.Context, s *stage) error {
	n, err := s.leader(ctx, topic, 0)
	if err != nil {
		return err
	}
	if err := s.cluster.Kill(n); err != nil {
		return err
	}
	s.resumed(ctx, time.Now(), "SIGKILL of a leader")
	before, err := s.elections(ctx)
	if err != nil {
		return err
	}
	for range 20 {
		if err := s.cluster.StartNode(n); err != nil {
			return err
		}
		rest(ctx, time.Duration(1+s.rng.IntN(150))*time.Millisecond)
		if err := s.cluster.Kill(n); err != nil {
			return err
		}
	}
	after, err := s.elections(ctx)
	if err != nil {
		return err
	}
	s.needless(after-before, "a broker was killed again and again")
	return s.restart(ctx, n)
}

func stopLeaders(ctx context.Context, s *stage) error {
	for i := range 6 {
		n, err := s.leader(ctx, topic, i%partitions)
		if err != nil {
			return err
		}
		began := time.Now()
		stopping, cancel := context.WithTimeout(ctx, stopLimit)
		err = s.cluster.Stop(stopping, n)
		cancel()
		if err != nil {
			return err
		}
		s.note("SIGTERM to exit", time.Since(began))
		s.resumed(ctx, time.Now(), "the exit of a leader that was stopped")
		if err := s.restart(ctx, n); err != nil {
			return err
		}
		if missing := s.waitInStep(ctx); missing != "" {
			return errors.New(missing)
		}
	}
	return nil
}

// killCoordinators kills whoever keeps the group's positions, which are watched all
// the time: a position that was acknowledged never goes back.
func killCoordinators(ctx context.Context, s *stage) error {
	for range 6 {
		n, err := s.coordinator(ctx)
		if err != nil {
			return err
		}
		if err := s.cluster.Kill(n); err != nil {
			return err
		}
		since, before := time.Now(), s.crowd.Group.CommittedSum()
		for s.crowd.Group.CommittedSum() <= before {
			if !rest(ctx, 10*time.Millisecond) {
				s.faults.Add(durability.LV, "no position was committed after SIGKILL of the coordinator")
				return ctx.Err()
			}
		}
		s.note("commits go on after SIGKILL of the coordinator", time.Since(since))
		if err := s.restart(ctx, n); err != nil {
			return err
		}
		rest(ctx, 500*time.Millisecond)
	}
	return nil
}

// coordinator is the broker that keeps the group's positions.
func (s *stage) coordinator(ctx context.Context) (int, error) {
	waiting, cancel := context.WithTimeout(ctx, leaderLimit)
	defer cancel()
	for {
		found := s.admin.FindGroupCoordinators(waiting, group)
		n := int(found[group].NodeID)
		if found[group].Err == nil && n >= 1 && n <= s.cluster.Nodes() && s.crowd.Group.CommittedSum() > 0 {
			return n, nil
		}
		if !rest(waiting, 50*time.Millisecond) {
			return 0, fmt.Errorf("the group has no coordinator, or has committed nothing: %w", errors.Join(waiting.Err(), found[group].Err))
		}
	}
}

func rollingRestart(ctx context.Context, s *stage) error {
	for range 6 {
		for _, n := range s.others() {
			stopping, cancel := context.WithTimeout(ctx, stopLimit)
			err := s.cluster.Stop(stopping, n)
			cancel()
			if err != nil {
				return err
			}
			s.resumed(ctx, time.Now(), "the exit of a broker in a rolling restart")
			if err := s.restart(ctx, n); err != nil {
				return err
			}
			if missing := s.waitInStep(ctx); missing != "" {
				return errors.New(missing)
			}
		}
	}
	return nil
}
