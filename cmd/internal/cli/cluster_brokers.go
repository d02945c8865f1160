package cli

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/client"
)

type clusterBrokersOptions struct{ app *app }

// clusterBrokersOutput is the JSON of cluster brokers.
type clusterBrokersOutput struct {
	Brokers []brokerLoadOutput `json:"brokers"`
}

type brokerLoadOutput struct {
	brokerOutput
	Up        bool `json:"up"`
	Drained   bool `json:"drained"`
	Leaders   int  `json:"leaders"`   // partitions it leads now
	Preferred int  `json:"preferred"` // partitions of which it is the preferred leader
	Replicas  int  `json:"replicas"`
}

func newClusterBrokersCmd(a *app) *cobra.Command {
	o := clusterBrokersOptions{app: a}
	return &cobra.Command{
		Use:   "brokers",
		Short: "Show the brokers, whether they are up, and what each leads and holds",
		Example: `  millrace cluster brokers
  millrace cluster brokers --format json`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.request(cmd.Context(), o.run) },
	}
}

func (o *clusterBrokersOptions) run(ctx context.Context, c *client.Client) error {
	partitions, err := allPartitions(ctx, c, nil)
	if err != nil {
		return err
	}
	d, err := describeCluster(ctx, c)
	if err != nil {
		return err
	}
	drained, err := drainedBrokers(ctx, c, d.Brokers)
	if err != nil {
		return err
	}
	silent := silentBrokers(ctx, c, d.Brokers)
	out := clusterBrokersOutput{Brokers: []brokerLoadOutput{}}
	for _, b := range d.Brokers {
		_, down := silent[b.NodeID]
		load := brokerLoadOutput{brokerOutput: toBroker(b), Up: !down && !b.IsFenced, Drained: drained[b.NodeID]}
		for _, p := range partitions {
			if p.Leader == b.NodeID {
				load.Leaders++
			}
			if p.Preferred == b.NodeID {
				load.Preferred++
			}
			if slices.Contains(p.Replicas, b.NodeID) {
				load.Replicas++
			}
		}
		out.Brokers = append(out.Brokers, load)
	}
	slices.SortFunc(out.Brokers, func(a, b brokerLoadOutput) int { return int(a.Node - b.Node) })
	return o.app.print(out, func(w io.Writer) {
		t := newTable(">NODE", "KAFKA", "RACK", "STATE", ">LEADERS", ">PREFERRED", ">REPLICAS")
		for _, b := range out.Brokers {
			state := "up"
			if !b.Up {
				state = "down"
			}
			if b.Drained {
				state += ",drained"
			}
			t.add(b.Node, b.Kafka, b.Rack, state, b.Leaders, b.Preferred, b.Replicas)
		}
		t.write(w)
	})
}

// allPartitions asks for the partitions of these topics, or of all without any, in
// order. A topic that does not exist is an error.
func allPartitions(ctx context.Context, c *client.Client, topics []string) ([]clusterPartitionOutput, error) {
	// With authorized operations kadm asks; without it may tell what it knew.
	m, err := c.Admin().Kadm().Metadata(kadm.WithAuthorizedOps(ctx), topics...)
	if err != nil {
		return nil, fmt.Errorf("describe partitions: %w", client.Typed(err))
	}
	all := []clusterPartitionOutput{}
	for _, topic := range m.Topics.Sorted() {
		if topic.Err != nil {
			return nil, aboutTopic(ctx, c, topic.Topic, fmt.Errorf("describe topic %q: %w", topic.Topic, client.Typed(topic.Err)), listTopics)
		}
		for _, p := range topic.Partitions.Sorted() {
			out := clusterPartitionOutput{Topic: p.Topic, Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch,
				Preferred: -1, Replicas: orEmpty(p.Replicas), ISR: orEmpty(p.ISR)}
			if len(p.Replicas) > 0 {
				out.Preferred = p.Replicas[0]
			}
			all = append(all, out)
		}
	}
	return all, nil
}
