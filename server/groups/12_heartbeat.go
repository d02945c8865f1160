package groups

import "github.com/twmb/franz-go/pkg/kmsg"

// Heartbeat, key 12.
//
// Version notes:
//   - v3 adds the instance id (KIP-345)

func (c *Coordinator) heartbeat(r *kmsg.HeartbeatRequest) kmsg.Response {
	resp := r.ResponseKind().(*kmsg.HeartbeatResponse)
	resp.ErrorCode = c.heartbeatCode(r)
	return resp
}

func (c *Coordinator) heartbeatCode(r *kmsg.HeartbeatRequest) int16 {
	if !validGroup(r.Group) {
		return codeInvalidGroup
	}
	s, code := c.lock(r.Group)
	if code == codeLoading {
		// Nobody is judged before the group is known, and sessions begin anew after
		// that: old clients do not know the code.
		return codeNone
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
	}
	g.touch(m)
	if g.state == Preparing {
		return codeRebalance
	}
	return codeNone
}
