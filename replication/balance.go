package replication

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
)

// Leaders of partitions move when brokers stop or die, and nothing brings them back by
// itself: after a rolling restart the broker that was restarted last leads nothing.
// So each leader looks, now and then, whether the preferred replica of a partition that
// it leads could take over, and hands over to it. Nobody coordinates that: a leader
// decides for its own partitions, by what the brokers tell each other.

// Balance says when leadership goes back to preferred replicas.
type Balance struct {
	// Interval is how often a leader looks; 0: never.
	Interval time.Duration
	// Percentage of the partitions of which a broker is the preferred leader may be led
	// by others before anything is moved to it.
	Percentage int
}

// balancePause is the pause between two hand-overs of a round: after a restart many
// partitions go back, and clients learn of one new leader after the other.
const balancePause = 100 * time.Millisecond

// balanceLoop hands leaderships back, if that is wanted, until the host stops.
func (h *Host) balanceLoop() {
	if h.config.Balance.Interval <= 0 {
		return
	}
	tick := time.NewTicker(h.config.Balance.Interval)
	defer tick.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-tick.C:
			h.balance()
		}
	}
}

// balance is one round. A broker that does not take leaderships over is offered no
// other: each attempt holds the writes of a partition for a moment.
func (h *Host) balance() {
	unfit := map[metadata.NodeID]bool{}
	for _, move := range h.astray(h.meta.View()) {
		if unfit[move.to] {
			continue
		}
		ctx, cancel := context.WithTimeout(h.context, moveTimeout)
		err := h.MoveLeader(ctx, move.group.Topic, move.group.Partition, move.to)
		cancel()
		if err != nil {
			unfit[move.to] = unfitting(err)
			h.logger.Debug("leadership does not go back to the preferred replica", "topic", move.topic, "partition", move.group.Partition, "err", err)
		}
		select {
		case <-h.stop:
			return
		case <-time.After(balancePause):
		}
	}
}

// unfitting reports whether a move failed for what the broker that was to lead is, and
// not for what one partition is: led by another meanwhile, or not in step.
func unfitting(err error) bool {
	for _, other := range []error{ErrNoLeader, ErrNotLeader, ErrOtherLeader, ErrNotInSync} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// leaderMove is a partition led here that the preferred replica should lead.
type leaderMove struct {
	topic string
	group transport.GroupID
	to    metadata.NodeID
}

// astray lists the partitions that this node leads in the place of a preferred replica
// that could and is not drained, on brokers that miss more of what they should lead than is allowed.
func (h *Host) astray(view *metadata.View) (moves []leaderMove) {
	preferred, missed := map[metadata.NodeID]int{}, map[metadata.NodeID]int{}
	for topic := range view.Topics() {
		for i, p := range topic.Partitions {
			first := p.Replicas[0].Node
			preferred[first]++
			info, known := h.Leader(topic.ID, int32(i))
			if !known || info.Node == first || view.Drained(first) {
				continue
			}
			missed[first]++
			if info.Node == h.node.ID() && h.Up(first) && slices.Contains(info.InSync, first) {
				moves = append(moves, leaderMove{topic.Name, transport.GroupID{Topic: topic.ID, Partition: int32(i)}, first})
			}
		}
	}
	return slices.DeleteFunc(moves, func(m leaderMove) bool {
		return missed[m.to]*100 <= preferred[m.to]*h.config.Balance.Percentage
	})
}
