package metadata

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment"
)

func TestFound(t *testing.T) {
	m := newMachine(t)
	m.want(Malformed, &Found{})
	m.want(Malformed, &Found{ClusterID: strings.Repeat("c", MaxClusterID+1)})
	m.want(OK, &Found{ClusterID: "c1"})
	m.want(OK, &Found{ClusterID: "c1"})
	m.want(OtherCluster, &Found{ClusterID: "c2"})
	if got := m.View().ClusterID(); got != "c1" {
		t.Errorf("cluster %q", got)
	}
}

// TestFounding: until all founders have registered no topic can be created, and
// once they have nothing brings that back.
func TestFounding(t *testing.T) {
	m := newMachine(t)
	founding := func(want string) {
		t.Helper()
		progress, ok := m.View().Founding()
		if progress != want || ok != (want != "") {
			t.Fatalf("founding %v: %q, want %q", ok, progress, want)
		}
		restored := newMachine(t)
		if err := restored.Restore(bytes.NewReader(m.bytes())); err != nil {
			t.Fatal(err)
		}
		if again, _ := restored.View().Founding(); again != want {
			t.Fatalf("after a snapshot: %q, want %q", again, want)
		}
	}
	m.want(Malformed, &Found{ClusterID: "c1", Founders: MaxFounders + 1})
	m.want(OK, &Found{ClusterID: "c1", Founders: 3})
	founding("0 of 3 founding brokers have joined")
	m.want(OK, register(1))
	founding("1 of 3 founding brokers have joined")
	if r := m.want(BeingFounded, create("a", 1, 1)); !strings.Contains(r.Detail, "1 of 3 founding brokers have joined") {
		t.Errorf("refused with %q", r.Detail)
	}
	m.want(OK, register(2))
	wiped := register(2)
	wiped.Incarnation, wiped.Replaces, wiped.Session = 0xf2, 0x1002, 0x7002
	m.want(OK, wiped)
	m.want(OK, &Found{ClusterID: "c1", Founders: 9}) // of a leader that has not applied the first
	founding("2 of 3 founding brokers have joined")
	m.want(BeingFounded, &EndFounding{})
	m.want(OK, register(3))
	founding("all 3 founding brokers have joined, and some wait for their vote")
	m.want(BeingFounded, create("a", 1, 1))
	m.want(OK, &EndFounding{})
	founding("")
	m.want(OK, &EndFounding{})
	m.want(OK, &Found{ClusterID: "c1", Founders: 9})
	m.want(OK, &FoundWithout{Founders: 9})
	founding("")
	m.want(OK, create("a", 1, 1))
}

// TestFoundWithout: who does without a founder lowers the number, and never raises
// it.
func TestFoundWithout(t *testing.T) {
	m := newMachine(t)
	m.want(OK, &Found{ClusterID: "c1", Founders: 4})
	m.want(OK, register(1))
	m.want(Malformed, &FoundWithout{})
	m.want(OK, &FoundWithout{Founders: 5})
	m.want(OK, &FoundWithout{Founders: 3})
	m.want(OK, register(2))
	if progress, _ := m.View().Founding(); progress != "2 of 3 founding brokers have joined" {
		t.Fatal(progress)
	}
	m.want(OK, &FoundWithout{Founders: 2})
	m.want(OK, &EndFounding{})
	m.want(OK, create("a", 1, 1))
}

