package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// The table and the files are the same list: one file an API key.
func TestOneFileForEachKey(t *testing.T) {
	files, err := filepath.Glob("[0-9][0-9]_*.go")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, f := range files {
		got = append(got, f[:2])
	}
	last := int16(-1)
	for i := range table {
		row := &table[i]
		want = append(want, fmt.Sprintf("%02d", row.key))
		kinds := 0
		for _, set := range []bool{row.handle != nil, row.stream != nil, row.begin != nil} {
			if set {
				kinds++
			}
		}
		req := kmsg.RequestForKey(row.key)
		if row.key <= last || kinds != 1 || req.MaxVersion() < row.max || kmsg.NameForKey(row.key) == "Unknown" {
			t.Errorf("row %s: key %d after %d, %d handlers, decoder up to %d", row.name, row.key, last, kinds, req.MaxVersion())
		}
		last = row.key
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("table and files differ:\n%s", d)
	}
	if row := lookup(table[:], keyAPIVersions); row.max != apiVersionsMax {
		t.Fatalf("ApiVersions up to %d, the encoder knows %d", row.max, apiVersionsMax)
	}
}

func createRequest(name string, partitions int32, factor int16, configs ...string) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.SetVersion(7)
	req.TimeoutMillis = 5000
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, factor
	for i := 0; i+1 < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], &configs[i+1]
		t.Configs = append(t.Configs, c)
	}
	req.Topics = append(req.Topics, t)
	return req
}

func TestCreateTopics(t *testing.T) {
	n := newTestNode(t, 3, map[string]string{"num.partitions": "4"})
	n.topic(t, "exists", 1, nil)
	n.topic(t, "with.dot", 1, nil)
	for _, row := range []struct {
		name string
		req  *kmsg.CreateTopicsRequest
		want *kerr.Error
		says string
	}{
		{name: "defaults", req: createRequest("a", -1, -1)},
		{name: "given", req: createRequest("b", 6, 2, "retention.ms", "1000", "cleanup.policy", "compact,delete")},
		{name: "exists", req: createRequest("exists", 1, 1), want: kerr.TopicAlreadyExists},
		{name: "collides", req: createRequest("with_dot", 1, 1), want: kerr.InvalidTopicException},
		{name: "slash", req: createRequest("a/b", 1, 1), want: kerr.InvalidTopicException},
		{name: "dots", req: createRequest("..", 1, 1), want: kerr.InvalidTopicException},
		{name: "empty", req: createRequest("", 1, 1), want: kerr.InvalidTopicException},
		{name: "300 characters", req: createRequest(strings.Repeat("x", 300), 1, 1), want: kerr.InvalidTopicException},
		{name: "NUL", req: createRequest("a\x00b", 1, 1), want: kerr.InvalidTopicException},
		{name: "no partitions", req: createRequest("c", 0, 1), want: kerr.InvalidPartitions},
		{name: "minus two partitions", req: createRequest("c", -2, 1), want: kerr.InvalidPartitions},
		{name: "too many partitions", req: createRequest("c", 10_001, 1), want: kerr.InvalidPartitions},
		{name: "more replicas than brokers", req: createRequest("c", 1, 4), want: kerr.InvalidReplicationFactor, says: "3 brokers"},
		{name: "no replicas", req: createRequest("c", 1, 0), want: kerr.InvalidReplicationFactor},
		{name: "unknown configuration", req: createRequest("c", 1, 1, "retention.mss", "1"), want: kerr.InvalidConfig, says: `did you mean "retention.ms"?`},
		{name: "wrong type", req: createRequest("c", 1, 1, "retention.ms", "soon"), want: kerr.InvalidConfig},
		{name: "out of range", req: createRequest("c", 1, 1, "segment.bytes", "5"), want: kerr.InvalidConfig},
		{name: "replicated", req: createRequest("c", 1, 1, "millrace.durability", "replicated"), want: kerr.InvalidConfig, says: "not available"},
		{name: "twice", req: createRequest("c", 1, 1, "retention.ms", "1", "retention.ms", "2"), want: kerr.InvalidConfig},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := n.call(t, row.req).(*kmsg.CreateTopicsResponse).Topics[0]
			if row.want == nil {
				if got.ErrorCode != 0 || got.TopicID == [16]byte{} || len(got.Configs) != len(topicKeys) {
					t.Fatalf("%+v", got)
				}
				return
			}
			if got.ErrorCode != row.want.Code || !strings.Contains(strOf(got.ErrorMessage), row.says) {
				t.Fatalf("%v: %s", kerr.ErrorForCode(got.ErrorCode), strOf(got.ErrorMessage))
			}
		})
	}
	a, _ := n.cluster.View().TopicNamed("a")
	if len(a.Partitions) != 4 || len(a.Partitions[0].Replicas) != 3 {
		t.Fatalf("defaults: %d partitions, %d replicas", len(a.Partitions), len(a.Partitions[0].Replicas))
	}
	if _, ok := n.cluster.View().TopicNamed("c"); ok {
		t.Fatal("a refused topic was created")
	}
}

