package durability

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// watchInterval is the pause between two looks.
const watchInterval = 50 * time.Millisecond

// Watch asks again and again for the log ends and a group's committed positions:
// neither goes back, log ends are never below what was acknowledged before the
// question, nor positions below what was committed before it.
func (l *Load) Watch(group *Group) error {
	client, err := l.client()
	if err != nil {
		return err
	}
	w := &watch{load: l, group: group, admin: kadm.NewClient(client), ends: make([]int64, l.target.Partitions), positions: make([]int64, l.target.Partitions)}
	l.others.Go(func() {
		defer client.Close()
		for rest(l.context, watchInterval) {
			var both sync.WaitGroup
			both.Go(w.lookAtEnds)
			both.Go(w.lookAtPositions)
			both.Wait()
		}
	})
	return nil
}

type watch struct {
	load  *Load
	group *Group
	admin *kadm.Client
	// The largest seen, by partition.
	ends, positions []int64
}

// questionLimit bounds one question.
const questionLimit = 5 * time.Second

// leastEnds is what every later answer must reach.
func (w *watch) leastEnds() []int64 {
	least := make([]int64, len(w.ends))
	for p := range least {
		least[p] = max(w.ends[p], w.load.ledger.AckedEnd(int32(p)))
	}
	return least
}

// leastPositions is what every later answer must reach.
func (w *watch) leastPositions() []int64 {
	least := make([]int64, len(w.positions))
	for p := range least {
		least[p] = max(w.positions[p], w.group.Committed(int32(p)))
	}
	return least
}

func (w *watch) lookAtEnds() {
	least := w.leastEnds()
	ctx, cancel := context.WithTimeout(w.load.context, questionLimit)
	defer cancel()
	ends, err := w.admin.ListEndOffsets(ctx, w.load.target.Topic)
	if err != nil {
		return
	}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil && int(o.Partition) < len(least) {
			w.judgeEnd(o.Partition, o.Offset, least[o.Partition])
		}
	})
}

// judgeEnd holds an answer against what was known before the question.
func (w *watch) judgeEnd(partition int32, end, least int64) {
	if end < least {
		w.load.faults.Add(MN, "partition %d ends at offset %d, and ended at %d before", partition, end, least)
	}
	w.ends[partition] = max(w.ends[partition], end)
}

func (w *watch) lookAtPositions() {
	least := w.leastPositions()
	positions, ok := w.load.Positions(w.load.context, w.admin, w.group)
	if !ok {
		return
	}
	for p, position := range positions {
		w.judgePosition(int32(p), position, least[p])
	}
}

// judgePosition holds an answer against what was known before the question.
func (w *watch) judgePosition(partition int32, position, least int64) {
	if position < least {
		w.load.faults.Add(MN, "group %s: the position of partition %d is %d, and was %d before", w.group.name, partition, position, least)
	}
	w.positions[partition] = max(w.positions[partition], position)
}

// Positions asks for a group's committed positions, by partition; 0 where there is
// none yet. False if there was no answer, or an error.
func (l *Load) Positions(ctx context.Context, admin *kadm.Client, group *Group) (positions []int64, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, questionLimit)
	defer cancel()
	answer, err := admin.FetchOffsets(ctx, group.name)
	if errors.Is(err, kerr.GroupIDNotFound) {
		l.faults.Add(MN, "group %s: %v", group.name, err)
	}
	if err != nil {
		return nil, false
	}
	positions = make([]int64, l.target.Partitions)
	for p := range positions {
		o, found := answer.Lookup(l.target.Topic, int32(p))
		if found && o.Err != nil {
			return nil, false
		}
		if found {
			positions[p] = max(o.At, 0)
		}
	}
	return positions, true
}
