package server

import (
	"context"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeCluster (key 60). Version 1 brings the endpoint type (brokers or
// controllers, which have no endpoint for clients here), 2 fenced brokers.

// brokerEndpoints is the endpoint type of brokers.
const brokerEndpoints = 1

func handleDescribeCluster(_ context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.DescribeClusterRequest)
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.EndpointType = brokerEndpoints
	resp.ClusterAuthorizedOperations = math.MinInt32
	if body.Version >= 1 && body.EndpointType != brokerEndpoints {
		resp.ErrorCode = kerr.UnsupportedEndpointType.Code
		text := "controllers have no endpoint for clients; ask for brokers"
		resp.ErrorMessage = &text
		resp.EndpointType = body.EndpointType
		return resp, nil
	}
	view := n.cluster.View()
	resp.ClusterID = n.cluster.ClusterID()
	resp.ControllerID = controllerID(n)
	fenced := n.fenced(view)
	for _, a := range n.addresses(view, r.client) {
		if fenced[a.node] && !body.IncludeFencedBrokers {
			continue
		}
		b := kmsg.NewDescribeClusterResponseBroker()
		b.NodeID, b.Host, b.Port, b.Rack = int32(a.node), a.host, a.port, a.rack
		b.IsFenced = fenced[a.node]
		resp.Brokers = append(resp.Brokers, b)
	}
	if body.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = clusterOperations
	}
	return resp, nil
}

// controllerID is the leader of the metadata group as Kafka's controller, -1
// while there is none: a dead one is not named, since clients look its address up
// in a list that leaves it out.
func controllerID(n *node) int32 {
	if leader, ok := n.cluster.Controller(); ok && n.alive(leader) {
		return int32(leader)
	}
	return -1
}

// What a client may do, as bits of Kafka's operations: everything, since this
// version has no access control. Read 3, Write 4, Create 5, Delete 6, Alter 7,
// Describe 8, ClusterAction 9, DescribeConfigs 10, AlterConfigs 11,
// IdempotentWrite 12.
const (
	clusterOperations = 1<<5 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12
	topicOperations   = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11
)
