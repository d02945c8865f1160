package metadata

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func brokers(racks ...string) []*Broker {
	list := make([]*Broker, len(racks))
	for i, rack := range racks {
		list[i] = &Broker{Node: NodeID(i + 1), Rack: rack}
	}
	return list
}

func TestPlaceRefuses(t *testing.T) {
	first := func(int) int { return 0 }
	for _, p := range []Placement{
		{Partitions: 0, Factor: 1, Brokers: brokers("")},
		{Partitions: MaxPartitions + 1, Factor: 1, Brokers: brokers("")},
		{Partitions: 1, Factor: 0, Brokers: brokers("")},
		{Partitions: 1, Factor: MaxReplicas + 1, Brokers: brokers("")},
	} {
		p.Random = first
		if _, err := Place(p); err == nil {
			t.Errorf("%d partitions with %d replicas placed", p.Partitions, p.Factor)
		}
	}
	_, err := Place(Placement{Partitions: 1, Factor: 2, Brokers: brokers(""), Random: first})
	wantError(t, err, ErrTooFewBrokers)
}

// TestPlaceProperties: replicas of a partition are on distinct brokers and as
// many racks as there can be; preferred leaders differ by at most one, and all
// replicas of a large topic by little.
func TestPlaceProperties(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(r, "brokers")
		racks := rapid.IntRange(0, 5).Draw(r, "racks")
		names := make([]string, n)
		for i := range names {
			if racks > 0 {
				names[i] = fmt.Sprint("rack", i%racks)
			}
		}
		racks = min(racks, n)
		p := Placement{Partitions: rapid.IntRange(1, 60).Draw(r, "partitions"), Factor: rapid.IntRange(1, n).Draw(r, "factor"), Brokers: brokers(names...)}
		p.Random = rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 1)).IntN
		placed, err := Place(p)
		if err != nil || len(placed) != p.Partitions {
			r.Fatalf("%d partitions, %v", len(placed), err)
		}
		leaders := map[NodeID]int{}
		for i, nodes := range placed {
			leaders[nodes[0]]++
			distinct, covered := map[NodeID]bool{}, map[string]bool{}
			for _, node := range nodes {
				distinct[node] = true
				covered[names[node-1]] = true
			}
			if len(nodes) != p.Factor || len(distinct) != p.Factor {
				r.Fatalf("partition %d on %v", i, nodes)
			}
			if racks > 0 && len(covered) != min(racks, p.Factor) {
				r.Fatalf("partition %d on %d racks of %d: %v", i, len(covered), racks, nodes)
			}
		}
		most, least := 0, p.Partitions
		for _, b := range p.Brokers {
			most, least = max(most, leaders[b.Node]), min(least, leaders[b.Node])
		}
		if most-least > 1 {
			r.Fatalf("preferred leaders are uneven: %v", leaders)
		}
	})
}

// TestPlaceEvensOut: topics of one partition, created one after the other, lead
// everywhere equally.
func TestPlaceEvensOut(t *testing.T) {
	m := trio(t)
	random := rand.New(rand.NewPCG(1, 2)).IntN
	for i := range 9 {
		placed, err := Place(Placement{Partitions: 1, Factor: 3, Brokers: slices.Collect(m.View().Brokers()), Leaders: m.View().PreferredLeaders(), Random: random})
		if err != nil {
			t.Fatal(err)
		}
		m.want(OK, create(fmt.Sprint("t", i), byte(i+1), placed[0]...))
	}
	for node, n := range m.View().PreferredLeaders() {
		if n != 3 {
			t.Errorf("broker %d leads %d of 9", node, n)
		}
	}
}
