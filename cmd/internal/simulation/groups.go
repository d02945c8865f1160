package simulation

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/server/groups"
)

const (
	// positionsTopic is what the coordinators keep positions in, with one partition.
	positionsTopic = "__consumer_offsets"
	// groupCount is how many groups commit, each by clients of its own.
	groupCount = 3
	// followEvery is how long a coordinator may take to hear of its role.
	followEvery = 2 * time.Millisecond
)

// coordinators are the consumer groups of a process: the real ones, over the replica of
// positionsTopic on its node.
type coordinators struct {
	*groups.Coordinator
	stop chan struct{}
	done sync.WaitGroup
}

// coordinate begins the coordinators of a process.
func (n *node) coordinate(p *process) *coordinators {
	store := positionsStore{n, p}
	c := &coordinators{stop: make(chan struct{}), Coordinator: groups.New(groups.Config{
		Store: store, Partitions: func() int32 { return 1 }, Confirm: store.confirm, Logger: p.logger, AppendTimeout: maxPatience,
	})}
	c.done.Go(func() {
		var led replication.Leadership
		for ; !closed(c.stop); time.Sleep(followEvery) {
			var now replication.Leadership
			if r := store.replica(); r != nil {
				now = r.Leadership()
			}
			switch {
			case now.Ready && now != led:
				c.Lead(0, now.Term)
			case !now.Ready && led.Ready:
				c.Resign(0)
			}
			led = now
		}
	})
	return c
}

// end joins everything that coordinate began.
func (c *coordinators) end() {
	close(c.stop)
	c.done.Wait()
	_ = c.Close()
}

// positionsStore is the log of positionsTopic as a broker gives it to the coordinators.
type positionsStore struct {
	node    *node
	process *process
}

// replica is the process's own, nil if it does not run.
func (s positionsStore) replica() *replication.Partition {
	t, ok := s.process.host.Meta().View().TopicNamed(positionsTopic)
	if !ok {
		return nil
	}
	r, _ := s.process.host.Partition(t.ID, 0)
	return r
}

// find is the replica, if it leads in that term.
func (s positionsStore) find(term segment.Term) (*replication.Partition, error) {
	r := s.replica()
	if r == nil || !r.Leadership().Ready || r.Leadership().Term != term {
		return nil, groups.ErrNotCoordinator
	}
	return r, nil
}

// confirm is groups.Config.Confirm.
func (s positionsStore) confirm(ctx context.Context, _ int32, term segment.Term) error {
	r, err := s.find(term)
	if err != nil {
		return err
	}
	return r.Confirm(ctx, term)
}

// Append implements groups.Store.
func (s positionsStore) Append(ctx context.Context, _ int32, term segment.Term, records []segment.Record) error {
	r, err := s.find(term)
	if err != nil {
		return err
	}
	_, err = answer(ctx, r.Propose(ctx, segment.Build(records, segment.BuildOptions{}), replication.Guard{Term: term}))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, replication.ErrUnknownOutcome):
		return fmt.Errorf("%w: %w", groups.ErrUnknownOutcome, err)
	case errors.Is(err, vfs.ErrNoSpace):
		return fmt.Errorf("%w: %w", groups.ErrRefused, err)
	case definite(err):
		return fmt.Errorf("%w: %w", groups.ErrNotCoordinator, err)
	default:
		return fmt.Errorf("%w: %w", groups.ErrUnknownOutcome, err)
	}
}

// Load implements groups.Store.
func (s positionsStore) Load(ctx context.Context, _ int32, term segment.Term, each func(segment.Record) error) error {
	r, err := s.find(term)
	if err != nil {
		return err
	}
	for from, end := r.Log().StartOffset(), r.Log().HighWatermark(); from < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		records, next, err := readSome(r, from, end)
		if err != nil {
			return err
		}
		if next <= from {
			return errors.New("a read of the positions made no progress")
		}
		for _, record := range records {
			if record.Offset < from {
				continue
			}
			if err := each(record); err != nil {
				return err
			}
		}
		from = next
	}
	_, err = s.find(term) // still, so that all of it was this term's log
	return err
}

