package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/server/groups"
)

const (
	// loadBytes is how much of a coordinator's log is read at a time.
	loadBytes = 1 << 20
	// loadInflated bounds a batch of a coordinator's log once inflated; our own
	// are never compressed.
	loadInflated = 100 << 20
)

// groupService connects the group coordinators with the connections on one side
// and the partitions of __consumer_offsets on the other.
type groupService struct {
	coordinator *groups.Coordinator
	stopping    context.Context // as node.stopping
}

// The requests that wait for other members of their group.
const (
	keyJoinGroup = 11
	keySyncGroup = 14
)

// newGroupService makes the coordinators of a node; none leads anything until
// follow says so.
func newGroupService(n *node) groupService {
	s := n.settings
	ms := func(name string) time.Duration { return time.Duration(s.number(name)) * time.Millisecond }
	delay := ms("group.initial.rebalance.delay.ms")
	if delay == 0 {
		delay = -1 // 0 would be the default
	}
	return groupService{stopping: n.stopping, coordinator: groups.New(groups.Config{
		Store: offsetsStore{n},
		Partitions: func() int32 {
			t, ok := n.cluster.View().TopicNamed(offsetsTopic)
			if !ok {
				return 0
			}
			return int32(len(t.Partitions))
		},
		Topics: func(name string) (groups.Topic, bool) {
			t, ok := n.cluster.View().TopicNamed(name)
			if !ok {
				return groups.Topic{}, false
			}
			return groups.Topic{Created: t.Index, Partitions: int32(len(t.Partitions))}, true
		},
		Confirm:               offsetsStore{n}.confirm,
		Logger:                n.logger,
		InitialRebalanceDelay: delay,
		MinSessionTimeout:     ms("group.min.session.timeout.ms"),
		MaxSessionTimeout:     ms("group.max.session.timeout.ms"),
		MaxGroupSize:          int(s.number("group.max.size")),
		MaxMetadataBytes:      int(s.number("offset.metadata.max.bytes")),
		Retention:             time.Duration(max(s.number("offsets.retention.minutes"), 0)) * time.Minute,
	})}
}

// handle passes a request of a group to its coordinator.
func (g groupService) handle(ctx context.Context, r *request) (kmsg.Response, error) {
	if r.key == keyJoinGroup || r.key == keySyncGroup {
		// These wait for other members, up to minutes, and change nothing by being
		// given up: the client looks for the coordinator again.
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(g.stopping, cancel)()
	}
	return g.coordinator.Handle(ctx, r.body, groups.ClientInfo{ID: r.clientID, Host: "/" + r.client.host()}), nil
}

// follow tells the coordinators which partitions of __consumer_offsets this node
// leads, and which topics are gone, until stop.
func (g groupService) follow(n *node, stop <-chan struct{}) {
	changed := make(chan struct{}, 1)
	defer n.leaders.watch(changed)()
	defer n.cluster.WatchMetadata(changed)()
	led := map[int32]segment.Term{}
	topics := map[segment.TopicID]*metadata.Topic{}
	var index uint64
	for {
		view := n.cluster.View()
		if view.Index() != index {
			index = view.Index()
			g.dropTopics(n, view, topics)
		}
		g.lead(n, view, led)
		select {
		case <-changed:
		case <-stop:
			return
		}
	}
}

// lead compares what this node leads with what the coordinators were told.
func (g groupService) lead(n *node, view *metadata.View, led map[int32]segment.Term) {
	t, ok := view.TopicNamed(offsetsTopic)
	if !ok {
		return
	}
	for i := range t.Partitions {
		number := int32(i)
		var now replication.Leadership
		if p, ok := n.cluster.Partition(t.ID, number); ok && n.cluster.ReplicaFailed(t.ID, number) == nil {
			now = p.Leadership()
		}
		term, leads := led[number]
		switch {
		case now.Ready && (!leads || term != now.Term):
			led[number] = now.Term
			g.coordinator.Lead(number, now.Term)
		case !now.Ready && leads:
			delete(led, number)
			g.coordinator.Resign(number)
		}
	}
}

// dropTopics tells the coordinators which of the known topics are gone, and
// learns the new ones.
func (g groupService) dropTopics(n *node, view *metadata.View, known map[segment.TopicID]*metadata.Topic) {
	gone := false
	for id, t := range known {
		if _, ok := view.Topic(id); !ok {
			delete(known, id)
			gone = true
			g.coordinator.TopicDeleted(t.Name, t.Index)
		}
	}
	if gone {
		n.topics.prune(view)
	}
	if len(known) == view.TopicCount() {
		return
	}
	for t := range view.Topics() {
		known[t.ID] = t
	}
}

