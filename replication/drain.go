package replication

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
)

// A drained broker (metadata.DrainBroker) leads nothing that another in-sync replica
// can lead, so that it can be stopped, or die, without anybody noticing. It keeps its
// replicas and its votes: a drained broker can still win an election, where it has the
// longest log, and gives the leadership away as soon as another replica is in sync. So
// no partition waits for a leader because of the mark.

// drainInterval is how often a drained broker looks for leaderships to give away. A
// replica that comes into sync, or an election that it won, is found by the next look.
const drainInterval = 500 * time.Millisecond

// drainLoop gives this broker's leaderships away while it is drained, until the host
// stops.
func (h *Host) drainLoop() {
	changed := make(chan struct{}, 1)
	defer h.meta.Watch(changed)()
	for {
		// While drained it looks at its pace, and not at every change of the metadata:
		// each attempt may hold the writes of a partition for a moment.
		wake, again := changed, (<-chan time.Time)(nil)
		if view := h.meta.View(); view.Drained(h.node.ID()) {
			h.drain(view)
			wake, again = nil, time.After(drainInterval)
		}
		select {
		case <-h.stop:
			return
		case <-wake:
		case <-again:
		}
	}
}

// drain is one look. A broker that did not take one leadership over is offered no
// other by it.
func (h *Host) drain(view *metadata.View) {
	unfit := map[metadata.NodeID]bool{}
	leads := h.leaderCounts(view)
	for topic := range view.Topics() {
		for i, p := range topic.Partitions {
			group := transport.GroupID{Topic: topic.ID, Partition: int32(i)}
			to, ok := h.relief(view, group, p.Replicas, leads, unfit)
			if !ok {
				continue
			}
			ctx, cancel := context.WithTimeout(h.context, moveTimeout)
			err := h.MoveLeader(ctx, topic.ID, int32(i), to)
			cancel()
			if h.context.Err() != nil {
				return
			}
			if err != nil {
				unfit[to] = unfitting(err)
				h.logger.Debug("a drained broker still leads", "topic", topic.Name, "partition", i, "err", err)
				continue
			}
			leads[to]++
		}
	}
}

// relief is the broker that is to lead a partition in the place of this one, if this
// one leads it and there is such a broker: the one that leads least, the first in the
// order of preference of several.
func (h *Host) relief(view *metadata.View, group transport.GroupID, replicas []metadata.Replica, leads map[metadata.NodeID]int, unfit map[metadata.NodeID]bool) (metadata.NodeID, bool) {
	info, known := h.Leader(group.Topic, group.Partition)
	if !known || info.Node != h.node.ID() {
		return 0, false
	}
	var fit []metadata.NodeID
	for _, r := range replicas {
		if r.Node != h.node.ID() && h.Up(r.Node) && !view.Drained(r.Node) && !unfit[r.Node] && slices.Contains(info.InSync, r.Node) {
			fit = append(fit, r.Node)
		}
	}
	if len(fit) == 0 {
		return 0, false
	}
	return slices.MinFunc(fit, func(a, b metadata.NodeID) int { return cmp.Compare(leads[a], leads[b]) }), true
}

// leaderCounts is how many partitions each broker leads, as far as known here.
func (h *Host) leaderCounts(view *metadata.View) map[metadata.NodeID]int {
	counts := map[metadata.NodeID]int{}
	for topic := range view.Topics() {
		for i := range topic.Partitions {
			if info, known := h.Leader(topic.ID, int32(i)); known {
				counts[info.Node]++
			}
		}
	}
	return counts
}

// HandOver moves the leadership of a partition of this node to another broker before
// this one stops: to one that is not drained, if such a one is in step. See Transfer.
func (h *Host) HandOver(ctx context.Context, p *Partition) error {
	view := h.meta.View()
	err := p.Transfer(ctx, NoLeader, func(node metadata.NodeID) bool { return h.mux.Up(node) && !view.Drained(node) })
	drained := slices.ContainsFunc(p.assigned(), func(r metadata.Replica) bool { return view.Drained(r.Node) })
	if errors.Is(err, ErrNoSuccessor) && drained {
		return p.Transfer(ctx, NoLeader, h.mux.Up)
	}
	return err
}
