package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/client"
)

// drainPoll is the pause between two looks at what a drained broker still leads.
const drainPoll = 100 * time.Millisecond

type clusterDrainOptions struct {
	app    *app
	broker int32
	dryRun bool
}

// clusterDrainOutput is the JSON of cluster drain.
type clusterDrainOutput struct {
	Broker  int32 `json:"broker"`
	DryRun  bool  `json:"dry_run"`
	Leaders int   `json:"leaders"` // partitions that it leads, or in a dry run would give away
	// SafeToStop: without the broker every partition has a quorum, and the metadata.
	SafeToStop     bool                `json:"safe_to_stop"`
	MetadataQuorum bool                `json:"metadata_quorum"` // without the broker
	NoQuorum       []noQuorumPartition `json:"no_quorum"`       // partitions, without the broker
}

// noQuorumPartition is a partition that nobody can write to when the broker stops.
type noQuorumPartition struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Replicas  []int32 `json:"replicas"`
	ISR       []int32 `json:"isr"`
}

func newClusterDrainCmd(a *app) *cobra.Command {
	o := clusterDrainOptions{app: a}
	c := &cobra.Command{
		Use:   "drain NODE [--dry-run]",
		Short: "Move leadership away from a broker and keep it away; exit 1 if it cannot be stopped",
		Long: `Move leadership away from a broker and keep it away; exit 1 if it cannot be stopped.

A drained broker keeps its replicas. It leads no partition that another broker can
lead, and gets no new replica, until: millrace cluster undrain NODE. This waits until it
leads nothing any more and the other replicas have caught up, and tells whether it can be
stopped: whether all partitions, and the metadata, have a quorum without it.`,
		Example: `  millrace cluster drain 2
  millrace cluster drain 2 --dry-run`,
		Args: exactly(1, "the id of a broker"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.broker, err = brokerID(args[0]); err != nil {
				return err
			}
			return a.request(cmd.Context(), o.run)
		},
	}
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would be done")
	return c
}

// brokerID reads the id of a broker.
func brokerID(text string) (int32, error) {
	id, err := strconv.ParseInt(text, 10, 32)
	if err != nil || id < 0 {
		return 0, usagef("%q is no id of a broker", text).withHint("see: millrace cluster brokers")
	}
	return int32(id), nil
}

func (o *clusterDrainOptions) run(ctx context.Context, c *client.Client) error {
	if err := setDrained(ctx, c, o.broker, true, o.dryRun); err != nil {
		return err
	}
	p := newProgress(o.app, fmt.Sprintf("drain broker %d", o.broker), "partitions left to hand over or to catch up")
	for {
		out, movable, behind, err := o.look(ctx, c)
		if err != nil {
			return err
		}
		if o.dryRun || movable+behind == 0 {
			return o.finish(out, movable)
		}
		p.left(movable + behind)
		select {
		case <-ctx.Done():
			if movable == 0 {
				return o.finish(out, movable)
			}
			return advise(late{fmt.Errorf("broker %d still leads %d partitions that other brokers should lead after %s; it stays drained", o.broker, movable, o.app.timeout)},
				"wait longer with --timeout; see what is behind: millrace cluster health")
		case <-time.After(drainPoll):
		}
	}
}

// look tells how far it is. movable are the partitions that the broker leads and
// another one can lead as soon as it is in sync; behind are the others that will have a
// quorum without it when the replicas that are up have caught up.
func (o *clusterDrainOptions) look(ctx context.Context, c *client.Client) (out clusterDrainOutput, movable, behind int, err error) {
	out = clusterDrainOutput{Broker: o.broker, DryRun: o.dryRun, NoQuorum: []noQuorumPartition{}}
	partitions, err := allPartitions(ctx, c, nil)
	if err != nil {
		return out, 0, 0, err
	}
	brokers, err := describeCluster(ctx, c)
	if err != nil {
		return out, 0, 0, err
	}
	drained, err := drainedBrokers(ctx, c, brokers.Brokers)
	if err != nil {
		return out, 0, 0, err
	}
	up := upBrokers(ctx, c, brokers.Brokers)
	for _, p := range partitions {
		if p.Leader == o.broker {
			out.Leaders++
		}
		others := slices.DeleteFunc(without(p.Replicas, o.broker), func(r int32) bool { return !up(r) })
		quorum := len(p.Replicas)/2 + 1
		missed := slices.Contains(p.Replicas, o.broker) && len(without(p.ISR, o.broker)) < quorum
		if missed {
			out.NoQuorum = append(out.NoQuorum, noQuorumPartition{p.Topic, p.Partition, p.Replicas, p.ISR})
		}
		switch {
		case p.Leader == o.broker && slices.ContainsFunc(others, func(r int32) bool { return !drained[r] }):
			movable++
		case missed && len(others) >= quorum:
			behind++
		}
	}
	voters, err := metadataVoters(ctx, c)
	if err != nil {
		return out, 0, 0, err
	}
	others := slices.DeleteFunc(without(voters, o.broker), func(v int32) bool { return !up(v) })
	out.MetadataQuorum = !slices.Contains(voters, o.broker) || len(others) > len(voters)/2
	out.SafeToStop = out.MetadataQuorum && len(out.NoQuorum) == 0
	return out, movable, behind, nil
}

