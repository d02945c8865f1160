package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/client"
)

type topicTrimOptions struct {
	app        *app
	topic      string
	partitions []int32
	offset     string
	before     string
	yes        bool
	dryRun     bool
}

// topicTrimOutput is the JSON of topic trim.
type topicTrimOutput struct {
	Topic      string            `json:"topic"`
	DryRun     bool              `json:"dry_run"`
	Partitions []topicTrimResult `json:"partitions"`
}

type topicTrimResult struct {
	Partition      int32 `json:"partition"`
	LogStartOffset int64 `json:"log_start_offset"` // before
	To             int64 `json:"to"`
	Records        int64 `json:"records"` // offsets between the two
}

func newTopicTrimCmd(a *app) *cobra.Command {
	o := topicTrimOptions{app: a}
	c := &cobra.Command{
		Use:   "trim TOPIC --offset N|--before TIME [-p PARTITION]... [-y] [--dry-run]",
		Short: "Delete the oldest records of a topic",
		Long: `Delete the records of a topic before an offset, or before the first one that is not
older than a time. They cannot be read any more from then on; their disk space is
freed as soon as every replica has caught up.

--offset takes a number, or end for all records there are now. --before takes a time:
2026-11-01, 2026-11-01T10:00:00Z, a Unix time, or -1h for an hour ago.`,
		Example: `  millrace topic trim orders --before -7d --dry-run
  millrace topic trim orders -p 2 --offset 4711 -y`,
		Args: exactly(1, "the name of a topic"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.topic = args[0]
			return o.run(cmd.Context())
		},
	}
	c.Flags().StringVar(&o.offset, "offset", "", "the first offset to keep, or end")
	c.Flags().StringVar(&o.before, "before", "", "the time of the first record to keep")
	c.Flags().Int32SliceVarP(&o.partitions, "partition", "p", nil, "only this partition, repeatable")
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would be deleted")
	return c
}

func (o *topicTrimOptions) run(ctx context.Context) error {
	to, err := o.position()
	if err != nil {
		return err
	}
	out := topicTrimOutput{Topic: o.topic, DryRun: o.dryRun}
	err = o.app.request(ctx, func(ctx context.Context, c *client.Client) (err error) {
		out.Partitions, err = o.plan(ctx, c, to)
		return err
	})
	if err != nil {
		return err
	}
	if o.dryRun {
		return o.app.print(out, func(w io.Writer) { writeTrim(w, "WOULD-MOVE-TO", out.Partitions) })
	}
	if !o.yes {
		writeTrim(o.app.Err, "TO", out.Partitions)
	}
	if err := o.app.confirm(o.yes, "Delete the records before these offsets?"); err != nil {
		return err
	}
	err = o.app.request(ctx, func(ctx context.Context, c *client.Client) error { return o.trim(ctx, c, out.Partitions) })
	if err != nil {
		return err
	}
	return o.app.print(out, func(w io.Writer) { writeTrim(w, "TO", out.Partitions) })
}

// position is where the log is to start.
func (o *topicTrimOptions) position() (client.Position, error) {
	if (o.offset == "") == (o.before == "") {
		return client.Position{}, usagef("topic trim needs --offset or --before").withHint("--offset N, --offset end, or --before TIME, such as -7d")
	}
	for _, p := range o.partitions {
		if p < 0 {
			return client.Position{}, usagef("-p %d is no partition", p)
		}
	}
	if o.offset == "end" {
		return client.End(), nil
	}
	if o.offset != "" {
		n, err := strconv.ParseUint(o.offset, 10, 63)
		if err != nil {
			return client.Position{}, usagef("--offset: %q is no offset", o.offset).withHint("a number, or end")
		}
		return client.At(int64(n)), nil
	}
	at, ok := parseTime(strings.TrimPrefix(o.before, "@"), o.app.Now(), true)
	if !ok {
		return client.Position{}, usagef("--before: %q is no time", o.before).withHint("2026-11-01, 2026-11-01T10:00:00Z, a Unix time, or -1h for an hour ago")
	}
	return client.Time(at), nil
}

// plan works out the new log starts. An offset that a log does not have is taken as its
// nearest end, and that is said.
func (o *topicTrimOptions) plan(ctx context.Context, c *client.Client, to client.Position) ([]topicTrimResult, error) {
	topic, err := c.Admin().Describe(ctx, o.topic)
	if err != nil {
		return nil, aboutTopic(ctx, c, o.topic, err, listTopics)
	}
	if topic.Internal {
		return nil, ownTopic(o.topic)
	}
	starts, err := c.Offsets(ctx, o.topic, client.Start())
	if err != nil {
		return nil, err
	}
	goals, err := c.Offsets(ctx, o.topic, to)
	if err != nil {
		return nil, err
	}
	partitions := slices.Clone(o.partitions)
	if len(partitions) == 0 {
		partitions = slices.Collect(maps.Keys(goals))
	}
	slices.Sort(partitions)
	plan := []topicTrimResult{}
	for _, p := range slices.Compact(partitions) {
		goal, ok := goals[p]
		if !ok {
			return nil, noPartition(o.topic, p, len(goals))
		}
		goal = max(goal, starts[p])
		plan = append(plan, topicTrimResult{Partition: p, LogStartOffset: starts[p], To: goal, Records: goal - starts[p]})
	}
	if offset, ok := askedFor(o.offset); ok {
		found, err := lookUp(ctx, c, o.topic, offset)
		if err != nil {
			return nil, err
		}
		if note := found.outside(o.topic, partitions); note != "" {
			fmt.Fprintf(o.app.Err, "note: %s\n", note)
		}
	}
	return plan, nil
}

func (o *topicTrimOptions) trim(ctx context.Context, c *client.Client, plan []topicTrimResult) error {
	offsets := kadm.Offsets{}
	for _, p := range plan {
		if p.Records > 0 {
			offsets.AddOffset(o.topic, p.Partition, p.To, -1)
		}
	}
	if len(offsets) == 0 {
		return nil
	}
	answers, err := c.Admin().Kadm().DeleteRecords(ctx, offsets)
	if err == nil {
		err = answers.Error()
	}
	if err == nil {
		return nil
	}
	refused := errors.Is(err, kerr.PolicyViolation)
	err = fmt.Errorf("trim topic %q: %w", o.topic, client.Typed(err))
	if refused {
		return advise(err, "its cleanup.policy does not delete; see: millrace topic describe "+o.topic)
	}
	return err
}

func writeTrim(w io.Writer, header string, partitions []topicTrimResult) {
	t := newTable(">PARTITION", ">LOG-START", ">"+header, ">RECORDS")
	for _, p := range partitions {
		t.add(p.Partition, p.LogStartOffset, p.To, p.Records)
	}
	t.write(w)
}
