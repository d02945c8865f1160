package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/client"
)

type groupListOptions struct{ app *app }

// groupListOutput is the JSON of group list.
type groupListOutput struct {
	Groups []groupOutput `json:"groups"`
}

type groupOutput struct {
	Group       string `json:"group"`
	State       string `json:"state"`
	Protocol    string `json:"protocol"`
	Coordinator int32  `json:"coordinator"`
}

func newGroupListCmd(a *app) *cobra.Command {
	o := groupListOptions{app: a}
	return &cobra.Command{
		Use:   "list",
		Short: "List consumer groups",
		Example: `  millrace group list
  millrace group list --format json`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.request(cmd.Context(), o.run) },
	}
}

func (o *groupListOptions) run(ctx context.Context, c *client.Client) error {
	return o.show(c.Admin().Kadm().ListGroups(ctx))
}

// show prints what the brokers said, also when one of them said nothing.
func (o *groupListOptions) show(groups kadm.ListedGroups, err error) error {
	var shards *kadm.ShardErrors
	if err != nil && (!errors.As(err, &shards) || shards.AllFailed) {
		return fmt.Errorf("list groups: %w", client.Typed(err))
	}
	out := groupListOutput{Groups: []groupOutput{}}
	for _, g := range groups.Sorted() {
		out.Groups = append(out.Groups, groupOutput{Group: g.Group, State: g.State, Protocol: g.ProtocolType, Coordinator: g.Coordinator})
	}
	printErr := o.app.print(out, func(w io.Writer) {
		t := newTable("GROUP", "STATE", "PROTOCOL", ">COORDINATOR")
		for _, g := range out.Groups {
			t.add(g.Group, g.State, g.Protocol, g.Coordinator)
		}
		t.write(w)
	})
	if shards == nil {
		return printErr
	}
	return errors.Join(printErr, incomplete(shards))
}

// incomplete is the error of a list that some brokers had no part in: the groups that
// they coordinate are not in it.
func incomplete(shards *kadm.ShardErrors) error {
	nodes := make([]int32, len(shards.Errs))
	for i, e := range shards.Errs {
		nodes[i] = e.Broker.NodeID
	}
	slices.Sort(nodes)
	return advise(
		fmt.Errorf("the list may not be complete: no answer from node %s: %w", join(nodes), client.Typed(shards.Errs[0].Err)),
		"see whether the cluster is well: millrace cluster health",
	)
}