// commit commits and fetches the position of one group.
func (c *client) commit(h *positionHistory) {
	for !closed(c.finish) {
		c.pause()
		n := c.coordinator()
		if n == nil {
			continue
		}
		if c.rng.IntN(2) == 0 {
			c.fetchPosition(h, n)
			continue
		}
		c.commitPosition(h, n)
	}
}

// coordinator is a process to ask: mostly the one that leads, now and then any.
func (c *client) coordinator() *process {
	first := c.rng.IntN(members)
	any := c.rng.IntN(8) == 0
	for i := range members {
		p := c.cluster.nodes[(first+i)%members].current()
		if p == nil {
			continue
		}
		if any {
			return p
		}
		if r := (positionsStore{process: p}).replica(); r != nil && r.Leadership().Leader {
			return p
		}
	}
	return nil
}

// commitPosition commits a position that nobody ever committed before.
func (c *client) commitPosition(h *positionHistory, p *process) {
	position := int64(c.id)<<32 | c.next
	c.next++
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.Generation = 8, h.group, -1
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic = topic
	q := kmsg.NewOffsetCommitRequestTopicPartition()
	q.Offset = position
	t.Partitions = append(t.Partitions, q)
	req.Topics = append(req.Topics, t)
	call := c.clock.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), c.patience())
	defer cancel()
	resp := p.groups.Handle(ctx, req, groups.ClientInfo{}).(*kmsg.OffsetCommitResponse)
	h.committed(c.id, call, position, resp.Topics[0].Partitions[0].ErrorCode == 0)
}

// fetchPosition fetches what is committed and notes it; false if there was no answer.
func (c *client) fetchPosition(h *positionHistory, p *process) bool {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.Group = 7, h.group
	req.RequireStable = c.rng.IntN(2) == 0
	t := kmsg.NewOffsetFetchRequestTopic()
	t.Topic, t.Partitions = topic, []int32{0}
	req.Topics = append(req.Topics, t)
	call := c.clock.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), c.patience())
	defer cancel()
	resp := p.groups.Handle(ctx, req, groups.ClientInfo{}).(*kmsg.OffsetFetchResponse)
	if resp.ErrorCode != 0 || resp.Topics[0].Partitions[0].ErrorCode != 0 || p.dead.Load() {
		return false
	}
	h.fetched(c.id, call, resp.Topics[0].Partitions[0].Offset)
	return true
}

// positionHistory is what the clients of one group did and were told.
type positionHistory struct {
	*history // for its clock and lock
	group    string
	ops      []porcupine.Operation
}

// positionInput is a commit, or a fetch with what it saw.
type positionInput struct {
	commit   bool
	position int64 // -1: none
}

// committed notes a commit. Any error says that it may have taken effect, or will.
func (h *positionHistory) committed(client int, call, position int64, answered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	back := int64(math.MaxInt64)
	if answered {
		back = h.clock.Add(1)
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Call: call, Return: back, Input: positionInput{true, position}})
}

// fetched notes a fetch.
func (h *positionHistory) fetched(client int, call, position int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Call: call, Return: h.clock.Add(1), Input: positionInput{position: position}})
}

// positionModel is a group's position for porcupine: the last commit.
var positionModel = porcupine.Model{
	Init: func() any { return int64(-1) },
	Step: func(s, in, _ any) (bool, any) {
		i := in.(positionInput)
		return i.commit || i.position == s.(int64), i.position
	},
}

// linearizable checks the history. A commit without an answer that nobody has read is
// left out: it took effect after everything else, or never.
func (h *positionHistory) linearizable(limit time.Duration) (operations int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	read := map[int64]bool{}
	for _, op := range h.ops {
		if i := op.Input.(positionInput); !i.commit {
			read[i.position] = true
		}
	}
	var ops []porcupine.Operation
	for _, op := range h.ops {
		if op.Return != math.MaxInt64 || read[op.Input.(positionInput).position] {
			ops = append(ops, op)
		}
	}
	switch porcupine.CheckOperationsTimeout(positionModel, ops, limit) {
	case porcupine.Ok:
		return len(ops), nil
	case porcupine.Unknown:
		return len(ops), fmt.Errorf("porcupine found no answer about %s in %v", h.group, limit)
	}
	return len(ops), fmt.Errorf("the positions of %s are not linearizable, %d operations", h.group, len(ops))
}
