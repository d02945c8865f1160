package metadata

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// quintet is trio with brokers 4 and 5, and topic 1 on brokers 1, 2 and 3.
func quintet(t *testing.T) *machine {
	m := trio(t)
	m.want(OK, register(4))
	m.want(OK, register(5))
	m.want(OK, create("t", 1, 1, 2, 3))
	return m
}

func (m *machine) partition() Partition {
	m.Helper()
	topic, ok := m.View().Topic(topicID(1))
	if !ok {
		m.Fatal("no topic")
	}
	named, _ := m.View().TopicNamed(topic.Name)
	if named != topic {
		m.Fatal("two topics of one name")
	}
	return topic.Partitions[0]
}

// to is the change to these nodes.
func (m *machine) to(nodes ...NodeID) *AlterAssignment {
	m.Helper()
	topic, _ := m.View().Topic(topicID(1))
	n := uint64(0)
	return m.View().Reassign(topic, 0, nodes, func() uint64 { n++; return 0xa0000 + m.index<<8 + n })
}

func (m *machine) cancel() (*AlterAssignment, bool) {
	m.Helper()
	topic, _ := m.View().Topic(topicID(1))
	return m.View().CancelReassignment(topic, 0)
}

// reached says that the group is as it is to be.
func (m *machine) reached() {
	m.Helper()
	m.want(OK, &ReplicasLeft{Topic: topicID(1), Changed: m.partition().Changed})
}

// shape is a partition as "1 4+ | 2 3": joining with +, then those that leave.
func shape(p Partition) string {
	text := ""
	for _, r := range p.Replicas {
		text += fmt.Sprint(r.Node)
		if p.IsJoining(r) {
			text += "+"
		}
		text += " "
	}
	text += "|"
	for _, r := range p.Leaving {
		text += fmt.Sprintf(" %d", r.Node)
	}
	return text
}

func (m *machine) wantShape(want string) {
	m.Helper()
	if got := shape(m.partition()); got != want {
		m.Fatalf("the partition is %q, want %q", got, want)
	}
}

// TestReassign: a move, another one on its way, its end, and a cancelled one.
func TestReassign(t *testing.T) {
	m := quintet(t)
	if _, moving := m.cancel(); moving || !m.partition().IsSettled() {
		t.Error("a new topic is being moved")
	}
	m.want(OK, m.to(3, 1, 2)) // another preference
	m.wantShape("3 1 2 |")
	if _, moving := m.cancel(); moving {
		t.Error("a change of the preference is a move")
	}
	m.reached()
	m.want(OK, m.to(3, 4))
	m.wantShape("3 4+ | 1 2")
	adding, removing := m.partition().Moves()
	if !slices.Equal(adding, []NodeID{4}) || !slices.Equal(removing, []NodeID{1, 2}) {
		t.Errorf("adding %v, removing %v", adding, removing)
	}
	m.want(OK, m.to(1, 5)) // 1 comes back
	m.wantShape("1 5+ | 2 3 4")
	if r := m.partition().Replicas[0]; r != replica(1) {
		t.Errorf("%+v came back", r)
	}
	m.want(OK, &ReplicasLeft{Topic: topicID(1), Changed: m.partition().Changed - 1}) // of an earlier state
	m.wantShape("1 5+ | 2 3 4")
	m.want(UnknownTopic, &ReplicasLeft{Topic: topicID(9)})
	m.want(InvalidPartitions, &ReplicasLeft{Topic: topicID(1), Partition: 7})
	m.reached()
	m.wantShape("1 5 |")
	if p := m.partition(); !p.IsSettled() {
		t.Errorf("%+v", p)
	}
	m.want(OK, m.to(1, 2, 3, 4)) // more replicas than it had
	m.wantShape("1 2+ 3+ 4+ | 5")
	back, moving := m.cancel()
	if !moving {
		t.Fatal("nothing to cancel")
	}
	m.want(OK, back)
	m.wantShape("1 5 | 2 3 4")
	m.reached()
	m.wantShape("1 5 |")
	m.want(OK, m.to(1, 5, 4)) // only adding: nothing leaves
	if p := m.partition(); p.IsSettled() || len(p.Leaving) != 0 {
		t.Errorf("%+v", p)
	}
	m.reached()
	m.wantShape("1 5 4 |")
}