// offsetsStore is the log of __consumer_offsets as the coordinators need it.
type offsetsStore struct{ node *node }

// find returns this node's replica, if it leads in that term.
func (s offsetsStore) find(number int32, term segment.Term) (partition, error) {
	t, ok := s.node.cluster.View().TopicNamed(offsetsTopic)
	if !ok {
		return nil, fmt.Errorf("find partition %d: %w", number, groups.ErrNotCoordinator)
	}
	p, ok := s.node.cluster.Partition(t.ID, number)
	if !ok || s.node.cluster.ReplicaFailed(t.ID, number) != nil {
		return nil, fmt.Errorf("find partition %d: %w", number, groups.ErrNotCoordinator)
	}
	if l := p.Leadership(); !l.Ready || l.Term != term {
		return nil, fmt.Errorf("partition %d in term %d: %w", number, term, groups.ErrNotCoordinator)
	}
	return p, nil
}

// confirm is groups.Config.Confirm.
func (s offsetsStore) confirm(ctx context.Context, number int32, term segment.Term) error {
	p, err := s.find(number, term)
	if err != nil {
		return err
	}
	if confirm(ctx, p, term) != nil {
		return fmt.Errorf("partition %d in term %d: %w", number, term, groups.ErrNotCoordinator)
	}
	return nil
}

// Append implements groups.Store. The guard holds the batch to the term in which
// the coordinator decided what is in it.
func (s offsetsStore) Append(ctx context.Context, number int32, term segment.Term, records []segment.Record) error {
	p, err := s.find(number, term)
	if err != nil {
		return err
	}
	frame := segment.Build(records, segment.BuildOptions{})
	if len(frame) > maxBatchBytes {
		return fmt.Errorf("batch of %d bytes: %w", len(frame), groups.ErrRefused)
	}
	proposal := p.Propose(ctx, frame, replication.Guard{Term: term})
	select {
	case <-proposal.Done():
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", groups.ErrUnknownOutcome, context.Cause(ctx))
	}
	_, err = proposal.Result()
	var void *replication.VoidError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, replication.ErrUnknownOutcome):
		return fmt.Errorf("%w: %w", groups.ErrUnknownOutcome, err)
	case errors.As(err, &void), errors.Is(err, replication.ErrNotLeader), errors.Is(err, replication.ErrClosed):
		return fmt.Errorf("%w: %w", groups.ErrNotCoordinator, err)
	case errors.Is(err, vfs.ErrNoSpace):
		return fmt.Errorf("%w: %w", groups.ErrRefused, err)
	default:
		return fmt.Errorf("%w: %w", groups.ErrUnknownOutcome, err)
	}
}

// Load implements groups.Store.
func (s offsetsStore) Load(ctx context.Context, number int32, term segment.Term, each func(segment.Record) error) error {
	p, err := s.find(number, term)
	if err != nil {
		return err
	}
	records := p.Log()
	for next, limit := records.StartOffset(), records.HighWatermark(); next < limit; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("load partition %d: %w", number, err)
		}
		if next, err = loadSlice(records, next, limit, each); err != nil {
			return fmt.Errorf("load partition %d: %w", number, err)
		}
	}
	_, err = s.find(number, term) // still, so that all of it was this term's log
	return err
}

// loadSlice delivers the records of one slice and returns where the next begins.
func loadSlice(records partitionLog, from, limit segment.Offset, each func(segment.Record) error) (segment.Offset, error) {
	slice, err := records.Read(from, limit, loadBytes, true)
	if err != nil {
		return from, err
	}
	defer slice.Release()
	if slice.Next <= from {
		return from, fmt.Errorf("read at offset %d of %d made no progress", from, limit)
	}
	frames, err := sliceBytes(&slice, 0, make([]byte, slice.Length))
	if err != nil {
		return from, err
	}
	for len(frames) > 0 {
		h, err := segment.DecodeHeader(frames)
		if err != nil {
			return from, err
		}
		if h.FrameSize() > len(frames) {
			return from, fmt.Errorf("batch at offset %d is cut short", h.BaseOffset)
		}
		batch, err := segment.Records(frames[:h.FrameSize()], loadInflated)
		if err != nil {
			return from, err
		}
		frames = frames[h.FrameSize():]
		for _, record := range batch {
			if record.Offset < from {
				continue
			}
			if err := each(record); err != nil {
				return from, err
			}
		}
	}
	return slice.Next, nil
}

// close ends the coordinators.
func (g groupService) close() error { return g.coordinator.Close() }
