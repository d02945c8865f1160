package cli

import "github.com/spf13/cobra"

func newGroupCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "group",
		Short: "List, describe, move and delete consumer groups",
		Args:  cobra.ArbitraryArgs,
		RunE:  runGroup,
	}
	c.AddCommand(newGroupListCmd(a), newGroupDescribeCmd(a), newGroupSeekCmd(a), newGroupDeleteCmd(a))
	return c
}
