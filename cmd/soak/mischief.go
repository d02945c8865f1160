package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/cmd/internal/durability"
)

const (
	// slowResume is worth a line.
	slowResume = durability.ResumeLimit / 2
	// resumeLimit bounds the wait for writes; the promise is checked behind it.
	resumeLimit = time.Minute
	// maxDown and maxRest bound how long brokers stay down and are left alone.
	maxDown = 1500 * time.Millisecond
	maxRest = 2 * time.Second
)

// mischief is something that is done to brokers.
type mischief struct {
	name string
	// weight is how often, in relation to the others.
	weight int
	// victims is how many brokers it is done to, the leader of a partition first.
	victims int
	// kill: SIGKILL, else SIGTERM.
	kill bool
	// again: killed once more while it starts.
	again bool
}

var everyMischief = []mischief{
	{name: "SIGKILL a leader", weight: 56, victims: 1, kill: true},
	{name: "SIGKILL all three", weight: 14, victims: 3, kill: true},
	{name: "SIGKILL two", weight: 8, victims: 2, kill: true},
	{name: "SIGKILL a leader, and again while it starts", weight: 8, victims: 1, kill: true, again: true},
	{name: "SIGTERM a leader", weight: 9, victims: 1},
	{name: "SIGTERM all three", weight: 5, victims: 3},
}

// makeMischief goes on until enough has happened.
func (s *soak) makeMischief(ctx context.Context) error {
	if took, quiet := s.load.Gaps().WaitResumed(ctx, s.began); len(quiet) > 0 {
		return fmt.Errorf("partitions %v took no record in %s: %w", quiet, took, ctx.Err())
	}
	report := time.NewTicker(progressInterval)
	defer report.Stop()
	for !s.enough() {
		select {
		case <-report.C:
			s.progress()
		case <-s.faults.Any():
			return errors.New("stopped at the first broken promise")
		default:
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.one(ctx, s.draw()); err != nil {
			return err
		}
		s.rest(ctx, maxRest)
	}
	return nil
}

// enough reports whether all three measures of a run are reached.
func (s *soak) enough() bool {
	return time.Since(s.began) >= s.duration && s.kills >= s.options.kills && s.ledger.Counts().Acknowledged >= s.records
}

// draw chooses what happens next.
func (s *soak) draw() mischief {
	total := 0
	for _, m := range everyMischief {
		total += m.weight
	}
	n := s.rng.IntN(total)
	for _, m := range everyMischief {
		if n -= m.weight; n < 0 {
			return m
		}
	}
	return everyMischief[0]
}

// one does it, and brings everything back.
func (s *soak) one(ctx context.Context, m mischief) error {
	leader, err := s.leader(ctx, s.rng.IntN(partitions))
	if err != nil {
		return err
	}
	victims := []int{leader}
	for _, i := range s.rng.Perm(s.cluster.Nodes()) {
		if i+1 != leader && len(victims) < m.victims {
			victims = append(victims, i+1)
		}
	}
	if err := s.end(ctx, m, victims); err != nil {
		return err
	}
	since := time.Now()
	if m.kill {
		s.kills++
	}
	if len(victims) == 1 {
		s.resumed(ctx, since, m.name)
	}
	s.rest(ctx, maxDown)
	if m.again {
		if err := s.cluster.StartNode(victims[0]); err != nil {
			return err
		}
		s.rest(ctx, 300*time.Millisecond)
		if err := s.cluster.Kill(victims[0]); err != nil {
			return err
		}
		s.kills++
	}
	majority, err := s.start(ctx, victims)
	if err != nil {
		return err
	}
	s.resumed(ctx, majority, "restart after "+m.name)
	return nil
}

// end ends brokers at the same moment.
func (s *soak) end(ctx context.Context, m mischief, victims []int) error {
	errs := make([]error, len(victims))
	var ending sync.WaitGroup
	for i, n := range victims {
		ending.Go(func() {
			if m.kill {
				errs[i] = s.cluster.Kill(n)
				return
			}
			stopping, cancel := context.WithTimeout(ctx, stopLimit)
			defer cancel()
			errs[i] = s.cluster.Stop(stopping, n)
		})
	}
	ending.Wait()
	return firstOf(errs)
}

// start starts brokers in random order, waits until all are ready, and returns when
// a majority of the cluster was.
func (s *soak) start(ctx context.Context, down []int) (majority time.Time, err error) {
	missing := 2 - (s.cluster.Nodes() - len(down)) // of a majority
	begin := time.Now()
	for _, i := range s.rng.Perm(len(down)) {
		if err := s.cluster.StartNode(down[i]); err != nil {
			return begin, err
		}
		s.rest(ctx, 200*time.Millisecond)
	}
	ready := make(chan time.Time, len(down))
	errs := make([]error, len(down))
	var waiting sync.WaitGroup
	for i, n := range down {
		waiting.Go(func() {
			errs[i] = s.cluster.WaitReady(ctx, n)
			ready <- time.Now()
		})
	}
	waiting.Wait()
	for range missing {
		majority = <-ready
	}
	if missing <= 0 {
		majority = begin
	}
	return majority, firstOf(errs)
}

// resumed checks that writes go on in time.
func (s *soak) resumed(ctx context.Context, since time.Time, after string) {
	waiting, cancel := context.WithTimeout(ctx, resumeLimit)
	defer cancel()
	took := s.load.MustResume(waiting, since, after)
	s.resumes[after] = append(s.resumes[after], took)
	if took > slowResume {
		fmt.Printf("  %s: writes resumed after %s\n", after, took.Round(time.Millisecond))
	}
}

// leader is the node that leads a partition.
func (s *soak) leader(ctx context.Context, partition int) (int, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.cluster.Addrs()...))
	if err != nil {
		return 0, fmt.Errorf("open client: %w", err)
	}
	defer client.Close()
	waiting, cancel := context.WithTimeout(ctx, resumeLimit)
	defer cancel()
	for {
		topics, err := kadm.NewClient(client).ListTopics(waiting, topic)
		if err == nil {
			if n := int(topics[topic].Partitions[int32(partition)].Leader); n >= 1 && n <= s.cluster.Nodes() {
				return n, nil
			}
		}
		if !s.rest(waiting, 100*time.Millisecond) {
			return 0, fmt.Errorf("partition %d has no leader: %w", partition, waiting.Err())
		}
	}
}

// rest waits for a random time up to longest; false when ctx has ended.
func (s *soak) rest(ctx context.Context, longest time.Duration) bool {
	select {
	case <-time.After(time.Duration(s.rng.Int64N(int64(longest)))):
		return true
	case <-ctx.Done():
		return false
	}
}

func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
