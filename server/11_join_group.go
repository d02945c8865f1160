package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// handleJoinGroup takes a member into its group and waits for the rebalance (key 11). The coordinator's
// state machine, and the version notes, are in server/groups/11_join_group.go.
func handleJoinGroup(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	return n.groups.handle(ctx, r)
}
