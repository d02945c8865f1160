package metadata

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/segment"
)

// busy is a state with everything in it that version 2 of snapshots can hold.
func busy(t *testing.T) *machine {
	m := trio(t)
	for i, name := range []string{"orders", "orders.eu", "a", "__consumer_offsets"} {
		c := create(name, byte(i+1), 1, 2, 3)
		c.Configs = map[string]string{"retention.ms": "1", "cleanup.policy": "compact"}
		c.Internal = name[0] == '_'
		m.want(OK, c)
	}
	m.want(OK, &DeleteTopic{ID: topicID(3), LastTerm: 6})
	m.want(OK, &ConfirmDelete{Node: 2, IDs: []segment.TopicID{topicID(3)}})
	again := register(2)
	again.Incarnation, again.Replaces, again.Session = 0xf2, 0x1002, 0x7002
	m.want(OK, again)
	m.from(Origin{Node: 2, Session: 0x7002, Sequence: 4, Done: 3}, &AllocateProducerIDs{Node: 2, Count: ProducerIDBlock})
	return m
}

// busier is busy with a drained broker, and one that was unregistered.
func busier(t *testing.T) *machine {
	m := busy(t)
	m.want(OK, register(4))
	m.want(OK, &UnregisterBroker{Node: 4, Incarnation: 0x1004})
	m.want(OK, &DrainBroker{Node: 3, Drained: true})
	return m
}

// moving is busier with a partition of which the replicas change, for the second time.
func moving(t *testing.T) *machine {
	m := busier(t)
	m.want(OK, register(5))
	for _, nodes := range [][]NodeID{{3, 1}, {1, 5}} {
		topic, _ := m.View().TopicNamed("orders")
		m.want(OK, m.View().Reassign(topic, 0, nodes, func() uint64 { return 0xb005 }))
		topic, _ = m.View().TopicNamed("orders")
		if nodes[0] == 3 {
			m.want(OK, &ReplicasLeft{Topic: topic.ID, Changed: topic.Partitions[0].Changed})
		}
	}
	return m
}

func TestSnapshotGolden(t *testing.T) {
	m := moving(t)
	b := golden(t, "snapshot", m.bytes())
	restored := newMachine(t)
	if err := restored.Restore(iotest.OneByteReader(bytes.NewReader(b))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(restored.bytes(), b) {
		t.Error("the restored state has another snapshot")
	}
	// The restored state goes on as the first would have, sessions included.
	restored.index = m.index
	for _, s := range []*machine{m, restored} {
		s.want(OK, create("a", 9, 1))
		s.from(Origin{Node: 2, Session: 0x7002, Sequence: 4, Done: 3}, &AllocateProducerIDs{Node: 2, Count: ProducerIDBlock})
	}
	if !bytes.Equal(restored.bytes(), m.bytes()) {
		t.Error("the states drift apart after the restore")
	}
}

// TestSnapshotVersion1 reads the state of busy as it was written before the number
// of founders was: such a cluster waits for nobody.
func TestSnapshotVersion1(t *testing.T) {
	m := newMachine(t)
	if err := m.Restore(bytes.NewReader(goldenBytes(t, "snapshot_v1"))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.bytes(), busy(t).bytes()) {
		t.Error("another state than the one that was written")
	}
}

// TestSnapshotVersion2 reads the state of busy as it was written before brokers
// could be drained and unregistered.
func TestSnapshotVersion2(t *testing.T) {
	m := newMachine(t)
	if err := m.Restore(bytes.NewReader(goldenBytes(t, "snapshot_v2"))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.bytes(), busy(t).bytes()) {
		t.Error("another state than the one that was written")
	}
}

// TestSnapshotVersion3 reads the state of busier as it was written before replicas could
// be changed.
func TestSnapshotVersion3(t *testing.T) {
	m := newMachine(t)
	if err := m.Restore(bytes.NewReader(goldenBytes(t, "snapshot_v3"))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.bytes(), busier(t).bytes()) {
		t.Error("another state than the one that was written")
	}
}

func TestEmptySnapshot(t *testing.T) {
	m := newMachine(t)
	restored := newMachine(t)
	if err := restored.Restore(bytes.NewReader(m.bytes())); err != nil {
		t.Fatal(err)
	}
	restored.want(OK, &Found{ClusterID: "c"})
}

func TestRestoreRefuses(t *testing.T) {
	whole := busy(t).bytes()
	rows := []struct {
		name    string
		corrupt func(b []byte) []byte
		want    error
	}{
		{"empty", func([]byte) []byte { return nil }, ErrCorrupt},
		{"cut", func(b []byte) []byte { return b[:len(b)/2] }, ErrCorrupt},
		{"one byte more", func(b []byte) []byte { return append(b, 0) }, ErrCorrupt},
		{"another file", func(b []byte) []byte { b[0] = 'X'; return b }, ErrCorrupt},
		{"flipped bit", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, ErrCorrupt},
		{"version 0", func(b []byte) []byte { b[11] = 0; return reseal(b) }, ErrUnknownCommand},
		{"newer version", func(b []byte) []byte { b[11] = snapshotVersion + 1; return reseal(b) }, ErrUnknownCommand},
		{"wrong length", func(b []byte) []byte { b[19]++; return reseal(b) }, ErrCorrupt},
		{"absurd number of founders", func(b []byte) []byte { b[snapshotHeader+8+4+2] = 1; return reseal(b) }, ErrCorrupt},
		{"absurd count", func(b []byte) []byte { b[snapshotHeader+8+4+2+4+8] = 0xff; return reseal(b) }, ErrCorrupt},
	}
	for _, row := range rows {
		m := trio(t)
		before := m.View()
		err := m.Restore(bytes.NewReader(row.corrupt(bytes.Clone(whole))))
		if err == nil {
			t.Errorf("%s: accepted", row.name)
			continue
		}
		wantError(t, err, row.want)
		if m.View() != before {
			t.Errorf("%s: the state changed", row.name)
		}
	}
	m := newMachine(t)
	if err := m.Restore(iotest.ErrReader(bytes.ErrTooLarge)); err == nil {
		t.Error("a failing reader gives a state")
	}
}

func TestSnapshotRefusesDoubles(t *testing.T) {
	rows := map[string]pieces{
		"broker": {brokers: []Broker{{Node: 1}, {Node: 1}}},
		"topic":  {topics: []Topic{{Name: "a.b", ID: topicID(1)}, {Name: "a_b", ID: topicID(2)}}},
		"id":     {topics: []Topic{{Name: "a", ID: topicID(1)}, {Name: "b", ID: topicID(1)}}},
		"term":   {terms: []lastTerm{{"a", 1}, {"a", 2}}},
		"disk":   {retired: []Incarnation{7, 7}},
		"hollow": {topics: []Topic{{Name: "a", ID: topicID(1), Partitions: make([]Partition, 1)}}},
	}
	for name, p := range rows {
		_, err := p.view()
		if err == nil {
			t.Errorf("%s accepted twice", name)
			continue
		}
		wantError(t, err, ErrCorrupt)
	}
}

// TestReplicasAgree applies random commands to two machines, one of which is
// restored from its own snapshot now and then; their bytes must stay equal.
func TestReplicasAgree(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		a, b := newMachine(t), newMachine(t)
		for step := range rapid.IntRange(1, 40).Draw(r, "steps") {
			origin, cmd := drawCommand(r)
			ra, rb := a.from(origin, cmd), b.from(origin, cmd)
			if ra != rb {
				r.Fatalf("step %d: %+v and %+v", step, ra, rb)
			}
			if rapid.IntRange(0, 4).Draw(r, "restore") == 0 {
				if err := b.Restore(bytes.NewReader(b.bytes())); err != nil {
					r.Fatal(err)
				}
			}
			if !bytes.Equal(a.bytes(), b.bytes()) {
				r.Fatalf("step %d: %T left different states", step, cmd)
			}
		}
	})
}

