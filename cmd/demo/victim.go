package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/cmd/internal/localcluster"
)

const (
	// killAt is after which part of all acknowledgements the leader is killed.
	killAt = 0.3
	// leastPart of all acknowledgements must lie on either side of the kill.
	leastPart = 0.1
	// downTime is how long the killed broker stays down.
	downTime = 3 * time.Second
)

// victim kills the leader of a partition and starts it again.
type victim struct {
	cluster *localcluster.Cluster
	client  *client.Client
	load    *load
	out     io.Writer

	node   int
	before int64         // acknowledgements when it was killed
	over   chan struct{} // closed when kill has returned
}

func newVictim(cluster *localcluster.Cluster, c *client.Client, l *load, out io.Writer) *victim {
	return &victim{cluster: cluster, client: c, load: l, out: out, over: make(chan struct{})}
}

// kill does both; it is called once.
func (v *victim) kill(ctx context.Context) error {
	defer close(v.over)
	select {
	case <-v.load.reached(int64(killAt * float64(v.load.count))):
	case <-ctx.Done():
		return nil // the run has failed or is over
	}
	described, err := v.client.Admin().Describe(ctx, topic)
	if err != nil {
		return fmt.Errorf("find a leader to kill: %w", err)
	}
	v.node = int(described.Partitions[0].Leader)
	if v.node < 1 || v.node > v.cluster.Nodes() {
		return fmt.Errorf("partition 0 has no leader to kill (node %d)", v.node)
	}
	if err := v.cluster.Kill(v.node); err != nil {
		return err
	}
	v.before = v.load.acknowledged.Load()
	fmt.Fprintf(v.out, "  SIGKILL to broker %d, the leader of partition 0, after %d acknowledgements\n", v.node, v.before)
	select {
	case <-time.After(downTime):
	case <-ctx.Done():
		return nil
	}
	begin := time.Now()
	if err := v.cluster.StartNode(v.node); err != nil {
		return err
	}
	if err := v.cluster.WaitReady(ctx, v.node); err != nil {
		return err
	}
	fmt.Fprintf(v.out, "  broker %d is ready again after %d ms\n", v.node, time.Since(begin).Milliseconds())
	return nil
}

// wait waits until the killed broker is back, and checks that it was killed in
// mid-load.
func (v *victim) wait(ctx context.Context) error {
	select {
	case <-v.over:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	after := v.load.acknowledged.Load() - v.before
	least := int64(leastPart * float64(v.load.count))
	if v.node == 0 || v.before < least || after < least {
		return fmt.Errorf("the leader was not killed in mid-load: %d acknowledgements before, %d after", v.before, after)
	}
	return nil
}
