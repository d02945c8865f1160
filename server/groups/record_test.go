package groups

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

var commitTime = time.UnixMilli(1_700_000_000_123)

func goldenPosition() position {
	return position{offset: 1 << 33, epoch: 7, metadata: "note", at: commitTime, created: 99}
}

func goldenGroup() kmsg.GroupMetadataValue {
	instance := "i-1"
	return kmsg.GroupMetadataValue{
		Version: groupValueV3, ProtocolType: "consumer", Generation: 12, Protocol: nullable("range"), Leader: nullable("m-1"),
		CurrentStateTimestamp: commitTime.UnixMilli(),
		Members: []kmsg.GroupMetadataValueMember{
			{MemberID: "m-1", InstanceID: &instance, ClientID: "app", ClientHost: "/10.0.0.1", RebalanceTimeoutMillis: 60000,
				SessionTimeoutMillis: 10000, Subscription: subscribe("t"), Assignment: []byte{1, 2, 3}},
			{MemberID: "m-2", ClientID: "app", ClientHost: "/10.0.0.2", RebalanceTimeoutMillis: 60000,
				SessionTimeoutMillis: 10000, Subscription: []byte{}, Assignment: []byte{}},
		},
	}
}

// TestGoldenRecords holds the bytes of every record written against
// testdata/records.hex, whose lines were checked by hand against Kafka's schemas
// (OffsetCommitKey, OffsetCommitValue, GroupMetadataKey, GroupMetadataValue).
func TestGoldenRecords(t *testing.T) {
	target := topicPartition{"orders", 3}
	committed := offsetRecord("billing", target, goldenPosition())
	value := goldenGroup()
	now := map[string][]byte{
		"offset-key-v1":        committed.Key,
		"offset-value-v3":      committed.Value,
		"offset-header-value":  committed.Headers[0].Value,
		"group-key-v2":         groupKey("billing"),
		"group-value-v3":       value.AppendTo(nil),
		"offset-tombstone-key": offsetTombstone("billing", target, commitTime).Key,
		"group-tombstone-key":  groupTombstone("billing", commitTime).Key,
		"barrier-key":          barrierRecord(commitTime).Key,
	}
	var text strings.Builder
	for _, name := range sortedKeys(now) {
		text.WriteString(name + " " + hex.EncodeToString(now[name]) + "\n")
	}
	const file = "testdata/records.hex"
	if *rewrite {
		if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Errorf("records changed (-file +now):\n%s", diff)
	}
}

// TestRecordsReadBack decodes what is written, with a Timestamp as Kafka has it.
func TestRecordsReadBack(t *testing.T) {
	target := topicPartition{"orders", 3}
	r := offsetRecord("billing", target, goldenPosition())
	key, err := decodeKey(r.Key)
	if err != nil || key != (recordKey{version: 1, group: "billing", target: target}) {
		t.Errorf("decodeKey = %+v, %v", key, err)
	}
	p, err := decodePosition(r)
	if err != nil || p != goldenPosition() {
		t.Errorf("decodePosition = %+v, %v, want %+v", p, err, goldenPosition())
	}
	want := goldenGroup()
	got, err := decodeGroup(want.AppendTo(nil))
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(kmsg.Tags{})); err != nil || diff != "" {
		t.Errorf("decodeGroup: %v (-want +got):\n%s", err, diff)
	}
	for _, r := range []segment.Record{offsetTombstone("g", target, commitTime), groupTombstone("g", commitTime), barrierRecord(commitTime)} {
		if r.Value != nil || r.Timestamp != commitTime.UnixMilli() {
			t.Errorf("tombstone has value %x at %d", r.Value, r.Timestamp)
		}
	}
}

// TestOldVersions reads what older Kafka versions wrote.
func TestOldVersions(t *testing.T) {
	for version := int16(0); version <= 3; version++ {
		v := kmsg.OffsetCommitValue{Version: version, Offset: 5, LeaderEpoch: 7, Metadata: "m", CommitTimestamp: commitTime.UnixMilli()}
		want := position{offset: 5, epoch: -1, metadata: "m", at: commitTime}
		if version >= 3 {
			want.epoch = 7
		}
		if got, err := decodePosition(segment.Record{Value: v.AppendTo(nil)}); err != nil || got != want {
			t.Errorf("offset value v%d = %+v, %v, want %+v", version, got, err, want)
		}
		g := goldenGroup()
		g.Version = version
		if got, err := decodeGroup(g.AppendTo(nil)); err != nil || len(got.Members) != 2 || got.Generation != 12 {
			t.Errorf("group value v%d = %+v, %v", version, got, err)
		}
	}
	key := kmsg.OffsetCommitKey{Version: 0, Group: "g", Topic: "t", Partition: 1}
	if got, err := decodeKey(key.AppendTo(nil)); err != nil || got.target != (topicPartition{"t", 1}) {
		t.Errorf("offset key v0 = %+v, %v", got, err)
	}
}