// TestRegisterBroker walks through the life of node 1's disks, and through every
// disk that must not be taken for it.
func TestRegisterBroker(t *testing.T) {
	m := newMachine(t)
	change := func(f func(*RegisterBroker)) *RegisterBroker { r := register(1); f(r); return r }
	steps := []struct {
		name string
		cmd  *RegisterBroker
		want Code
	}{
		{"negative id", change(func(r *RegisterBroker) { r.Node = -1 }), Malformed},
		{"no incarnation", change(func(r *RegisterBroker) { r.Incarnation = 0 }), Malformed},
		{"no session", change(func(r *RegisterBroker) { r.Session = 0 }), Malformed},
		{"first start", change(func(r *RegisterBroker) { r.Start = 3 }), OK},
		{"the same once more", change(func(r *RegisterBroker) { r.Start = 3 }), OK},
		{"an older disk", change(func(r *RegisterBroker) { r.Start = 2 }), RolledBack},
		{"a copy of the disk", change(func(r *RegisterBroker) { r.Start = 3; r.Session = 77 }), RolledBack},
		{"next start, other address", change(func(r *RegisterBroker) { r.Start = 4; r.Session = 78; r.RPCAddress = "h:2" }), OK},
		{"another broker with the id", change(func(r *RegisterBroker) { r.Incarnation = 0xd2; r.Session = 80 }), DuplicateNode},
		{"it names another than the present one", change(func(r *RegisterBroker) { r.Incarnation = 0xd2; r.Replaces = 0xd9; r.Session = 80 }), DuplicateNode},
		{"an empty disk takes over", change(func(r *RegisterBroker) { r.Incarnation = 0xd2; r.Replaces = 0x1001; r.Session = 80 }), OK},
		{"the old disk comes back", change(func(r *RegisterBroker) { r.Start = 9; r.Session = 81; r.Replaces = 0xd2 }), Retired},
		{"the folder under another id", change(func(r *RegisterBroker) { r.Node = 2; r.Incarnation = 0xd2; r.Session = 82 }), DuplicateNode},
	}
	for _, step := range steps {
		before := m.View()
		if got := m.do(step.cmd); got.Code != step.want {
			t.Fatalf("%s: %v (%s), want %v", step.name, got.Code, got.Detail, step.want)
		}
		old, _ := before.Broker(1)
		now, _ := m.View().Broker(1)
		if step.want != OK && old != now {
			t.Errorf("%s: refused, but the broker changed", step.name)
		}
	}
	want := &Broker{Node: 1, Incarnation: 0xd2, Retired: []Incarnation{0x1001}, Start: 1, Session: 80, RPCAddress: "127.0.0.1:33145",
		KafkaAddress: "127.0.0.1:9092", Rack: "r1", Version: "0.1.0", Index: 11}
	got, _ := m.View().Broker(1)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if b, ok := m.View().BrokerOf(0x1001); ok {
		t.Errorf("a retired incarnation is found as %+v", b)
	}
}

func TestCreateTopicRefusals(t *testing.T) {
	m := trio(t)
	m.want(OK, create("orders.eu", 1, 1, 2))
	rows := []struct {
		name string
		cmd  *CreateTopic
		want Code
	}{
		{"bad name", create("a/b", 2, 1), InvalidTopicName},
		{"same name", create("orders.eu", 2, 1), TopicExists},
		{"differs in '.' and '_'", create("orders_eu", 2, 1), InvalidTopicName},
		{"no id", &CreateTopic{Name: "a", Partitions: []Partition{{Replicas: []Replica{replica(1)}}}}, Malformed},
		{"id of another topic", create("a", 1, 1), Malformed},
		{"no partitions", &CreateTopic{Name: "a", ID: topicID(2)}, InvalidPartitions},
		{"too many partitions", &CreateTopic{Name: "a", ID: topicID(2), Partitions: make([]Partition, MaxPartitions+1)}, InvalidPartitions},
		{"no replicas", create("a", 2), InvalidReplicas},
		{"a broker twice", create("a", 2, 1, 2, 1), InvalidReplicas},
		{"an unknown broker", create("a", 2, 1, 9), InvalidReplicas},
		{"a broker's former disk", &CreateTopic{Name: "a", ID: topicID(2), Partitions: []Partition{{Replicas: []Replica{{Node: 1, Incarnation: 5, NodeIncarnation: 0xdead}}}}}, StaleBroker},
		{"no replica incarnation", &CreateTopic{Name: "a", ID: topicID(2), Partitions: []Partition{{Replicas: []Replica{{Node: 1, NodeIncarnation: 0x1001}}}}}, Malformed},
	}
	for _, row := range rows {
		result := m.do(row.cmd)
		if result.Code != row.want || result.Detail == "" {
			t.Errorf("%s: %v (%q), want %v", row.name, result.Code, result.Detail, row.want)
		}
		if m.View().TopicCount() != 1 {
			t.Fatalf("%s: a refused topic was made", row.name)
		}
	}
}

func TestCreateTopicTwiceIsOnce(t *testing.T) {
	m := trio(t)
	first := m.want(OK, create("a", 1, 1, 2, 3))
	again := m.want(OK, create("a", 1, 1, 2, 3))
	if again != first {
		t.Errorf("second copy %+v, first %+v", again, first)
	}
	topic, ok := m.View().TopicNamed("a")
	if !ok || topic.Index != first.Index || topic.StartTerm != 1 {
		t.Fatalf("%+v", topic)
	}
	m.want(OK, &DeleteTopic{ID: topicID(1), LastTerm: 4})
	m.want(UnknownTopic, create("a", 1, 1, 2, 3)) // a late copy makes no second topic with this id
}