// finish prints what is the case now.
func (o *clusterDrainOptions) finish(out clusterDrainOutput, movable int) error {
	err := o.app.print(out, func(w io.Writer) {
		switch {
		case o.dryRun:
			fmt.Fprintf(w, "would drain broker %d: %d of the %d partitions that it leads move to others\n", o.broker, movable, out.Leaders)
		case out.Leaders == 0:
			fmt.Fprintf(w, "broker %d is drained: it leads nothing\n", o.broker)
		default:
			fmt.Fprintf(w, "broker %d is drained, but leads %d partitions that no other broker can lead\n", o.broker, out.Leaders)
		}
		if out.SafeToStop {
			fmt.Fprintln(w, "it can be stopped: everything has a quorum without it")
			return
		}
		if !out.MetadataQuorum {
			fmt.Fprintln(w, "do not stop it: the metadata has no quorum without it")
		}
		if len(out.NoQuorum) > 0 {
			fmt.Fprintln(w, "do not stop it: without it there is no quorum for")
			t := newTable("TOPIC", ">PARTITION", "REPLICAS", "ISR")
			for _, p := range out.NoQuorum {
				t.add(p.Topic, p.Partition, join(p.Replicas), join(p.ISR))
			}
			t.write(w)
		}
	})
	if err == nil && !o.dryRun && !out.SafeToStop {
		return &silent{exitError}
	}
	return err
}

// upBrokers tells of a broker whether it answers and the others list it.
func upBrokers(ctx context.Context, c *client.Client, brokers []kmsg.DescribeClusterResponseBroker) func(node int32) bool {
	silent := silentBrokers(ctx, c, brokers)
	up := map[int32]bool{}
	for _, b := range brokers {
		_, down := silent[b.NodeID]
		up[b.NodeID] = !down && !b.IsFenced
	}
	return func(node int32) bool { return up[node] }
}

func without(nodes []int32, gone int32) []int32 {
	return slices.DeleteFunc(slices.Clone(nodes), func(n int32) bool { return n == gone })
}

