package server

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
)

// brokerKeys are the configuration keys of a broker that -c sets, with Kafka's
// names, units and defaults, except where DESIGN 7 differs; and, marked fixed,
// those that only describe how the broker runs,
// or shared, those that the cluster keeps.
var brokerKeys = []configKey{
	{name: "advertised.listeners", kind: kmsg.ConfigTypeString, fixed: true, doc: "Where clients reach this broker; set by --advertise."},
	{name: "auto.create.topics.enable", kind: kmsg.ConfigTypeBoolean, value: "true", doc: "Whether a topic is created when a client that allows it asks for its metadata."},
	{name: "auto.leader.rebalance.enable", kind: kmsg.ConfigTypeBoolean, value: "true", doc: "Whether leadership goes back to preferred replicas by itself, one partition after the other."},
	{name: "broker.id", kind: kmsg.ConfigTypeInt, fixed: true, low: -1, doc: "As node.id, for older tools."},
	{name: "broker.rack", kind: kmsg.ConfigTypeString, fixed: true, doc: "The rack of this broker, its failure domain; set by --rack."},
	{name: "compression.type", kind: kmsg.ConfigTypeString, value: "producer", oneOf: []string{"uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"}, doc: "Default of the topic key."},
	{name: "connections.max.idle.ms", kind: kmsg.ConfigTypeLong, value: "600000", low: -1, doc: "How long a connection may be idle, in milliseconds; -1: for ever."},
	{name: "default.replication.factor", kind: kmsg.ConfigTypeInt, value: "-1", low: -1, high: math.MaxInt16, doc: "Replicas of a topic that is created without a number; -1: three, or as many as there are brokers."},
	{name: "delete.topic.enable", kind: kmsg.ConfigTypeBoolean, value: "true", doc: "Whether topics can be deleted."},
	{name: "fetch.max.bytes", kind: kmsg.ConfigTypeInt, value: "57671680", low: 1024, doc: "The most bytes one fetch is answered with, whatever it asks for."},
	{name: "group.consumer.heartbeat.interval.ms", kind: kmsg.ConfigTypeInt, value: "5000", low: 1, doc: "Heartbeat interval of consumer groups of the KIP-848 protocol."},
	{name: "group.consumer.session.timeout.ms", kind: kmsg.ConfigTypeInt, value: "45000", low: 1, doc: "Session time-out of consumer groups of the KIP-848 protocol."},
	{name: "group.initial.rebalance.delay.ms", kind: kmsg.ConfigTypeInt, value: "3000", doc: "How long a new group waits for more members before its first assignment, in milliseconds."},
	{name: "group.max.session.timeout.ms", kind: kmsg.ConfigTypeInt, value: "1800000", low: 1, doc: "The longest session time-out a group member may ask for, in milliseconds."},
	{name: "group.max.size", kind: kmsg.ConfigTypeInt, value: maxInt, low: 1, doc: "The most members of a group."},
	{name: "group.min.session.timeout.ms", kind: kmsg.ConfigTypeInt, value: "6000", low: 1, doc: "The shortest session time-out a group member may ask for, in milliseconds."},
	{name: "leader.imbalance.check.interval.seconds", kind: kmsg.ConfigTypeLong, value: "300", low: 1, high: math.MaxInt32, doc: "How often this broker looks for leaderships to hand back to preferred replicas."},
	{name: "leader.imbalance.per.broker.percentage", kind: kmsg.ConfigTypeInt, value: "10", low: 0, high: 100, doc: "How much of what a broker should lead may be led by others before anything is handed back to it."},
	{name: "listeners", kind: kmsg.ConfigTypeString, fixed: true, doc: "Where this broker listens; set by --kafka-addr."},
	{name: "log.cleaner.delete.retention.ms", kind: kmsg.ConfigTypeLong, value: "86400000", doc: "Default of the topic key delete.retention.ms."},
	{name: "log.cleaner.min.cleanable.ratio", kind: kmsg.ConfigTypeDouble, value: "0.5", high: 1, doc: "Default of the topic key min.cleanable.dirty.ratio."},
	{name: "log.cleaner.min.compaction.lag.ms", kind: kmsg.ConfigTypeLong, value: "0", doc: "Default of the topic key min.compaction.lag.ms."},
	{name: "log.cleanup.policy", kind: kmsg.ConfigTypeList, value: "delete", oneOf: []string{"delete", "compact"}, doc: "Default of the topic key cleanup.policy."},
	{name: "log.dirs", kind: kmsg.ConfigTypeString, fixed: true, doc: "The data folder; set by --data-dir."},
	{name: "log.flush.interval.messages", kind: kmsg.ConfigTypeLong, value: maxLong, low: 1, doc: "Has no effect: every acknowledged record is synced."},
	{name: "log.flush.interval.ms", kind: kmsg.ConfigTypeLong, value: maxLong, doc: "Has no effect: every acknowledged record is synced."},
	{name: "log.message.timestamp.after.max.ms", kind: kmsg.ConfigTypeLong, value: "3600000", doc: "Default of the topic key message.timestamp.after.max.ms."},
	{name: "log.message.timestamp.before.max.ms", kind: kmsg.ConfigTypeLong, value: maxLong, doc: "Default of the topic key message.timestamp.before.max.ms."},
	{name: "log.message.timestamp.type", kind: kmsg.ConfigTypeString, value: "CreateTime", oneOf: []string{"CreateTime", "LogAppendTime"}, doc: "Default of the topic key message.timestamp.type."},
	{name: "log.retention.bytes", kind: kmsg.ConfigTypeLong, value: "-1", low: -1, doc: "Default of the topic key retention.bytes."},
	{name: "log.retention.check.interval.ms", kind: kmsg.ConfigTypeLong, value: "300000", low: 1, doc: "How often is looked for segments that have expired, in milliseconds."},
	{name: "log.retention.hours", kind: kmsg.ConfigTypeInt, value: "168", low: -1, doc: "Default of the topic key retention.ms, in hours."},
	{name: "log.retention.minutes", kind: kmsg.ConfigTypeInt, value: "", low: -1, doc: "Default of the topic key retention.ms, in minutes."},
	{name: "log.retention.ms", kind: kmsg.ConfigTypeLong, value: "", low: -1, doc: "Default of the topic key retention.ms."},
	{name: "log.roll.hours", kind: kmsg.ConfigTypeInt, value: "168", low: 1, doc: "Default of the topic key segment.ms, in hours."},
	{name: "log.roll.jitter.ms", kind: kmsg.ConfigTypeLong, value: "0", doc: "Has no effect."},
	{name: "log.roll.ms", kind: kmsg.ConfigTypeLong, value: "", low: 1, doc: "Default of the topic key segment.ms."},
	{name: "log.segment.bytes", kind: kmsg.ConfigTypeInt, value: "1073741824", low: 1 << 20, doc: "Default of the topic key segment.bytes."},
	{name: "max.connections", kind: kmsg.ConfigTypeInt, value: maxInt, doc: "The most client connections at a time."},
	{name: "max.connections.per.ip", kind: kmsg.ConfigTypeInt, value: maxInt, doc: "The most client connections at a time from one address."},
	{name: "max.incremental.fetch.session.cache.slots", kind: kmsg.ConfigTypeInt, value: "1000", doc: "The most incremental fetch sessions kept."},
	{name: "message.max.bytes", kind: kmsg.ConfigTypeInt, value: "1048588", low: 61, high: maxBatchBytes, doc: "Default of the topic key max.message.bytes."},
	{name: "millrace.batch.inflated.max.bytes", kind: kmsg.ConfigTypeLong, value: "104857600", low: 1 << 10, high: 1 << 31, doc: "Default of the topic key of this name."},
	{name: "millrace.compression", kind: kmsg.ConfigTypeString, value: "zstd", oneOf: []string{"none", "zstd", "lz4", "snappy", "gzip"}, doc: "Default of the topic key of this name."},
	{name: "millrace.drained", kind: kmsg.ConfigTypeBoolean, value: "false", shared: true, doc: "Whether this broker is drained: it gets no new replica, and no leadership that another broker can have. Kept in the cluster's metadata; altered with cluster drain and undrain, or IncrementalAlterConfigs."},
	{name: "millrace.fetch.inflate", kind: kmsg.ConfigTypeString, value: "auto", oneOf: []string{"auto", "always", "never"}, doc: "Default of the topic key of this name."},
	{name: "millrace.request.memory.bytes", kind: kmsg.ConfigTypeLong, value: "268435456", low: 1 << 20, doc: "The memory that requests under way may hold together, in bytes; connections wait when it is used up. Never less than one request of socket.request.max.bytes, and one such request may exceed it."},
	{name: "millrace.requests.in.flight", kind: kmsg.ConfigTypeInt, value: "64", low: 1, high: 10_000, doc: "Requests of one connection that may wait for their answers before the broker stops reading from it."},
	{name: "millrace.retention.wait.ms", kind: kmsg.ConfigTypeLong, value: "3600000", low: 1000, doc: "How long retention and DeleteRecords keep files for a replica that is away, in milliseconds. One that comes back later gets a copy of the segments instead of the entries that it missed."},
	{name: "millrace.seeding.rate", kind: kmsg.ConfigTypeLong, value: "67108864", low: 64 << 10, doc: "How fast segments are copied to replicas that are new or too far behind, in bytes a second: all that this broker gives, and all that it takes, each."},
	{name: "min.insync.replicas", kind: kmsg.ConfigTypeInt, value: "1", low: 1, doc: "Default of the topic key of this name; never less than the majority of a topic's replicas, whatever is set here."},
	{name: "node.id", kind: kmsg.ConfigTypeInt, fixed: true, doc: "The id of this broker; set by --node-id."},
	{name: "num.partitions", kind: kmsg.ConfigTypeInt, value: "1", low: 1, high: maxPartitions, doc: "Partitions of a topic that is created without a number."},
	{name: "offset.metadata.max.bytes", kind: kmsg.ConfigTypeInt, value: "4096", doc: "The longest text that may be stored with a committed position."},
	{name: "offsets.retention.minutes", kind: kmsg.ConfigTypeInt, value: "-1", low: -1, doc: "How long the positions of a group without members are kept, in minutes; -1: as long as its topics exist."},
	{name: "offsets.topic.num.partitions", kind: kmsg.ConfigTypeInt, value: "16", low: 1, high: maxPartitions, doc: "Partitions of __consumer_offsets."},
	{name: "offsets.topic.replication.factor", kind: kmsg.ConfigTypeShort, value: "-1", low: -1, doc: "Replicas of __consumer_offsets; -1: as default.replication.factor."},
	{name: "socket.request.max.bytes", kind: kmsg.ConfigTypeInt, value: "104857600", low: 1 << 10, high: 1 << 30, doc: "The largest request accepted, in bytes; one that carries no records may have 8 MiB at most."},
}

