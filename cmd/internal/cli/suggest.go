package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/millrace/millrace/client"
)

// nearest gives `did you mean "x"?` for the candidate that a typing error or two
// turned into name, or "".
func nearest(name string, candidates []string) string {
	best, distance := "", 1+max(2, len(name)/4)
	for _, c := range candidates {
		d := editDistance(strings.ToLower(name), strings.ToLower(c))
		if len(name) >= 3 && strings.HasPrefix(c, name) {
			d = min(d, 1)
		}
		if d < distance && d < len(c) {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// editDistance counts insertions, deletions, replacements and swaps of
// neighbours (optimal string alignment).
func editDistance(a, b string) int {
	before, previous, current := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
		before, previous, current = previous, current, before
	}
	return previous[len(b)]
}

func flagNames(cmd *cobra.Command) []string {
	var names []string
	add := func(f *pflag.Flag) { names = append(names, f.Name) }
	cmd.Flags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	return names
}

const (
	listTopics = "list topics with: millrace topic list"
	listGroups = "list groups with: millrace group list"
)

// createTopic is the hint for a topic that somebody wants to use.
func createTopic(name string) string {
	if isInternal(name) {
		return listTopics // the cluster makes it when it is needed
	}
	return "create it with: millrace topic create " + name + "; " + listTopics
}

// isInternal reports whether a topic of that name is the cluster's own.
func isInternal(name string) bool { return strings.HasPrefix(name, "__") }

// ownTopic is the error about a use of such a topic that the cluster keeps to itself.
func ownTopic(name string) error {
	return advise(fmt.Errorf("topic %q is the cluster's own", name), "clients can read it and not change it").named("INVALID_TOPIC_EXCEPTION")
}

// aboutTopic adds the name that was meant to an error about an unknown topic, or the
// partitions that there are; otherwise is the hint where no name is like it.
func aboutTopic(ctx context.Context, c *client.Client, topic string, err error, otherwise string) error {
	if !errors.Is(err, client.ErrUnknownTopic) {
		return err
	}
	topics, listErr := c.Admin().List(ctx, true)
	if listErr != nil {
		return err
	}
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.Name
		var answered *client.KafkaError
		if t.Name == topic && errors.As(err, &answered) && int(answered.Partition) >= len(t.Partitions) {
			return noPartition(topic, answered.Partition, len(t.Partitions))
		}
	}
	if near := nearest(topic, names); near != "" {
		return advise(err, near+" "+listTopics)
	}
	return advise(err, otherwise)
}

// noPartition is the error about a partition that a topic does not have.
func noPartition(topic string, partition int32, have int) error {
	return advise(
		fmt.Errorf("topic %q has no partition %d", topic, partition),
		fmt.Sprintf("it has %d partitions, counted from 0", have),
	).named("UNKNOWN_TOPIC_OR_PARTITION")
}

// aboutGroup does the same for groups.
func aboutGroup(ctx context.Context, c *client.Client, group string, err error) error {
	if !errors.Is(err, client.ErrUnknownGroup) {
		return err
	}
	groups, listErr := c.Admin().Kadm().ListGroups(ctx)
	if listErr != nil {
		return err
	}
	if near := nearest(group, groups.Groups()); near != "" {
		return advise(err, near+" "+listGroups)
	}
	return advise(err, listGroups)
}