func TestCreateTopicsValidateOnlyAndAssignments(t *testing.T) {
	n := newTestNode(t, 3, nil)
	req := createRequest("dry", 2, 3)
	req.ValidateOnly = true
	if got := n.call(t, req).(*kmsg.CreateTopicsResponse).Topics[0]; got.ErrorCode != 0 || got.NumPartitions != 2 || got.ReplicationFactor != 3 {
		t.Fatalf("%+v", got)
	}
	if _, ok := n.cluster.View().TopicNamed("dry"); ok {
		t.Fatal("validate_only created the topic")
	}
	assign := func(name string, replicas ...[]int32) *kmsg.CreateTopicsRequest {
		req := createRequest(name, -1, -1)
		for i, r := range replicas {
			a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
			a.Partition, a.Replicas = int32(i), r
			req.Topics[0].ReplicaAssignment = append(req.Topics[0].ReplicaAssignment, a)
		}
		return req
	}
	both := assign("both", []int32{1})
	both.Topics[0].NumPartitions = 1
	gap := assign("gap", []int32{1}, []int32{2})
	gap.Topics[0].ReplicaAssignment[1].Partition = 2
	for _, row := range []struct {
		name string
		req  *kmsg.CreateTopicsRequest
		want int16
	}{
		{"good", assign("good", []int32{3, 1}, []int32{1, 2}), 0},
		{"unknown broker", assign("x", []int32{9}), kerr.InvalidReplicaAssignment.Code},
		{"broker twice", assign("x", []int32{1, 1}), kerr.InvalidReplicaAssignment.Code},
		{"uneven", assign("x", []int32{1, 2}, []int32{1}), kerr.InvalidReplicaAssignment.Code},
		{"no replicas", assign("x", []int32{}), kerr.InvalidReplicaAssignment.Code},
		{"gap", gap, kerr.InvalidReplicaAssignment.Code},
		{"with numbers", both, kerr.InvalidRequest.Code},
	} {
		if got := n.call(t, row.req).(*kmsg.CreateTopicsResponse).Topics[0]; got.ErrorCode != row.want {
			t.Errorf("%s: %v: %s", row.name, kerr.ErrorForCode(got.ErrorCode), strOf(got.ErrorMessage))
		}
	}
	good, _ := n.cluster.View().TopicNamed("good")
	if good.Partitions[0].Replicas[0].Node != 3 || good.Partitions[1].Replicas[1].Node != 2 {
		t.Fatalf("%+v", good.Partitions)
	}
	twice := createRequest("same", 1, 1)
	twice.Topics = append(twice.Topics, twice.Topics[0])
	for _, got := range n.call(t, twice).(*kmsg.CreateTopicsResponse).Topics {
		if got.ErrorCode != kerr.InvalidRequest.Code {
			t.Errorf("named twice: code %d", got.ErrorCode)
		}
	}
}

