package metadata

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment"
)

var goldenOrigin = Origin{Node: 2, Session: 0x1122334455667788, Sequence: 7, Done: 5}

// goldenCommands is one command of each kind with every field set.
var goldenCommands = map[string]Command{
	"found": &Found{ClusterID: "kOq2Fv9sTbW3", Founders: 3},
	"register_broker": &RegisterBroker{Node: 3, Incarnation: 0xa1a2a3a4a5a6a7a8, Replaces: 0xb1b2b3b4b5b6b7b8, Start: 9, Session: 0xc1c2,
		RPCAddress: "10.0.0.3:33145", KafkaAddress: "broker-3.example:9092", Rack: "eu-1a", Version: "0.1.0"},
	"create_topic": &CreateTopic{Name: "orders.eu", ID: segment.TopicID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
		Configs: map[string]string{"retention.ms": "-1", "cleanup.policy": "compact"},
		Partitions: []Partition{
			{Replicas: []Replica{{1, 0x91, 0x11, 0}, {2, 0x92, 0x12, 0}}},
			{Replicas: []Replica{{2, 0x93, 0x12, 0}, {1, 0x94, 0x11, 0}}}},
		Internal: true},
	"delete_topic":        &DeleteTopic{ID: topicID(4), LastTerm: 17},
	"confirm_delete":      &ConfirmDelete{Node: 1, IDs: []segment.TopicID{topicID(4), topicID(5)}},
	"alter_topic_configs": &AlterTopicConfigs{ID: topicID(6), Set: map[string]string{"a": "1", "b": ""}, Remove: []string{"c", "d"}},
	"found_without":       &FoundWithout{Founders: 2},
	"end_founding":        &EndFounding{},
	"replicas_left":       &ReplicasLeft{Topic: topicID(7), Partition: 3, Changed: 19},
	"alter_assignment":    &AlterAssignment{Topic: topicID(7), Partition: 3, Seen: 77, Settled: true, Target: []Replica{{Node: 1, Incarnation: 0x91, NodeIncarnation: 0x11}, {Node: 3, Incarnation: 0xb1, NodeIncarnation: 0x13}}},
	"unregister_broker":   &UnregisterBroker{Node: 3, Incarnation: 0xa1a2a3a4a5a6a7a8},
	"drain_broker":        &DrainBroker{Node: 3, Drained: true},
	"allocate_ids":        &AllocateProducerIDs{Node: 3, Count: ProducerIDBlock},
}

// goldenBytes are the committed bytes of an older layout, which must stay readable.
func goldenBytes(t *testing.T, name string) []byte {
	t.Helper()
	dump, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for line := range strings.Lines(string(dump)) {
		digits := strings.ReplaceAll(line[10:58], " ", "") // between the offset and the characters
		row, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, row...)
	}
	return b
}

// golden compares bytes with the committed hexadecimal file. A missing file is
// written only if MILLRACE_GOLDEN=write: a format never changes unnoticed.
func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if os.Getenv("MILLRACE_GOLDEN") == "write" {
		if err := os.WriteFile(path, []byte(hex.Dump(got)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), hex.Dump(got)); diff != "" {
		t.Fatalf("%s: the format changed (-golden +now):\n%s", name, diff)
	}
	return got
}

func TestCommandGolden(t *testing.T) {
	seen := map[number]bool{}
	for name, cmd := range goldenCommands {
		b, err := EncodeCommand(goldenOrigin, cmd)
		if err != nil {
			t.Fatal(err)
		}
		origin, decoded, ignorable, err := DecodeCommand(golden(t, "command_"+name, b))
		if err != nil || ignorable || origin != goldenOrigin {
			t.Fatalf("%s: %v, ignorable %v, origin %+v", name, err, ignorable, origin)
		}
		if diff := cmp.Diff(cmd, decoded); diff != "" {
			t.Errorf("%s (-encoded +decoded):\n%s", name, diff)
		}
		seen[cmd.number()] = true
	}
	for n := range commands {
		if !seen[n] {
			t.Errorf("command %d has no golden encoding", n)
		}
	}
}

func TestFoundVersion1(t *testing.T) {
	origin, cmd, _, err := DecodeCommand(goldenBytes(t, "command_found_v1"))
	if err != nil || origin != goldenOrigin {
		t.Fatalf("%v, origin %+v", err, origin)
	}
	if diff := cmp.Diff(&Found{ClusterID: "kOq2Fv9sTbW3"}, cmd); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
}

func TestResultGolden(t *testing.T) {
	want := Result{Code: TopicExists, Detail: "topic a exists", Index: 12, StartTerm: 3, FirstID: 5000, Count: 1000}
	got, err := DecodeResult(golden(t, "result", EncodeResult(want)))
	if err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err = DecodeResult(EncodeResult(want)[:20])
	wantError(t, err, ErrCorrupt)
	if err := want.Err(); err == nil || !strings.Contains(err.Error(), "topic exists: topic a exists") {
		t.Errorf("refusal reads %q", err)
	}
}

// reseal puts a right checksum under changed bytes.
func reseal(b []byte) []byte {
	sum := len(b) - checksumSize
	binary.BigEndian.PutUint32(b[sum:], crc32.Checksum(b[:sum], castagnoli))
	return b
}

