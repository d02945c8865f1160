package server

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// IncrementalAlterConfigs (key 44, KIP-339). Version 1 brings flexible encoding. In
// Kafka it needs ALTER_CONFIGS on the cluster.
//
// What can be altered in this version is the one key of a broker that is kept in the
// cluster's metadata: millrace.drained. Any broker takes the request, for any broker,
// also for one that is down: its own id need not be asked, as it must be in Kafka.
// Topics get their configurations when they are created.
func handleIncrementalAlterConfigs(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.IncrementalAlterConfigsRequest)
	ctx, cancel := context.WithTimeout(ctx, maxChangeWait)
	defer cancel()
	stop := context.AfterFunc(n.stopping, cancel)
	defer stop()
	type resource struct {
		kind kmsg.ConfigResourceType
		name string
	}
	times := map[resource]int{}
	for i := range body.Resources {
		times[resource{body.Resources[i].ResourceType, body.Resources[i].ResourceName}]++
	}
	resp := kmsg.NewPtrIncrementalAlterConfigsResponse()
	for i := range body.Resources {
		want := &body.Resources[i]
		answer := kmsg.NewIncrementalAlterConfigsResponseResource()
		answer.ResourceType, answer.ResourceName = want.ResourceType, want.ResourceName
		var failure *failure
		if times[resource{want.ResourceType, want.ResourceName}] > 1 {
			failure = fail(kerr.InvalidRequest, "the request names the resource more than once")
		} else {
			failure = alterBroker(ctx, n, want, body.ValidateOnly)
		}
		if failure != nil {
			answer.ErrorCode, answer.ErrorMessage = failure.code, failure.text()
		}
		resp.Resources = append(resp.Resources, answer)
	}
	return resp, nil
}

// alterBroker checks the changes of one resource and makes them.
func alterBroker(ctx context.Context, n *node, want *kmsg.IncrementalAlterConfigsRequestResource, validate bool) *failure {
	if want.ResourceType != kmsg.ConfigResourceTypeBroker {
		return fail(kerr.InvalidRequest, "only configurations of brokers can be altered in this version; those of a topic are set when it is created")
	}
	id, failure := registeredBroker(n.cluster.View(), want.ResourceName)
	if failure != nil {
		return failure
	}
	var changes []metadata.Command
	var seen []string
	for i := range want.Configs {
		c := &want.Configs[i]
		if slices.Contains(seen, c.Name) {
			return fail(kerr.InvalidRequest, c.Name+" is named more than once")
		}
		seen = append(seen, c.Name)
		value, failure := alteredValue(c)
		if failure != nil {
			return failure
		}
		changes = append(changes, &metadata.DrainBroker{Node: id, Drained: value == "true"})
	}
	if validate {
		return nil
	}
	for _, change := range changes {
		if _, err := n.cluster.Change(ctx, change); err != nil {
			return changeFailure(err)
		}
	}
	return nil
}

// registeredBroker reads the name of a broker resource, which is its id.
func registeredBroker(view *metadata.View, name string) (metadata.NodeID, *failure) {
	id, err := strconv.ParseInt(name, 10, 32)
	if err != nil || id < 0 {
		return 0, fail(kerr.InvalidRequest, fmt.Sprintf("%q is no broker id: what is altered belongs to one broker", name))
	}
	if _, ok := view.Broker(metadata.NodeID(id)); !ok {
		return 0, fail(kerr.BrokerIDNotRegistered, fmt.Sprintf("no broker %d is registered", id))
	}
	return metadata.NodeID(id), nil
}

// alteredValue is the value that a change gives a key.
func alteredValue(c *kmsg.IncrementalAlterConfigsRequestResourceConfig) (string, *failure) {
	key, ok := findKey(brokerKeys, c.Name)
	switch {
	case !ok:
		return "", fail(kerr.InvalidConfig, unknownKey(brokerKeys, "broker", c.Name).Error())
	case !key.shared:
		return "", fail(kerr.InvalidRequest, c.Name+" cannot be altered while the broker runs; start it with another value")
	case c.Op == kmsg.IncrementalAlterConfigOpDelete:
		return key.value, nil
	case c.Op != kmsg.IncrementalAlterConfigOpSet:
		return "", fail(kerr.InvalidConfig, c.Name+" is no list: it can be set and deleted")
	case c.Value == nil:
		return "", fail(kerr.InvalidConfig, c.Name+" has no value")
	}
	if err := key.check(*c.Value); err != nil {
		return "", fail(kerr.InvalidConfig, err.Error())
	}
	return *c.Value, nil
}
