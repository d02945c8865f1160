package metadata

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/segment"
)

// brokersIn are brokers 1, 2, ... with these racks.
func brokersIn(racks ...string) (brokers []*Broker) {
	for i, rack := range racks {
		brokers = append(brokers, &Broker{Node: NodeID(i + 1), Rack: rack})
	}
	return brokers
}

// on are partitions of one topic with these replicas.
func on(replicas ...[]NodeID) (all []Assigned) {
	for i, nodes := range replicas {
		all = append(all, Assigned{topicID(1), int32(i), nodes})
	}
	return all
}

func lines(assigned []Assigned) (text []string) {
	for _, a := range assigned {
		text = append(text, fmt.Sprint(a.Partition, " ", a.Nodes))
	}
	return text
}

func TestPlanExamples(t *testing.T) {
	all := [][]NodeID{{1, 2, 3}, {2, 3, 1}, {3, 1, 2}, {1, 3, 2}}
	drained := brokersIn("", "", "", "")
	drained[3].Drained = true
	balance := func(p *Plan) ([]Assigned, error) { return p.Balance(), nil }
	evacuate := func(n NodeID) func(*Plan) ([]Assigned, error) {
		return func(p *Plan) ([]Assigned, error) { return p.Evacuate(n) }
	}
	resize := func(n int) func(*Plan) ([]Assigned, error) {
		return func(p *Plan) ([]Assigned, error) { return p.Resize(n) }
	}
	for name, row := range map[string]struct {
		brokers    []*Broker
		partitions []Assigned
		do         func(*Plan) ([]Assigned, error)
		want       []string
		err        error
	}{
		"even already":                {brokersIn("", "", ""), on(all[:3]...), balance, nil, nil},
		"a fourth broker":             {brokersIn("", "", "", ""), on(all...), balance, []string{"0 [4 2 1]", "1 [2 3 4]", "2 [3 1 4]"}, nil},
		"a fourth that is drained":    {drained, on(all[:3]...), balance, nil, nil},
		"only the preference":         {brokersIn("", ""), on([]NodeID{1, 2}, []NodeID{1, 2}), balance, []string{"0 [2 1]"}, nil},
		"a drained preferred leader":  {drained, on([]NodeID{4, 1}), balance, []string{"0 [1 4]"}, nil},
		"two in a rack":               {brokersIn("a", "a", "b"), on([]NodeID{1, 2}), balance, []string{"0 [3 2]"}, nil},
		"racks before numbers":        {brokersIn("a", "b", "b"), on([]NodeID{1, 2}, []NodeID{2, 1}, []NodeID{1, 2}, []NodeID{2, 1}), balance, []string{"0 [3 1]", "2 [1 3]"}, nil},
		"away from one":               {brokersIn("", "", "", ""), on(all[0], []NodeID{2, 3, 4}), evacuate(1), []string{"0 [4 2 3]"}, nil},
		"away, into the missing rack": {brokersIn("a", "b", "b", "a", "c"), on([]NodeID{1, 2}), evacuate(1), []string{"0 [4 2]"}, nil},
		"nowhere to go":               {brokersIn("", "", ""), on(all...), evacuate(1), nil, ErrTooFewBrokers},
		"only a drained one":          {drained, on(all[0]), evacuate(1), nil, ErrTooFewBrokers},
		"one to three":                {brokersIn("", "", ""), on([]NodeID{1}, []NodeID{1}), resize(3), []string{"0 [1 2 3]", "1 [1 2 3]"}, nil},
		"three to one":                {brokersIn("", "", ""), on(all[:2]...), resize(1), []string{"0 [1]", "1 [2]"}, nil},
		"more than there are":         {brokersIn("", ""), on([]NodeID{1}), resize(3), nil, ErrTooFewBrokers},
	} {
		p := NewPlan(row.brokers, row.partitions)
		got, err := row.do(p)
		if diff := cmp.Diff(row.want, lines(got)); diff != "" || !errors.Is(err, row.err) {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
		if err != nil {
			if diff := cmp.Diff(row.partitions, p.partitions); diff != "" {
				t.Errorf("%s: it failed and changed (-before +after):\n%s", name, diff)
			}
		}
	}
	if _, err := NewPlan(nil, nil).Resize(0); err == nil {
		t.Error("no replicas")
	}
}

// drawPlan draws a cluster and what is on it.
func drawPlan(rt *rapid.T) (brokers []*Broker, partitions []Assigned) {
	racks := rapid.SampledFrom([][]string{{""}, {"a", "b"}, {"a", "b", "c"}}).Draw(rt, "racks")
	for n := range rapid.IntRange(1, 9).Draw(rt, "brokers") {
		brokers = append(brokers, &Broker{Node: NodeID(n + 1), Rack: rapid.SampledFrom(racks).Draw(rt, "rack"), Drained: n > 0 && rapid.IntRange(0, 5).Draw(rt, "drained") == 0})
	}
	some := rapid.SliceOfNDistinct(rapid.Map(rapid.IntRange(1, len(brokers)), func(n int) NodeID { return NodeID(n) }), 1, min(4, len(brokers)), rapid.ID[NodeID])
	for i := range rapid.IntRange(0, 40).Draw(rt, "partitions") {
		partitions = append(partitions, Assigned{segment.TopicID{byte(i % 3)}, int32(i), some.Draw(rt, "nodes")})
	}
	return brokers, partitions
}

// moved counts the replicas that are on another broker, and per broker how many came.
func moved(before, after []Assigned) (count int, came map[NodeID]int) {
	came = map[NodeID]int{}
	for i := range after {
		for _, n := range after[i].Nodes {
			if !slices.Contains(before[i].Nodes, n) {
				count++
				came[n]++
			}
		}
	}
	return count, came
}

// TestPlanProperties: every plan keeps the number of replicas on distinct brokers and
// gives a drained broker none. A balanced picture has no broker with two more than
// another that could have taken one, nothing goes back and forth, and it stays as it is.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		brokers, before := drawPlan(rt)
		p := NewPlan(brokers, before)
		switch rapid.IntRange(0, 1).Draw(rt, "goal") {
		case 0:
			p.Balance()
			checkBalance(rt, p, brokers, before)
		case 1:
			gone := rapid.SampledFrom(brokers).Draw(rt, "gone").Node
			if _, err := p.Evacuate(gone); err != nil {
				return
			}
			for i, a := range p.partitions {
				if slices.Contains(a.Nodes, gone) || len(a.Nodes) != len(before[i].Nodes) {
					rt.Fatalf("%v became %v", before[i].Nodes, a.Nodes)
				}
			}
			if count, _ := moved(before, p.partitions); count != NewPlan(brokers, before).replicas[gone] {
				rt.Fatalf("%d replicas were moved", count)
			}
		}
		_, came := moved(before, p.partitions)
		for i, a := range p.partitions {
			if nodes := slices.Clone(a.Nodes); len(slices.Compact(slices.Sorted(slices.Values(nodes)))) != len(before[i].Nodes) {
				rt.Fatalf("%v became %v", before[i].Nodes, a.Nodes)
			}
		}
		for _, b := range brokers {
			if b.Drained && came[b.Node] > 0 {
				rt.Fatalf("drained broker %d got %d replicas", b.Node, came[b.Node])
			}
		}
		if diff := cmp.Diff(p.replicas, NewPlan(brokers, p.partitions).replicas, cmp.Transformer("counts", nonZero)); diff != "" {
			rt.Fatalf("the counts are wrong (-kept +counted):\n%s", diff)
		}
	})
}

