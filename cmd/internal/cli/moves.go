package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/replication/metadata"
)

const (
	// movePoll is the pause between two looks at moves that are under way.
	movePoll = 200 * time.Millisecond
	// moveParallel is how many partitions are moved at a time unless --parallel says
	// otherwise: each is copied as fast as its leader can send it.
	moveParallel = 5
	// unlimited stands for no time limit: a move takes as long as the data takes.
	unlimited = 1000 * time.Hour
)

// partitionMove is one partition that goes to other brokers.
type partitionMove struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	From      []int32 `json:"from"`
	To        []int32 `json:"to"`
}

func writeMoves(w io.Writer, header string, moves []partitionMove) {
	t := newTable("TOPIC", ">PARTITION", "FROM", header)
	for _, m := range moves {
		t.add(m.Topic, m.Partition, join(m.From), join(m.To))
	}
	t.write(w)
}

// planMoves lets plan decide by the cluster as it is. A partition keeps its name in the
// plan as its place in the list.
func planMoves(ctx context.Context, c *client.Client, topics []string, plan func(*metadata.Plan) ([]metadata.Assigned, error)) ([]partitionMove, error) {
	all, err := allPartitions(ctx, c, topics)
	if err != nil {
		return nil, err
	}
	described, err := describeCluster(ctx, c)
	if err != nil {
		return nil, err
	}
	drained, err := drainedBrokers(ctx, c, described.Brokers)
	if err != nil {
		return nil, err
	}
	up := upBrokers(ctx, c, described.Brokers)
	var brokers []*metadata.Broker
	for _, b := range described.Brokers {
		broker := &metadata.Broker{Node: metadata.NodeID(b.NodeID), Drained: drained[b.NodeID] || !up(b.NodeID)} // neither gets one
		if b.Rack != nil {
			broker.Rack = *b.Rack
		}
		brokers = append(brokers, broker)
	}
	var assigned []metadata.Assigned
	for i, p := range all {
		a := metadata.Assigned{Partition: int32(i)}
		for _, r := range p.Replicas {
			a.Nodes = append(a.Nodes, metadata.NodeID(r))
		}
		assigned = append(assigned, a)
	}
	changed, err := plan(metadata.NewPlan(brokers, assigned))
	if err != nil {
		return nil, err
	}
	moves := []partitionMove{}
	for _, a := range changed {
		p := all[a.Partition]
		m := partitionMove{Topic: p.Topic, Partition: p.Partition, From: p.Replicas}
		for _, n := range a.Nodes {
			m.To = append(m.To, int32(n))
		}
		moves = append(moves, m)
	}
	return moves, nil
}

// doMoves moves partitions, so many at a time, and returns when all are where they should
// be. What was begun goes on when the context ends.
func (a *app) doMoves(ctx context.Context, c *client.Client, what string, moves []partitionMove, parallel int) error {
	p := newProgress(a, what, "partitions left to move")
	waiting := slices.Clone(moves)
	for {
		under, err := c.Admin().Kadm().ListPartitionReassignments(ctx, nil)
		if err != nil {
			return fmt.Errorf("list moves: %w", client.Typed(err))
		}
		busy := 0
		for _, m := range moves {
			if _, ok := under[m.Topic][m.Partition]; ok {
				busy++
			}
		}
		for len(waiting) > 0 && busy < parallel {
			if err := beginMove(ctx, c, waiting[0].Topic, waiting[0].Partition, waiting[0].To); err != nil {
				return err
			}
			waiting = waiting[1:]
			busy++
		}
		if busy == 0 {
			return nil
		}
		p.left(len(waiting) + busy)
		select {
		case <-ctx.Done():
			return advise(late{fmt.Errorf("%d partitions are still on their way and %d were not begun; what was begun goes on", busy, len(waiting))},
				"run it again to go on, or take back what is under way: millrace cluster move --cancel")
		case <-time.After(movePoll):
		}
	}
}

// beginMove asks for other replicas of one partition; nil takes a move back.
func beginMove(ctx context.Context, c *client.Client, topic string, partition int32, to []int32) error {
	var req kadm.AlterPartitionAssignmentsReq
	req.Assign(topic, partition, to)
	answers, err := c.Admin().Kadm().AlterPartitionAssignments(ctx, req)
	if err != nil {
		return fmt.Errorf("move %s/%d: %w", topic, partition, client.Typed(err))
	}
	for _, answer := range answers.Sorted() {
		if answer.Err != nil {
			why := answer.ErrMessage
			if why == "" {
				why = client.Typed(answer.Err).Error()
			}
			return fmt.Errorf("move %s/%d: %s (%w)", topic, partition, why, client.Typed(answer.Err))
		}
	}
	return nil
}

// unregisterBroker makes the cluster forget a broker.
func unregisterBroker(ctx context.Context, c *client.Client, broker int32) error {
	request := kmsg.NewPtrUnregisterBrokerRequest()
	request.BrokerID = broker
	answer, err := request.RequestWith(ctx, c.Kgo())
	if err != nil {
		return fmt.Errorf("unregister broker %d: %w", broker, client.Typed(err))
	}
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return aboutBroker(broker, answer.ErrorMessage, err)
	}
	return nil
}