func TestDecodeRefuses(t *testing.T) {
	rows := []struct {
		name    string
		corrupt func(b []byte) []byte
		want    error
	}{
		{"empty", func(b []byte) []byte { return nil }, ErrCorrupt},
		{"cut", func(b []byte) []byte { return b[:len(b)-1] }, ErrCorrupt},
		{"flipped bit", func(b []byte) []byte { b[envelopeSize+2] ^= 4; return b }, ErrCorrupt},
		{"newer envelope", func(b []byte) []byte { b[0] = 2; return reseal(b) }, ErrUnknownCommand},
		{"unknown number", func(b []byte) []byte { b[2] = 200; return reseal(b) }, ErrUnknownCommand},
		{"newer version", func(b []byte) []byte { b[3]++; return reseal(b) }, ErrUnknownCommand},
		{"version 0", func(b []byte) []byte { b[3] = 0; return reseal(b) }, ErrUnknownCommand},
		{"fields of a later version", func(b []byte) []byte { b[3]--; return reseal(b) }, ErrCorrupt},
		{"wrong body length", func(b []byte) []byte { b[35]++; return reseal(b) }, ErrCorrupt},
		{"text longer than the bytes left", func(b []byte) []byte { b[envelopeSize+3] = 0xff; return reseal(b) }, ErrCorrupt},
		{"absurd text length", func(b []byte) []byte { b[envelopeSize] = 0xff; return reseal(b) }, ErrCorrupt},
	}
	for _, row := range rows {
		b, err := EncodeCommand(goldenOrigin, &Found{ClusterID: "cluster"})
		if err != nil {
			t.Fatal(err)
		}
		b = row.corrupt(b)
		if _, _, _, err := DecodeCommand(b); err == nil {
			t.Errorf("%s: accepted", row.name)
		} else {
			wantError(t, err, row.want)
		}
		s := NewState()
		if _, err := s.Apply(1, b); err == nil || s.View().Index() != 0 {
			t.Errorf("%s: applied (%v), view at %d", row.name, err, s.View().Index())
		}
	}
}

func TestAbsurdCountAllocatesNothing(t *testing.T) {
	b, err := encode(Origin{}, numberConfirmDelete, 1, 0, func(c *coder) {
		c.buf = append(c.buf, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff)
	})
	if err != nil {
		t.Fatal(err)
	}
	allocated := testing.AllocsPerRun(10, func() { _, _, _, err = DecodeCommand(b) })
	wantError(t, err, ErrCorrupt)
	if allocated > 20 {
		t.Errorf("%v allocations", allocated)
	}
}

func TestConfigKeysMustAscend(t *testing.T) {
	var a, b string = "b", "a"
	raw, err := encode(Origin{}, numberAlterTopicConfigs, 1, 0, func(c *coder) {
		id := topicID(1)
		c.fixed(id[:])
		c.count(2, 8)
		for _, key := range []string{a, b} {
			c.text(&key)
			c.text(&key)
		}
		c.count(0, 4)
	})
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, err = DecodeCommand(raw)
	wantError(t, err, ErrCorrupt)
}

func TestEncodeRefusesLongText(t *testing.T) {
	_, err := EncodeCommand(Origin{}, &Found{ClusterID: strings.Repeat("x", MaxString+1)})
	wantError(t, err, ErrCorrupt)
}

func TestIgnorableCommand(t *testing.T) {
	m := trio(t)
	body := func(c *coder) { c.buf = append(c.buf, "whatever"...) }
	skip, err := encode(Origin{}, 200, 1, flagIgnorable, body)
	if err != nil {
		t.Fatal(err)
	}
	before := m.View()
	m.index++
	result, err := m.Apply(m.index, skip)
	if err != nil || result.Code != Ignored || result.Err() != nil || m.View().Index() != m.index {
		t.Fatalf("%+v, %v, index %d", result, err, m.View().Index())
	}
	if m.View().BrokerCount() != before.BrokerCount() {
		t.Error("an ignored command changed the state")
	}
	stop, _ := encode(Origin{}, 200, 1, 0, body)
	_, err = m.Apply(m.index+1, stop)
	wantError(t, err, ErrUnknownCommand)
	if m.View().Index() != m.index {
		t.Error("an unknown command moved the index")
	}
	_, err = m.Apply(m.index, skip)
	wantError(t, err, ErrIndex)
}

func FuzzDecodeCommand(f *testing.F) {
	for _, cmd := range goldenCommands {
		b, err := EncodeCommand(goldenOrigin, cmd)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > envelopeSize+checksumSize { // let the fuzzer past length and checksum
			binary.BigEndian.PutUint32(b[32:], uint32(len(b)-envelopeSize-checksumSize))
			reseal(b)
		}
		origin, cmd, _, err := DecodeCommand(b)
		if err != nil {
			return
		}
		again, err := EncodeCommand(origin, cmd)
		if err != nil {
			t.Fatal(err)
		}
		again[1] = b[1] // the flags are the sender's
		if older := b[3] < commands[cmd.number()].version; !older && !bytes.Equal(reseal(again), b) {
			t.Fatalf("%x decodes and encodes as %x", b, again)
		}
		s := trio(t)
		s.index++
		if _, err := s.Apply(s.index, b); err != nil {
			t.Fatal(err)
		}
		s.bytes()
	})
}