func TestAlterAssignmentRefuses(t *testing.T) {
	m := quintet(t)
	m.want(OK, m.to(1, 2))
	m.want(OK, &DrainBroker{Node: 3, Drained: true})
	m.want(OK, &DrainBroker{Node: 5, Drained: true})
	change := func(f func(*AlterAssignment), nodes ...NodeID) *AlterAssignment {
		a := m.to(nodes...)
		f(a)
		return a
	}
	many := m.to(1)
	for n := range NodeID(MaxReplicas) {
		many.Target = append(many.Target, Replica{Node: 100 + n, Incarnation: uint64(100 + n)})
	}
	for name, row := range map[string]struct {
		want Code
		cmd  Command
	}{
		"unknown topic":     {UnknownTopic, change(func(a *AlterAssignment) { a.Topic = topicID(9) }, 1)},
		"unknown partition": {InvalidPartitions, change(func(a *AlterAssignment) { a.Partition = 1 }, 1)},
		"negative":          {InvalidPartitions, change(func(a *AlterAssignment) { a.Partition = -1 }, 1)},
		"an old picture":    {AssignmentChanged, change(func(a *AlterAssignment) { a.Seen-- }, 1)},
		"before it settled": {AssignmentChanged, change(func(a *AlterAssignment) { a.Settled = true }, 1)},
		"nobody":            {InvalidReplicas, m.to()},
		"too many":          {InvalidReplicas, many},
		"twice":             {InvalidReplicas, m.to(1, 4, 4)},
		"unknown broker":    {InvalidReplicas, m.to(1, 9)},
		"drained":           {DrainedBroker, m.to(1, 5)},
		"another disk":      {StaleBroker, change(func(a *AlterAssignment) { a.Target[1].NodeIncarnation++ }, 1, 4)},
		"no incarnation":    {Malformed, change(func(a *AlterAssignment) { a.Target[1].Incarnation = 0 }, 1, 4)},
		"second replica":    {InvalidReplicas, change(func(a *AlterAssignment) { a.Target[0].Incarnation = 0xee }, 1)},
		"while it leaves":   {InvalidReplicas, change(func(a *AlterAssignment) { a.Target[0].Incarnation = 0xee }, 3)},
	} {
		before := m.partition()
		m.want(row.want, row.cmd)
		if diff := cmp.Diff(before, m.partition()); diff != "" {
			t.Errorf("%s: it changed (-before +after):\n%s", name, diff)
		}
	}
	m.want(OK, m.to(1, 3))                                                 // a drained broker keeps what it still has
	m.want(HoldsReplicas, &UnregisterBroker{Node: 2, Incarnation: 0x1002}) // while it leaves
	m.reached()
	m.want(OK, &UnregisterBroker{Node: 2, Incarnation: 0x1002})
}

// TestReassignInvariants: whatever is asked for and reached, a replica is dropped only
// when the group is said to be without it, no broker is named twice, and after a cancelled
// move the same brokers have the partition as before it.
func TestReassignInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := quintet(t)
		nodesOf := func(p Partition) (nodes []NodeID) {
			for _, r := range p.Replicas {
				nodes = append(nodes, r.Node)
			}
			slices.Sort(nodes)
			return nodes
		}
		settled := nodesOf(m.partition())
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			before := m.partition()
			reached := false
			switch rapid.IntRange(0, 2).Draw(rt, "kind") {
			case 0:
				m.do(m.to(rapid.SliceOfNDistinct(rapid.Map(rapid.IntRange(1, 5), func(n int) NodeID { return NodeID(n) }), 1, 4, rapid.ID[NodeID]).Draw(rt, "nodes")...))
			case 1:
				m.reached()
				settled, reached = nodesOf(m.partition()), true
			case 2:
				if back, moving := m.cancel(); moving && m.do(back).Code == OK {
					if got := nodesOf(m.partition()); !slices.Equal(got, settled) {
						rt.Fatalf("cancelled to %v, it was settled on %v", got, settled)
					}
				}
			}
			checkReplicas(rt, before, m.partition(), reached)
		}
	})
}

func checkReplicas(rt *rapid.T, before, after Partition, reached bool) {
	seen, nodes := map[uint64]NodeID{}, map[NodeID]bool{}
	for _, r := range after.Replicas {
		if nodes[r.Node] {
			rt.Fatalf("%s", shape(after))
		}
		nodes[r.Node] = true
	}
	for _, r := range append(slices.Clone(after.Replicas), after.Leaving...) {
		if _, twice := seen[r.Incarnation]; twice || r.Incarnation == 0 {
			rt.Fatalf("incarnation %x twice in %s", r.Incarnation, shape(after))
		}
		seen[r.Incarnation] = r.Node
	}
	if len(after.Replicas) == 0 || len(seen) > MaxReplicas {
		rt.Fatalf("%s", shape(after))
	}
	kept := slices.Clone(before.Replicas)
	if !reached {
		kept = append(kept, before.Leaving...)
	}
	for _, r := range kept {
		if seen[r.Incarnation] != r.Node {
			rt.Fatalf("%+v is gone: %s, then %s", r, shape(before), shape(after))
		}
	}
}
