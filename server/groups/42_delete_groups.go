package groups

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteGroups, key 42, versions 0 to 2.

func (c *Coordinator) deleteGroups(ctx context.Context, r *kmsg.DeleteGroupsRequest) kmsg.Response {
	resp := r.ResponseKind().(*kmsg.DeleteGroupsResponse)
	answers := make([]chan error, len(r.Groups))
	for i, id := range r.Groups {
		answers[i] = make(chan error, 1)
		resp.Groups = append(resp.Groups, kmsg.DeleteGroupsResponseGroup{
			Group: id, ErrorCode: c.beginDelete(id, answers[i]),
		})
	}
	for i := range resp.Groups {
		out := &resp.Groups[i]
		if out.ErrorCode != codeNone {
			continue
		}
		select {
		case err := <-answers[i]:
			out.ErrorCode = writeCode(err, codeUnknownServer)
		case <-ctx.Done():
			out.ErrorCode = codeNotAvailable
		}
	}
	return resp
}

// beginDelete queues the end of a group without members, or says why not.
func (c *Coordinator) beginDelete(id string, answer chan<- error) int16 {
	if len(id) > maxGroupID {
		return codeInvalidGroup
	}
	s, code := c.lock(id)
	if code != codeNone {
		return code
	}
	defer s.mu.Unlock()
	g := s.group(id, false)
	switch {
	case g == nil:
		return codeGroupNotFound
	case g.deleting:
		return codeNotAvailable
	case g.state != Empty || len(g.pending) > 0:
		return codeNonEmptyGroup
	}
	g.erase(func(err error) { answer <- err })
	return codeNone
}
