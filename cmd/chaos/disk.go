//go:build linux

package main

import (
	"context"
	"time"
)

// fullDisk fills a broker's disk for a while. The others go on; the broker neither
// ends nor loses anything, and goes on by itself when there is space again.
func fullDisk(ctx context.Context, s *stage, n int) error {
	since := time.Now()
	if err := s.volumes[n-1].fill(); err != nil {
		return err
	}
	s.resumed(ctx, since, "the disk was full")
	rest(ctx, 5*time.Second)
	s.mustStayUp(n, "its disk was full")
	since = time.Now()
	if err := s.volumes[n-1].empty(); err != nil {
		return err
	}
	s.resumed(ctx, since, "the disk has space again")
	return nil
}

func fullLeader(ctx context.Context, s *stage) error {
	n, err := s.leader(ctx, topic, 0)
	if err != nil {
		return err
	}
	return fullDisk(ctx, s, n)
}

func fullFollower(ctx context.Context, s *stage) error {
	leader, err := s.leader(ctx, topic, 0)
	if err != nil {
		return err
	}
	return fullDisk(ctx, s, s.others(leader)[0])
}

// hungLeader freezes the disk of a leader: the others must lead within 3 s, although
// the broker itself answers every ping.
func hungLeader(ctx context.Context, s *stage) error {
	for i := range 3 {
		n, err := s.leader(ctx, topic, i)
		if err != nil {
			return err
		}
		since := time.Now()
		if err := s.volumes[n-1].freeze(); err != nil {
			return err
		}
		if _, err := s.leader(ctx, topic, i, n); err != nil {
			return err
		}
		s.note("another leader after the disk hung", time.Since(since))
		s.resumed(ctx, since, "the disk hung")
		rest(ctx, 5*time.Second)
		s.mustStayUp(n, "its disk hung")
		if err := s.volumes[n-1].thaw(); err != nil {
			return err
		}
		rest(ctx, 2*time.Second)
	}
	return nil
}

func hungFollower(ctx context.Context, s *stage) error {
	leader, err := s.leader(ctx, topic, 0)
	if err != nil {
		return err
	}
	n := s.others(leader)[0]
	since := time.Now()
	if err := s.volumes[n-1].freeze(); err != nil {
		return err
	}
	s.resumed(ctx, since, "the disk of a follower hung")
	rest(ctx, 30*time.Second)
	return s.volumes[n-1].thaw()
}

// slowDisks makes syncs take up to 200 ms everywhere: no reason for an election.
func slowDisks(ctx context.Context, s *stage) error {
	before, err := s.elections(ctx)
	if err != nil {
		return err
	}
	slow, stop := context.WithTimeout(ctx, 40*time.Second)
	defer stop()
	errs := make(chan error, len(s.volumes))
	for _, v := range s.volumes {
		go func() { errs <- v.slow(slow, 200*time.Millisecond, 20*time.Millisecond) }()
	}
	for range s.volumes {
		if err := <-errs; err != nil {
			return err
		}
	}
	after, err := s.elections(ctx)
	if err != nil {
		return err
	}
	s.needless(after-before, "the disks were slow")
	return nil
}
