package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

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
	groups, err := c.Admin().Kadm().ListGroups(ctx)
	if err != nil {
		return fmt.Errorf("list groups: %w", client.Typed(err))
	}
	out := groupListOutput{Groups: []groupOutput{}}
	for _, g := range groups.Sorted() {
		out.Groups = append(out.Groups, groupOutput{Group: g.Group, State: g.State, Protocol: g.ProtocolType, Coordinator: g.Coordinator})
	}
	return o.app.print(out, func(w io.Writer) {
		t := newTable("GROUP", "STATE", "PROTOCOL", ">COORDINATOR")
		for _, g := range out.Groups {
			t.add(g.Group, g.State, g.Protocol, g.Coordinator)
		}
		t.write(w)
	})
}
