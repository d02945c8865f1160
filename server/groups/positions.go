package groups

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/segment"
)

// Position is one committed position of a group.
type Position struct {
	// Topic and Partition are what it is for.
	Topic     string
	Partition int32
	// Offset is the next one to read.
	Offset segment.Offset
	// LeaderEpoch is that of the record before it, -1 if the client did not say.
	LeaderEpoch int32
	// Metadata is the client's text.
	Metadata string
	// Committed is when the coordinator took it.
	Committed time.Time
}

// Offsets returns the durable positions of a group, sorted by topic and
// partition; none for an unknown group. It fails with a *kerr.Error when this node
// does not lead the group, or has not loaded it.
func (c *Coordinator) Offsets(ctx context.Context, group string) ([]Position, error) {
	s, code := c.lock(group)
	if code != codeNone {
		return nil, kerr.ErrorForCode(code)
	}
	var positions []Position
	if g := s.group(group, false); g != nil {
		for _, target := range g.targets() {
			if p := g.offsets[target]; !p.damaged {
				positions = append(positions, Position{target.topic, target.partition, p.offset, p.epoch, p.metadata, p.at})
			}
		}
	}
	s.mu.Unlock()
	if err := c.cfg.Confirm(ctx, s.partition, s.term); err != nil {
		return nil, kerr.NotCoordinator
	}
	return positions, nil
}

// targets is what the group has visible positions for, sorted, without those of a
// topic that was since replaced by another of its name.
func (g *group) targets() []topicPartition {
	targets := make([]topicPartition, 0, len(g.offsets))
	for target, p := range g.offsets {
		if !g.replaced(target, p) {
			targets = append(targets, target)
		}
	}
	slices.SortFunc(targets, compareTargets)
	return targets
}

func compareTargets(a, b topicPartition) int {
	return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
}

// replaced says that a position is for a topic that was deleted and created again
// since. Creation indexes only grow, so an old copy of the metadata can never make
// a good position look replaced.
func (g *group) replaced(target topicPartition, p position) bool {
	if p.created == 0 {
		return false
	}
	t, ok := g.s.c.cfg.Topics(target.topic)
	return ok && t.Created > p.created
}

// begin counts a commit that was queued; end makes it visible, if err is nil.
func (g *group) begin(target topicPartition, p position) {
	f := g.inFlight[target]
	f.commits++
	f.created = max(f.created, p.created)
	g.inFlight[target] = f
}

func (g *group) end(target topicPartition, p position, err error) {
	f := g.inFlight[target]
	if f.commits--; f.commits > 0 {
		g.inFlight[target] = f
	} else {
		delete(g.inFlight, target)
	}
	if err == nil {
		g.offsets[target] = p
	}
}

// tombstone queues tombstones for positions, and for the group's metadata if
// whole is set, in as many writes as it takes. Each part is removed from memory
// once durable. done is called once, with the first error.
func (g *group) tombstone(targets []topicPartition, whole bool, done func(error)) {
	now := g.s.c.cfg.Now()
	limit := g.s.c.cfg.MaxAppendBytes / 2
	var first error
	part := func(records []segment.Record, gone []topicPartition, last bool) error {
		return g.s.enqueue(records, func(err error) {
			first = cmp.Or(first, err)
			for _, target := range gone {
				if err == nil {
					delete(g.offsets, target)
				}
			}
			if last {
				done(first)
			}
		})
	}
	var records []segment.Record
	size, from := 0, 0
	for i, target := range targets {
		records = append(records, offsetTombstone(g.id, target, now))
		size += recordSize(records[len(records)-1])
		if size < limit {
			continue
		}
		if err := part(records, targets[from:i+1], false); err != nil {
			done(err)
			return
		}
		records, size, from = nil, 0, i+1
	}
	if whole {
		records = append(records, groupTombstone(g.id, now))
	}
	if len(records) == 0 { // the last part was full to the brim
		records = append(records, barrierRecord(now))
	}
	if err := part(records, targets[from:], true); err != nil {
		done(err)
	}
}

// everything is all that the group has or will have in the log: also commits that
// are queued, which become visible before any tombstone queued now.
func (g *group) everything() []topicPartition {
	all := make(map[topicPartition]bool, len(g.offsets)+len(g.inFlight))
	for target := range g.offsets {
		all[target] = true
	}
	for target := range g.inFlight {
		all[target] = true
	}
	return slices.SortedFunc(maps.Keys(all), compareTargets)
}

// topicDeleted removes the positions of a deleted topic, after the load if one is
// under way.
func (s *shard) topicDeleted(name string, created uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleted[name] = max(s.deleted[name], created)
	if s.state == shardActive {
		s.forgetDeleted()
	}
}

// forgetDeleted queues tombstones for positions of topics that were deleted. A
// name stays noted when that fails, and the next sweep tries again.
func (s *shard) forgetDeleted() {
	deleted := s.deleted
	s.deleted = make(map[string]uint64)
	for _, g := range s.groups {
		var targets []topicPartition
		for _, target := range g.everything() {
			p, created := g.offsets[target], g.inFlight[target].created
			limit, ok := deleted[target.topic]
			gone := ok && max(p.created, created) <= limit
			if gone || g.replaced(target, p) && created <= p.created {
				targets = append(targets, target)
			}
		}
		if len(targets) == 0 || g.deleting {
			continue
		}
		g.tombstone(targets, false, func(err error) {
			if err == nil {
				return
			}
			for name, created := range deleted {
				s.deleted[name] = max(s.deleted[name], created)
			}
		})
	}
}
