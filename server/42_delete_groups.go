package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// handleDeleteGroups removes groups without members (key 42). The coordinator's
// state machine, and the version notes, are in server/groups/42_delete_groups.go.
func handleDeleteGroups(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	return n.groups.handle(ctx, r)
}
