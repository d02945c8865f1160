package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// handleOffsetDelete removes committed positions of a group (key 47). The coordinator's
// state machine, and the version notes, are in server/groups/47_offset_delete.go.
func handleOffsetDelete(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	return n.groups.handle(ctx, r)
}
