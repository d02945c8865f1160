package cli

import "github.com/spf13/cobra"

func newClusterCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "cluster",
		Short: "Show the brokers and whether all is well",
		Args:  cobra.ArbitraryArgs,
		RunE:  runGroup,
	}
	c.AddCommand(newClusterInfoCmd(a), newClusterHealthCmd(a))
	return c
}
