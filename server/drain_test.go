package server

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// alterRequest sets keys of a broker; a value of "-" deletes one.
func alterRequest(broker string, pairs ...string) *kmsg.IncrementalAlterConfigsRequest {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.SetVersion(1)
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeBroker, broker
	for i := 0; i+1 < len(pairs); i += 2 {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = pairs[i], &pairs[i+1]
		if pairs[i+1] == "-" {
			c.Op, c.Value = kmsg.IncrementalAlterConfigOpDelete, nil
		}
		r.Configs = append(r.Configs, c)
	}
	req.Resources = append(req.Resources, r)
	return req
}

// altered is the one answer to such a request, as the name of its error.
func (n *testNode) altered(t *testing.T, req *kmsg.IncrementalAlterConfigsRequest) (name, message string) {
	t.Helper()
	got := n.call(t, req).(*kmsg.IncrementalAlterConfigsResponse).Resources[0]
	if got.ResourceType != req.Resources[0].ResourceType || got.ResourceName != req.Resources[0].ResourceName {
		t.Errorf("it is about %s %q", got.ResourceType, got.ResourceName)
	}
	if err := kerr.TypedErrorForCode(got.ErrorCode); err != nil {
		return err.Message, strOf(got.ErrorMessage)
	}
	return "OK", strOf(got.ErrorMessage)
}

func TestIncrementalAlterConfigs(t *testing.T) {
	n := newTestNode(t, 3, nil)
	topic := alterRequest("t", "retention.ms", "1")
	topic.Resources[0].ResourceType = kmsg.ConfigResourceTypeTopic
	appended := alterRequest("2", "millrace.drained", "true")
	appended.Resources[0].Configs[0].Op = kmsg.IncrementalAlterConfigOpAppend
	none := alterRequest("2", "millrace.drained", "true")
	none.Resources[0].Configs[0].Value = nil
	twice := alterRequest("2", "millrace.drained", "true")
	twice.Resources = append(twice.Resources, twice.Resources[0])
	dry := alterRequest("2", "millrace.drained", "true")
	dry.ValidateOnly = true
	for _, row := range []struct {
		name string
		req  *kmsg.IncrementalAlterConfigsRequest
		want string
		says string
	}{
		{"topic", topic, "INVALID_REQUEST", "when it is created"},
		{"no broker", alterRequest("", "millrace.drained", "true"), "INVALID_REQUEST", "no broker id"},
		{"negative", alterRequest("-1", "millrace.drained", "true"), "INVALID_REQUEST", "no broker id"},
		{"unknown broker", alterRequest("7", "millrace.drained", "true"), "BROKER_ID_NOT_REGISTERED", "no broker 7"},
		{"unknown key", alterRequest("2", "millrace.drain", "true"), "INVALID_CONFIG", `did you mean "millrace.drained"?`},
		{"static key", alterRequest("2", "num.partitions", "3"), "INVALID_REQUEST", "start it with another value"},
		{"bad value", alterRequest("2", "millrace.drained", "yes"), "INVALID_CONFIG", "want true or false"},
		{"append", appended, "INVALID_CONFIG", "is no list"},
		{"no value", none, "INVALID_CONFIG", "has no value"},
		{"key twice", alterRequest("2", "millrace.drained", "true", "millrace.drained", "-"), "INVALID_REQUEST", "more than once"},
		{"resource twice", twice, "INVALID_REQUEST", "more than once"},
		{"dry", dry, "OK", ""},
	} {
		got, says := n.altered(t, row.req)
		if got != row.want || !strings.Contains(says, row.says) {
			t.Errorf("%s: %s (%s)", row.name, got, says)
		}
		if n.cluster.View().Drained(2) {
			t.Fatalf("%s: broker 2 is drained", row.name)
		}
	}
	for _, step := range []struct {
		value string
		want  bool
	}{{"true", true}, {"true", true}, {"false", false}, {"true", true}, {"-", false}} {
		if got, says := n.altered(t, alterRequest("2", "millrace.drained", step.value)); got != "OK" || n.cluster.View().Drained(2) != step.want {
			t.Errorf("%s: %s (%s), drained is %t", step.value, got, says, n.cluster.View().Drained(2))
		}
	}
	n.cluster.mu.Lock()
	n.cluster.changeErr = context.DeadlineExceeded
	n.cluster.mu.Unlock()
	if got, _ := n.altered(t, alterRequest("2", "millrace.drained", "true")); got != "REQUEST_TIMED_OUT" {
		t.Errorf("without a metadata leader: %s", got)
	}
}