func TestDeleteTopics(t *testing.T) {
	n := newTestNode(t, 1, nil)
	a, b := n.topic(t, "a", 1, nil), n.topic(t, "b", 1, nil)
	n.topic(t, offsetsTopic, 1, nil)
	byName := func(name string) *kmsg.DeleteTopicsRequest {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.SetVersion(6)
		req.TimeoutMillis = 5000
		topic := kmsg.NewDeleteTopicsRequestTopic()
		topic.Topic = &name
		req.Topics = append(req.Topics, topic)
		return req
	}
	byID := func(id segment.TopicID) *kmsg.DeleteTopicsRequest {
		req := byName("")
		req.Topics[0].Topic, req.Topics[0].TopicID = nil, id
		return req
	}
	old := kmsg.NewPtrDeleteTopicsRequest()
	old.SetVersion(3)
	old.TopicNames = []string{"b"}
	for _, row := range []struct {
		name string
		req  *kmsg.DeleteTopicsRequest
		want int16
	}{
		{"by name", byName("a"), 0},
		{"again", byName("a"), kerr.UnknownTopicOrPartition.Code},
		{"by an id that is gone", byID(a.ID), kerr.UnknownTopicID.Code},
		{"internal", byName(offsetsTopic), kerr.InvalidTopicException.Code},
		{"old version", old, 0},
		{"by its id", byID(b.ID), kerr.UnknownTopicID.Code},
	} {
		if got := n.call(t, row.req).(*kmsg.DeleteTopicsResponse).Topics[0]; got.ErrorCode != row.want {
			t.Errorf("%s: %v", row.name, kerr.ErrorForCode(got.ErrorCode))
		}
	}
	// The next topic of that name starts above the last epoch that was announced.
	again := n.topic(t, "a", 1, nil)
	if again.StartTerm != 6 {
		t.Fatalf("starts at term %d, the last was 5", again.StartTerm)
	}
}

// What a client is told when the metadata group cannot change anything.
func TestChangesWithoutController(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.cluster.mu.Lock()
	n.cluster.changeErr = errors.New("no leader")
	n.cluster.mu.Unlock()
	if got := n.call(t, createRequest("x", 1, 1)).(*kmsg.CreateTopicsResponse).Topics[0]; got.ErrorCode != kerr.RequestTimedOut.Code {
		t.Errorf("create: code %d", got.ErrorCode)
	}
	if got := n.call(t, kmsg.NewPtrInitProducerIDRequest()).(*kmsg.InitProducerIDResponse); got.ErrorCode != kerr.CoordinatorNotAvailable.Code {
		t.Errorf("producer id: code %d", got.ErrorCode)
	}
}

