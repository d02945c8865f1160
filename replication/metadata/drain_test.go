package metadata

import (
	"bytes"
	"testing"

	"github.com/millrace/millrace/segment"
)

// TestDrainedBrokerGetsNothing: it keeps what it has, and the mark outlives restarts
// and the replacement of its disk.
func TestDrainedBrokerGetsNothing(t *testing.T) {
	m := trio(t)
	m.want(OK, create("before", 1, 2, 1))
	m.want(OK, &DrainBroker{Node: 2, Drained: true})
	m.want(OK, &DrainBroker{Node: 2, Drained: true}) // a second copy
	m.want(DrainedBroker, create("after", 2, 1, 2))
	m.want(OK, create("elsewhere", 3, 1, 3))
	again := register(2)
	again.Start, again.Session = 2, 0x7777
	m.want(OK, again)
	if !m.View().Drained(2) {
		t.Error("a restart took the mark away")
	}
	replaced := register(2)
	replaced.Incarnation, replaced.Replaces, replaced.Session = 0xf2, 0x1002, 0x8888
	m.want(OK, replaced)
	if !m.View().Drained(2) || m.View().Drained(1) || m.View().Drained(9) || m.View().Drained(-1) {
		t.Error("another disk took the mark away, or another broker has it")
	}
	if topic, _ := m.View().Topic(topicID(1)); len(topic.Partitions[0].Replicas) != 2 {
		t.Errorf("it lost a replica: %+v", topic)
	}
	m.want(OK, &DrainBroker{Node: 2})
	back := create("back", 4, 1, 2)
	back.Partitions[0].Replicas[1].NodeIncarnation = 0xf2
	m.want(OK, back)
	m.want(UnknownBroker, &DrainBroker{Node: 4, Drained: true})
	m.want(UnknownBroker, &DrainBroker{Node: -1, Drained: true})
}

// TestUnregister: a broker without replicas is forgotten, its disks never.
func TestUnregister(t *testing.T) {
	m := trio(t)
	replaced := register(3)
	replaced.Incarnation, replaced.Replaces, replaced.Session = 0xf3, 0x1003, 0x8888
	m.want(OK, replaced)
	m.want(OK, create("others", 1, 1, 2))
	c := create("own", 2, 3, 1)
	c.Partitions[0].Replicas[0].NodeIncarnation = 0xf3
	m.want(OK, c)
	m.want(HoldsReplicas, &UnregisterBroker{Node: 3, Incarnation: 0xf3})
	m.want(OK, &DeleteTopic{ID: topicID(2)})
	m.want(StaleBroker, &UnregisterBroker{Node: 3, Incarnation: 0x1003})
	m.want(OK, &ConfirmDelete{Node: 1, IDs: []segment.TopicID{topicID(2)}})
	m.want(OK, &UnregisterBroker{Node: 3, Incarnation: 0xf3})
	m.want(UnknownBroker, &UnregisterBroker{Node: 3, Incarnation: 0xf3})
	view := m.View()
	if _, ok := view.Broker(3); ok || view.BrokerCount() != 2 || view.HasSession(3, 0x8888) {
		t.Error("it is still there")
	}
	if gone, _ := view.Deletion(topicID(2)); len(gone.Waiting) != 1 || gone.Waiting[0] != 2 {
		t.Errorf("its confirmation is waited for: %+v", gone)
	}
	m.want(InvalidReplicas, create("new", 3, 3))
	var b bytes.Buffer
	if err := view.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	restored := &machine{T: t, State: NewState(), index: m.index}
	if err := restored.Restore(&b); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*machine{m, restored} {
		for _, disk := range []Incarnation{0xf3, 0x1003} {
			back := register(3)
			back.Incarnation = disk
			m.want(Retired, back)
			if !m.View().Retired(disk) {
				t.Errorf("disk %s is not known any more", disk)
			}
		}
		back := register(3)
		back.Incarnation = 0xff3
		m.want(OK, back)
	}
	if view.Retired(0x1001) {
		t.Error("a disk in use is retired")
	}
	m.want(OK, &ConfirmDelete{Node: 2, IDs: []segment.TopicID{topicID(2)}})
	if _, ok := m.View().Deletion(topicID(2)); ok {
		t.Error("the record of the deletion stays")
	}
}

// TestUnregisterTheLastToConfirm: a deletion that waits only for the broker ends.
func TestUnregisterTheLastToConfirm(t *testing.T) {
	m := trio(t)
	m.want(OK, create("t", 1, 1))
	m.want(OK, &DeleteTopic{ID: topicID(1)})
	for _, n := range []NodeID{1, 2} {
		m.want(OK, &ConfirmDelete{Node: n, IDs: []segment.TopicID{topicID(1)}})
	}
	m.want(OK, &UnregisterBroker{Node: 3, Incarnation: 0x1003})
	if _, ok := m.View().Deletion(topicID(1)); ok {
		t.Error("the record of the deletion stays")
	}
}
