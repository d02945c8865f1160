package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/client"
)

type groupSeekOptions struct {
	app    *app
	group  string
	to     string
	topics []string
	yes    bool
	dryRun bool
}

// groupSeekOutput is the JSON of group seek.
type groupSeekOutput struct {
	Group   string            `json:"group"`
	DryRun  bool              `json:"dry_run"`
	Offsets []groupSeekOffset `json:"offsets"`
}

type groupSeekOffset struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed int64  `json:"committed"` // before; -1: nothing was committed
	To        int64  `json:"to"`
}

func newGroupSeekCmd(a *app) *cobra.Command {
	o := groupSeekOptions{app: a}
	c := &cobra.Command{
		Use:   "seek GROUP --to start|end|TIME|... [--topics T,...] [-y] [--dry-run]",
		Short: "Move the committed positions of a group that has no members",
		Long: `Move the committed positions of a group that has no members.

--to takes a position as consume -o does: start, end, an offset, +N (N after the
start), -N (N before the end), or a time: @-1h, @2026-11-01, 2026-11-01T10:00:00Z.`,
		Example: `  millrace group seek billing --to start --dry-run
  millrace group seek billing --to @-1h --topics orders -y`,
		Args: exactly(1, "the name of a group"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.group = args[0]
			return o.run(cmd.Context())
		},
	}
	c.Flags().StringVar(&o.to, "to", "", "where to: start, end, OFFSET, +N, -N, @TIME (required)")
	c.Flags().StringSliceVar(&o.topics, "topics", nil, "only these topics (default: all that the group has committed)")
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would change")
	return c
}

func (o *groupSeekOptions) run(ctx context.Context) error {
	if o.to == "" {
		return usagef("group seek needs --to").withHint("--to start, end, an offset or a time such as @-1h")
	}
	position, err := parsePosition(o.to, o.app.Now())
	if err != nil {
		return usagef("--to: %s", err)
	}
	out := groupSeekOutput{Group: o.group, DryRun: o.dryRun}
	err = o.app.request(ctx, func(ctx context.Context, c *client.Client) (err error) {
		out.Offsets, err = o.plan(ctx, c, position)
		return err
	})
	if err != nil {
		return err
	}
	if o.dryRun {
		return o.app.print(out, func(w io.Writer) { writeSeek(w, "WOULD-MOVE-TO", out.Offsets) })
	}
	if !o.yes {
		writeSeek(o.app.Err, "TO", out.Offsets)
	}
	if err := o.app.confirm(o.yes, "Move the group "+o.group+"?"); err != nil {
		return err
	}
	err = o.app.request(ctx, func(ctx context.Context, c *client.Client) error { return o.commit(ctx, c, out.Offsets) })
	if err != nil {
		return err
	}
	return o.app.print(out, func(w io.Writer) { writeSeek(w, "TO", out.Offsets) })
}

// plan works out the new positions of all partitions of the topics asked for.
func (o *groupSeekOptions) plan(ctx context.Context, c *client.Client, to client.Position) ([]groupSeekOffset, error) {
	known, err := o.checkIdle(ctx, c)
	if err != nil {
		return nil, err
	}
	adm := c.Admin().Kadm()
	committed, err := adm.FetchOffsets(ctx, o.group)
	if err == nil {
		err = committed.Error()
	}
	if err != nil {
		return nil, aboutGroup(ctx, c, o.group, fmt.Errorf("fetch positions of group %q: %w", o.group, client.Typed(err)))
	}
	topics := slices.Clone(o.topics)
	if len(topics) == 0 {
		for topic := range committed {
			topics = append(topics, topic)
		}
	}
	if len(topics) == 0 {
		if !known {
			_, err := lagOf(ctx, c, o.group) // says so, with the name that was meant
			return nil, err
		}
		return nil, advise(fmt.Errorf("group %q has no committed positions", o.group), "name the topics with --topics").named("NO_COMMITTED_POSITIONS")
	}
	slices.Sort(topics)
	plan := []groupSeekOffset{}
	for _, topic := range slices.Compact(topics) { // a topic given twice is moved once
		offsets, err := c.Offsets(ctx, topic, to)
		if err != nil {
			return nil, aboutTopic(ctx, c, topic, err, listTopics)
		}
		if err := o.noteOutside(ctx, c, topic); err != nil {
			return nil, err
		}
		for partition, offset := range offsets {
			before := int64(-1)
			if old, ok := committed.Lookup(topic, partition); ok {
				before = old.At
			}
			plan = append(plan, groupSeekOffset{Topic: topic, Partition: partition, Committed: before, To: offset})
		}
	}
	slices.SortFunc(plan, func(a, b groupSeekOffset) int {
		if d := strings.Compare(a.Topic, b.Topic); d != 0 {
			return d
		}
		return int(a.Partition - b.Partition)
	})
	return plan, nil
}

// noteOutside tells when --to is an offset that is not there.
func (o *groupSeekOptions) noteOutside(ctx context.Context, c *client.Client, topic string) error {
	offset, ok := askedFor(o.to)
	if !ok {
		return nil
	}
	found, err := lookUp(ctx, c, topic, offset)
	if err != nil {
		return err
	}
	if note := found.outside(topic, nil); note != "" {
		fmt.Fprintf(o.app.Err, "note: %s\n", note)
	}
	return nil
}

// checkIdle refuses a group with members: they would commit over the new
// positions. A group that does not exist may be given its first positions.
func (o *groupSeekOptions) checkIdle(ctx context.Context, c *client.Client) (known bool, err error) {
	g, err := lagOf(ctx, c, o.group)
	switch {
	case errors.Is(err, client.ErrUnknownGroup):
		return false, nil
	case err != nil:
		return false, err
	case len(g.Members) > 0:
		return true, advise(
			fmt.Errorf("group %q cannot be moved: %w (%d)", o.group, client.ErrGroupInUse, len(g.Members)),
			"stop its members first; see: millrace group describe "+o.group,
		).named("NON_EMPTY_GROUP")
	}
	return true, nil
}

func (o *groupSeekOptions) commit(ctx context.Context, c *client.Client, plan []groupSeekOffset) error {
	if _, err := o.checkIdle(ctx, c); err != nil { // one may have joined meanwhile
		return err
	}
	offsets := kadm.Offsets{}
	for _, p := range plan {
		offsets.AddOffset(p.Topic, p.Partition, p.To, -1)
	}
	if err := c.Admin().Kadm().CommitAllOffsets(ctx, o.group, offsets); err != nil {
		return fmt.Errorf("move group %q: %w", o.group, client.Typed(err))
	}
	return nil
}

func writeSeek(w io.Writer, header string, offsets []groupSeekOffset) {
	t := newTable("TOPIC", ">PARTITION", ">COMMITTED", ">"+header)
	for _, p := range offsets {
		t.add(p.Topic, p.Partition, p.Committed, p.To)
	}
	t.write(w)
}
