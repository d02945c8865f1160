package server

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// min.insync.replicas is shown as it holds: never below the majority.
func TestEffectiveMinInSync(t *testing.T) {
	type row struct {
		value  string
		source kmsg.ConfigSource
		chain  string // values of the synonyms, strongest first
	}
	const fallback, static, own = kmsg.ConfigSourceDefaultConfig, kmsg.ConfigSourceStaticBrokerConfig, kmsg.ConfigSourceDynamicTopicConfig
	for _, c := range []struct {
		replicas    int
		broker, set string
		want        row
	}{
		{1, "", "", row{"1", fallback, "1"}},
		{3, "", "", row{"2", fallback, "2"}},
		{5, "", "", row{"3", fallback, "3"}},
		{3, "", "1", row{"2", own, "1 2"}},
		{3, "", "2", row{"2", own, "2 2"}},
		{3, "", "3", row{"3", own, "3 2"}},
		{3, "1", "", row{"2", fallback, "2 1"}},
		{3, "3", "", row{"3", static, "3 2"}},
		{3, "3", "1", row{"2", own, "1 3 2"}},
		{3, "2", "3", row{"3", own, "3 2 2"}},
	} {
		settings, configs := map[string]string{}, map[string]string{}
		if c.broker != "" {
			settings[minInSyncKey] = c.broker
		}
		if c.set != "" {
			configs[minInSyncKey] = c.set
		}
		n := newTestNode(t, 5, settings)
		created := createRequest("t", 1, int16(c.replicas))
		if c.set != "" {
			created = createRequest("t", 1, int16(c.replicas), minInSyncKey, c.set)
		}
		var answered row
		for _, got := range n.call(t, created).(*kmsg.CreateTopicsResponse).Topics[0].Configs {
			if got.Name == minInSyncKey {
				answered = row{*got.Value, kmsg.ConfigSource(got.Source), c.want.chain}
			}
		}
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.SetVersion(4)
		req.IncludeSynonyms = true
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, "t", []string{minInSyncKey}
		req.Resources = append(req.Resources, r)
		got := n.call(t, req).(*kmsg.DescribeConfigsResponse).Resources[0].Configs[0]
		described := row{value: *got.Value, source: got.Source}
		for _, s := range got.ConfigSynonyms {
			described.chain = strings.TrimSpace(described.chain + " " + *s.Value)
		}
		if answered != c.want || described != c.want {
			t.Errorf("%d replicas, broker %q, topic %q: created as %v, described as %v, want %v", c.replicas, c.broker, c.set, answered, described, c.want)
		}
	}
}
