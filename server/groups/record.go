package groups

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// Versions of keys and values in __consumer_offsets. They are Kafka's: never
// change one.
const (
	offsetKeyV0     = 0 // read only
	offsetKeyV1     = 1
	groupKeyV2      = 2
	offsetValueV3   = 3 // written; 0 to 3 are read
	groupValueV3    = 3 // written; 0 to 3 are read
	newestValue     = 3 // 4 is flexible and has tags; nothing here writes it
	topicHeaderKey  = "topic-created"
	minMemberBytes  = 2 + 2 + 2 + 4 + 4 + 4 // the smallest member of a v0 group value
	recordOverhead  = 32                    // bytes of a record around key and value, at most
	topicHeaderSize = 8
)

// errRecord is wrapped by every decoding error: the bytes are not what this
// version or a Kafka up to 4.x wrote.
var errRecord = errors.New("groups: bad record in __consumer_offsets")

// topicPartition is a partition of a topic, by name as in Kafka's key.
type topicPartition struct {
	topic     string
	partition int32
}

// position is one committed position.
type position struct {
	offset   segment.Offset
	epoch    int32 // leader epoch of the record before it, -1 if unknown
	metadata string
	at       time.Time // of the commit
	created  uint64    // Topic.Created of the topic it is for, 0 if unknown
	damaged  bool      // its record could not be read: an error, never "no position"
}

// recordKey is a decoded key: an offset key (topic set) or a group key.
type recordKey struct {
	version int16
	group   string
	target  topicPartition // version 0 and 1
}

// decodeKey reads a key. A version of another coordinator protocol is returned
// with its version alone.
func decodeKey(b []byte) (recordKey, error) {
	if len(b) < 2 {
		return recordKey{}, fmt.Errorf("%w: key of %d bytes", errRecord, len(b))
	}
	k := recordKey{version: int16(binary.BigEndian.Uint16(b))}
	switch k.version {
	case offsetKeyV0, offsetKeyV1:
		var key kmsg.OffsetCommitKey
		if err := key.ReadFrom(b); err != nil {
			return recordKey{}, fmt.Errorf("%w: offset key: %w", errRecord, err)
		}
		k.group, k.target = key.Group, topicPartition{key.Topic, key.Partition}
	case groupKeyV2:
		var key kmsg.GroupMetadataKey
		if err := key.ReadFrom(b); err != nil {
			return recordKey{}, fmt.Errorf("%w: group key: %w", errRecord, err)
		}
		k.group = key.Group
	}
	return k, nil
}

// decodePosition reads an offset value, with the header that offsetRecord adds.
func decodePosition(r segment.Record) (position, error) {
	if err := valueVersion(r.Value); err != nil {
		return position{}, fmt.Errorf("offset value: %w", err)
	}
	var v kmsg.OffsetCommitValue
	if err := v.ReadFrom(r.Value); err != nil {
		return position{}, fmt.Errorf("%w: offset value: %w", errRecord, err)
	}
	if v.Offset < 0 {
		return position{}, fmt.Errorf("%w: offset value: position %d", errRecord, v.Offset)
	}
	p := position{offset: segment.Offset(v.Offset), epoch: -1, metadata: v.Metadata, at: time.UnixMilli(v.CommitTimestamp)}
	if v.Version >= 3 {
		p.epoch = v.LeaderEpoch
	}
	for _, h := range r.Headers {
		if string(h.Key) == topicHeaderKey && len(h.Value) == topicHeaderSize {
			p.created = binary.BigEndian.Uint64(h.Value)
		}
	}
	return p, nil
}

// decodeGroup reads a group value. Counts are held against the bytes left before
// kmsg allocates for them.
func decodeGroup(b []byte) (kmsg.GroupMetadataValue, error) {
	var v kmsg.GroupMetadataValue
	if err := valueVersion(b); err != nil {
		return v, fmt.Errorf("group value: %w", err)
	}
	if err := checkMemberCount(b); err != nil {
		return v, err
	}
	if err := v.ReadFrom(b); err != nil {
		return v, fmt.Errorf("%w: group value: %w", errRecord, err)
	}
	if v.Generation < 0 {
		return v, fmt.Errorf("%w: group value: generation %d", errRecord, v.Generation)
	}
	return v, nil
}