// metadataVoters are the brokers that vote in the metadata group.
func metadataVoters(ctx context.Context, c *client.Client) (voters []int32, err error) {
	request := kmsg.NewPtrDescribeQuorumRequest()
	topic := kmsg.NewDescribeQuorumRequestTopic()
	topic.Topic = "__cluster_metadata"
	topic.Partitions = append(topic.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
	request.Topics = append(request.Topics, topic)
	answer, err := request.RequestWith(ctx, c.Kgo())
	if err == nil {
		err = kerr.ErrorForCode(answer.ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("describe the metadata group: %w", client.Typed(err))
	}
	for _, topic := range answer.Topics {
		for _, p := range topic.Partitions {
			for _, v := range p.CurrentVoters {
				voters = append(voters, v.ReplicaID)
			}
		}
	}
	return voters, nil
}

type clusterUndrainOptions struct {
	app    *app
	broker int32
	dryRun bool
}

// clusterUndrainOutput is the JSON of cluster undrain.
type clusterUndrainOutput struct {
	Broker  int32 `json:"broker"`
	DryRun  bool  `json:"dry_run"`
	Drained bool  `json:"was_drained"`
}

func newClusterUndrainCmd(a *app) *cobra.Command {
	o := clusterUndrainOptions{app: a}
	c := &cobra.Command{
		Use:   "undrain NODE [--dry-run]",
		Short: "Let a drained broker lead partitions and get replicas again",
		Example: `  millrace cluster undrain 2
  millrace cluster undrain 2 --dry-run`,
		Args: exactly(1, "the id of a broker"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.broker, err = brokerID(args[0]); err != nil {
				return err
			}
			return a.request(cmd.Context(), o.run)
		},
	}
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would be done")
	return c
}

func (o *clusterUndrainOptions) run(ctx context.Context, c *client.Client) error {
	brokers, err := describeCluster(ctx, c)
	if err != nil {
		return err
	}
	drained, err := drainedBrokers(ctx, c, brokers.Brokers)
	if err != nil {
		return err
	}
	if err := setDrained(ctx, c, o.broker, false, o.dryRun); err != nil {
		return err
	}
	out := clusterUndrainOutput{Broker: o.broker, DryRun: o.dryRun, Drained: drained[o.broker]}
	return o.app.print(out, func(w io.Writer) {
		switch {
		case !out.Drained:
			fmt.Fprintf(w, "broker %d is not drained\n", o.broker)
		case o.dryRun:
			fmt.Fprintf(w, "would let broker %d lead partitions and get replicas again\n", o.broker)
		default:
			fmt.Fprintf(w, "broker %d is drained no more; what it should lead comes back by itself, or now with: millrace cluster leaders --elect preferred\n", o.broker)
		}
	})
}

// drainedKey is the configuration of a broker that says whether it is drained.
const drainedKey = "millrace.drained"

// setDrained marks a broker as drained or not, or only checks whether that can be.
func setDrained(ctx context.Context, c *client.Client, broker int32, drained, validate bool) error {
	request := kmsg.NewPtrIncrementalAlterConfigsRequest()
	request.ValidateOnly = validate
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(broker))
	config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	value := strconv.FormatBool(drained)
	config.Name, config.Value = drainedKey, &value
	resource.Configs = append(resource.Configs, config)
	request.Resources = append(request.Resources, resource)
	response, err := askAny(ctx, c, request)
	if err != nil {
		return fmt.Errorf("alter broker %d: %w", broker, client.Typed(err))
	}
	for _, answer := range response.(*kmsg.IncrementalAlterConfigsResponse).Resources {
		if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
			return aboutBroker(broker, answer.ErrorMessage, err)
		}
	}
	return nil
}

// aboutBroker is the refusal of a request about a broker.
func aboutBroker(broker int32, message *string, err error) error {
	why := client.Typed(err).Error()
	if message != nil {
		why = *message
	}
	refused := fmt.Errorf("broker %d: %s (%w)", broker, why, client.Typed(err))
	if kerr.TypedErrorForCode(kerr.BrokerIDNotRegistered.Code) == err {
		return advise(refused, "see: millrace cluster brokers")
	}
	return refused
}

// drainedBrokers asks which brokers are drained. A cluster of an older version knows of
// none.
func drainedBrokers(ctx context.Context, c *client.Client, brokers []kmsg.DescribeClusterResponseBroker) (map[int32]bool, error) {
	request := kmsg.NewPtrDescribeConfigsRequest()
	for _, b := range brokers {
		resource := kmsg.NewDescribeConfigsRequestResource()
		resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(b.NodeID))
		resource.ConfigNames = []string{drainedKey}
		request.Resources = append(request.Resources, resource)
	}
	response, err := askAny(ctx, c, request)
	if err != nil {
		return nil, fmt.Errorf("describe brokers: %w", client.Typed(err))
	}
	drained := map[int32]bool{}
	for _, r := range response.(*kmsg.DescribeConfigsResponse).Resources {
		for _, config := range r.Configs {
			if id, err := strconv.Atoi(r.ResourceName); err == nil && config.Name == drainedKey && config.Value != nil {
				drained[int32(id)] = *config.Value == "true"
			}
		}
	}
	return drained, nil
}

// askAny sends a request about brokers to any broker that answers: the client would
// send it to the brokers that it is about, which may be down.
func askAny(ctx context.Context, c *client.Client, request kmsg.Request) (response kmsg.Response, err error) {
	brokers, err := describeCluster(ctx, c)
	if err != nil {
		return nil, err
	}
	err = kerr.BrokerNotAvailable
	for _, b := range brokers.Brokers {
		if b.IsFenced {
			continue
		}
		if response, err = c.Kgo().Broker(int(b.NodeID)).RetriableRequest(ctx, request); err == nil || ctx.Err() != nil {
			return response, err
		}
	}
	return nil, err
}
