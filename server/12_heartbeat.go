package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// handleHeartbeat keeps a member's session alive (key 12). The coordinator's
// state machine, and the version notes, are in server/groups/12_heartbeat.go.
func handleHeartbeat(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	return n.groups.handle(ctx, r)
}
