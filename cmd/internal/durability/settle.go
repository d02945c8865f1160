package durability

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
)

// Ends asks for the log ends, by partition, until all are known: high watermarks of
// ready leaders. Without producers they do not change any more.
func (l *Load) Ends(ctx context.Context) ([]int64, error) {
	client, err := l.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	ends, acked := make([]int64, l.target.Partitions), make([]int64, l.target.Partitions)
	for p := range acked {
		acked[p] = l.ledger.AckedEnd(int32(p)) // before the question: the load may go on
	}
	for {
		known := 0
		listed, err := admin.ListEndOffsets(ctx, l.target.Topic)
		if err == nil {
			listed.Each(func(o kadm.ListedOffset) {
				if o.Err == nil && int(o.Partition) < len(ends) {
					ends[o.Partition] = o.Offset
					known++
				}
			})
		}
		if known == len(ends) {
			break
		}
		if !rest(ctx, watchInterval) {
			return nil, fmt.Errorf("log ends are not known: %d of %d: %w", known, len(ends), errOr(err, ctx.Err()))
		}
	}
	for p := range ends {
		if ends[p] < acked[p] {
			l.faults.Add(NL, "partition %d ends at offset %d; offset %d was acknowledged", p, ends[p], acked[p]-1)
		}
	}
	return ends, nil
}

func errOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// WaitRead waits until readers and the group have been given everything below the
// ends and the group has committed it. What is missing when ctx ends is a
// violation.
func (l *Load) WaitRead(ctx context.Context, ends []int64, readers []*Reader, groups ...*Group) {
	client, err := l.client()
	if err != nil {
		l.faults.Add(CE, "%v", err)
		return
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	for {
		missing := l.unread(ctx, admin, ends, readers, groups)
		if missing == "" {
			return
		}
		if !rest(ctx, watchInterval) {
			l.faults.Add(MN, "%s", missing)
			return
		}
	}
}

// unread names something that was not read or committed, empty if there is nothing.
func (l *Load) unread(ctx context.Context, admin *kadm.Client, ends []int64, readers []*Reader, groups []*Group) string {
	for p, end := range ends {
		for _, r := range readers {
			if next := r.Next(int32(p)); next < end && end > 0 {
				return fmt.Sprintf("%s has read partition %d up to offset %d; it ends at %d", r.name, p, next, end)
			}
		}
		for _, g := range groups {
			if missing := g.Missing(int32(p), end); missing >= 0 {
				return fmt.Sprintf("group %s was not given offset %d of partition %d, which ends at %d", g.name, missing, p, end)
			}
		}
	}
	for _, g := range groups {
		positions, ok := l.Positions(ctx, admin, g)
		if !ok {
			return fmt.Sprintf("the positions of group %s are not known", g.name)
		}
		for p, end := range ends {
			if positions[p] < end {
				return fmt.Sprintf("group %s has committed position %d of partition %d, which ends at %d", g.name, positions[p], p, end)
			}
		}
	}
	return ""
}
