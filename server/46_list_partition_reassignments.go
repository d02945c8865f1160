package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListPartitionReassignments (key 46, KIP-455). In Kafka it needs DESCRIBE on the
// cluster. The answer names the partitions whose replicas are being moved, of those
// that were asked for. A partition's replicas are chosen when its topic is created and
// stay: no reassignment can be under way, and none is named.
func handleListPartitionReassignments(context.Context, *node, *request) (kmsg.Response, error) {
	return kmsg.NewPtrListPartitionReassignmentsResponse(), nil
}