// checkMemberCount walks a group value to its count of members: kmsg only holds
// the count against the bytes left, and a member in memory is a hundred times the
// byte that would vouch for it.
//
//	version  protocol type  generation  protocol   leader     state time (v2+)  count
//	int16    string         int32       nullable   nullable   int64             int32
func checkMemberCount(b []byte) error {
	version := binary.BigEndian.Uint16(b)
	rest := b[2:]
	skip := func(n int) {
		if n > len(rest) {
			n = len(rest)
		}
		rest = rest[n:]
	}
	skipString := func() {
		if len(rest) >= 2 {
			skip(2 + max(0, int(int16(binary.BigEndian.Uint16(rest)))))
		}
	}
	skipString()
	skip(4)
	skipString()
	skipString()
	if version >= 2 {
		skip(8)
	}
	if len(rest) < 4 {
		return fmt.Errorf("%w: group value ends before its members", errRecord)
	}
	count := int64(int32(binary.BigEndian.Uint32(rest)))
	if count*minMemberBytes > int64(len(rest)-4) {
		return fmt.Errorf("%w: group value: %d members in %d bytes", errRecord, count, len(rest)-4)
	}
	return nil
}

// subscription reads the topics of a consumer's protocol metadata (version int16,
// then an array of strings; what follows is passed over). ok is false when the
// bytes, which a client chose, are something else.
func subscription(b []byte) (topics []string, ok bool) {
	if len(b) < 6 {
		return nil, false
	}
	count, rest := int(int32(binary.BigEndian.Uint32(b[2:]))), b[6:]
	for range count {
		if len(rest) < 2 {
			return nil, false
		}
		n := int(int16(binary.BigEndian.Uint16(rest)))
		if n < 0 || n > len(rest)-2 {
			return nil, false
		}
		topics = append(topics, string(rest[2:2+n]))
		rest = rest[2+n:]
	}
	return topics, true
}

func valueVersion(b []byte) error {
	if len(b) < 2 {
		return fmt.Errorf("%w: %d bytes", errRecord, len(b))
	}
	if v := int16(binary.BigEndian.Uint16(b)); v < 0 || v > newestValue {
		return fmt.Errorf("%w: version %d", errRecord, v)
	}
	return nil
}

func offsetKey(group string, target topicPartition) []byte {
	key := kmsg.OffsetCommitKey{Version: offsetKeyV1, Group: group, Topic: target.topic, Partition: target.partition}
	return key.AppendTo(nil)
}

// offsetRecord is the record of a committed position: Kafka's key v1 and value
// v3, and a header with Topic.Created, because a v3 value cannot say which topic
// of that name is meant. Kafka's tools pass over headers.
func offsetRecord(group string, target topicPartition, p position) segment.Record {
	v := kmsg.OffsetCommitValue{
		Version: offsetValueV3, Offset: int64(p.offset), LeaderEpoch: p.epoch,
		Metadata: p.metadata, CommitTimestamp: p.at.UnixMilli(),
	}
	r := segment.Record{Timestamp: p.at.UnixMilli(), Key: offsetKey(group, target), Value: v.AppendTo(nil)}
	if p.created != 0 {
		created := binary.BigEndian.AppendUint64(nil, p.created)
		r.Headers = []segment.RecordHeader{{Key: topicHeaderKey, Value: created}}
	}
	return r
}

// offsetTombstone removes a committed position.
func offsetTombstone(group string, target topicPartition, now time.Time) segment.Record {
	return segment.Record{Timestamp: now.UnixMilli(), Key: offsetKey(group, target)}
}

func groupKey(group string) []byte {
	key := kmsg.GroupMetadataKey{Version: groupKeyV2, Group: group}
	return key.AppendTo(nil)
}

// groupTombstone removes a group's metadata.
func groupTombstone(group string, now time.Time) segment.Record {
	return segment.Record{Timestamp: now.UnixMilli(), Key: groupKey(group)}
}

// barrierRecord changes nothing whoever reads it: a tombstone for a position of
// the topic "", which cannot exist.
func barrierRecord(now time.Time) segment.Record {
	return offsetTombstone("", topicPartition{}, now)
}

// recordSize bounds the bytes of a record in a batch from above.
func recordSize(r segment.Record) int {
	n := recordOverhead + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += 8 + len(h.Key) + len(h.Value)
	}
	return n
}