func drawCommand(r *rapid.T) (Origin, Command) {
	node := NodeID(rapid.IntRange(0, 4).Draw(r, "node"))
	id := rapid.ByteRange(1, 5).Draw(r, "id")
	o := Origin{Node: node, Session: uint64(rapid.IntRange(0, 2).Draw(r, "session")), Sequence: uint64(rapid.IntRange(1, 9).Draw(r, "sequence"))}
	o.Done = min(o.Sequence, uint64(rapid.IntRange(0, 5).Draw(r, "done")))
	switch rapid.IntRange(0, 7).Draw(r, "kind") {
	case 0:
		return o, &Found{ClusterID: fmt.Sprint("c", node), Founders: rapid.Uint32Range(0, 4).Draw(r, "founders")}
	case 1:
		c := register(node)
		c.Start, c.Session = uint64(rapid.IntRange(1, 4).Draw(r, "start")), uint64(rapid.IntRange(1, 2).Draw(r, "process"))
		return Origin{}, c
	case 2:
		return o, create(fmt.Sprint("t.", id%3), id, node)
	case 3:
		return o, &DeleteTopic{ID: topicID(id), LastTerm: uint64(id)}
	case 4:
		return o, &ConfirmDelete{Node: node, IDs: []segment.TopicID{topicID(id)}}
	case 6:
		return o, &FoundWithout{Founders: rapid.Uint32Range(0, 4).Draw(r, "founders")}
	case 5:
		return o, &AlterTopicConfigs{ID: topicID(id), Set: map[string]string{"k": fmt.Sprint(node)}}
	}
	return o, &AllocateProducerIDs{Node: node, Count: 5}
}

func FuzzRestore(f *testing.F) {
	var empty, full bytes.Buffer
	if err := NewState().View().WriteSnapshot(&empty); err != nil {
		f.Fatal(err)
	}
	s := NewState()
	for i, cmd := range []Command{&Found{ClusterID: "c"}, register(1), register(2), create("a", 1, 1, 2), &DeleteTopic{ID: topicID(1)}, create("b", 2, 1)} {
		b, err := EncodeCommand(Origin{}, cmd)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := s.Apply(uint64(i+1), b); err != nil {
			f.Fatal(err)
		}
	}
	if err := s.View().WriteSnapshot(&full); err != nil {
		f.Fatal(err)
	}
	f.Add(empty.Bytes())
	f.Add(full.Bytes())
	early, err := EncodeCommand(Origin{}, &Found{ClusterID: "c", Founders: 3})
	if err != nil {
		f.Fatal(err)
	}
	var founding bytes.Buffer
	s = NewState()
	if _, err := s.Apply(1, early); err != nil {
		f.Fatal(err)
	}
	if err := s.View().WriteSnapshot(&founding); err != nil {
		f.Fatal(err)
	}
	f.Add(founding.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > snapshotHeader+checksumSize {
			binary.BigEndian.PutUint64(b[12:], uint64(len(b)-snapshotHeader-checksumSize))
			reseal(b)
		}
		view, err := ReadSnapshot(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := view.WriteSnapshot(&again); err != nil {
			t.Fatal(err)
		}
		view.PreferredLeaders()
		second, err := ReadSnapshot(&again)
		if err != nil || second.Index() != view.Index() || second.TopicCount() != view.TopicCount() {
			t.Fatalf("restored, written and restored again: %v", err)
		}
	})
}