func TestMetadata(t *testing.T) {
	n := newTestNode(t, 3, nil)
	here := n.topic(t, "here", 2, nil, 1, 2, 3)
	away := n.topic(t, "away", 1, nil, 3)
	n.cluster.mu.Lock()
	n.cluster.alive[2] = false
	n.cluster.leaders[partitionName(away.ID, 0)] = replication.LeaderInfo{Node: replication.NoLeader, Term: 9}
	n.cluster.mu.Unlock()
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(12)
	resp := n.call(t, req).(*kmsg.MetadataResponse)
	if *resp.ClusterID != "test-cluster" || resp.ControllerID != 1 || len(resp.Brokers) != 2 || len(resp.Topics) != 2 {
		t.Fatalf("%+v", resp)
	}
	// This broker's own entry is the address at which the connection arrived.
	host, port, _ := net.SplitHostPort(n.addr)
	if b := resp.Brokers[0]; b.NodeID != 1 || b.Host != host || strconv.Itoa(int(b.Port)) != port {
		t.Fatalf("own entry %+v", b)
	}
	if b := resp.Brokers[1]; b.NodeID != 3 || b.Host != "host3" || b.Port != 9092 { // 2 is dead
		t.Fatalf("other entry %+v", b)
	}
	if p := resp.Topics[0].Partitions[0]; p.ErrorCode != kerr.LeaderNotAvailable.Code || p.Leader != -1 {
		t.Fatalf("without a leader: %+v", p)
	}
	got := resp.Topics[1]
	if *got.Topic != "here" || got.TopicID != here.ID || got.Partitions[1].Leader != 1 || got.Partitions[1].LeaderEpoch != 5 {
		t.Fatalf("%+v", got)
	}
	if d := cmp.Diff([]int32{2}, got.Partitions[0].OfflineReplicas); d != "" {
		t.Fatal(d)
	}
	if d := cmp.Diff([]int32{1, 2, 3}, got.Partitions[0].Replicas); d != "" {
		t.Fatal(d)
	}
	// A broker that misses most of the others may be the one that is cut off.
	n.cluster.mu.Lock()
	n.cluster.alive[3] = false
	n.cluster.mu.Unlock()
	if resp := n.call(t, req).(*kmsg.MetadataResponse); len(resp.Brokers) != 3 {
		t.Fatalf("a broker that is cut off tells of %d brokers", len(resp.Brokers))
	}
}

func TestMetadataOfNamedTopics(t *testing.T) {
	n := newTestNode(t, 1, nil)
	here := n.topic(t, "here", 1, nil)
	ask := func(name string, id segment.TopicID, create bool) kmsg.MetadataResponseTopic {
		req := kmsg.NewPtrMetadataRequest()
		req.SetVersion(12)
		req.AllowAutoTopicCreation = create
		topic := kmsg.NewMetadataRequestTopic()
		topic.TopicID = id
		if id.IsZero() {
			topic.Topic = &name
		}
		req.Topics = append(req.Topics, topic)
		return n.call(t, req).(*kmsg.MetadataResponse).Topics[0]
	}
	if got := ask("", here.ID, false); got.ErrorCode != 0 || *got.Topic != "here" {
		t.Errorf("by id: %+v", got)
	}
	if got := ask("", segment.NewTopicID(), true); got.ErrorCode != kerr.UnknownTopicID.Code {
		t.Errorf("unknown id: %+v", got)
	}
	if got := ask("new", segment.TopicID{}, false); got.ErrorCode != kerr.UnknownTopicOrPartition.Code || *got.Topic != "new" {
		t.Errorf("not allowed to create: %+v", got)
	}
	if got := ask("a/b", segment.TopicID{}, true); got.ErrorCode != kerr.InvalidTopicException.Code {
		t.Errorf("invalid name: %+v", got)
	}
	if got := ask("new", segment.TopicID{}, true); got.ErrorCode != 0 || len(got.Partitions) != 1 {
		t.Errorf("created: %+v", got)
	}
	// An empty list is no topics, and null is all, from version 1 on; before, the
	// empty list was all.
	none := kmsg.NewPtrMetadataRequest()
	none.SetVersion(5)
	none.Topics = []kmsg.MetadataRequestTopic{}
	if got := n.call(t, none).(*kmsg.MetadataResponse); len(got.Topics) != 0 {
		t.Errorf("empty list: %d topics", len(got.Topics))
	}
	old := kmsg.NewPtrMetadataRequest()
	if got := n.call(t, old).(*kmsg.MetadataResponse); len(got.Topics) != 2 {
		t.Errorf("version 0: %d topics", len(got.Topics))
	}
	off := newTestNode(t, 1, map[string]string{"auto.create.topics.enable": "false"})
	created := kmsg.NewPtrMetadataRequest()
	created.SetVersion(4)
	created.AllowAutoTopicCreation = true
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr("x")
	created.Topics = append(created.Topics, topic)
	if got := off.call(t, created).(*kmsg.MetadataResponse).Topics[0]; got.ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("auto.create.topics.enable=false: code %d", got.ErrorCode)
	}
}