func nonZero(counts map[NodeID]int) string {
	text := ""
	for n := NodeID(0); n < 20; n++ {
		if counts[n] != 0 {
			text += fmt.Sprintf("%d:%d ", n, counts[n])
		}
	}
	return text
}

func checkBalance(rt *rapid.T, p *Plan, brokers []*Broker, before []Assigned) {
	old := NewPlan(brokers, before)
	if again := NewPlan(brokers, p.partitions).Balance(); len(again) != 0 {
		rt.Fatalf("a balanced picture changes again: %v", lines(again))
	}
	for i, a := range p.partitions {
		if p.crowding(a.Nodes) > p.crowding(before[i].Nodes) {
			rt.Fatalf("the racks of %v are spread worse in %v", before[i].Nodes, a.Nodes)
		}
	}
	if p.rack[brokers[0].Node] != fmt.Sprint(brokers[0].Node) {
		return // racks may forbid what numbers ask for
	}
	excess := 0
	for _, b := range brokers {
		excess += max(0, old.replicas[b.Node]-p.replicas[b.Node])
		for _, to := range p.brokers {
			if p.replicas[b.Node]-p.replicas[to.Node] > 1 {
				rt.Fatalf("broker %d has %d replicas, broker %d has %d", b.Node, p.replicas[b.Node], to.Node, p.replicas[to.Node])
			}
		}
	}
	if count, _ := moved(before, p.partitions); count != excess {
		rt.Fatalf("%d replicas were moved, %d were too many somewhere", count, excess)
	}
}
