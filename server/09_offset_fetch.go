package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// handleOffsetFetch answers committed positions (key 9). The coordinator's
// state machine, and the version notes, are in server/groups/09_offset_fetch.go.
func handleOffsetFetch(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	return n.groups.handle(ctx, r)
}
