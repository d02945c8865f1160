package groups

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// OffsetDelete, key 47, version 0 (KIP-496): removes single positions, of topics
// that no member of the group reads.

func (c *Coordinator) offsetDelete(ctx context.Context, r *kmsg.OffsetDeleteRequest) kmsg.Response {
	answer := make(chan error, 1)
	resp := c.beginOffsetDelete(r, answer)
	if resp.ErrorCode != codeNone {
		return resp
	}
	code := codeNotAvailable
	select {
	case err := <-answer:
		code = writeCode(err, codeUnknownServer)
	case <-ctx.Done():
	}
	if code != codeNone {
		resp.ErrorCode, resp.Topics = code, nil
	}
	return resp
}

// beginOffsetDelete answers with an error, or fills in the response as it is once
// answer delivers nil.
func (c *Coordinator) beginOffsetDelete(r *kmsg.OffsetDeleteRequest, answer chan<- error) *kmsg.OffsetDeleteResponse {
	resp := r.ResponseKind().(*kmsg.OffsetDeleteResponse)
	if !validGroup(r.Group) {
		resp.ErrorCode = codeInvalidGroup
		return resp
	}
	s, code := c.lock(r.Group)
	if code != codeNone {
		resp.ErrorCode = code
		return resp
	}
	defer s.mu.Unlock()
	g := s.group(r.Group, false)
	switch {
	case g == nil:
		resp.ErrorCode = codeGroupNotFound
		return resp
	case g.deleting:
		resp.ErrorCode = codeNotAvailable
		return resp
	case g.state != Empty && g.protocolType != consumerType:
		resp.ErrorCode = codeNonEmptyGroup
		return resp
	}
	var targets []topicPartition
	for i := range r.Topics {
		out := kmsg.OffsetDeleteResponseTopic{Topic: r.Topics[i].Topic}
		for _, p := range r.Topics[i].Partitions {
			target := topicPartition{out.Topic, p.Partition}
			code, exists := g.deletable(target)
			if exists && code == codeNone {
				targets = append(targets, target)
			}
			out.Partitions = append(out.Partitions, kmsg.OffsetDeleteResponseTopicPartition{Partition: p.Partition, ErrorCode: code})
		}
		resp.Topics = append(resp.Topics, out)
	}
	if len(targets) == 0 {
		answer <- nil
		return resp
	}
	g.tombstone(targets, false, func(err error) { answer <- err })
	return resp
}

// deletable says whether a position may be removed, and whether there is one.
func (g *group) deletable(target topicPartition) (code int16, exists bool) {
	_, exists = g.offsets[target]
	exists = exists || g.inFlight[target].commits > 0
	if g.state != Empty {
		if topics, known := g.subscribed(); !known || topics[target.topic] {
			return codeGroupSubscribed, exists
		}
	}
	if t, ok := g.s.c.cfg.Topics(target.topic); !exists && (!ok || target.partition < 0 || target.partition >= t.Partitions) {
		return codeUnknownTopic, false
	}
	return codeNone, exists
}
