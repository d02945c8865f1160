package server

import (
	"context"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeConfigs (key 32). Version 1 brings sources and synonyms, 3 types and
// documentation, 4 flexible encoding. Topics and brokers are described; a
// broker's own configuration is known to itself only, but for the keys that the
// cluster keeps: asked for by name, those of any broker are told.
func handleDescribeConfigs(_ context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.DescribeConfigsRequest)
	resp := kmsg.NewPtrDescribeConfigsResponse()
	for i := range body.Resources {
		want := &body.Resources[i]
		answer := kmsg.NewDescribeConfigsResponseResource()
		answer.ResourceType, answer.ResourceName = want.ResourceType, want.ResourceName
		configs, failure := describeResource(n, r.client, want)
		if failure != nil {
			answer.ErrorCode, answer.ErrorMessage = failure.code, failure.text()
		}
		for _, c := range configs {
			if !body.IncludeSynonyms {
				c.ConfigSynonyms = nil
			}
			if !body.IncludeDocumentation {
				c.Documentation = nil
			}
			if want.ConfigNames == nil || slices.Contains(want.ConfigNames, c.Name) {
				answer.Configs = append(answer.Configs, c)
			}
		}
		resp.Resources = append(resp.Resources, answer)
	}
	return resp, nil
}

// describeResource lists all keys of a resource.
func describeResource(n *node, c *client, want *kmsg.DescribeConfigsRequestResource) ([]kmsg.DescribeConfigsResponseResourceConfig, *failure) {
	switch want.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		t, failure := n.topic(n.cluster.View(), topicRef{name: want.ResourceName})
		if failure != nil {
			return nil, failure
		}
		var all []kmsg.DescribeConfigsResponseResourceConfig
		for i := range topicKeys {
			all = append(all, describeKey(&topicKeys[i], shown(&topicKeys[i], t.Configs, replicasOf(t.Partitions), n.settings)))
		}
		return all, nil
	case kmsg.ConfigResourceTypeBroker:
		return describeBroker(n, c, want)
	default:
		return nil, fail(kerr.InvalidRequest, "only topics and brokers have configurations in this version")
	}
}

// describeBroker lists the keys of this broker, or those of another that are shared.
func describeBroker(n *node, c *client, want *kmsg.DescribeConfigsRequestResource) ([]kmsg.DescribeConfigsResponseResourceConfig, *failure) {
	own := n.cluster.Node()
	id, self := own, want.ResourceName == "" || want.ResourceName == strconv.Itoa(int(own))
	if !self {
		private := func(name string) bool {
			key, ok := findKey(brokerKeys, name)
			return !ok || !key.shared
		}
		if len(want.ConfigNames) == 0 || slices.ContainsFunc(want.ConfigNames, private) {
			return nil, fail(kerr.InvalidRequest, "this is broker "+strconv.Itoa(int(own))+": ask broker "+want.ResourceName+" itself")
		}
		var failure *failure
		if id, failure = registeredBroker(n.cluster.View(), want.ResourceName); failure != nil {
			return nil, failure
		}
	}
	var all []kmsg.DescribeConfigsResponseResourceConfig
	for i := range brokerKeys {
		switch key := &brokerKeys[i]; {
		case key.shared:
			all = append(all, describeKey(key, sharedSetting(key, n.cluster.View().Drained(id))))
		case self:
			all = append(all, describeKey(key, n.brokerSetting(key, c)))
		}
	}
	return all, nil
}

// sharedSetting is the value of a key that the cluster keeps.
func sharedSetting(key *configKey, set bool) setting {
	standard := link{key.name, key.value, kmsg.ConfigSourceDefaultConfig}
	if !set {
		return setting{value: standard.value, source: standard.source, chain: []link{standard}}
	}
	own := link{key.name, "true", kmsg.ConfigSourceDynamicBrokerConfig}
	return setting{value: own.value, source: own.source, chain: []link{own, standard}}
}

// describeKey is the answer for one key.
func describeKey(key *configKey, s setting) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value, c.Source = key.name, &s.value, s.source
	c.IsDefault = s.source == kmsg.ConfigSourceDefaultConfig
	c.ReadOnly = key.fixed
	c.ConfigType, c.Documentation = key.kind, &key.doc
	for i := range s.chain {
		synonym := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
		synonym.Name, synonym.Value, synonym.Source = s.chain[i].name, &s.chain[i].value, s.chain[i].source
		c.ConfigSynonyms = append(c.ConfigSynonyms, synonym)
	}
	return c
}

// brokerSetting is a broker key's value; those marked fixed come from how the
// broker was started.
func (n *node) brokerSetting(key *configKey, c *client) setting {
	value, source := key.value, kmsg.ConfigSourceDefaultConfig
	if set, ok := n.settings.set[key.name]; ok {
		value, source = set, kmsg.ConfigSourceStaticBrokerConfig
	}
	if key.fixed {
		value, source = n.fixed(key.name, c), kmsg.ConfigSourceStaticBrokerConfig
	}
	s := setting{value: value, source: source}
	s.chain = append(s.chain, link{key.name, value, source})
	if source != kmsg.ConfigSourceDefaultConfig && !key.fixed {
		s.chain = append(s.chain, link{key.name, key.value, kmsg.ConfigSourceDefaultConfig})
	}
	return s
}

// fixed is the value of a key that only describes how the broker runs.
func (n *node) fixed(name string, c *client) string {
	switch name {
	case "node.id", "broker.id":
		return strconv.Itoa(int(n.cluster.Node()))
	case "broker.rack":
		return n.rack
	case "log.dirs":
		return n.dataDir
	case "listeners":
		return "PLAINTEXT://" + n.listen
	case "advertised.listeners":
		if n.advertised != "" {
			return "PLAINTEXT://" + n.advertised
		}
		return "PLAINTEXT://" + c.local
	default:
		return ""
	}
}