// Many clients that name a new topic at once create it once.
func TestAutomaticCreationHappensOnce(t *testing.T) {
	n := newTestNode(t, 1, nil)
	ids := make(chan segment.TopicID, 20)
	for range cap(ids) {
		go func() {
			topic, failure := n.creating.automatic(context.Background(), n.node, "new")
			if failure != nil {
				t.Error(failure)
				ids <- segment.TopicID{}
				return
			}
			ids <- topic.ID
		}()
	}
	first := <-ids
	for range cap(ids) - 1 {
		if id := <-ids; id != first || id.IsZero() {
			t.Fatalf("topics %s and %s", first, id)
		}
	}
}

func TestListOffsets(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 2, nil)
	p := n.cluster.partition("t", 0)
	for i := range 5 {
		p.fill(segment.Build([]segment.Record{{Timestamp: int64(1000 + i), Value: []byte("v")}}, segment.BuildOptions{}))
	}
	p.set(func(p *fakePartition) { p.log.start, p.log.hidden = 1, 1 })
	notReady := n.cluster.partition("t", 1)
	notReady.leadership.Store(&replication.Leadership{Leader: true, Term: 5})
	ask := func(number int32, timestamp int64, epoch int32) kmsg.ListOffsetsResponseTopicPartition {
		req := kmsg.NewPtrListOffsetsRequest()
		req.SetVersion(9)
		topic := kmsg.NewListOffsetsRequestTopic()
		topic.Topic = "t"
		sp := kmsg.NewListOffsetsRequestTopicPartition()
		sp.Partition, sp.Timestamp, sp.CurrentLeaderEpoch = number, timestamp, epoch
		topic.Partitions = append(topic.Partitions, sp)
		req.Topics = append(req.Topics, topic)
		return n.call(t, req).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
	}
	for _, row := range []struct {
		name               string
		number             int32
		timestamp          int64
		epoch              int32
		offset, timestamp2 int64
		code               int16
	}{
		{"latest is the high watermark", 0, latestOffset, -1, 4, -1, 0},
		{"earliest", 0, earliestOffset, -1, 1, -1, 0},
		{"earliest local", 0, earliestLocalOffset, -1, 1, -1, 0},
		{"latest tiered", 0, latestTieredOffset, -1, -1, -1, 0},
		{"by time", 0, 1002, -1, 2, 1002, 0},
		{"by a time above all", 0, 9999, -1, -1, -1, 0},
		{"largest timestamp", 0, maxTimestampOffset, -1, 4, 1004, 0},
		{"no such question", 0, -77, -1, -1, -1, kerr.InvalidRequest.Code},
		{"fenced", 0, latestOffset, 4, -1, -1, kerr.FencedLeaderEpoch.Code},
		{"a leader that is not ready", 1, latestOffset, -1, -1, -1, kerr.OffsetNotAvailable.Code},
		{"no such partition", 7, latestOffset, -1, -1, -1, kerr.UnknownTopicOrPartition.Code},
	} {
		got := ask(row.number, row.timestamp, row.epoch)
		if got.ErrorCode != row.code || got.Offset != row.offset || got.Timestamp != row.timestamp2 {
			t.Errorf("%s: %+v", row.name, got)
		}
	}
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 1, nil)
	n.cluster.partition("t", 0).fill(batchOf(1), batchOf(2))
	for _, row := range []struct {
		epoch, wantEpoch int32
		wantEnd          int64
	}{{5, 5, 2}, {4, 3, 1}, {1, -1, -1}, {6, -1, -1}, {-1, -1, -1}} {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.SetVersion(4)
		topic := kmsg.NewOffsetForLeaderEpochRequestTopic()
		topic.Topic = "t"
		sp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		sp.CurrentLeaderEpoch, sp.LeaderEpoch = -1, row.epoch
		topic.Partitions = append(topic.Partitions, sp)
		req.Topics = append(req.Topics, topic)
		got := n.call(t, req).(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0]
		if got.ErrorCode != 0 || got.LeaderEpoch != row.wantEpoch || got.EndOffset != row.wantEnd {
			t.Errorf("epoch %d: %+v", row.epoch, got)
		}
	}
}

