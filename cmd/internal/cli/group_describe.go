package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/client"
)

type groupDescribeOptions struct {
	app   *app
	group string
}

// groupDescribeOutput is the JSON of group describe.
type groupDescribeOutput struct {
	Group    string              `json:"group"`
	State    string              `json:"state"`
	Protocol string              `json:"protocol"`
	Assignor string              `json:"assignor"`
	Members  []groupMemberOutput `json:"members"`
	Offsets  []groupOffsetOutput `json:"offsets"`
}

type groupMemberOutput struct {
	ID         string             `json:"id"`
	ClientID   string             `json:"client_id"`
	Host       string             `json:"host"`
	Partitions []partitionOfTopic `json:"partitions"`
}

type partitionOfTopic struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
}

type groupOffsetOutput struct {
	Topic        string `json:"topic"`
	Partition    int32  `json:"partition"`
	Committed    int64  `json:"committed"`      // -1: nothing committed yet
	LogEndOffset int64  `json:"log_end_offset"` // -1: not known now
	Lag          int64  `json:"lag"`            // -1: not known now
}

func newGroupDescribeCmd(a *app) *cobra.Command {
	o := groupDescribeOptions{app: a}
	return &cobra.Command{
		Use:   "describe GROUP",
		Short: "Show a group's members, committed positions and lag",
		Example: `  millrace group describe billing
  millrace group describe billing --format json`,
		Args: exactly(1, "the name of a group"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.group = args[0]
			return a.request(cmd.Context(), o.run)
		},
	}
}

func (o *groupDescribeOptions) run(ctx context.Context, c *client.Client) error {
	g, err := lagOf(ctx, c, o.group)
	if err != nil {
		return err
	}
	out := groupDescribeOutput{
		Group: g.Group, State: g.State, Protocol: g.ProtocolType, Assignor: g.Protocol,
		Members: []groupMemberOutput{}, Offsets: []groupOffsetOutput{},
	}
	for _, m := range g.Members {
		member := groupMemberOutput{ID: m.MemberID, ClientID: m.ClientID, Host: m.ClientHost, Partitions: []partitionOfTopic{}}
		if assigned, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range assigned.Topics {
				for _, p := range t.Partitions {
					member.Partitions = append(member.Partitions, partitionOfTopic{t.Topic, p})
				}
			}
		}
		out.Members = append(out.Members, member)
	}
	for _, l := range g.Lag.Sorted() {
		if l.Member == nil && l.Commit.At < 0 {
			continue // a partition that nobody has read or reads
		}
		offset := groupOffsetOutput{Topic: l.Topic, Partition: l.Partition, Committed: l.Commit.At, LogEndOffset: -1, Lag: l.Lag}
		if l.End.Err == nil {
			offset.LogEndOffset = l.End.Offset
		}
		out.Offsets = append(out.Offsets, offset)
	}
	return o.app.print(out, func(w io.Writer) { writeGroup(w, out) })
}

// lagOf describes a group. Brokers answer for a group that does not exist as for
// one that is dead; here that is an error.
func lagOf(ctx context.Context, c *client.Client, group string) (kadm.DescribedGroupLag, error) {
	all, err := c.Admin().Kadm().Lag(ctx, group)
	if err != nil {
		return kadm.DescribedGroupLag{}, fmt.Errorf("describe group: %w", client.Typed(err))
	}
	g, ok := all[group]
	if !ok || g.DescribeErr == nil && g.State == "Dead" {
		g.DescribeErr = kerr.GroupIDNotFound
	}
	if err := g.Error(); err != nil {
		err = fmt.Errorf("describe group %q: %w", group, client.Typed(err))
		return g, aboutGroup(ctx, c, group, err)
	}
	return g, nil
}

// writeAssigned is a member's partitions by topic in one cell: "orders:0,2;users:1".
func writeAssigned(partitions []partitionOfTopic) string {
	sorted := slices.Clone(partitions)
	slices.SortFunc(sorted, func(a, b partitionOfTopic) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	var cell strings.Builder
	for i, p := range sorted {
		switch {
		case i == 0:
			cell.WriteString(p.Topic + ":")
		case p.Topic != sorted[i-1].Topic:
			cell.WriteString(";" + p.Topic + ":")
		default:
			cell.WriteString(",")
		}
		cell.WriteString(strconv.Itoa(int(p.Partition)))
	}
	return cell.String()
}

func writeGroup(w io.Writer, out groupDescribeOutput) {
	fmt.Fprintf(w, "GROUP     %s\nSTATE     %s\nPROTOCOL  %s\nASSIGNOR  %s\n\n", out.Group, out.State, out.Protocol, out.Assignor)
	members := newTable("MEMBER", "CLIENT-ID", "HOST", "PARTITIONS")
	for _, m := range out.Members {
		members.add(m.ID, m.ClientID, m.Host, writeAssigned(m.Partitions))
	}
	members.write(w)
	fmt.Fprintln(w)
	offsets := newTable("TOPIC", ">PARTITION", ">COMMITTED", ">LOG-END", ">LAG")
	for _, o := range out.Offsets {
		offsets.add(o.Topic, o.Partition, o.Committed, o.LogEndOffset, o.Lag)
	}
	offsets.write(w)
}
