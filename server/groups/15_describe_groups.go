package groups

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeGroups, key 15.
//
// Version notes:
//   - v3 can ask for authorized operations, which the server fills in
//   - v4 adds instance ids (KIP-345)
//   - v6 answers GROUP_ID_NOT_FOUND for an unknown group (KIP-1043); before, it is
//     a group in state Dead

func (c *Coordinator) describeGroups(r *kmsg.DescribeGroupsRequest) kmsg.Response {
	resp := r.ResponseKind().(*kmsg.DescribeGroupsResponse)
	for _, id := range r.Groups {
		resp.Groups = append(resp.Groups, c.describeGroup(id, r.Version))
	}
	return resp
}

func (c *Coordinator) describeGroup(id string, version int16) kmsg.DescribeGroupsResponseGroup {
	out := kmsg.NewDescribeGroupsResponseGroup()
	out.Group = id
	if len(id) > maxGroupID {
		out.ErrorCode = codeInvalidGroup
		return out
	}
	s, code := c.lock(id)
	if code != codeNone {
		out.ErrorCode = code
		return out
	}
	defer s.mu.Unlock()
	g := s.group(id, false)
	if g == nil {
		out.State = string(Dead)
		if version >= 6 {
			out.ErrorCode = codeGroupNotFound
			out.ErrorMessage = nullable("Group " + id + " not found.")
		}
		return out
	}
	out.State, out.ProtocolType = string(g.state), g.protocolType
	if g.state == Stable {
		out.Protocol = g.protocol
	}
	for _, m := range g.ordered() {
		d := kmsg.DescribeGroupsResponseGroupMember{
			MemberID: m.id, InstanceID: m.instance, ClientID: m.clientID, ClientHost: m.host,
			ProtocolMetadata: []byte{}, MemberAssignment: []byte{},
		}
		if g.state == Stable { // at other times it is that of the last generation
			d.ProtocolMetadata = append(d.ProtocolMetadata, m.metadata(g.protocol)...)
			d.MemberAssignment = append(d.MemberAssignment, m.assignment...)
		}
		out.Members = append(out.Members, d)
	}
	return out
}
