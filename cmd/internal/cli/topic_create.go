package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/client"
)

type topicCreateOptions struct {
	app        *app
	name       string
	partitions int
	replicas   int
	configs    pairs
}

// topicOutput is one topic in the JSON of topic create and topic list.
type topicOutput struct {
	Name       string `json:"name"`
	ID         string `json:"id"`
	Partitions int    `json:"partitions"`
	Replicas   int    `json:"replicas"`
	Internal   bool   `json:"internal"`
}

func newTopicCreateCmd(a *app) *cobra.Command {
	o := topicCreateOptions{app: a}
	c := &cobra.Command{
		Use:   "create NAME [-p PARTITIONS] [-r REPLICAS] [-c key=value]...",
		Short: "Create a topic",
		Example: `  millrace topic create orders
  millrace topic create events -p 6 -r 3 -c retention.ms=86400000`,
		Args: exactly(1, "the name of a topic"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if err := o.check(cmd); err != nil {
				return err
			}
			return a.request(cmd.Context(), o.run)
		},
	}
	c.Flags().IntVarP(&o.partitions, "partitions", "p", 0, "number of partitions (default: the broker's num.partitions)")
	c.Flags().IntVarP(&o.replicas, "replicas", "r", 0, "copies of each partition (default: the broker's default.replication.factor)")
	c.Flags().VarP(&o.configs, "topic-config", "c", "a configuration of the topic, repeatable")
	return c
}

func (o *topicCreateOptions) check(cmd *cobra.Command) error {
	if cmd.Flags().Changed("partitions") && (o.partitions < 1 || o.partitions > 1<<20) {
		return usagef("-p %d is not a number of partitions", o.partitions)
	}
	if cmd.Flags().Changed("replicas") && (o.replicas < 1 || o.replicas > 1<<14) {
		return usagef("-r %d is not a number of replicas", o.replicas)
	}
	return nil
}

func (o *topicCreateOptions) run(ctx context.Context, c *client.Client) error {
	admin := c.Admin()
	err := admin.Create(ctx, client.TopicSpec{
		Name: o.name, Partitions: o.partitions, Replicas: o.replicas, Configs: o.configs.values,
	})
	if err != nil {
		return err
	}
	topic, err := describeNew(ctx, admin, o.name)
	if err != nil {
		return err
	}
	o.noteIgnored(ctx, admin)
	out := toTopicOutput(topic)
	return o.app.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "created topic %s: %d partitions, %d replicas\n", out.Name, out.Partitions, out.Replicas)
	})
}

// noteIgnored says which of the configurations that were asked for have another value
// in force. The topic is there; what cannot be read now is no failure.
func (o *topicCreateOptions) noteIgnored(ctx context.Context, admin *client.Admin) {
	if len(o.configs.values) == 0 {
		return
	}
	inForce, err := admin.Configs(ctx, o.name)
	if err != nil {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(o.configs.values)) {
		asked := o.configs.values[key]
		if value, known := inForce[key]; known && value != asked {
			fmt.Fprintf(o.app.Err, "note: %s=%s has no effect, %s is in force%s\n", key, asked, value, whyIgnored[key])
		}
	}
}

// whyIgnored says why a value that was asked for may have no effect.
var whyIgnored = map[string]string{
	"min.insync.replicas": ": an acknowledgement means a majority of the replicas, never fewer",
}

// describeNew describes a topic that was just made: another broker than the one
// that made it may take a moment to know it.
func describeNew(ctx context.Context, admin *client.Admin, name string) (client.Topic, error) {
	for {
		topic, err := admin.Describe(ctx, name)
		if !errors.Is(err, client.ErrUnknownTopic) {
			return topic, err
		}
		select {
		case <-ctx.Done():
			return topic, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func toTopicOutput(t client.Topic) topicOutput {
	return topicOutput{Name: t.Name, ID: t.ID, Partitions: len(t.Partitions), Replicas: t.Replicas(), Internal: t.Internal}
}