func TestDeleteKeepsRecordUntilAllConfirmed(t *testing.T) {
	m := trio(t)
	m.want(UnknownTopic, &DeleteTopic{ID: topicID(1)})
	m.want(OK, create("a", 1, 1))
	m.want(OK, &DeleteTopic{ID: topicID(1), LastTerm: 8})
	m.want(UnknownTopic, &DeleteTopic{ID: topicID(1)})
	m.want(OK, register(4)) // came later, holds nothing of it
	gone, ok := m.View().Deletion(topicID(1))
	want := &Deletion{ID: topicID(1), Name: "a", Index: 7, Waiting: []NodeID{1, 2, 3}}
	if diff := cmp.Diff(want, gone); !ok || diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	for _, n := range []NodeID{2, 2, 1} {
		m.want(OK, &ConfirmDelete{Node: n, IDs: []segment.TopicID{topicID(1), topicID(9)}})
	}
	if gone, _ := m.View().Deletion(topicID(1)); gone == nil || !cmp.Equal(gone.Waiting, []NodeID{3}) {
		t.Fatalf("%+v", gone)
	}
	m.want(OK, &ConfirmDelete{Node: 3, IDs: []segment.TopicID{topicID(1)}})
	if _, ok := m.View().Deletion(topicID(1)); ok {
		t.Error("the record outlived its last confirmation")
	}
}

// TestStartTermRises: a client without topic ids must see the leader epoch of a
// re-created topic above that of the old one.
func TestStartTermRises(t *testing.T) {
	m := trio(t)
	last := uint64(0)
	for round, announced := range []uint64{5, 0, 20} { // 0: the deleter knew of no leader
		result := m.want(OK, create("a", byte(round+1), 1))
		if result.StartTerm <= last {
			t.Fatalf("round %d starts at term %d, after %d", round, result.StartTerm, last)
		}
		last = max(result.StartTerm, announced)
		m.want(OK, &DeleteTopic{ID: topicID(byte(round + 1)), LastTerm: announced})
	}
	if got := m.want(OK, create("b", 9, 1)).StartTerm; got != 1 {
		t.Errorf("a new name starts at term %d", got)
	}
}

