package cli

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/replication/metadata"
)

type clusterMoveOptions struct {
	app        *app
	topic      string
	partitions []int32
	to         []int32
	cancel     bool
	dryRun     bool
	parallel   int
}

// clusterMoveOutput is the JSON of cluster move, balance and decommission.
type clusterMoveOutput struct {
	DryRun     bool            `json:"dry_run"`
	Partitions []partitionMove `json:"partitions"`
}

func newClusterMoveCmd(a *app) *cobra.Command {
	o := clusterMoveOptions{app: a}
	c := &cobra.Command{
		Use:   "move [TOPIC] [-p PARTITION]... {--to NODE,... | --cancel} [--dry-run]",
		Short: "Move partitions to other brokers, or take moves back that are under way",
		Long: `Move partitions to other brokers, or take moves back that are under way.

--to names the brokers that each partition is to be on, its preferred leader first; more
or fewer than before give it more or fewer replicas. It is written to and read meanwhile.
This waits until it is done (for ever, unless --timeout is given); what was begun goes on
without it.`,
		Example: `  millrace cluster move orders --to 2,3,4
  millrace cluster move orders -p 0 --to 2,3,4 --dry-run
  millrace cluster move --cancel`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.topic = args[0]
			}
			if err := o.check(); err != nil {
				return err
			}
			a.patient(cmd)
			return a.request(cmd.Context(), o.run)
		},
	}
	c.Flags().Int32SliceVarP(&o.partitions, "partition", "p", nil, "only this partition, repeatable")
	c.Flags().Int32SliceVar(&o.to, "to", nil, "the brokers, the preferred leader first")
	c.Flags().BoolVar(&o.cancel, "cancel", false, "take back what is under way, of all topics without one")
	moveFlags(c, &o.dryRun, &o.parallel)
	return c
}

// moveFlags are the flags of all commands that move partitions.
func moveFlags(c *cobra.Command, dryRun *bool, parallel *int) {
	c.Flags().BoolVar(dryRun, "dry-run", false, "only show what would be moved")
	c.Flags().IntVar(parallel, "parallel", moveParallel, "how many partitions are moved at a time")
}

// patient lets a command that moves data take its time, unless --timeout was given.
func (a *app) patient(cmd *cobra.Command) {
	if !cmd.Flags().Changed("timeout") {
		a.left = unlimited
	}
}

func (o *clusterMoveOptions) check() error {
	switch {
	case o.cancel == (len(o.to) > 0):
		return usagef("cluster move needs --to or --cancel").withHint("--to 1,2,3 names the brokers that the partitions are to be on")
	case o.topic == "" && (!o.cancel || len(o.partitions) > 0):
		return usagef("cluster move needs a topic").withHint("see: millrace topic list")
	case o.parallel < 1:
		return usagef("--parallel must be at least 1")
	}
	return nil
}

func (o *clusterMoveOptions) run(ctx context.Context, c *client.Client) error {
	if o.cancel {
		return o.takeBack(ctx, c)
	}
	all, err := allPartitions(ctx, c, []string{o.topic})
	if err != nil {
		return err
	}
	for _, p := range o.partitions {
		if p < 0 || int(p) >= len(all) {
			return noPartition(o.topic, p, len(all))
		}
	}
	moves := []partitionMove{}
	for _, p := range all {
		if (len(o.partitions) == 0 || slices.Contains(o.partitions, p.Partition)) && !slices.Equal(p.Replicas, o.to) {
			moves = append(moves, partitionMove{p.Topic, p.Partition, p.Replicas, o.to})
		}
	}
	return o.app.move(ctx, c, "move "+o.topic, moves, o.dryRun, o.parallel)
}

// takeBack cancels what is under way.
func (o *clusterMoveOptions) takeBack(ctx context.Context, c *client.Client) error {
	under, err := c.Admin().Kadm().ListPartitionReassignments(ctx, nil)
	if err != nil {
		return fmt.Errorf("list moves: %w", client.Typed(err))
	}
	moves := []partitionMove{}
	for _, m := range under.Sorted() {
		if o.topic != "" && m.Topic != o.topic || len(o.partitions) > 0 && !slices.Contains(o.partitions, m.Partition) || len(m.AddingReplicas) == 0 {
			continue
		}
		move := partitionMove{Topic: m.Topic, Partition: m.Partition, From: m.Replicas}
		move.To = slices.DeleteFunc(slices.Clone(m.Replicas), func(r int32) bool { return slices.Contains(m.AddingReplicas, r) })
		moves = append(moves, move)
		if !o.dryRun {
			if err := beginMove(ctx, c, m.Topic, m.Partition, nil); err != nil {
				return err
			}
		}
	}
	return o.app.printMoves(moves, o.dryRun, "BACK-TO", "nothing to take back is under way")
}

// move shows moves, or makes them and shows them then.
func (a *app) move(ctx context.Context, c *client.Client, what string, moves []partitionMove, dryRun bool, parallel int) error {
	if !dryRun {
		if err := a.doMoves(ctx, c, what, moves, parallel); err != nil {
			return err
		}
	}
	return a.printMoves(moves, dryRun, "TO", "everything is where it should be")
}

func (a *app) printMoves(moves []partitionMove, dryRun bool, header, none string) error {
	return a.print(clusterMoveOutput{dryRun, moves}, func(w io.Writer) {
		if len(moves) == 0 {
			fmt.Fprintln(w, none)
			return
		}
		if dryRun {
			header = "WOULD-GO-" + header
		}
		writeMoves(w, header, moves)
	})
}

type clusterBalanceOptions struct {
	app      *app
	topics   []string
	dryRun   bool
	parallel int
}

func newClusterBalanceCmd(a *app) *cobra.Command {
	o := clusterBalanceOptions{app: a}
	c := &cobra.Command{
		Use:   "balance [--topic NAME]... [--dry-run]",
		Short: "Spread replicas and preferred leaders evenly over the brokers and racks",
		Long: `Spread replicas and preferred leaders evenly over the brokers and racks.

Only what is too much on one broker moves, to where there is too little; brokers that are
drained or down get nothing. This waits until it is done (for ever, unless --timeout is
given); what was begun goes on without it.`,
		Example: `  millrace cluster balance --dry-run
  millrace cluster balance --topic orders --parallel 1`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.parallel < 1 {
				return usagef("--parallel must be at least 1")
			}
			a.patient(cmd)
			return a.request(cmd.Context(), o.run)
		},
	}
	c.Flags().StringSliceVar(&o.topics, "topic", nil, "only partitions of this topic, repeatable")
	moveFlags(c, &o.dryRun, &o.parallel)
	return c
}

func (o *clusterBalanceOptions) run(ctx context.Context, c *client.Client) error {
	moves, err := planMoves(ctx, c, o.topics, func(p *metadata.Plan) ([]metadata.Assigned, error) { return p.Balance(), nil })
	if err != nil {
		return err
	}
	return o.app.move(ctx, c, "balance", moves, o.dryRun, o.parallel)
}
