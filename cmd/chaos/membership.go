//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/cmd/internal/durability"
	"github.com/millrace/millrace/cmd/internal/localcluster"
)

// movingLeadership asks for the preferred leaders again and again while kills move
// leadership elsewhere.
func movingLeadership(ctx context.Context, s *stage) error {
	moved := 0
	for i := range 6 {
		n, err := s.leader(ctx, topic, i%partitions)
		if err != nil {
			return err
		}
		if err := s.cluster.Kill(n); err != nil {
			return err
		}
		s.resumed(ctx, time.Now(), "SIGKILL of a leader")
		if err := s.restart(ctx, n); err != nil {
			return err
		}
		until := time.Now().Add(3 * time.Second)
		for time.Now().Before(until) && ctx.Err() == nil {
			moved += s.electPreferred(ctx)
			rest(ctx, 50*time.Millisecond)
		}
	}
	s.tell("leaders moved on request", "%d", moved)
	return nil
}

// electPreferred moves leadership to the preferred replicas, and says of how many.
func (s *stage) electPreferred(ctx context.Context) (moved int) {
	asking, cancel := context.WithTimeout(ctx, questionLimit)
	defer cancel()
	set := kadm.TopicsSet{}
	for p := range int32(partitions) {
		set.Add(topic, p)
	}
	results, err := s.admin.ElectLeaders(asking, kadm.ElectPreferredReplica, set)
	if err != nil {
		return 0
	}
	for _, p := range results[topic] {
		if p.Err == nil {
			moved++
		}
	}
	return moved
}

// foreignBroker takes a broker away and lets one of another cluster answer at its
// address: the two that remain go on without it, and it gets nothing.
func foreignBroker(ctx context.Context, s *stage) error {
	const gone = 3
	if err := s.cluster.Kill(gone); err != nil {
		return err
	}
	s.resumed(ctx, time.Now(), "SIGKILL of a broker")
	other, err := localcluster.New(localcluster.Config{
		Binary: s.binary, Dir: s.dir + "/foreign", Ports: []localcluster.Ports{{Kafka: 9092, RPC: 33145, HTTP: 9644}},
		Hosts: []string{s.world.address(gone)},
		Wrap:  func(_ int, line []string) []string { return s.world.wrap(gone, line) },
	})
	if err != nil {
		return err
	}
	if err := other.Start(ctx); err != nil {
		return errors.Join(err, other.Close(ctx))
	}
	rest(ctx, 5*time.Second)
	s.resumed(ctx, time.Now(), "a stranger has the address of a broker")
	st, err := s.look(ctx, topic)
	if err == nil {
		for p, leader := range st.leaders {
			if leader == gone {
				s.faults.Add(durability.CE, "partition %d is led by the broker that is gone", p)
			}
		}
	}
	stopping, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if err := other.Close(stopping); err != nil {
		return fmt.Errorf("the broker of the other cluster: %w", err)
	}
	return s.restart(ctx, gone)
}
