package groups

import "github.com/twmb/franz-go/pkg/kmsg"

// LeaveGroup, key 13.
//
// Version notes:
//   - v3 takes several members and instance ids, with an error each (KIP-345)
//   - v5 adds a reason, which is for logs (KIP-800)

func (c *Coordinator) leaveGroup(r *kmsg.LeaveGroupRequest) kmsg.Response {
	resp := r.ResponseKind().(*kmsg.LeaveGroupResponse)
	members := r.Members
	if r.Version < 3 {
		members = []kmsg.LeaveGroupRequestMember{{MemberID: r.MemberID}}
	}
	results, code := c.leaveMembers(r.Group, members)
	resp.ErrorCode = code
	if r.Version < 3 {
		if code == codeNone {
			resp.ErrorCode = results[0].ErrorCode
		}
		return resp
	}
	resp.Members = results
	return resp
}

func (c *Coordinator) leaveMembers(id string, members []kmsg.LeaveGroupRequestMember) ([]kmsg.LeaveGroupResponseMember, int16) {
	if !validGroup(id) {
		return nil, codeInvalidGroup
	}
	s, code := c.lock(id)
	if code != codeNone {
		return nil, code
	}
	defer s.mu.Unlock()
	g := s.group(id, false)
	results := make([]kmsg.LeaveGroupResponseMember, 0, len(members))
	for _, leaving := range members {
		result := kmsg.LeaveGroupResponseMember{MemberID: leaving.MemberID, InstanceID: leaving.InstanceID}
		result.ErrorCode = codeUnknownMember
		if g != nil {
			result.ErrorCode = g.leaveOne(leaving.MemberID, leaving.InstanceID)
		}
		results = append(results, result)
	}
	if g != nil {
		s.dropIfVacant(g)
	}
	return results, codeNone
}

// leaveOne takes a member out by its id, or by its instance id alone, as an
// administrator does who does not know the other.
func (g *group) leaveOne(id string, instance *string) int16 {
	if _, pending := g.pending[id]; pending {
		g.removePending(id)
		g.maybeCompleteJoin()
		return codeNone
	}
	if id == "" && instance != nil {
		id = g.static[*instance]
	}
	m, code := g.check(id, instance)
	if code != codeNone {
		return code
	}
	g.s.log.Info("member left", "group", g.id, "member", m.id)
	g.leave(m, "a member left")
	return codeNone
}