func TestInitProducerID(t *testing.T) {
	n := newTestNode(t, 1, nil)
	seen := map[int64]bool{}
	c := dial(t, n.addr)
	defer c.close()
	for range metadata.ProducerIDBlock + 10 {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.SetVersion(4)
		got := c.request(t, req).(*kmsg.InitProducerIDResponse)
		if got.ErrorCode != 0 || got.ProducerEpoch != 0 || seen[got.ProducerID] {
			t.Fatalf("%+v, seen before: %v", got, seen[got.ProducerID])
		}
		seen[got.ProducerID] = true
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = kmsg.StringPtr("x")
	if got := c.request(t, req).(*kmsg.InitProducerIDResponse); got.ErrorCode != kerr.TransactionalIDAuthorizationFailed.Code || got.ProducerID != -1 {
		t.Fatalf("transactional: %+v", got)
	}
}

func TestFindCoordinator(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"offsets.topic.num.partitions": "3"})
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.SetVersion(4)
	req.CoordinatorKeys = []string{"g", strings.Repeat("x", 5000)}
	got := n.call(t, req).(*kmsg.FindCoordinatorResponse).Coordinators
	if got[0].ErrorCode != 0 || got[0].NodeID != 1 || got[0].Port <= 0 || got[1].ErrorCode != kerr.InvalidGroupID.Code {
		t.Fatalf("%+v", got)
	}
	topic, ok := n.cluster.View().TopicNamed(offsetsTopic)
	if !ok || len(topic.Partitions) != 3 || !topic.Internal || topic.Configs["cleanup.policy"] != "compact" {
		t.Fatalf("%+v", topic)
	}
	req.CoordinatorType = transactionCoordinator
	if got := n.call(t, req).(*kmsg.FindCoordinatorResponse).Coordinators[0]; got.ErrorCode != kerr.TransactionalIDAuthorizationFailed.Code || strOf(got.ErrorMessage) != noTransactions {
		t.Fatalf("transactions: %+v", got)
	}
	req.CoordinatorType = 2 // share groups
	if got := n.call(t, req).(*kmsg.FindCoordinatorResponse).Coordinators[0]; got.ErrorCode != kerr.InvalidRequest.Code {
		t.Fatalf("share groups: %+v", got)
	}
}

// A transactional producer fails at once instead of asking again and again.
func TestTransactionalProducersAreRefusedAtOnce(t *testing.T) {
	n := newTestNode(t, 1, nil)
	c := newClient(t, []string{n.addr}, kgo.TransactionalID("t"))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, _, err := c.ProducerID(ctx); !errors.Is(err, kerr.TransactionalIDAuthorizationFailed) {
		t.Fatalf("%v", err)
	}
}

