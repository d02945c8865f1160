package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/server/groups"
)

// FindCoordinator (key 10). Version 1 brings the kind of coordinator, 4 several
// keys in one request.
//
// The coordinator of a group is the leader of its partition of
// __consumer_offsets, which is created when the first group asks.

const (
	// Kinds of coordinators.
	groupCoordinator       = 0
	transactionCoordinator = 1
	// maxCoordinatorKey bounds the name of a group, as its records do.
	maxCoordinatorKey = 4096
)

// noTransactions refuses a transactional producer. The code that goes with it is
// TRANSACTIONAL_ID_AUTHORIZATION_FAILED, since that is the only one after which
// librdkafka gives up at once and shows this text (it asks again after all others,
// INVALID_REQUEST too, until its caller's time is over); for the Java client, franz-go
// and kafka-python it is final as well.
const noTransactions = "transactions are not available in this version; produce without a transactional id"

func handleFindCoordinator(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.FindCoordinatorRequest)
	resp := kmsg.NewPtrFindCoordinatorResponse()
	if body.Version >= 4 {
		for _, key := range body.CoordinatorKeys {
			resp.Coordinators = append(resp.Coordinators, findCoordinator(ctx, n, r, body.CoordinatorType, key))
		}
		return resp, nil
	}
	c := findCoordinator(ctx, n, r, body.CoordinatorType, body.CoordinatorKey)
	resp.ErrorCode, resp.ErrorMessage = c.ErrorCode, c.ErrorMessage
	resp.NodeID, resp.Host, resp.Port = c.NodeID, c.Host, c.Port
	return resp, nil
}

// findCoordinator answers for one key.
func findCoordinator(ctx context.Context, n *node, r *request, kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	c := kmsg.NewFindCoordinatorResponseCoordinator()
	c.Key, c.NodeID, c.Port = key, -1, -1
	a, failure := coordinatorOf(ctx, n, r.client, kind, key)
	if failure != nil {
		c.ErrorCode, c.ErrorMessage = failure.code, failure.text()
		return c
	}
	c.NodeID, c.Host, c.Port = int32(a.node), a.host, a.port
	return c
}

func coordinatorOf(ctx context.Context, n *node, c *client, kind int8, key string) (address, *failure) {
	switch {
	case kind == transactionCoordinator:
		n.logger.Info("refused a transactional producer: "+noTransactions, "transactional_id", key, "client", c.remote)
		return address{}, fail(kerr.TransactionalIDAuthorizationFailed, noTransactions)
	case kind != groupCoordinator:
		return address{}, fail(kerr.InvalidRequest, "this version coordinates consumer groups only: share groups are not available")
	case len(key) > maxCoordinatorKey:
		return address{}, fail(kerr.InvalidGroupID, "the group id is too long")
	}
	topic, failure := n.creating.offsets(ctx, n)
	if failure != nil {
		if ctx.Err() == nil { // else: the client has gone, or the broker stops
			n.creating.warn(n, failure)
		}
		return address{}, fail(kerr.CoordinatorNotAvailable, failure.message)
	}
	number := groups.PartitionFor(key, int32(len(topic.Partitions)))
	l, ok := n.cluster.Leader(topic.ID, number)
	if !ok || l.Node == replication.NoLeader {
		return address{}, fail(kerr.CoordinatorNotAvailable, "")
	}
	b, ok := n.cluster.View().Broker(l.Node)
	if !ok {
		return address{}, fail(kerr.CoordinatorNotAvailable, "")
	}
	return n.addressOf(b, c), nil
}
