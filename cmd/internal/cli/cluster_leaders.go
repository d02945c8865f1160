package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/client"
)

type clusterLeadersOptions struct {
	app    *app
	topics []string
	elect  string
	dryRun bool
}

// clusterLeadersOutput is the JSON of cluster leaders: the partitions that are led by
// another than their preferred replica, and what came of the election.
type clusterLeadersOutput struct {
	DryRun     bool           `json:"dry_run"`
	Partitions []leaderOutput `json:"partitions"`
}

type leaderOutput struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Leader    int32  `json:"leader"` // before the election; -1: none
	Preferred int32  `json:"preferred"`
	Elected   bool   `json:"elected"` // the preferred replica leads now
}

// preferredElection is the one kind of election that there is.
const preferredElection = "preferred"

// electAnswer is what is left of --timeout for the broker's answer to come.
const electAnswer = 500 * time.Millisecond

func newClusterLeadersCmd(a *app) *cobra.Command {
	o := clusterLeadersOptions{app: a}
	c := &cobra.Command{
		Use:   "leaders [--topic NAME]... [--elect preferred] [--dry-run]",
		Short: "Show which partitions are not led by their preferred replica, or make them be",
		Long: `Show which partitions are not led by their preferred replica, the first of its replicas.

With --elect preferred, leadership moves there, one partition of a leader after the
other, where that replica is up and in sync. No write fails for it. The brokers do the
same by themselves now and then, unless auto.leader.rebalance.enable is false.`,
		Example: `  millrace cluster leaders
  millrace cluster leaders --elect preferred --dry-run
  millrace cluster leaders --elect preferred --topic orders --timeout 1m`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return a.request(cmd.Context(), o.run)
		},
	}
	c.Flags().StringSliceVar(&o.topics, "topic", nil, "only partitions of this topic, repeatable")
	c.Flags().StringVar(&o.elect, "elect", "", "preferred: move leadership to the preferred replicas")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would be moved")
	return c
}

func (o *clusterLeadersOptions) check() error {
	switch {
	case o.elect == "unclean":
		return usagef("there is no unclean election: a replica that lacks acknowledged records cannot lead").
			withHint("bring back a majority of the partition's replicas; it elects a leader by itself")
	case o.elect != "" && o.elect != preferredElection:
		return usagef("--elect %q is not %s", o.elect, preferredElection).withHint("--elect " + preferredElection)
	case o.dryRun && o.elect == "":
		return usagef("--dry-run without --elect changes nothing anyway").withHint("add --elect " + preferredElection + ", or leave --dry-run out")
	}
	return nil
}

func (o *clusterLeadersOptions) run(ctx context.Context, c *client.Client) error {
	all, err := allPartitions(ctx, c, o.topics)
	if err != nil {
		return err
	}
	out := clusterLeadersOutput{DryRun: o.dryRun, Partitions: []leaderOutput{}}
	for _, p := range all {
		if p.Leader != p.Preferred {
			out.Partitions = append(out.Partitions, leaderOutput{Topic: p.Topic, Partition: p.Partition, Leader: p.Leader, Preferred: p.Preferred})
		}
	}
	var failed error
	if o.elect != "" && !o.dryRun && len(out.Partitions) > 0 {
		if failed, err = electPreferred(ctx, c, out.Partitions); err != nil {
			return err
		}
	}
	err = o.app.print(out, func(w io.Writer) { o.write(w, out) })
	return errors.Join(failed, err)
}

func (o *clusterLeadersOptions) write(w io.Writer, out clusterLeadersOutput) {
	if len(out.Partitions) == 0 {
		fmt.Fprintln(w, "every partition is led by its preferred replica")
		return
	}
	if o.elect != "" && !o.dryRun {
		for _, p := range out.Partitions {
			if p.Elected {
				fmt.Fprintf(w, "broker %d leads %s/%d, broker %d did before\n", p.Preferred, p.Topic, p.Partition, p.Leader)
			}
		}
		return
	}
	header := "PREFERRED"
	if o.dryRun {
		header = "WOULD-ELECT"
	}
	t := newTable("TOPIC", ">PARTITION", ">LEADER", ">"+header)
	for _, p := range out.Partitions {
		t.add(p.Topic, p.Partition, p.Leader, p.Preferred)
	}
	t.write(w)
}

// electPreferred asks for elections and notes which were held. failed are those that
// were not; err is that of the request.
func electPreferred(ctx context.Context, c *client.Client, partitions []leaderOutput) (failed, err error) {
	request := kmsg.NewPtrElectLeadersRequest()
	if deadline, ok := ctx.Deadline(); ok {
		request.TimeoutMillis = int32(max(time.Until(deadline)-electAnswer, electAnswer).Milliseconds())
	}
	at := map[string]map[int32]*leaderOutput{}
	for i := range partitions {
		p := &partitions[i]
		if at[p.Topic] == nil {
			at[p.Topic] = map[int32]*leaderOutput{}
			topic := kmsg.NewElectLeadersRequestTopic()
			topic.Topic = p.Topic
			request.Topics = append(request.Topics, topic)
		}
		at[p.Topic][p.Partition] = p
		last := &request.Topics[len(request.Topics)-1]
		last.Partitions = append(last.Partitions, p.Partition)
	}
	answer, err := request.RequestWith(ctx, c.Kgo())
	if err == nil {
		err = kerr.ErrorForCode(answer.ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("elect leaders: %w", client.Typed(err))
	}
	var faults []error
	for _, topic := range answer.Topics {
		for i := range topic.Partitions {
			p := at[topic.Topic][topic.Partitions[i].Partition]
			if p == nil {
				continue
			}
			fault := electionFault(topic.Topic, &topic.Partitions[i])
			p.Elected = fault == nil
			faults = append(faults, fault)
		}
	}
	return errors.Join(faults...), nil
}

// electionFault is why an election was not held. That it is not needed any more is
// none.
func electionFault(topic string, p *kmsg.ElectLeadersResponseTopicPartition) error {
	err := kerr.ErrorForCode(p.ErrorCode)
	if err == nil || errors.Is(err, kerr.ElectionNotNeeded) {
		return nil
	}
	why := client.Typed(err).Error()
	if p.ErrorMessage != nil {
		why = *p.ErrorMessage
	}
	fault := fmt.Errorf("elect the preferred leader of %s/%d: %s (%w)", topic, p.Partition, why, client.Typed(err))
	if errors.Is(err, kerr.PreferredLeaderNotAvailable) {
		// Not for a time-out: it was answered, and the same would be answered now.
		return advise(fault, "the replica must be up and in sync; see: millrace cluster health").named(kerr.PreferredLeaderNotAvailable.Message)
	}
	return fault
}
