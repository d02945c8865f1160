package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// handleDescribeGroups shows state and members of groups (key 15). The coordinator's
// state machine, and the version notes, are in server/groups/15_describe_groups.go.
func handleDescribeGroups(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	return n.groups.handle(ctx, r)
}
