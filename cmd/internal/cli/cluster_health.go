package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/client"
)

const (
	// probeTimeout bounds how long a listed broker may take to answer before it
	// counts as down.
	probeTimeout = 2 * time.Second
	// healthInterval is the pause between two looks of --exit-when-healthy.
	healthInterval = 200 * time.Millisecond
)

type clusterHealthOptions struct {
	app  *app
	wait bool
}

// healthOutput is the JSON of cluster health.
type healthOutput struct {
	Healthy         bool    `json:"healthy"`
	Leaderless      int     `json:"leaderless"`       // partitions without a leader
	UnderReplicated int     `json:"under_replicated"` // partitions with a replica that is behind
	BrokersDown     []int32 `json:"brokers_down"`
}

func newClusterHealthCmd(a *app) *cobra.Command {
	o := clusterHealthOptions{app: a}
	c := &cobra.Command{
		Use:   "health [--exit-when-healthy]",
		Short: "Tell whether every partition has a leader and all its replicas; exit 1 if not",
		Example: `  millrace cluster health
  millrace cluster health --exit-when-healthy --timeout 1m`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.wait {
				return o.runWait(cmd.Context(), cmd.Flags().Changed("timeout"))
			}
			return o.run(cmd.Context())
		},
	}
	c.Flags().BoolVar(&o.wait, "exit-when-healthy", false, "wait until all is well (for ever, unless --timeout is given)")
	return c
}

func (o *clusterHealthOptions) run(ctx context.Context) error {
	var out healthOutput
	err := o.app.request(ctx, func(ctx context.Context, c *client.Client) (err error) {
		out, err = health(ctx, c)
		return err
	})
	if err != nil {
		return err
	}
	if err := o.print(out); err != nil {
		return err
	}
	if !out.Healthy {
		return &silent{exitError}
	}
	return nil
}

// runWait looks again and again; a cluster that does not answer yet is one that
// is not healthy yet.
func (o *clusterHealthOptions) runWait(ctx context.Context, limited bool) error {
	if limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.app.timeout)
		defer cancel()
	}
	for {
		o.app.left = o.app.timeout // each look has its own; ctx bounds all
		var out healthOutput
		err := o.app.request(ctx, func(ctx context.Context, c *client.Client) (err error) {
			out, err = health(ctx, c)
			return err
		})
		if code, _ := classify(err); err != nil && code == exitDenied || errors.As(err, new(*usageError)) {
			return err
		}
		if err == nil && out.Healthy {
			return o.print(out)
		}
		select {
		case <-ctx.Done():
			return o.notInTime(ctx, out, err)
		case <-time.After(healthInterval):
		}
	}
}

// notInTime is the error when the waiting has ended without a healthy cluster; out is
// what was seen last, or err says why nothing was.
func (o *clusterHealthOptions) notInTime(ctx context.Context, out healthOutput, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if err != nil {
		return late{fmt.Errorf("not healthy within %s: %w", o.app.timeout, err)}
	}
	return advise(late{fmt.Errorf("not healthy within %s: partitions without a leader: %d, under-replicated: %d, brokers down: %s",
		o.app.timeout, out.Leaderless, out.UnderReplicated, cmp.Or(join(out.BrokersDown), "none"))},
		"start the brokers that are down, or wait longer with --timeout")
}

// late makes an error one of a time-out.
type late struct{ error }

// Is matches [context.DeadlineExceeded].
func (late) Is(target error) bool { return target == context.DeadlineExceeded }

// Unwrap gives the error.
func (l late) Unwrap() error { return l.error }

func (o *clusterHealthOptions) print(out healthOutput) error {
	return o.app.print(out, func(w io.Writer) {
		state := "healthy"
		if !out.Healthy {
			state = "not healthy"
		}
		fmt.Fprintf(w, "%s\n", state)
		t := newTable(">LEADERLESS", ">UNDER-REPLICATED", "BROKERS-DOWN")
		t.add(out.Leaderless, out.UnderReplicated, join(out.BrokersDown))
		t.write(w)
	})
}

// health looks at every partition, and asks every broker for a sign of life. A
// broker is down if the cluster calls it fenced, if it does not answer, or if it holds
// a replica and is not listed. The metadata of topics list no fenced broker: one
// without replicas would not be missed there.
func health(ctx context.Context, c *client.Client) (healthOutput, error) {
	adm := c.Admin().Kadm()
	// With authorized operations kadm asks; without it may tell what it knew.
	m, err := adm.Metadata(kadm.WithAuthorizedOps(ctx))
	if err != nil {
		return healthOutput{}, fmt.Errorf("describe cluster: %w", client.Typed(err))
	}
	registered, err := describeCluster(ctx, c)
	if err != nil {
		return healthOutput{}, err
	}
	down := silentBrokers(ctx, c, registered.Brokers)
	for _, b := range registered.Brokers {
		if b.IsFenced {
			down[b.NodeID] = struct{}{}
		}
	}
	out := healthOutput{BrokersDown: []int32{}}
	m.Topics.EachPartition(func(p kadm.PartitionDetail) {
		if p.Leader < 0 {
			out.Leaderless++
		}
		if len(p.ISR) < len(p.Replicas) {
			out.UnderReplicated++
		}
		for _, r := range p.Replicas {
			if !slices.Contains(m.Brokers.NodeIDs(), r) {
				down[r] = struct{}{}
			}
		}
		for _, r := range p.OfflineReplicas {
			down[r] = struct{}{}
		}
	})
	out.BrokersDown = append(out.BrokersDown, slices.Sorted(maps.Keys(down))...)
	out.Healthy = out.Leaderless == 0 && out.UnderReplicated == 0 && len(out.BrokersDown) == 0
	return out, nil
}

// silentBrokers are the registered brokers that do not answer, or that the metadata
// do not list, so that the client does not know where to ask.
func silentBrokers(ctx context.Context, c *client.Client, brokers []kmsg.DescribeClusterResponseBroker) map[int32]struct{} {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var mu sync.Mutex
	down := map[int32]struct{}{}
	var probes sync.WaitGroup
	for _, b := range brokers {
		probes.Go(func() {
			_, err := c.Kgo().Broker(int(b.NodeID)).Request(ctx, kmsg.NewPtrApiVersionsRequest())
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				down[b.NodeID] = struct{}{}
			}
		})
	}
	probes.Wait()
	return down
}
