package cli

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/client"
)

type topicDescribeOptions struct {
	app  *app
	name string
}

// topicDescribeOutput is the JSON of topic describe.
type topicDescribeOutput struct {
	Name       string            `json:"name"`
	ID         string            `json:"id"`
	Configs    map[string]string `json:"configs"`
	Partitions []partitionOutput `json:"partitions"`
}

type partitionOutput struct {
	Partition      int32       `json:"partition"`
	Leader         int32       `json:"leader"`
	LeaderEpoch    int32       `json:"leader_epoch"`
	Replicas       []int32     `json:"replicas"`
	ISR            []int32     `json:"isr"`
	LogStartOffset int64       `json:"log_start_offset"` // -1: not known now
	HighWatermark  int64       `json:"high_watermark"`   // -1: not known now
	Dirs           []dirOutput `json:"dirs"`
}

type dirOutput struct {
	Node  int32  `json:"node"`
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

func newTopicDescribeCmd(a *app) *cobra.Command {
	o := topicDescribeOptions{app: a}
	return &cobra.Command{
		Use:   "describe NAME",
		Short: "Show a topic's partitions, leaders, offsets, folders and configurations",
		Example: `  millrace topic describe orders
  millrace topic describe orders --format json`,
		Args: exactly(1, "the name of a topic"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			return a.request(cmd.Context(), o.run)
		},
	}
}

func (o *topicDescribeOptions) run(ctx context.Context, c *client.Client) error {
	admin := c.Admin()
	topic, err := admin.Describe(ctx, o.name)
	if err != nil {
		return aboutTopic(ctx, c, o.name, err, createTopic(o.name))
	}
	configs, err := admin.Configs(ctx, o.name)
	if err != nil {
		return err
	}
	out := topicDescribeOutput{Name: topic.Name, ID: topic.ID, Configs: configs, Partitions: []partitionOutput{}}
	starts, ends := offsetsOf(ctx, admin.Kadm(), o.name)
	dirs := dirsOf(ctx, admin.Kadm(), topic)
	for _, p := range topic.Partitions {
		out.Partitions = append(out.Partitions, partitionOutput{
			Partition: p.ID, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch,
			Replicas: orEmpty(p.Replicas), ISR: orEmpty(p.ISR),
			LogStartOffset: offsetOr(starts, o.name, p.ID), HighWatermark: offsetOr(ends, o.name, p.ID),
			Dirs: orEmpty(dirs[p.ID]),
		})
	}
	return o.app.print(out, func(w io.Writer) { writeTopic(w, out) })
}

// offsetsOf asks for the ends of all partitions. A partition without a leader
// has none; that must not keep the rest from being shown.
func offsetsOf(ctx context.Context, adm *kadm.Client, topic string) (starts, ends kadm.ListedOffsets) {
	starts, _ = adm.ListStartOffsets(ctx, topic)
	ends, _ = adm.ListEndOffsets(ctx, topic)
	return starts, ends
}

func offsetOr(all kadm.ListedOffsets, topic string, partition int32) int64 {
	if l, ok := all.Lookup(topic, partition); ok && l.Err == nil {
		return l.Offset
	}
	return -1
}

// dirsOf tells where the replicas are. A broker that does not answer, or cannot
// answer this, leaves its part out.
func dirsOf(ctx context.Context, adm *kadm.Client, topic client.Topic) map[int32][]dirOutput {
	wanted := kadm.TopicsSet{}
	for _, p := range topic.Partitions {
		wanted.Add(topic.Name, p.ID)
	}
	all, _ := adm.DescribeAllLogDirs(ctx, wanted)
	dirs := map[int32][]dirOutput{}
	all.Each(func(d kadm.DescribedLogDir) {
		d.Topics.Each(func(p kadm.DescribedLogDirPartition) {
			path := filepath.Join(p.Dir, "topics", topic.Name, fmt.Sprintf("%d-%s", p.Partition, folderID(topic.ID)))
			dirs[p.Partition] = append(dirs[p.Partition], dirOutput{Node: p.Broker, Path: path, Bytes: p.Size})
		})
	})
	for _, list := range dirs {
		slices.SortFunc(list, func(a, b dirOutput) int { return int(a.Node - b.Node) })
	}
	return dirs
}

// folderID is a topic id as folder names hold it: in hexadecimal.
func folderID(id string) string {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(id, "="))
	if err != nil {
		return id
	}
	return hex.EncodeToString(raw)
}

func writeTopic(w io.Writer, out topicDescribeOutput) {
	fmt.Fprintf(w, "NAME  %s\nID    %s\n\n", out.Name, out.ID)
	t := newTable(">PARTITION", ">LEADER", ">EPOCH", "REPLICAS", "ISR", ">LOG-START", ">HIGH-WATERMARK")
	for _, p := range out.Partitions {
		t.add(p.Partition, p.Leader, p.LeaderEpoch, join(p.Replicas), join(p.ISR), p.LogStartOffset, p.HighWatermark)
	}
	t.write(w)
	dirs := newTable(">PARTITION", ">NODE", ">BYTES", "PATH")
	for _, p := range out.Partitions {
		for _, d := range p.Dirs {
			dirs.add(p.Partition, d.Node, d.Bytes, d.Path)
		}
	}
	if len(dirs.rows) > 1 {
		fmt.Fprintln(w)
		dirs.write(w)
	}
	fmt.Fprintln(w)
	configs := newTable("CONFIG", "VALUE")
	for _, key := range slices.Sorted(maps.Keys(out.Configs)) {
		configs.add(key, out.Configs[key])
	}
	configs.write(w)
}