// brokerSettings is a broker's configuration, set once when it opens.
type brokerSettings struct {
	set map[string]string // what -c set

	autoCreate       bool
	deleteTopics     bool
	partitions       int32
	replication      int16
	fetchMaxBytes    int64
	requestMaxBytes  int32
	requestMemory    int64
	inFlight         int
	idle             time.Duration // 0: for ever
	retentionCheck   time.Duration
	maxConnections   int
	maxPerAddress    int
	sessionSlots     int
	offsetPartitions int32
	offsetReplicas   int16
	balance          replication.Balance
	retentionWait    time.Duration
	seedRate         int64 // bytes a second
}

// newBrokerSettings checks what was set, and reports all faults at once.
func newBrokerSettings(set map[string]string) (*brokerSettings, error) {
	var faults []error
	for _, name := range sortedKeys(set) {
		key, ok := findKey(brokerKeys, name)
		switch {
		case !ok:
			faults = append(faults, unknownKey(brokerKeys, "broker", name))
		case key.fixed || key.shared:
			faults = append(faults, errors.New(name+" cannot be set here: "+key.doc))
		default:
			if err := key.check(set[name]); err != nil {
				faults = append(faults, err)
			}
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	s := &brokerSettings{set: set}
	s.autoCreate = s.text("auto.create.topics.enable") == "true"
	s.deleteTopics = s.text("delete.topic.enable") == "true"
	s.partitions = int32(s.number("num.partitions"))
	s.replication = int16(s.number("default.replication.factor"))
	s.fetchMaxBytes = s.number("fetch.max.bytes")
	s.requestMaxBytes = int32(s.number("socket.request.max.bytes"))
	s.requestMemory = max(s.number("millrace.request.memory.bytes"), int64(s.requestMaxBytes))
	s.inFlight = int(s.number("millrace.requests.in.flight"))
	if idle := s.number("connections.max.idle.ms"); idle > 0 {
		s.idle = milliseconds(idle)
	}
	s.retentionCheck = milliseconds(s.number("log.retention.check.interval.ms"))
	s.retentionWait = milliseconds(s.number("millrace.retention.wait.ms"))
	s.seedRate = s.number("millrace.seeding.rate")
	s.maxConnections = int(s.number("max.connections"))
	s.maxPerAddress = int(s.number("max.connections.per.ip"))
	s.sessionSlots = int(s.number("max.incremental.fetch.session.cache.slots"))
	s.offsetPartitions = int32(s.number("offsets.topic.num.partitions"))
	s.offsetReplicas = int16(s.number("offsets.topic.replication.factor"))
	if s.text("auto.leader.rebalance.enable") == "true" {
		s.balance = replication.Balance{Interval: time.Duration(s.number("leader.imbalance.check.interval.seconds")) * time.Second,
			Percentage: int(s.number("leader.imbalance.per.broker.percentage"))}
	}
	return s, nil
}

// text is the value of a key, set or default.
func (s *brokerSettings) text(name string) string {
	if value, ok := s.set[name]; ok {
		return value
	}
	key, _ := findKey(brokerKeys, name)
	return key.value
}

// number is the value of a numeric key; empty is 0.
func (s *brokerSettings) number(name string) int64 {
	n, err := strconv.ParseInt(s.text(name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// setting is an effective value and where it comes from.
type setting struct {
	value  string
	source kmsg.ConfigSource
	// chain lists every place that gives a value, strongest first.
	chain []link
}

// link is one place that gives a value.
type link struct {
	name   string
	value  string
	source kmsg.ConfigSource
}

// effective resolves a topic key: the topic's own value, else what the broker
// was started with, else the default.
func effective(key *configKey, configs map[string]string, broker *brokerSettings) setting {
	var s setting
	if value, ok := configs[key.name]; ok {
		s.chain = append(s.chain, link{key.name, value, kmsg.ConfigSourceDynamicTopicConfig})
	}
	for _, synonym := range key.broker {
		if value, ok := broker.set[synonym.key]; ok && value != "" {
			s.chain = append(s.chain, link{synonym.key, synonym.convert(value), kmsg.ConfigSourceStaticBrokerConfig})
		}
	}
	name := key.name
	if len(key.broker) > 0 {
		name = key.broker[len(key.broker)-1].key
	}
	s.chain = append(s.chain, link{name, key.value, kmsg.ConfigSourceDefaultConfig})
	s.value, s.source = s.chain[0].value, s.chain[0].source
	return s
}

// minInSyncKey is the one topic key whose effective value depends on the topic's
// replicas.
const minInSyncKey = "min.insync.replicas"

// shown resolves a topic key as it holds for a topic with that many replicas: fewer
// than the majority of them never hold an acknowledged record, so a lower
// min.insync.replicas has no effect. That of a broker is then named behind the
// majority. That of the topic stays the source, so that tools which compare find
// their key, and stays first in the chain as it was set; only the value differs.
func shown(key *configKey, configs map[string]string, replicas int, broker *brokerSettings) setting {
	s := effective(key, configs, broker)
	if key.name != minInSyncKey {
		return s
	}
	majority, last := replicas/2+1, len(s.chain)-1
	s.chain[last].value = strconv.Itoa(majority)
	if n, err := strconv.Atoi(s.value); last == 0 || err != nil || n < majority {
		if s.source == kmsg.ConfigSourceDynamicTopicConfig {
			s.value = s.chain[last].value
			return s
		}
		s.chain = append([]link{s.chain[last]}, s.chain[:last]...)
	}
	s.value, s.source = s.chain[0].value, s.chain[0].source
	return s
}

// convert turns a broker key's value into the topic key's unit.
func (s synonym) convert(value string) string {
	n, err := strconv.ParseInt(value, 10, 64)
	if s.times == 0 || err != nil || n < 0 {
		return value
	}
	if n > math.MaxInt64/s.times {
		return maxLong
	}
	return strconv.FormatInt(n*s.times, 10)
}

// sortedKeys returns a map's keys in order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
