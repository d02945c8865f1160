package cli

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/replication/metadata"
)

type clusterDecommissionOptions struct {
	app      *app
	broker   int32
	dryRun   bool
	parallel int
}

// clusterDecommissionOutput is the JSON of cluster decommission.
type clusterDecommissionOutput struct {
	Broker int32 `json:"broker"`
	clusterMoveOutput
	Unregistered bool `json:"unregistered"` // the cluster has forgotten it
}

func newClusterDecommissionCmd(a *app) *cobra.Command {
	o := clusterDecommissionOptions{app: a}
	c := &cobra.Command{
		Use:   "decommission NODE [--dry-run]",
		Short: "Empty a broker for good: drain it, move its replicas away, and forget it once it is down",
		Long: `Empty a broker for good: drain it, move its replicas away, and forget it once it is down.

It is refused if the other brokers are too few for the replicas. While the broker is up it
is emptied; stop it then, and run this again: a broker that is down and empty is forgotten.
A broker that is down already is emptied too, from the replicas of the others. To take it
back: millrace cluster move --cancel, and millrace cluster undrain NODE.`,
		Example: `  millrace cluster decommission 3 --dry-run
  millrace cluster decommission 3`,
		Args: exactly(1, "the id of a broker"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.broker, err = brokerID(args[0]); err != nil {
				return err
			}
			if o.parallel < 1 {
				return usagef("--parallel must be at least 1")
			}
			a.patient(cmd)
			return a.request(cmd.Context(), o.run)
		},
	}
	moveFlags(c, &o.dryRun, &o.parallel)
	return c
}

func (o *clusterDecommissionOptions) run(ctx context.Context, c *client.Client) error {
	brokers, err := describeCluster(ctx, c)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(brokers.Brokers, func(b kmsg.DescribeClusterResponseBroker) bool { return b.NodeID == o.broker }) {
		why := fmt.Sprintf("no broker %d is registered", o.broker)
		return aboutBroker(o.broker, &why, kerr.BrokerIDNotRegistered)
	}
	moves, err := planMoves(ctx, c, nil, func(p *metadata.Plan) ([]metadata.Assigned, error) { return p.Evacuate(metadata.NodeID(o.broker)) })
	if err != nil {
		return advise(fmt.Errorf("broker %d cannot be emptied: %w", o.broker, err), "start or add a broker, or give topics fewer replicas: millrace cluster move TOPIC --to NODE,...")
	}
	leaving, err := leavingBroker(ctx, c, o.broker)
	if err != nil {
		return err
	}
	moves = append(leaving, moves...)
	out := clusterDecommissionOutput{Broker: o.broker, clusterMoveOutput: clusterMoveOutput{o.dryRun, moves}}
	if !o.dryRun {
		if err := setDrained(ctx, c, o.broker, true, false); err != nil {
			return err
		}
		if err := o.app.doMoves(ctx, c, fmt.Sprintf("decommission broker %d", o.broker), moves, o.parallel); err != nil {
			return err
		}
		if up := upBrokers(ctx, c, brokers.Brokers); !up(o.broker) {
			if err := unregisterBroker(ctx, c, o.broker); err != nil {
				return err
			}
			out.Unregistered = true
		}
	}
	return o.app.print(out, func(w io.Writer) { o.write(w, out) })
}

// leavingBroker lists the partitions that are on their way from a broker already: it is not
// empty before they have left.
func leavingBroker(ctx context.Context, c *client.Client, broker int32) ([]partitionMove, error) {
	under, err := c.Admin().Kadm().ListPartitionReassignments(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list moves: %w", client.Typed(err))
	}
	moves := []partitionMove{}
	for _, m := range under.Sorted() {
		if slices.Contains(m.RemovingReplicas, broker) {
			to := slices.DeleteFunc(slices.Clone(m.Replicas), func(r int32) bool { return slices.Contains(m.RemovingReplicas, r) })
			moves = append(moves, partitionMove{m.Topic, m.Partition, m.Replicas, to})
		}
	}
	return moves, nil
}

func (o *clusterDecommissionOptions) write(w io.Writer, out clusterDecommissionOutput) {
	if len(out.Partitions) > 0 {
		header := "TO"
		if o.dryRun {
			header = "WOULD-GO-TO"
		}
		writeMoves(w, header, out.Partitions)
	}
	switch {
	case o.dryRun:
		fmt.Fprintf(w, "would empty broker %d of %d replicas\n", o.broker, len(out.Partitions))
	case out.Unregistered:
		fmt.Fprintf(w, "broker %d was forgotten\n", o.broker)
	default:
		fmt.Fprintf(w, "broker %d is empty: stop it, then run: millrace cluster decommission %d\n", o.broker, o.broker)
	}
}
