package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// handleOffsetCommit commits positions of a group, or of a consumer outside of any (key 8). The coordinator's
// state machine, and the version notes, are in server/groups/08_offset_commit.go.
func handleOffsetCommit(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	return n.groups.handle(ctx, r)
}