func TestDescribeConfigs(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"log.retention.hours": "2", "log.segment.bytes": "2097152"})
	n.topic(t, "t", 1, map[string]string{"segment.bytes": "4194304"})
	ask := func(kind kmsg.ConfigResourceType, name string, keys ...string) kmsg.DescribeConfigsResponseResource {
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.SetVersion(4)
		req.IncludeSynonyms, req.IncludeDocumentation = true, true
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.ConfigNames = kind, name, keys
		req.Resources = append(req.Resources, r)
		return n.call(t, req).(*kmsg.DescribeConfigsResponse).Resources[0]
	}
	if got := ask(kmsg.ConfigResourceTypeTopic, "t"); got.ErrorCode != 0 || len(got.Configs) != len(topicKeys) {
		t.Fatalf("%d keys, code %d", len(got.Configs), got.ErrorCode)
	}
	own := ask(kmsg.ConfigResourceTypeTopic, "t", "segment.bytes").Configs[0]
	if *own.Value != "4194304" || own.Source != kmsg.ConfigSourceDynamicTopicConfig || own.ConfigType != kmsg.ConfigTypeInt || len(own.ConfigSynonyms) != 3 {
		t.Fatalf("%+v", own)
	}
	inherited := ask(kmsg.ConfigResourceTypeTopic, "t", "retention.ms").Configs[0]
	if *inherited.Value != "7200000" || inherited.Source != kmsg.ConfigSourceStaticBrokerConfig || *inherited.Documentation == "" {
		t.Fatalf("%+v", inherited)
	}
	standard := ask(kmsg.ConfigResourceTypeTopic, "t", "max.message.bytes").Configs[0]
	if *standard.Value != "1048588" || standard.Source != kmsg.ConfigSourceDefaultConfig {
		t.Fatalf("%+v", standard)
	}
	broker := ask(kmsg.ConfigResourceTypeBroker, "1", "node.id", "log.segment.bytes")
	if len(broker.Configs) != 2 || *broker.Configs[0].Value != "2097152" || *broker.Configs[1].Value != "1" || !broker.Configs[1].ReadOnly {
		t.Fatalf("%+v", broker)
	}
	for _, row := range []struct {
		kind kmsg.ConfigResourceType
		name string
		want int16
	}{
		{kmsg.ConfigResourceTypeTopic, "nope", kerr.UnknownTopicOrPartition.Code},
		{kmsg.ConfigResourceTypeBroker, "2", kerr.InvalidRequest.Code},
		{kmsg.ConfigResourceTypeGroupConfig, "g", kerr.InvalidRequest.Code},
	} {
		if got := ask(row.kind, row.name); got.ErrorCode != row.want {
			t.Errorf("%v %q: code %d", row.kind, row.name, got.ErrorCode)
		}
	}
}

func TestDescribeCluster(t *testing.T) {
	n := newTestNode(t, 3, nil)
	n.cluster.mu.Lock()
	n.cluster.alive[3] = false
	n.cluster.mu.Unlock()
	req := kmsg.NewPtrDescribeClusterRequest()
	req.SetVersion(2)
	req.EndpointType = brokerEndpoints
	got := n.call(t, req).(*kmsg.DescribeClusterResponse)
	if got.ClusterID != "test-cluster" || got.ControllerID != 1 || len(got.Brokers) != 2 {
		t.Fatalf("%+v", got)
	}
	req.IncludeFencedBrokers = true
	if got := n.call(t, req).(*kmsg.DescribeClusterResponse); len(got.Brokers) != 3 || !got.Brokers[2].IsFenced {
		t.Fatalf("%+v", got.Brokers)
	}
	req.EndpointType = 2
	if got := n.call(t, req).(*kmsg.DescribeClusterResponse); got.ErrorCode != kerr.UnsupportedEndpointType.Code {
		t.Fatalf("%+v", got)
	}
}

func TestDescribeLogDirs(t *testing.T) {
	n := newTestNode(t, 2, nil)
	n.node.dataDir = "/data"
	n.topic(t, "t", 2, nil)
	n.topic(t, "away", 1, nil, 2)
	size := int64(len(n.cluster.partition("t", 1).fill(batchOf(1))))
	req := kmsg.NewPtrDescribeLogDirsRequest()
	req.SetVersion(4)
	dir := n.call(t, req).(*kmsg.DescribeLogDirsResponse).Dirs[0]
	if dir.Dir != "/data" || len(dir.Topics) != 1 || dir.Topics[0].Partitions[1].Size != size {
		t.Fatalf("%+v", dir)
	}
}

