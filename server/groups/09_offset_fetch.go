package groups

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// OffsetFetch, key 9.
//
// Version notes:
//   - v2 adds an error for the group, and null topics for "all"
//   - v5 adds the leader epoch
//   - v7 adds RequireStable (KIP-447)
//   - v8 asks for several groups
//   - v9 adds member id and epoch of KIP-848 groups, which classic ones pass over
//   - v10 names topics by id and is not offered

func (c *Coordinator) offsetFetch(ctx context.Context, r *kmsg.OffsetFetchRequest) kmsg.Response {
	resp := r.ResponseKind().(*kmsg.OffsetFetchResponse)
	if r.Version >= 8 {
		for i := range r.Groups {
			resp.Groups = append(resp.Groups, c.fetchGroup(ctx, &r.Groups[i], r.RequireStable))
		}
		return resp
	}
	asked := kmsg.OffsetFetchRequestGroup{Group: r.Group}
	if r.Topics != nil || r.Version < 2 {
		asked.Topics = make([]kmsg.OffsetFetchRequestGroupTopic, 0, len(r.Topics))
	}
	for _, t := range r.Topics {
		asked.Topics = append(asked.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: t.Topic, Partitions: t.Partitions})
	}
	got := c.fetchGroup(ctx, &asked, r.RequireStable)
	resp.ErrorCode = got.ErrorCode
	if r.Version < 2 && got.ErrorCode != codeNone {
		// No place for the group's error: every partition says it.
		got.Topics = fetchTopics(asked.Topics, func(_ string, p *kmsg.OffsetFetchResponseGroupTopicPartition) {
			p.ErrorCode = got.ErrorCode
		})
	}
	for _, t := range got.Topics {
		out := kmsg.OffsetFetchResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			out.Partitions = append(out.Partitions, kmsg.OffsetFetchResponseTopicPartition{
				Partition: p.Partition, Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: p.Metadata, ErrorCode: p.ErrorCode,
			})
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

// fetchTopics lays out a position "none" for everything asked for and lets fill
// improve it.
func fetchTopics(asked []kmsg.OffsetFetchRequestGroupTopic, fill func(string, *kmsg.OffsetFetchResponseGroupTopicPartition)) []kmsg.OffsetFetchResponseGroupTopic {
	topics := make([]kmsg.OffsetFetchResponseGroupTopic, 0, len(asked))
	for _, t := range asked {
		out := kmsg.OffsetFetchResponseGroupTopic{Topic: t.Topic}
		for _, partition := range t.Partitions {
			none := ""
			p := kmsg.OffsetFetchResponseGroupTopicPartition{Partition: partition, Offset: -1, LeaderEpoch: -1, Metadata: &none}
			fill(t.Topic, &p)
			out.Partitions = append(out.Partitions, p)
		}
		topics = append(topics, out)
	}
	return topics
}

// fetchGroup answers for one group: its durable positions, or an error. Position
// -1 is answered only by a loaded coordinator in whose log there is none.
func (c *Coordinator) fetchGroup(ctx context.Context, asked *kmsg.OffsetFetchRequestGroup, stable bool) kmsg.OffsetFetchResponseGroup {
	resp := kmsg.OffsetFetchResponseGroup{Group: asked.Group, Topics: []kmsg.OffsetFetchResponseGroupTopic{}}
	if len(asked.Group) > maxGroupID {
		resp.ErrorCode = codeInvalidGroup
		return resp
	}
	s, code := c.lock(asked.Group)
	if code != codeNone {
		resp.ErrorCode = code
		return resp
	}
	g := s.group(asked.Group, false)
	if g == nil {
		g = newGroup(s, asked.Group) // not kept: it has no positions
	}
	topics := asked.Topics
	if topics == nil {
		topics = g.allTopics()
	}
	resp.Topics = fetchTopics(topics, func(topic string, p *kmsg.OffsetFetchResponseGroupTopicPartition) {
		g.fetch(topicPartition{topic, p.Partition}, stable, p)
	})
	s.mu.Unlock()
	if err := c.cfg.Confirm(ctx, s.partition, s.term); err != nil {
		resp.Topics, resp.ErrorCode = resp.Topics[:0], codeNotCoordinator
	}
	return resp
}

// allTopics is a request for every position there is.
func (g *group) allTopics() []kmsg.OffsetFetchRequestGroupTopic {
	var topics []kmsg.OffsetFetchRequestGroupTopic
	for _, target := range g.targets() {
		if n := len(topics); n == 0 || topics[n-1].Topic != target.topic {
			topics = append(topics, kmsg.OffsetFetchRequestGroupTopic{Topic: target.topic})
		}
		last := &topics[len(topics)-1]
		last.Partitions = append(last.Partitions, target.partition)
	}
	return topics
}

// fetch fills in one position.
func (g *group) fetch(target topicPartition, stable bool, out *kmsg.OffsetFetchResponseGroupTopicPartition) {
	p, ok := g.offsets[target]
	switch {
	case stable && g.inFlight[target].commits > 0:
		out.ErrorCode = codeUnstableOffset
	case !ok || g.replaced(target, p):
	case p.damaged:
		out.ErrorCode = codeUnknownServer
	default:
		out.Offset, out.LeaderEpoch, out.Metadata = int64(p.offset), p.epoch, &p.metadata
	}
}
