//go:build linux

package main

import (
	"context"
	"time"

	"github.com/millrace/millrace/cmd/internal/durability"
)

// needlessLimit is how many elections a fault may cause that leaves a majority in
// reach of its leader, in all partitions together.
const needlessLimit = 1

// needless judges elections that nothing made necessary.
func (s *stage) needless(elections int, during string) {
	s.tell("elections in all partitions while "+during, "%d", elections)
	if elections > needlessLimit {
		s.faults.Add(durability.CE, "%d elections while %s", elections, during)
	}
}

func isolatedLeader(ctx context.Context, s *stage) error {
	for i := range 3 {
		n, err := s.leader(ctx, topic, i)
		if err != nil {
			return err
		}
		links := apart([]int{n}, s.others(n))
		since := time.Now()
		if err := s.world.lose(100, links...); err != nil {
			return err
		}
		if _, err := s.leader(ctx, topic, i, n); err != nil {
			return err
		}
		s.note("another leader after the cut", time.Since(since))
		s.resumed(ctx, since, "the leader was cut off")
		rest(ctx, 3*time.Second)
		if err := s.world.lose(0, links...); err != nil {
			return err
		}
		rest(ctx, time.Second)
		if missing := s.waitInStep(ctx); missing != "" {
			s.faults.Add(durability.LV, "%s", missing)
		}
	}
	return nil
}

func partialCut(ctx context.Context, s *stage) error {
	for i := range 3 {
		a, b := 1+i, 1+(i+1)%3
		since := time.Now()
		if err := s.world.lose(100, both(a, b)...); err != nil {
			return err
		}
		s.resumed(ctx, since, "two brokers lost sight of each other")
		rest(ctx, 3*time.Second)
		before, err := s.elections(ctx)
		if err != nil {
			return err
		}
		rest(ctx, 4*time.Second)
		after, err := s.elections(ctx)
		if err != nil {
			return err
		}
		s.tell("elections in 4 s behind the first 3", "%d", after-before)
		if err := s.world.lose(0, both(a, b)...); err != nil {
			return err
		}
	}
	return nil
}

func oneWayCuts(ctx context.Context, s *stage) error {
	for a := 1; a <= 3; a++ {
		for b := 1; b <= 3; b++ {
			if a == b {
				continue
			}
			since := time.Now()
			if err := s.world.lose(100, link{a, b}); err != nil {
				return err
			}
			s.resumed(ctx, since, "one direction was cut")
			rest(ctx, 2*time.Second)
			if err := s.world.lose(0, link{a, b}); err != nil {
				return err
			}
			rest(ctx, 500*time.Millisecond)
		}
	}
	return nil
}

func flappingLink(ctx context.Context, s *stage) error {
	leader, err := s.leader(ctx, topic, 0)
	if err != nil {
		return err
	}
	links := both(leader, s.others(leader)[0])
	for range 15 {
		if err := s.world.lose(100, links...); err != nil {
			return err
		}
		rest(ctx, time.Second)
		if err := s.world.lose(0, links...); err != nil {
			return err
		}
		rest(ctx, time.Second)
	}
	return nil
}

func movingMinority(ctx context.Context, s *stage) error {
	for i := range 6 {
		n := 1 + i%3
		links := apart([]int{n}, s.others(n))
		since := time.Now()
		if err := s.world.lose(100, links...); err != nil {
			return err
		}
		s.resumed(ctx, since, "the minority moved")
		rest(ctx, 4*time.Second)
		if err := s.world.lose(0, links...); err != nil {
			return err
		}
		rest(ctx, 300*time.Millisecond) // the next majority has hardly met
	}
	return nil
}

func farApart(ctx context.Context, s *stage) error {
	for _, p := range s.proxies {
		p.set(weather{delay: 50 * time.Millisecond, jitter: 25 * time.Millisecond})
	}
	rest(ctx, 5*time.Second) // what the change itself does is not counted
	before, err := s.elections(ctx)
	if err != nil {
		return err
	}
	for _, p := range s.proxies {
		p.set(weather{delay: 100 * time.Millisecond, jitter: 50 * time.Millisecond, loss: 5})
	}
	rest(ctx, 45*time.Second)
	after, err := s.elections(ctx)
	if err != nil {
		return err
	}
	s.needless(after-before, "the brokers were far apart")
	return nil
}

func flippedBytes(ctx context.Context, s *stage) error {
	for _, p := range s.proxies {
		p.set(weather{flips: 2_000})
	}
	rest(ctx, 25*time.Second)
	flips := int64(0)
	for _, p := range s.proxies {
		p.set(weather{})
		flips += p.flipped.Load()
	}
	s.tell("bits flipped between brokers", "%d", flips)
	if flips == 0 {
		s.faults.Add(durability.CE, "no bit was flipped: nothing was shown")
	}
	return nil
}

func silentMachine(ctx context.Context, s *stage) error {
	for i := range 3 {
		n, err := s.leader(ctx, topic, i)
		if err != nil {
			return err
		}
		since := time.Now()
		if err := s.plug(n, false); err != nil {
			return err
		}
		if _, err := s.leader(ctx, topic, i, n); err != nil {
			return err
		}
		s.note("another leader after a broker fell silent", time.Since(since))
		s.resumed(ctx, since, "a broker fell silent")
		rest(ctx, 3*time.Second)
		if err := s.plug(n, true); err != nil {
			return err
		}
		if missing := s.waitInStep(ctx); missing != "" {
			s.faults.Add(durability.LV, "%s", missing)
		}
	}
	return nil
}

// cutClients needs nothing but time: every connection of the load is brittle.
func cutClients(ctx context.Context, s *stage) error {
	rest(ctx, 20*time.Second)
	return nil
}
