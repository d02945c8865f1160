package server

import (
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// topicKeys are the configuration keys of a topic: Kafka's names, units and
// defaults, and those of our own, which carry the prefix millrace.
var topicKeys = []configKey{
	{name: "cleanup.policy", kind: kmsg.ConfigTypeList, value: "delete", oneOf: []string{"delete", "compact"},
		broker: []synonym{{key: "log.cleanup.policy"}},
		doc:    "What happens to old records: delete removes whole segments by time or size, compact keeps the last record of each key. Records of a compacted topic must have keys."},
	{name: "compression.gzip.level", kind: kmsg.ConfigTypeInt, value: "-1", low: -1, high: 9, doc: "Level for compression.type=gzip; kept for compatibility, the broker chooses the level."},
	{name: "compression.lz4.level", kind: kmsg.ConfigTypeInt, value: "9", low: 1, high: 17, doc: "Level for compression.type=lz4; kept for compatibility, the broker chooses the level."},
	{name: "compression.type", kind: kmsg.ConfigTypeString, value: "producer", oneOf: []string{"uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"},
		broker: []synonym{{key: "compression.type"}},
		doc:    "The codec in which every batch is stored. producer keeps the codec of the producer; what it sends uncompressed is subject to millrace.compression."},
	{name: "compression.zstd.level", kind: kmsg.ConfigTypeInt, value: "3", low: -131072, high: 22, doc: "Level for compression.type=zstd; kept for compatibility, the broker chooses the level."},
	{name: "delete.retention.ms", kind: kmsg.ConfigTypeLong, value: "86400000", broker: []synonym{{key: "log.cleaner.delete.retention.ms"}}, doc: "How long a tombstone of a compacted topic is kept, in milliseconds."},
	{name: "file.delete.delay.ms", kind: kmsg.ConfigTypeLong, value: "60000", doc: "Has no effect: a removed segment file goes at once, and those who read it keep it until they are done."},
	{name: "flush.messages", kind: kmsg.ConfigTypeLong, value: maxLong, low: 1, broker: []synonym{{key: "log.flush.interval.messages"}}, doc: "Has no effect: every acknowledged record is synced (millrace.durability=fsync)."},
	{name: "flush.ms", kind: kmsg.ConfigTypeLong, value: maxLong, broker: []synonym{{key: "log.flush.interval.ms"}}, doc: "Has no effect with millrace.durability=fsync."},
	{name: "follower.replication.throttled.replicas", kind: kmsg.ConfigTypeList, value: "", doc: "Replicas whose catching up is throttled on the follower's side."},
	{name: "index.interval.bytes", kind: kmsg.ConfigTypeInt, value: "4096", doc: "Has no effect: an index entry covers at most 4 KiB of data."},
	{name: "leader.replication.throttled.replicas", kind: kmsg.ConfigTypeList, value: "", doc: "Replicas whose catching up is throttled on the leader's side."},
	{name: "max.compaction.lag.ms", kind: kmsg.ConfigTypeLong, value: maxLong, low: 1, doc: "The longest time a record stays uncompacted, in milliseconds."},
	{name: "max.message.bytes", kind: kmsg.ConfigTypeInt, value: "1048588", low: segment.HeaderSize, high: maxBatchBytes, broker: []synonym{{key: "message.max.bytes"}},
		doc: "The largest record batch accepted, in bytes, as sent and as stored."},
	{name: "message.timestamp.after.max.ms", kind: kmsg.ConfigTypeLong, value: "3600000", broker: []synonym{{key: "log.message.timestamp.after.max.ms"}}, doc: "How far a record's timestamp may lie in the future, in milliseconds."},
	{name: "message.timestamp.before.max.ms", kind: kmsg.ConfigTypeLong, value: maxLong, broker: []synonym{{key: "log.message.timestamp.before.max.ms"}}, doc: "How far a record's timestamp may lie in the past, in milliseconds."},
	{name: "message.timestamp.type", kind: kmsg.ConfigTypeString, value: "CreateTime", oneOf: []string{"CreateTime", "LogAppendTime"}, broker: []synonym{{key: "log.message.timestamp.type"}}, doc: "Whether a record carries the producer's time or the leader's."},
	{name: "millrace.batch.inflated.max.bytes", kind: kmsg.ConfigTypeLong, value: "104857600", low: 1 << 10, high: 1 << 31, broker: []synonym{{key: "millrace.batch.inflated.max.bytes"}}, doc: "The largest size of a batch once decompressed, in bytes; larger ones are refused."},
	{name: "millrace.compression", kind: kmsg.ConfigTypeString, value: "zstd", oneOf: []string{"none", "zstd", "lz4", "snappy", "gzip"}, broker: []synonym{{key: "millrace.compression"}},
		doc: "The codec for batches that arrive uncompressed; applied where it makes them smaller."},
	{name: "millrace.durability", kind: kmsg.ConfigTypeString, value: "fsync", oneOf: []string{"fsync", "replicated"}, doc: "What an acknowledgement means. fsync: on the disks of a majority. replicated is not available yet."},
	{name: "millrace.fetch.inflate", kind: kmsg.ConfigTypeString, value: "auto", oneOf: []string{"auto", "always", "never"}, broker: []synonym{{key: "millrace.fetch.inflate"}},
		doc: "Whether batches are sent uncompressed: auto does so for clients that are not known to read every codec."},
	{name: "min.cleanable.dirty.ratio", kind: kmsg.ConfigTypeDouble, value: "0.5", low: 0, high: 1, broker: []synonym{{key: "log.cleaner.min.cleanable.ratio"}}, doc: "The share of uncompacted data at which compaction starts."},
	{name: "min.compaction.lag.ms", kind: kmsg.ConfigTypeLong, value: "0", broker: []synonym{{key: "log.cleaner.min.compaction.lag.ms"}}, doc: "The shortest time a record stays uncompacted, in milliseconds."},
	{name: "min.insync.replicas", kind: kmsg.ConfigTypeInt, value: "1", low: 1, broker: []synonym{{key: "min.insync.replicas"}},
		doc: "Replicas that must hold a record before it is acknowledged with acks=all. The default is the majority of the topic's replicas; a lower value has no effect, and the majority is shown instead of it."},
	{name: "preallocate", kind: kmsg.ConfigTypeBoolean, value: "false", doc: "Has no effect: segments grow in preallocated steps with the traffic."},
	{name: "retention.bytes", kind: kmsg.ConfigTypeLong, value: "-1", low: -1, broker: []synonym{{key: "log.retention.bytes"}}, doc: "The size of a partition above which old segments are removed; -1: no limit."},
	{name: "retention.ms", kind: kmsg.ConfigTypeLong, value: "604800000", low: -1, broker: []synonym{{key: "log.retention.ms"}, {key: "log.retention.minutes", times: 60_000}, {key: "log.retention.hours", times: 3_600_000}}, doc: "The age in milliseconds above which segments are removed; -1: no limit."},
	{name: "segment.bytes", kind: kmsg.ConfigTypeInt, value: "1073741824", low: 1 << 20, broker: []synonym{{key: "log.segment.bytes"}}, doc: "The size at which a new segment file is begun."},
	{name: "segment.index.bytes", kind: kmsg.ConfigTypeInt, value: "10485760", low: 4, doc: "Has no effect: indexes grow with their segment."},
	{name: "segment.jitter.ms", kind: kmsg.ConfigTypeLong, value: "0", broker: []synonym{{key: "log.roll.jitter.ms"}}, doc: "Has no effect."},
	{name: "segment.ms", kind: kmsg.ConfigTypeLong, value: "604800000", low: 1, broker: []synonym{{key: "log.roll.ms"}, {key: "log.roll.hours", times: 3_600_000}}, doc: "The age in milliseconds at which a new segment file is begun."},
	{name: "unclean.leader.election.enable", kind: kmsg.ConfigTypeBoolean, value: "false", oneOf: nil, doc: "Has no effect: a replica that misses acknowledged records is never elected."},
}

// maxBatchBytes is the largest max.message.bytes: a batch must fit a request and
// a frame of the replication protocol.
const maxBatchBytes = 60 << 20

// errReplicated is the refusal of a durability mode that does not exist yet.
var errReplicated = errors.New("millrace.durability=replicated is not available in this version: it would lose acknowledged records that fsync keeps; use fsync")

// checkTopicConfig checks one key of a topic's configuration.
func checkTopicConfig(name, value string) error {
	key, ok := findKey(topicKeys, name)
	if !ok {
		return unknownKey(topicKeys, "topic", name)
	}
	if err := key.check(value); err != nil {
		return err
	}
	if name == "millrace.durability" && value == "replicated" {
		return errReplicated
	}
	return nil
}

// topicSettings is a topic's configuration as the request path needs it.
type topicSettings struct {
	limits        segment.Limits // Now is set for each batch
	appendTime    bool
	stored        string // compression.type
	atRest        segment.Codec
	inflate       string // millrace.fetch.inflate
	minInSync     int
	inflatedBytes int64
}

// policyOf is a topic's configuration as its logs need it. Nothing expires from an
// internal topic: what it holds is in force until something newer replaces it.
func policyOf(topic *metadata.Topic, broker *brokerSettings) replication.Policy {
	number := func(name string) int64 {
		n, err := strconv.ParseInt(topicValue(name, topic.Configs, broker), 10, 64)
		if err != nil {
			return -1
		}
		return n
	}
	policy := replication.Policy{
		SegmentBytes: number("segment.bytes"),
		SegmentAge:   milliseconds(number("segment.ms")),
		Retention:    log.Retention{Age: -1, Bytes: number("retention.bytes")},
	}
	if n := number("retention.ms"); n == 0 {
		policy.Retention.Age = 0
	} else if age := milliseconds(n); n > 0 && age > 0 {
		policy.Retention.Age = age
	}
	for _, name := range splitList(topicValue("cleanup.policy", topic.Configs, broker)) {
		policy.Delete = policy.Delete || name == "delete" && !topic.Internal
	}
	return policy
}

// topicValue is the value of a topic key in force. The values were checked when they
// were set; one that this version does not understand counts as its default.
func topicValue(name string, configs map[string]string, broker *brokerSettings) string {
	key, ok := findKey(topicKeys, name)
	if !ok {
		return ""
	}
	value := effective(key, configs, broker).value
	if key.check(value) != nil {
		return key.value
	}
	return value
}

// codecNames maps the names of configurations to codecs.
var codecNames = map[string]segment.Codec{
	"none": segment.CodecNone, "uncompressed": segment.CodecNone, "gzip": segment.CodecGzip,
	"snappy": segment.CodecSnappy, "lz4": segment.CodecLZ4, "zstd": segment.CodecZstd,
}

// settingsOf reads a topic's configuration.
func settingsOf(configs map[string]string, internal bool, broker *brokerSettings) *topicSettings {
	get := func(name string) string { return topicValue(name, configs, broker) }
	number := func(name string) int64 {
		n, err := strconv.ParseInt(get(name), 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	s := &topicSettings{
		appendTime:    get("message.timestamp.type") == "LogAppendTime",
		stored:        get("compression.type"),
		atRest:        codecNames[get("millrace.compression")],
		inflate:       get("millrace.fetch.inflate"),
		minInSync:     int(number("min.insync.replicas")),
		inflatedBytes: number("millrace.batch.inflated.max.bytes"),
	}
	if internal { // stays as it is written: the coordinators' own format
		s.stored, s.atRest = "producer", segment.CodecNone
	}
	s.limits = segment.Limits{
		MaxBatchBytes:    int(number("max.message.bytes")),
		MaxInflatedBytes: s.inflatedBytes,
		Before:           milliseconds(number("message.timestamp.before.max.ms")),
		After:            milliseconds(number("message.timestamp.after.max.ms")),
	}
	for _, policy := range splitList(get("cleanup.policy")) {
		s.limits.RequireKeys = s.limits.RequireKeys || policy == "compact"
	}
	if s.appendTime { // the producer's timestamps are replaced, and not judged
		s.limits.Before, s.limits.After = 0, 0
	}
	return s
}

// milliseconds turns a configured number into a duration; what does not fit one
// (more than 292 years) is no limit.
func milliseconds(n int64) time.Duration {
	if n > math.MaxInt64/int64(time.Millisecond) {
		return 0
	}
	return max(time.Duration(n)*time.Millisecond, 1)
}
