package cli

import "github.com/spf13/cobra"

func newClusterCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "cluster",
		Short: "Show the brokers and partitions, whether all is well, elect leaders, drain brokers, and move partitions",
		Args:  cobra.ArbitraryArgs,
		RunE:  runGroup,
	}
	c.AddCommand(newClusterInfoCmd(a), newClusterHealthCmd(a), newClusterBrokersCmd(a), newClusterPartitionsCmd(a), newClusterLeadersCmd(a),
		newClusterDrainCmd(a), newClusterUndrainCmd(a), newClusterMoveCmd(a), newClusterBalanceCmd(a), newClusterDecommissionCmd(a))
	return c
}