func TestAlterTopicConfigs(t *testing.T) {
	m := trio(t)
	m.want(UnknownTopic, &AlterTopicConfigs{ID: topicID(1)})
	c := create("a", 1, 1)
	c.Configs = map[string]string{"retention.ms": "1", "segment.bytes": "2"}
	m.want(OK, c)
	before, _ := m.View().TopicNamed("a")
	m.want(OK, &AlterTopicConfigs{ID: topicID(1), Set: map[string]string{"retention.ms": "9", "x": ""}, Remove: []string{"segment.bytes", "none"}})
	after, _ := m.View().Topic(topicID(1))
	if diff := cmp.Diff(map[string]string{"retention.ms": "9", "x": ""}, after.Configs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if before.Configs["retention.ms"] != "1" || len(before.Configs) != 2 {
		t.Errorf("an older view changed: %v", before.Configs)
	}
	if named, _ := m.View().TopicNamed("a"); named != after {
		t.Error("name and id lead to different topics")
	}
}

func TestProducerIDsNeverTwice(t *testing.T) {
	m := trio(t)
	m.want(Malformed, &AllocateProducerIDs{Node: 1})
	m.want(Malformed, &AllocateProducerIDs{Node: 1, Count: 1_000_001})
	next := int64(0)
	for range 3 {
		r := m.want(OK, &AllocateProducerIDs{Node: 1, Count: ProducerIDBlock})
		if r.FirstID != next || r.Count != ProducerIDBlock {
			t.Fatalf("%+v, want first %d", r, next)
		}
		next += ProducerIDBlock
	}
	if m.View().NextProducerID() != next {
		t.Errorf("next is %d", m.View().NextProducerID())
	}
}

// TestSession: the second copy of a command answers like the first and changes
// nothing, whatever the command is and whatever came between.
func TestSession(t *testing.T) {
	m := trio(t)
	at := func(sequence, done uint64) Origin {
		return Origin{Node: 1, Session: 0x5001, Sequence: sequence, Done: done}
	}
	m.want(OK, create("a", 1, 1))
	set := func(v string) Command {
		return &AlterTopicConfigs{ID: topicID(1), Set: map[string]string{"k": v}}
	}
	m.from(at(1, 1), set("mine"))
	m.want(OK, set("other's"))
	m.from(at(1, 1), set("mine"))
	if topic, _ := m.View().TopicNamed("a"); topic.Configs["k"] != "other's" {
		t.Fatalf("a repeated change undid a later one: %v", topic.Configs)
	}
	ids := m.from(at(2, 2), &AllocateProducerIDs{Node: 1, Count: 10})
	if again := m.from(at(2, 2), &AllocateProducerIDs{Node: 1, Count: 10}); again != ids {
		t.Errorf("repeated %+v, first %+v", again, ids)
	}
	deleted := m.from(at(3, 2), &DeleteTopic{ID: topicID(1)})
	if again := m.from(at(3, 2), &DeleteTopic{ID: topicID(1)}); again != deleted || again.Code != OK {
		t.Errorf("a repeated delete answers %+v, first %+v", again, deleted)
	}
	refused := m.from(at(4, 3), &DeleteTopic{ID: topicID(1)})
	if again := m.from(at(4, 3), &DeleteTopic{ID: topicID(1)}); again != refused || again.Code != UnknownTopic {
		t.Errorf("a repeated refusal answers %+v, first %+v", again, refused)
	}
	if late := m.from(at(1, 1), set("late")); late.Code != Expired {
		t.Errorf("a copy of an answered command: %+v", late)
	}
	s, _ := m.View().sessions.get(nodeKey(1))
	if len(s.Answers) != 2 || s.Done != 3 {
		t.Errorf("%d answers kept, done %d", len(s.Answers), s.Done)
	}
}

func TestSessionIsFenced(t *testing.T) {
	m := trio(t)
	old := Origin{Node: 1, Session: 0x5001, Sequence: 1, Done: 1}
	restarted := register(1)
	restarted.Start, restarted.Session = 2, 0x6001
	m.want(OK, restarted)
	rows := []Origin{old, {Node: 1, Session: 9, Sequence: 1}, {Node: 8, Session: 0x5001, Sequence: 1}}
	for _, o := range rows {
		if r := m.from(o, &AllocateProducerIDs{Node: 1, Count: 1}); r.Code != Fenced {
			t.Errorf("%+v: %v", o, r.Code)
		}
	}
	if m.View().NextProducerID() != 0 {
		t.Error("a fenced command took effect")
	}
	// The hourly registration is of the same process: its answers must stay.
	o := Origin{Node: 1, Session: 0x6001, Sequence: 1, Done: 1}
	first := m.from(o, &AllocateProducerIDs{Node: 1, Count: 1})
	restarted.Start = 3
	m.want(OK, restarted)
	if again := m.from(o, &AllocateProducerIDs{Node: 1, Count: 1}); again != first {
		t.Errorf("after the hourly registration %+v, before %+v", again, first)
	}
	if !m.View().HasSession(1, 0x6001) || m.View().HasSession(1, 0x5001) || m.View().HasSession(-1, 1) {
		t.Error("HasSession disagrees")
	}
}

func TestOldViewsStay(t *testing.T) {
	m := trio(t)
	m.want(OK, create("a", 1, 1))
	before := m.View()
	m.want(OK, create("b", 2, 1))
	m.want(OK, &DeleteTopic{ID: topicID(1)})
	if before.TopicCount() != 1 || before.Index() != 5 {
		t.Errorf("the view at 5 has %d topics, index %d", before.TopicCount(), before.Index())
	}
	if _, ok := before.TopicNamed("a"); !ok {
		t.Error("the deleted topic left an older view")
	}
	var names []string
	for topic := range m.View().Topics() {
		names = append(names, topic.Name)
	}
	if diff := cmp.Diff([]string{"b"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestCheckTopicName(t *testing.T) {
	for _, name := range []string{"a", "A.b_c-9", strings.Repeat("x", MaxTopicName), "...", "__consumer_offsets"} {
		if err := CheckTopicName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "a b", "é", "a\x00", strings.Repeat("x", MaxTopicName+1), "a:b", "a\\b"} {
		if CheckTopicName(name) == nil {
			t.Errorf("%q accepted", name)
		}
	}
}
