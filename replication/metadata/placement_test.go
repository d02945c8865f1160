package metadata

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func brokers(racks ...string) []*Broker {
	list := make([]*Broker, len(racks))
	for i, rack := range racks {
		list[i] = &Broker{Node: NodeID(i + 1), Rack: rack}
	}
	return list
}

// seeded is a source of chance that draws the same each time.
func seeded(seed uint64) func(int) int { return rand.New(rand.NewPCG(seed, 1)).IntN }

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

// TestPlaceCounts holds what each broker gets against what it should, whatever is
// drawn: [preferred leader of, replicas of], by broker.
func TestPlaceCounts(t *testing.T) {
	rows := []struct {
		name               string
		racks              []string
		partitions, factor int
		want               [][2]int
	}{
		{"no racks", []string{"", "", ""}, 6, 2, [][2]int{{2, 4}, {2, 4}, {2, 4}}},
		{"a rack each", []string{"a", "b", "c"}, 6, 3, [][2]int{{2, 6}, {2, 6}, {2, 6}}},
		{"some without a rack", []string{"a", "a", ""}, 6, 2, [][2]int{{2, 4}, {2, 4}, {2, 4}}},
		{"two in each of three racks", []string{"a", "a", "b", "b", "c", "c"}, 12, 3, [][2]int{{2, 6}, {2, 6}, {2, 6}, {2, 6}, {2, 6}, {2, 6}}},
		{"a rack of one, which is in all", []string{"a", "a", "a", "b"}, 12, 2, [][2]int{{3, 4}, {3, 4}, {3, 4}, {3, 12}}},
		{"more replicas than racks", []string{"a", "a", "b", "b"}, 8, 3, [][2]int{{2, 6}, {2, 6}, {2, 6}, {2, 6}}},
		{"two in each rack", []string{"a", "a", "b", "b"}, 8, 4, [][2]int{{2, 8}, {2, 8}, {2, 8}, {2, 8}}},
		{"one rack", []string{"a", "a", "a"}, 3, 2, [][2]int{{1, 2}, {1, 2}, {1, 2}}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			for seed := range uint64(20) {
				placed, err := Place(Placement{Partitions: row.partitions, Factor: row.factor, Brokers: brokers(row.racks...), Random: seeded(seed)})
				if err != nil {
					t.Fatal(err)
				}
				got := make([][2]int, len(row.racks))
				for _, nodes := range placed {
					got[nodes[0]-1][0]++
					for _, node := range nodes {
						got[node-1][1]++
					}
				}
				if diff := cmp.Diff(row.want, got); diff != "" {
					t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
				}
			}
		})
	}
}

// TestPlaceProperties: replicas of a partition are on distinct brokers; no rack has
// two more than another that could take one; preferred leaders differ by at most
// one, and all replicas within a rack by at most two; the same seed gives the same.
func TestPlaceProperties(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(r, "brokers")
		racked := rapid.Bool().Draw(r, "racked")
		names, size := make([]string, n), map[string]int{}
		for i := range names {
			if racked {
				names[i] = fmt.Sprint("rack", rapid.IntRange(0, 4).Draw(r, "rack"))
			}
			size[names[i]]++
		}
		seed := rapid.Uint64().Draw(r, "seed")
		p := Placement{Partitions: rapid.IntRange(1, 60).Draw(r, "partitions"), Factor: rapid.IntRange(1, n).Draw(r, "factor"), Brokers: brokers(names...), Random: seeded(seed)}
		placed, err := Place(p)
		if err != nil || len(placed) != p.Partitions {
			r.Fatalf("%d partitions, %v", len(placed), err)
		}
		leaders, replicas := map[NodeID]int{}, map[NodeID]int{}
		for i, nodes := range placed {
			leaders[nodes[0]]++
			distinct, inRack := map[NodeID]bool{}, map[string]int{}
			for _, node := range nodes {
				distinct[node] = true
				inRack[names[node-1]]++
				replicas[node]++
			}
			if len(nodes) != p.Factor || len(distinct) != p.Factor {
				r.Fatalf("partition %d on %v", i, nodes)
			}
			for full, many := range inRack {
				for other := range size {
					if inRack[other] < min(many-1, size[other]) {
						r.Fatalf("partition %d has %d replicas in %s and %d in %s: %v", i, many, full, inRack[other], other, nodes)
					}
				}
			}
		}
		even(r, "preferred leaders", p.Brokers, leaders, func(*Broker) string { return "" }, 1)
		even(r, "replicas", p.Brokers, replicas, func(b *Broker) string { return b.Rack }, 2)
		p.Random = seeded(seed)
		if again, _ := Place(p); !slices.EqualFunc(placed, again, slices.Equal) {
			r.Fatalf("the same seed gives %v and then %v", placed, again)
		}
	})
}

// even requires that the counts of brokers of the same class differ by little.
func even(r *rapid.T, what string, brokers []*Broker, counts map[NodeID]int, class func(*Broker) string, most int) {
	for _, a := range brokers {
		for _, b := range brokers {
			if class(a) == class(b) && counts[a.Node]-counts[b.Node] > most {
				r.Fatalf("%s are uneven: %v", what, counts)
			}
		}
	}
}

// TestPlaceEvensOut: topics of one partition, created one after the other, lead
// everywhere equally, and have their followers everywhere equally.
func TestPlaceEvensOut(t *testing.T) {
	m := trio(t)
	random := rand.New(rand.NewPCG(1, 2)).IntN
	for i := range 60 {
		placed, err := Place(Placement{Partitions: 1, Factor: 2, Brokers: slices.Collect(m.View().Brokers()), Leaders: m.View().PreferredLeaders(), Replicas: m.View().ReplicaCounts(), Random: random})
		if err != nil {
			t.Fatal(err)
		}
		m.want(OK, create(fmt.Sprint("t", i), byte(i+1), placed[0]...))
	}
	for node, n := range m.View().PreferredLeaders() {
		if n != 20 {
			t.Errorf("broker %d leads %d of 60", node, n)
		}
	}
	for node, n := range m.View().ReplicaCounts() {
		if n < 39 || n > 41 {
			t.Errorf("broker %d has %d replicas of 120", node, n)
		}
	}
}
