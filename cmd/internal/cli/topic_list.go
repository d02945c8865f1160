package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/client"
)

type topicListOptions struct {
	app      *app
	internal bool
}

// topicListOutput is the JSON of topic list.
type topicListOutput struct {
	Topics []topicOutput `json:"topics"`
}

func newTopicListCmd(a *app) *cobra.Command {
	o := topicListOptions{app: a}
	c := &cobra.Command{
		Use:   "list",
		Short: "List topics",
		Example: `  millrace topic list
  millrace topic list --internal --format json`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.request(cmd.Context(), o.run) },
	}
	c.Flags().BoolVarP(&o.internal, "internal", "i", false, "also the cluster's own topics")
	return c
}

func (o *topicListOptions) run(ctx context.Context, c *client.Client) error {
	topics, err := c.Admin().List(ctx, o.internal)
	if err != nil {
		return err
	}
	out := topicListOutput{Topics: []topicOutput{}}
	for _, t := range topics {
		out.Topics = append(out.Topics, toTopicOutput(t))
	}
	return o.app.print(out, func(w io.Writer) {
		t := newTable("NAME", ">PARTITIONS", ">REPLICAS")
		for _, topic := range out.Topics {
			t.add(topic.Name, topic.Partitions, topic.Replicas)
		}
		t.write(w)
	})
}
