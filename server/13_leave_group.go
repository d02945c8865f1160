package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// handleLeaveGroup takes members out of their group (key 13). The coordinator's
// state machine, and the version notes, are in server/groups/13_leave_group.go.
func handleLeaveGroup(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	return n.groups.handle(ctx, r)
}
