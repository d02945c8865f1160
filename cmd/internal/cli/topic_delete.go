package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/client"
)

type topicDeleteOptions struct {
	app    *app
	names  []string
	yes    bool
	dryRun bool
}

// topicDeleteOutput is the JSON of topic delete.
type topicDeleteOutput struct {
	DryRun bool                `json:"dry_run"`
	Topics []topicDeleteResult `json:"topics"`
}

type topicDeleteResult struct {
	Name       string `json:"name"`
	Partitions int    `json:"partitions"`
	Deleted    bool   `json:"deleted"`
}

func newTopicDeleteCmd(a *app) *cobra.Command {
	o := topicDeleteOptions{app: a}
	c := &cobra.Command{
		Use:   "delete NAME... [-y] [--dry-run]",
		Short: "Delete topics with all their records",
		Example: `  millrace topic delete orders --dry-run
  millrace topic delete orders -y`,
		Args: atLeastOne("the name of a topic"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.names = args
			return o.run(cmd.Context())
		},
	}
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would be deleted")
	return c
}

func (o *topicDeleteOptions) run(ctx context.Context) error {
	out := topicDeleteOutput{DryRun: o.dryRun, Topics: []topicDeleteResult{}}
	err := o.app.request(ctx, func(ctx context.Context, c *client.Client) error {
		for _, name := range o.names {
			topic, err := c.Admin().Describe(ctx, name)
			if err != nil {
				return aboutTopic(ctx, c, name, err, listTopics)
			}
			if topic.Internal {
				return ownTopic(name)
			}
			out.Topics = append(out.Topics, topicDeleteResult{Name: name, Partitions: len(topic.Partitions)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if o.dryRun {
		return o.app.print(out, func(w io.Writer) { writeDeleted(w, "WOULD-DELETE", out.Topics) })
	}
	if !o.yes {
		writeDeleted(o.app.Err, "DELETE", out.Topics)
	}
	if err := o.app.confirm(o.yes, "Delete with all records?"); err != nil {
		return err
	}
	err = o.app.request(ctx, func(ctx context.Context, c *client.Client) error {
		return c.Admin().Delete(ctx, o.names...)
	})
	if err != nil {
		return err
	}
	for i := range out.Topics {
		out.Topics[i].Deleted = true
	}
	return o.app.print(out, func(w io.Writer) {
		for _, t := range out.Topics {
			fmt.Fprintf(w, "deleted topic %s\n", t.Name)
		}
	})
}

func writeDeleted(w io.Writer, header string, topics []topicDeleteResult) {
	t := newTable(header, ">PARTITIONS")
	for _, topic := range topics {
		t.add(topic.Name, topic.Partitions)
	}
	t.write(w)
}