// TestBadRecords damages good bytes in the ways a decoder must not trust.
func TestBadRecords(t *testing.T) {
	group := goldenGroup()
	groupBytes := group.AppendTo(nil)
	countAt := bytes.Index(groupBytes, binary.BigEndian.AppendUint64(nil, uint64(commitTime.UnixMilli()))) + 8
	offsetBytes := offsetRecord("g", topicPartition{"t", 0}, goldenPosition()).Value
	with := func(b []byte, at int, bytes ...byte) []byte {
		b = append([]byte(nil), b...)
		copy(b[at:], bytes)
		return b
	}
	offset := func(b []byte) error { _, err := decodePosition(segment.Record{Value: b}); return err }
	meta := func(b []byte) error { _, err := decodeGroup(b); return err }
	key := func(b []byte) error { _, err := decodeKey(b); return err }
	tests := []struct {
		name   string
		decode func([]byte) error
		bytes  []byte
	}{
		{"empty key", key, nil},
		{"key of one byte", key, []byte{0}},
		{"offset key cut short", key, offsetKey("g", topicPartition{"t", 0})[:8]},
		{"group key cut short", key, groupKey("group")[:5]},
		{"empty offset value", offset, []byte{}},
		{"offset value of a later version", offset, with(offsetBytes, 0, 0, 4)},
		{"offset value of a negative version", offset, with(offsetBytes, 0, 0xff, 0xff)},
		{"offset value cut short", offset, offsetBytes[:len(offsetBytes)-1]},
		{"negative position", offset, with(offsetBytes, 2, 0x80)},
		{"metadata longer than the value", offset, with(offsetBytes, 14, 0x7f, 0xff)},
		{"group value cut short", meta, groupBytes[:len(groupBytes)-1]},
		{"group value that ends before its members", meta, groupBytes[:countAt]},
		{"group value of a later version", meta, with(groupBytes, 0, 0, 4)},
		{"more members than bytes", meta, with(groupBytes, countAt, 0x7f, 0xff, 0xff, 0xff)},
		{"as many members as bytes", meta, with(groupBytes, countAt, 0, 0, 0, byte(len(groupBytes)-countAt-4))},
		{"negative generation", meta, with(groupBytes, 12, 0xff)},
	}
	for _, tt := range tests {
		if err := tt.decode(tt.bytes); !errors.Is(err, errRecord) {
			t.Errorf("%s: error %v, want errRecord", tt.name, err)
		}
	}
}

func TestSubscription(t *testing.T) {
	tests := []struct {
		bytes []byte
		want  []string
		ok    bool
	}{
		{subscribe("a", "b"), []string{"a", "b"}, true},
		{subscribe(), nil, true},
		{nil, nil, false},
		{[]byte{0, 1, 0, 0, 0}, nil, false},
		{[]byte{0, 1, 0, 0, 0, 2, 0, 1, 'a'}, nil, false},
		{[]byte{0, 1, 0, 0, 0, 1, 0, 9, 'a'}, nil, false},
		{[]byte{0, 1, 0, 0, 0, 1, 0xff, 0xff}, nil, false},
		{[]byte{0, 1, 0x7f, 0xff, 0xff, 0xff, 0, 0}, nil, false},
	}
	for _, tt := range tests {
		got, ok := subscription(tt.bytes)
		if ok != tt.ok || ok && !cmp.Equal(got, tt.want) {
			t.Errorf("subscription(%x) = %q, %v, want %q, %v", tt.bytes, got, ok, tt.want, tt.ok)
		}
	}
}

// FuzzRecords feeds a loader arbitrary records: no panic, and what is read as a
// position or a group is written back in a form that reads the same.
func FuzzRecords(f *testing.F) {
	r := offsetRecord("billing", topicPartition{"orders", 3}, goldenPosition())
	v := goldenGroup()
	f.Add(r.Key, r.Value)
	f.Add(r.Key, []byte{})
	f.Add(groupKey("billing"), v.AppendTo(nil))
	f.Add(groupKey("billing"), []byte{0, 3})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		img := image{groups: map[string]kmsg.GroupMetadataValue{}, offsets: map[string]map[topicPartition]position{}}
		img.apply(segment.Record{Key: key, Value: value})
		for group, offsets := range img.offsets {
			for target, p := range offsets {
				if p.damaged {
					continue
				}
				again, err := decodePosition(offsetRecord(group, target, p))
				if err != nil || again != p {
					t.Errorf("position %+v reads back as %+v, %v", p, again, err)
				}
			}
		}
		for _, g := range img.groups {
			g.Version = groupValueV3
			again, err := decodeGroup(g.AppendTo(nil))
			if err != nil || again.Generation != g.Generation || len(again.Members) != len(g.Members) {
				t.Errorf("group %+v reads back as %+v, %v", g, again, err)
			}
		}
		subscription(value)
	})
}