// drainedAs is what the node says of a broker's key, and where it comes from.
func (n *testNode) drainedAs(t *testing.T, broker string, keys ...string) (value string, source kmsg.ConfigSource, code int16) {
	t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.SetVersion(4)
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeBroker, broker, keys
	req.Resources = append(req.Resources, r)
	got := n.call(t, req).(*kmsg.DescribeConfigsResponse).Resources[0]
	for _, c := range got.Configs {
		if c.Name == "millrace.drained" {
			if c.ReadOnly {
				t.Error("it is told to be read only")
			}
			value, source = *c.Value, c.Source
		}
	}
	return value, source, got.ErrorCode
}

// TestDrainedIsTold: of every broker by every broker, and cannot be set at the start.
func TestDrainedIsTold(t *testing.T) {
	n := newTestNode(t, 3, nil)
	n.cluster.mustChange(&metadata.DrainBroker{Node: 2, Drained: true})
	for _, row := range []struct {
		broker string
		keys   []string
		value  string
		source kmsg.ConfigSource
		code   int16
	}{
		{"1", nil, "false", kmsg.ConfigSourceDefaultConfig, 0},
		{"", []string{"millrace.drained"}, "false", kmsg.ConfigSourceDefaultConfig, 0},
		{"2", []string{"millrace.drained"}, "true", kmsg.ConfigSourceDynamicBrokerConfig, 0},
		{"3", []string{"millrace.drained"}, "false", kmsg.ConfigSourceDefaultConfig, 0},
		{"2", nil, "", 0, kerr.InvalidRequest.Code},
		{"2", []string{"millrace.drained", "num.partitions"}, "", 0, kerr.InvalidRequest.Code},
		{"9", []string{"millrace.drained"}, "", 0, kerr.BrokerIDNotRegistered.Code},
	} {
		value, source, code := n.drainedAs(t, row.broker, row.keys...)
		if value != row.value || source != row.source || code != row.code {
			t.Errorf("broker %q, %v: %q of %v, code %d", row.broker, row.keys, value, source, code)
		}
	}
	if _, err := newBrokerSettings(map[string]string{"millrace.drained": "true"}); err == nil || !strings.Contains(err.Error(), "cannot be set here") {
		t.Errorf("-c sets it: %v", err)
	}
}

// TestNothingIsPlacedOnADrainedBroker: and rather than to have fewer replicas for good,
// a topic is refused.
func TestNothingIsPlacedOnADrainedBroker(t *testing.T) {
	n := newTestNode(t, 3, nil)
	before := n.topic(t, "before", 1, nil, 2, 1)
	n.cluster.mustChange(&metadata.DrainBroker{Node: 2, Drained: true})
	spread, failure := n.create(t.Context(), &topicSpec{name: "spread", partitions: 8, factor: 2})
	if failure != nil {
		t.Fatal(failure)
	}
	for i, p := range spread.Partitions {
		for _, r := range p.Replicas {
			if r.Node == 2 {
				t.Errorf("partition %d is on it", i)
			}
		}
	}
	for name, spec := range map[string]*topicSpec{
		"three":    {name: "c", partitions: 1, factor: 3},
		"default":  {name: "c", partitions: 1, factor: -1},
		"assigned": {name: "c", assignment: [][]metadata.NodeID{{1, 2}}},
	} {
		if _, failure := n.create(t.Context(), spec); failure == nil || !strings.Contains(failure.message, "drained") {
			t.Errorf("%s: %v", name, failure)
		}
	}
	n.cluster.leads(before, 0, 1, 1, 2)
	got := elected(n.call(t, electRequest(electPreferred, map[string][]int32{"before": {0}})).(*kmsg.ElectLeadersResponse))
	if diff := cmp.Diff([]string{"before/0 PREFERRED_LEADER_NOT_AVAILABLE"}, got); diff != "" {
		t.Errorf("it is elected (-want +got):\n%s", diff)
	}
}

