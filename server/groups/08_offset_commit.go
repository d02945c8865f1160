package groups

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// OffsetCommit, key 8.
//
// Version notes:
//   - v1 adds generation and member id; before, every commit is a simple one
//   - v2 to v4 carry a retention, which is ignored (as by Kafka since 2.1 where
//     none is given)
//   - v6 adds the leader epoch
//   - v7 adds the instance id (KIP-345)
//   - v10 names topics by id and is not offered

// commit is one position of a request and where its result goes.
type commit struct {
	target topicPartition
	position
	code *int16
}

func (c *Coordinator) offsetCommit(ctx context.Context, r *kmsg.OffsetCommitRequest) kmsg.Response {
	resp, commits := c.checkCommits(r)
	if len(commits) == 0 {
		return resp
	}
	answer := make(chan error, 1)
	code := c.beginCommit(r, commits, answer)
	if code == codeNone {
		select {
		case err := <-answer:
			code = writeCode(err, codeInvalidCommitSize)
		case <-ctx.Done():
			code = codeNotAvailable
		}
	}
	for _, item := range commits {
		*item.code = code
	}
	return resp
}

// checkCommits lays out the response and returns what can be committed. A
// negative position is refused: read back, it would mean that there is none.
func (c *Coordinator) checkCommits(r *kmsg.OffsetCommitRequest) (*kmsg.OffsetCommitResponse, []commit) {
	resp := r.ResponseKind().(*kmsg.OffsetCommitResponse)
	resp.Topics = make([]kmsg.OffsetCommitResponseTopic, len(r.Topics))
	var commits []commit
	now := c.cfg.Now()
	for i := range r.Topics {
		in, out := &r.Topics[i], &resp.Topics[i]
		out.Topic, out.Partitions = in.Topic, make([]kmsg.OffsetCommitResponseTopicPartition, len(in.Partitions))
		topic, ok := c.cfg.Topics(in.Topic)
		ok = ok && in.Topic != "" && len(in.Topic) <= maxTopicName
		for j := range in.Partitions {
			p, result := &in.Partitions[j], &out.Partitions[j]
			result.Partition = p.Partition
			switch {
			case !ok || p.Partition < 0 || p.Partition >= topic.Partitions:
				result.ErrorCode = codeUnknownTopic
			case len(text(p.Metadata)) > c.cfg.MaxMetadataBytes:
				result.ErrorCode = codeMetadataTooLarge
			case p.Offset < 0:
				result.ErrorCode = codeInvalidRequest
			default:
				commits = append(commits, commit{
					target: topicPartition{in.Topic, p.Partition}, code: &result.ErrorCode,
					position: position{
						offset: segment.Offset(p.Offset), epoch: p.LeaderEpoch, metadata: text(p.Metadata),
						at: now, created: topic.Created,
					},
				})
			}
		}
	}
	return resp, commits
}

// beginCommit queues the positions, or says why not. They become visible, all at
// once, when they are durable.
func (c *Coordinator) beginCommit(r *kmsg.OffsetCommitRequest, commits []commit, answer chan<- error) int16 {
	if len(r.Group) > maxGroupID {
		return codeInvalidGroup
	}
	s, code := c.lock(r.Group)
	if code != codeNone {
		return code
	}
	defer s.mu.Unlock()
	g := s.group(r.Group, r.Generation < 0)
	if g == nil {
		return codeIllegalGeneration
	}
	defer s.dropIfVacant(g)
	if code := g.checkCommit(r); code != codeNone {
		return code
	}
	records := make([]segment.Record, len(commits))
	for i, item := range commits {
		records[i] = offsetRecord(g.id, item.target, item.position)
	}
	err := s.enqueue(records, func(err error) {
		for _, item := range commits {
			g.end(item.target, item.position, err)
		}
		s.dropIfVacant(g)
		answer <- err
	})
	if err != nil {
		return writeCode(err, codeInvalidCommitSize)
	}
	for _, item := range commits {
		g.begin(item.target, item.position)
	}
	return codeNone
}

// checkCommit lets a member of the current generation commit, and a consumer
// outside of any group as long as the group has no members.
func (g *group) checkCommit(r *kmsg.OffsetCommitRequest) int16 {
	if g.deleting {
		return codeNotAvailable
	}
	if r.Generation < 0 && r.MemberID == "" && r.InstanceID == nil {
		if g.state != Empty {
			return codeUnknownMember
		}
		return codeNone
	}
	m, code := g.check(r.MemberID, r.InstanceID)
	switch {
	case code != codeNone:
		return code
	case r.Generation != g.generation:
		return codeIllegalGeneration
	}
	g.touch(m)
	if g.state == Completing {
		return codeRebalance
	}
	return codeNone
}