// Every handler, at every version, answers something that decodes.
func TestEveryVersionIsAnswered(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"offsets.topic.num.partitions": "2", "group.initial.rebalance.delay.ms": "0"})
	n.topic(t, "t", 1, nil)
	for i := range table {
		row := &table[i]
		if row.begin != nil {
			continue // an empty produce is in TestAcksZero and others
		}
		for version := row.min; version <= row.max; version++ {
			t.Run(fmt.Sprintf("%s v%d", row.name, version), func(t *testing.T) {
				req := kmsg.RequestForKey(row.key)
				req.SetVersion(version)
				switch r := req.(type) {
				case *kmsg.ApiVersionsRequest:
					r.ClientSoftwareName, r.ClientSoftwareVersion = "test", "1"
				case *kmsg.FetchRequest:
					r.SessionEpoch = fetchFinal
				}
				n.call(t, req)
			})
		}
	}
}

func TestBrokerSettings(t *testing.T) {
	_, err := newBrokerSettings(map[string]string{"num.partitons": "3", "log.retention.hours": "soon", "node.id": "4", "max.connections": "-3"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{`did you mean "num.partitions"?`, "log.retention.hours", "node.id cannot be set", "max.connections"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	s, err := newBrokerSettings(map[string]string{"socket.request.max.bytes": "1073741824"})
	if err != nil || s.requestMemory < int64(s.requestMaxBytes) {
		t.Fatalf("%v: a request must fit the budget", err)
	}
}

// TestBalanceSettings: leadership goes back by itself unless that is turned off.
func TestBalanceSettings(t *testing.T) {
	for _, row := range []struct {
		set  map[string]string
		want replication.Balance
	}{
		{nil, replication.Balance{Interval: 5 * time.Minute, Percentage: 10}},
		{map[string]string{"leader.imbalance.check.interval.seconds": "7", "leader.imbalance.per.broker.percentage": "0"}, replication.Balance{Interval: 7 * time.Second}},
		{map[string]string{"auto.leader.rebalance.enable": "false"}, replication.Balance{}},
	} {
		s, err := newBrokerSettings(row.set)
		if err != nil || s.balance != row.want {
			t.Errorf("%v: %+v, %v, want %+v", row.set, s.balance, err, row.want)
		}
	}
}

// Every key's default passes its own check, and names are unique.
func TestConfigKeys(t *testing.T) {
	for what, keys := range map[string][]configKey{"topic": topicKeys, "broker": brokerKeys} {
		names := map[string]bool{}
		for i := range keys {
			k := &keys[i]
			if names[k.name] || k.doc == "" {
				t.Errorf("%s %s: twice, or without documentation", what, k.name)
			}
			names[k.name] = true
			if k.value != "" || k.kind == kmsg.ConfigTypeList {
				if err := k.check(k.value); err != nil {
					t.Errorf("%s: default: %v", what, err)
				}
			}
			for _, s := range k.broker {
				if _, ok := findKey(brokerKeys, s.key); !ok {
					t.Errorf("%s: no broker key %s", k.name, s.key)
				}
			}
		}
	}
}

func TestSoftwareName(t *testing.T) {
	for name, want := range map[string]bool{"kgo": true, "apache-kafka-java": true, "a.b-1": true, "": false, "-a": false, "a.": false,
		"a b": false, "a\nb": false, strings.Repeat("x", 129): false} {
		if softwareName(name) != want {
			t.Errorf("softwareName(%q) is not %v", name, want)
		}
	}
	for _, name := range codecClients {
		if !regexp.MustCompile(`^[a-z][a-z-]*$`).MatchString(name) {
			t.Errorf("%q is not in the form that names are compared in", name)
		}
	}
}

func TestConfigValidatesAtOnce(t *testing.T) {
	_, err := Open(context.Background(), Config{NodeID: -1, KafkaAddr: "nonsense", Advertise: "host:0", Join: []string{"a:1", "a:1"},
		FoundWithout: "b:1", Settings: map[string]string{"nope": "1"}})
	if err == nil {
		t.Fatal("opened")
	}
	for _, want := range []string{"node id -1", `Kafka address "nonsense"`, `advertised address "host:0"`, "given twice", `"b:1"`, `"nope"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}
