package cli

import "github.com/spf13/cobra"

func newTopicCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "topic",
		Short: "Create, list, describe, trim and delete topics",
		Args:  cobra.ArbitraryArgs,
		RunE:  runGroup,
	}
	c.AddCommand(newTopicCreateCmd(a), newTopicListCmd(a), newTopicDescribeCmd(a), newTopicDeleteCmd(a), newTopicTrimCmd(a))
	return c
}
