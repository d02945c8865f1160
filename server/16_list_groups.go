package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// handleListGroups lists the groups that this broker coordinates (key 16). The coordinator's
// state machine, and the version notes, are in server/groups/16_list_groups.go.
func handleListGroups(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	return n.groups.handle(ctx, r)
}
