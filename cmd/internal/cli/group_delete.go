package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/client"
)

type groupDeleteOptions struct {
	app    *app
	groups []string
	yes    bool
	dryRun bool
}

// groupDeleteOutput is the JSON of group delete.
type groupDeleteOutput struct {
	DryRun bool                `json:"dry_run"`
	Groups []groupDeleteResult `json:"groups"`
}

type groupDeleteResult struct {
	Group   string `json:"group"`
	State   string `json:"state"`
	Deleted bool   `json:"deleted"`
}

func newGroupDeleteCmd(a *app) *cobra.Command {
	o := groupDeleteOptions{app: a}
	c := &cobra.Command{
		Use:   "delete GROUP... [-y] [--dry-run]",
		Short: "Delete groups with their committed positions",
		Example: `  millrace group delete billing --dry-run
  millrace group delete billing -y`,
		Args: atLeastOne("the name of a group"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.groups = args
			return o.run(cmd.Context())
		},
	}
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would be deleted")
	return c
}

func (o *groupDeleteOptions) run(ctx context.Context) error {
	out := groupDeleteOutput{DryRun: o.dryRun, Groups: []groupDeleteResult{}}
	err := o.app.request(ctx, func(ctx context.Context, c *client.Client) error {
		for _, name := range o.groups {
			g, err := lagOf(ctx, c, name)
			if err != nil {
				return err
			}
			out.Groups = append(out.Groups, groupDeleteResult{Group: name, State: g.State})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if o.dryRun {
		return o.app.print(out, func(w io.Writer) { writeDeletedGroups(w, "WOULD-DELETE", out.Groups) })
	}
	if !o.yes {
		writeDeletedGroups(o.app.Err, "DELETE", out.Groups)
	}
	if err := o.app.confirm(o.yes, "Delete with all committed positions?"); err != nil {
		return err
	}
	return o.app.request(ctx, func(ctx context.Context, c *client.Client) error { return o.delete(ctx, c, out) })
}

func (o *groupDeleteOptions) delete(ctx context.Context, c *client.Client, out groupDeleteOutput) error {
	answers, err := c.Admin().Kadm().DeleteGroups(ctx, o.groups...)
	if err != nil {
		return fmt.Errorf("delete group: %w", client.Typed(err))
	}
	var faults []error
	for i, g := range out.Groups {
		if err := answers[g.Group].Err; err != nil {
			faults = append(faults, fmt.Errorf("delete group %q: %w", g.Group, client.Typed(err)))
			continue
		}
		out.Groups[i].Deleted = true
	}
	err = o.app.print(out, func(w io.Writer) {
		for _, g := range out.Groups {
			if g.Deleted {
				fmt.Fprintf(w, "deleted group %s\n", g.Group)
			}
		}
	})
	return errors.Join(append(faults, err)...)
}

func writeDeletedGroups(w io.Writer, header string, groups []groupDeleteResult) {
	t := newTable(header, "STATE")
	for _, g := range groups {
		t.add(g.Group, g.State)
	}
	t.write(w)
}
