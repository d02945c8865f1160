package cli

import (
	"context"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/client"
)

type clusterPartitionsOptions struct {
	app     *app
	topics  []string
	behind  bool
	offline bool
}

// clusterPartitionsOutput is the JSON of cluster partitions.
type clusterPartitionsOutput struct {
	Partitions []clusterPartitionOutput `json:"partitions"`
}

type clusterPartitionOutput struct {
	Topic       string  `json:"topic"`
	Partition   int32   `json:"partition"`
	Leader      int32   `json:"leader"` // -1: none
	LeaderEpoch int32   `json:"leader_epoch"`
	Preferred   int32   `json:"preferred"` // the replica that should lead
	Replicas    []int32 `json:"replicas"`
	ISR         []int32 `json:"isr"`
}

func newClusterPartitionsCmd(a *app) *cobra.Command {
	o := clusterPartitionsOptions{app: a}
	c := &cobra.Command{
		Use:   "partitions [--topic NAME]... [--under-replicated] [--offline]",
		Short: "Show who leads and who holds each partition",
		Example: `  millrace cluster partitions --topic orders
  millrace cluster partitions --under-replicated --format json`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.request(cmd.Context(), o.run) },
	}
	c.Flags().StringSliceVar(&o.topics, "topic", nil, "only partitions of this topic, repeatable")
	c.Flags().BoolVar(&o.behind, "under-replicated", false, "only partitions with a replica that is not in sync")
	c.Flags().BoolVar(&o.offline, "offline", false, "only partitions without a leader")
	return c
}

func (o *clusterPartitionsOptions) run(ctx context.Context, c *client.Client) error {
	all, err := allPartitions(ctx, c, o.topics)
	if err != nil {
		return err
	}
	out := clusterPartitionsOutput{Partitions: slices.DeleteFunc(all, func(p clusterPartitionOutput) bool {
		return o.behind && len(p.ISR) >= len(p.Replicas) || o.offline && p.Leader >= 0
	})}
	return o.app.print(out, func(w io.Writer) {
		t := newTable("TOPIC", ">PARTITION", ">LEADER", ">PREFERRED", "REPLICAS", "ISR")
		for _, p := range out.Partitions {
			t.add(p.Topic, p.Partition, p.Leader, p.Preferred, join(p.Replicas), join(p.ISR))
		}
		t.write(w)
	})
}
