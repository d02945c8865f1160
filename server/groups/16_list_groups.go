package groups

import (
	"cmp"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListGroups, key 16: the groups that this node coordinates.
//
// Version notes:
//   - v4 adds states, as a filter and in the answer (KIP-518)
//   - v5 adds types likewise (KIP-848)

// groupType is the type of every group of this package in ListGroups.
const groupType = "classic"

func (c *Coordinator) listGroups(r *kmsg.ListGroupsRequest) kmsg.Response {
	resp := r.ResponseKind().(*kmsg.ListGroupsResponse)
	for _, s := range c.all() {
		groups, code := s.list(r)
		resp.Groups = append(resp.Groups, groups...)
		resp.ErrorCode = cmp.Or(resp.ErrorCode, code)
	}
	slices.SortFunc(resp.Groups, func(a, b kmsg.ListGroupsResponseGroup) int { return cmp.Compare(a.Group, b.Group) })
	return resp
}

// list is the groups of one partition that pass the filters. One that is loading
// makes the answer an error: a list with groups missing is worse than none.
func (s *shard) list(r *kmsg.ListGroupsRequest) ([]kmsg.ListGroupsResponseGroup, int16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case shardLoading:
		return nil, codeLoading
	case shardDeposed, shardClosed:
		return nil, codeNone
	}
	var out []kmsg.ListGroupsResponseGroup
	for _, g := range s.groups {
		if !passes(r.StatesFilter, string(g.state)) || !passes(r.TypesFilter, groupType) {
			continue
		}
		out = append(out, kmsg.ListGroupsResponseGroup{
			Group: g.id, ProtocolType: g.protocolType, GroupState: string(g.state), GroupType: groupType,
		})
	}
	return out, codeNone
}

// passes holds a value against a filter; an empty one lets everything through.
func passes(filter []string, value string) bool {
	return len(filter) == 0 || slices.ContainsFunc(filter, func(s string) bool { return strings.EqualFold(s, value) })
}