func TestUnregisterBroker(t *testing.T) {
	n := newTestNode(t, 3, nil)
	n.topic(t, "t", 1, nil, 2, 1)
	n.cluster.mu.Lock()
	n.cluster.alive[2], n.cluster.alive[3] = false, false
	n.cluster.mu.Unlock()
	ask := func(id int32) (name, message string) {
		t.Helper()
		req := kmsg.NewPtrUnregisterBrokerRequest()
		req.BrokerID = id
		got := n.call(t, req).(*kmsg.UnregisterBrokerResponse)
		if err := kerr.TypedErrorForCode(got.ErrorCode); err != nil {
			return err.Message, strOf(got.ErrorMessage)
		}
		return "OK", ""
	}
	for _, row := range []struct {
		id         int32
		want, says string
	}{
		{1, "INVALID_REQUEST", "is up"},
		{2, "INVALID_REQUEST", "holds replicas of 1 partitions"},
		{3, "OK", ""},
		{3, "BROKER_ID_NOT_REGISTERED", "no broker 3"},
		{-1, "BROKER_ID_NOT_REGISTERED", "no broker -1"},
	} {
		if got, says := ask(row.id); got != row.want || !strings.Contains(says, row.says) {
			t.Errorf("broker %d: %s (%s)", row.id, got, says)
		}
	}
	if n.cluster.View().BrokerCount() != 2 {
		t.Error("it is still registered")
	}
}

// TestDrainByKadm: an outside client drains a broker, which then leads nothing, stops,
// and is drained when it is back.
func TestDrainByKadm(t *testing.T) {
	configs, brokers, addrs := openThree(t)
	c := newClient(t, addrs, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	admin := kadm.NewClient(c)
	createTopic1(t, c, "t", 6, 3)
	count := 0
	produce := func() {
		t.Helper()
		for p := range int32(6) {
			if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Partition: p, Value: []byte("x")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			count++
		}
	}
	produce()
	set := func(value string) {
		t.Helper()
		answers, err := admin.AlterBrokerConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "millrace.drained", Value: &value}}, 1)
		if err != nil || answers[0].Err != nil {
			t.Fatalf("%v, %+v", err, answers)
		}
	}
	leads := func() (count int) {
		t.Helper()
		now, err := admin.ListTopics(kadm.WithAuthorizedOps(t.Context()), "t")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range now["t"].Partitions {
			if p.Leader == 1 {
				count++
			}
		}
		return count
	}
	set("true")
	eventually(t, "the drained broker leads nothing", func() bool { return leads() == 0 })
	produce()
	if err := brokers[0].Close(); err != nil {
		t.Fatal(err)
	}
	produce()
	brokers[0] = openBroker(t, configs[0])
	described, err := admin.DescribeBrokerConfigs(t.Context(), 1)
	if err != nil || described[0].Err != nil {
		t.Fatalf("%v, %+v", err, described)
	}
	value := ""
	for _, config := range described[0].Configs {
		if config.Key == "millrace.drained" {
			value = config.MaybeValue()
		}
	}
	if value != "true" {
		t.Errorf("after the restart the key is %q", value)
	}
	eventually(t, "the drained broker leads nothing after its restart", func() bool { return leads() == 0 })
	set("false")
	eventually(t, "it leads again", func() bool {
		if _, err := admin.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, nil); err != nil {
			t.Fatal(err)
		}
		return leads() == 2
	})
	produce()
	read(t, addrs, "t", count)
}
