package server

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// UnregisterBroker (key 64, KIP-500). In Kafka it needs ALTER on the cluster.
//
// The broker is forgotten: it is listed no more and leaves the metadata group. Unlike
// Kafka this refuses, with INVALID_REQUEST, a broker that is up, which would come back
// at once, and one that is to hold replicas, which nobody could bring back. A broker
// that was unregistered and is started after all joins as a new, empty one.
func handleUnregisterBroker(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.UnregisterBrokerRequest)
	ctx, cancel := context.WithTimeout(ctx, maxChangeWait)
	defer cancel()
	stop := context.AfterFunc(n.stopping, cancel)
	defer stop()
	resp := kmsg.NewPtrUnregisterBrokerResponse()
	if failure := unregister(ctx, n, metadata.NodeID(body.BrokerID)); failure != nil {
		resp.ErrorCode, resp.ErrorMessage = failure.code, failure.text()
	}
	return resp, nil
}

func unregister(ctx context.Context, n *node, id metadata.NodeID) *failure {
	b, ok := n.cluster.View().Broker(id)
	switch {
	case !ok:
		return fail(kerr.BrokerIDNotRegistered, fmt.Sprintf("no broker %d is registered", id))
	case n.alive(id):
		return fail(kerr.InvalidRequest, fmt.Sprintf("broker %d is up: stop it first", id))
	}
	_, err := n.cluster.Change(ctx, &metadata.UnregisterBroker{Node: id, Incarnation: b.Incarnation})
	if err != nil {
		return changeFailure(err)
	}
	return nil
}
