package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// handleSyncGroup hands out the leader's assignment (key 14). The coordinator's
// state machine, and the version notes, are in server/groups/14_sync_group.go.
func handleSyncGroup(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	return n.groups.handle(ctx, r)
}
