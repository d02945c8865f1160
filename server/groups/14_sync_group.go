package groups

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// SyncGroup, key 14.
//
// Version notes:
//   - v3 adds the instance id (KIP-345)
//   - v5 adds protocol type and name to both sides (KIP-559)

func (c *Coordinator) syncGroup(ctx context.Context, r *kmsg.SyncGroupRequest) kmsg.Response {
	answer := make(chan syncResult, 1)
	if code := c.beginSync(r, answer); code != codeNone {
		answer <- syncResult{code: code}
	}
	var result syncResult
	select {
	case result = <-answer:
	case <-ctx.Done():
		result = syncResult{code: codeNotAvailable}
	}
	resp := r.ResponseKind().(*kmsg.SyncGroupResponse)
	resp.ErrorCode, resp.MemberAssignment = result.code, result.assignment
	if resp.MemberAssignment == nil {
		resp.MemberAssignment = []byte{}
	}
	resp.ProtocolType, resp.Protocol = nullable(result.protocolType), nullable(result.protocol)
	return resp
}

// beginSync refuses the request with a code, or sees to it that answer gets one.
func (c *Coordinator) beginSync(r *kmsg.SyncGroupRequest, answer chan<- syncResult) int16 {
	if !validGroup(r.Group) {
		return codeInvalidGroup
	}
	s, code := c.lock(r.Group)
	if code == codeLoading {
		// The rebalance under way is lost with the memory that held it. This code
		// makes every client join again, also those that do not know the other.
		return codeRebalance
	}
	if code != codeNone {
		return code
	}
	defer s.mu.Unlock()
	g := s.group(r.Group, false)
	if g == nil {
		return codeUnknownMember
	}
	m, code := g.check(r.MemberID, r.InstanceID)
	switch {
	case code != codeNone:
		return code
	case r.Generation != g.generation:
		return codeIllegalGeneration
	case r.ProtocolType != nil && *r.ProtocolType != g.protocolType, r.Protocol != nil && *r.Protocol != g.protocol:
		return codeInconsistent
	}
	switch g.state {
	case Preparing:
		return codeRebalance
	case Completing:
		m.awaitSync(answer)
		delete(g.pendingSync, m.id)
		if g.isLeader(m) && !g.storing {
			g.storeAssignment(r.GroupAssignment)
		}
	case Stable:
		delete(g.pendingSync, m.id)
		g.touch(m)
		answer <- g.assignmentOf(m)
	default:
		return codeUnknownMember
	}
	return codeNone
}

func (g *group) assignmentOf(m *member) syncResult {
	return syncResult{protocolType: g.protocolType, protocol: g.protocol, assignment: m.assignment}
}

// storeAssignment makes the generation durable with the leader's assignment, and
// only then tells it to the members: one that has an assignment is known to every
// later coordinator.
func (g *group) storeAssignment(assigned []kmsg.SyncGroupRequestGroupAssignment) {
	assignments := make(map[string][]byte, len(assigned))
	for _, a := range assigned {
		assignments[a.MemberID] = slices.Clone(a.MemberAssignment)
	}
	generation := g.generation
	done := func(err error) {
		if g.state != Completing || g.generation != generation {
			return // a join or leave came between; its rebalance has answered the syncs
		}
		g.storing = false
		if err != nil {
			g.failSyncs(writeCode(err, codeUnknownServer))
			if g.s.state == shardActive {
				g.prepareRebalance("the assignment was not stored")
			}
			return
		}
		g.setState(Stable)
		for _, m := range g.ordered() {
			m.assignment = assignments[m.id]
			if m.sync != nil {
				g.touch(m)
				m.answerSync(g.assignmentOf(m))
			}
		}
	}
	g.storing = true
	if err := g.store(func(m *member) []byte { return assignments[m.id] }, done); err != nil {
		done(err)
	}
}
