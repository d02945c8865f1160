package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/client"
)

type clusterInfoOptions struct{ app *app }

// clusterInfoOutput is the JSON of cluster info.
type clusterInfoOutput struct {
	ClusterID  string         `json:"cluster_id"`
	Controller int32          `json:"controller"`
	Brokers    []brokerOutput `json:"brokers"`
}

type brokerOutput struct {
	Node  int32  `json:"node"`
	Kafka string `json:"kafka"`
	Rack  string `json:"rack"`
}

func newClusterInfoCmd(a *app) *cobra.Command {
	o := clusterInfoOptions{app: a}
	return &cobra.Command{
		Use:   "info",
		Short: "Show the cluster's id and its brokers",
		Example: `  millrace cluster info
  millrace cluster info -b 10.0.0.1:9092 --format json`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.request(cmd.Context(), o.run) },
	}
}

func (o *clusterInfoOptions) run(ctx context.Context, c *client.Client) error {
	d, err := describeCluster(ctx, c)
	if err != nil {
		return err
	}
	out := clusterInfoOutput{ClusterID: d.ClusterID, Controller: d.ControllerID, Brokers: []brokerOutput{}}
	for _, b := range d.Brokers {
		out.Brokers = append(out.Brokers, toBroker(b))
	}
	slices.SortFunc(out.Brokers, func(a, b brokerOutput) int { return int(a.Node - b.Node) })
	return o.app.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "CLUSTER     %s\nCONTROLLER  %d\n\n", out.ClusterID, out.Controller)
		t := newTable(">NODE", "KAFKA", "RACK")
		for _, b := range out.Brokers {
			t.add(b.Node, b.Kafka, b.Rack)
		}
		t.write(w)
	})
}

// describeCluster asks for all registered brokers, also for those that are fenced
// because they are down (KIP-1073).
func describeCluster(ctx context.Context, c *client.Client) (*kmsg.DescribeClusterResponse, error) {
	request := kmsg.NewPtrDescribeClusterRequest()
	request.IncludeFencedBrokers = true
	d, err := request.RequestWith(ctx, c.Kgo())
	if err == nil {
		err = kerr.ErrorForCode(d.ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("describe cluster: %w", client.Typed(err))
	}
	return d, nil
}

func toBroker(b kmsg.DescribeClusterResponseBroker) brokerOutput {
	out := brokerOutput{Node: b.NodeID, Kafka: net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))}
	if b.Rack != nil {
		out.Rack = *b.Rack
	}
	return out
}
