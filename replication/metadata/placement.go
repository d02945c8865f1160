package metadata

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// ErrTooFewBrokers is returned when a topic wants more replicas than there are
// brokers.
var ErrTooFewBrokers = errors.New("more replicas wanted than there are brokers")

// Placement is what Place decides by.
type Placement struct {
	// Partitions is how many partitions to place, 1 to MaxPartitions.
	Partitions int
	// Factor is the number of replicas of each, 1 to MaxReplicas.
	Factor int
	// Brokers are the candidates. If all have a rack, a partition's replicas
	// spread over the racks; if some have none, racks do not count, as in Kafka.
	Brokers []*Broker
	// Leaders is how many partitions each broker is the preferred leader of
	// already, see PreferredLeaders.
	Leaders map[NodeID]int
	// Replicas is how many replicas each broker has already, see ReplicaCounts.
	Replicas map[NodeID]int
	// Random draws a number in [0, n); where followers begin is left to chance,
	// so that a broker's partitions do not all share the same followers. The same
	// draws give the same placement.
	Random func(n int) int
}

// PreferredLeaders counts the partitions that each broker is the first replica of.
func (v *View) PreferredLeaders() map[NodeID]int {
	leaders := map[NodeID]int{}
	for t := range v.Topics() {
		for _, p := range t.Partitions {
			leaders[p.Replicas[0].Node]++
		}
	}
	return leaders
}

// ReplicaCounts counts the replicas that each broker is to hold, or still has to keep
// until they have left their groups.
func (v *View) ReplicaCounts() map[NodeID]int {
	counts := map[NodeID]int{}
	for t := range v.Topics() {
		for _, p := range t.Partitions {
			for _, r := range p.Replicas {
				counts[r.Node]++
			}
			for _, r := range p.Leaving {
				if find(p.Replicas, r.Node, 0) < 0 {
					counts[r.Node]++
				}
			}
		}
	}
	return counts
}

// Place puts each partition's replicas on distinct brokers, the preferred leader
// first, by the rules of Kafka (KIP-36): no rack holds a second replica of a
// partition before each rack holds one; and beyond Kafka's, none a third before
// each holds two, as long as it has brokers for them, so that the loss of a rack
// takes no majority that it need not take. Within that the topic is even:
// preferred leaders go round the brokers, and a follower goes to the broker with
// the fewest replicas, of this topic first and then of the whole cluster. Kafka's
// way, followers at a distance that grows with each round, decides between equals.
func Place(p Placement) ([][]NodeID, error) {
	switch {
	case p.Partitions < 1 || p.Partitions > MaxPartitions:
		return nil, fmt.Errorf("place topic: %d partitions, 1 to %d are possible", p.Partitions, MaxPartitions)
	case p.Factor < 1 || p.Factor > MaxReplicas:
		return nil, fmt.Errorf("place topic: %d replicas, 1 to %d are possible", p.Factor, MaxReplicas)
	case p.Factor > len(p.Brokers):
		return nil, fmt.Errorf("place topic: %w: %d replicas, %d brokers", ErrTooFewBrokers, p.Factor, len(p.Brokers))
	}
	r := newRing(p)
	shift := p.Random(len(r.seats))
	placed := make([][]NodeID, p.Partitions)
	for i := range placed {
		if i > 0 && i%len(r.seats) == 0 {
			shift++
		}
		placed[i] = r.place(i%len(r.seats), shift, p.Factor)
	}
	return placed, nil
}

// ring is the candidates in the order in which they become preferred leaders:
// racks alternate, and within that who leads least comes first.
type ring struct{ seats []seat }

// seat is a broker in the ring.
type seat struct {
	node  NodeID
	rack  int // number of its rack; without racks each broker is one of its own
	topic int // replicas of the new topic, those it will lead included
	total int // replicas of all other topics
}

// newRing arranges the candidates, and counts what each will lead.
func newRing(p Placement) *ring {
	sorted := slices.Clone(p.Brokers)
	// Equal brokers are in random order, or one-partition topics created by brokers
	// with equal views at the same time would all begin at the lowest id.
	for i := len(sorted) - 1; i > 0; i-- {
		j := p.Random(i + 1)
		sorted[i], sorted[j] = sorted[j], sorted[i]
	}
	slices.SortStableFunc(sorted, func(a, b *Broker) int {
		return cmp.Or(cmp.Compare(p.Leaders[a.Node], p.Leaders[b.Node]), cmp.Compare(p.Replicas[a.Node], p.Replicas[b.Node]))
	})
	r := &ring{}
	add := func(b *Broker, rack int) {
		r.seats = append(r.seats, seat{node: b.Node, rack: rack, total: p.Replicas[b.Node]})
	}
	if slices.ContainsFunc(sorted, func(b *Broker) bool { return b.Rack == "" }) {
		for i, b := range sorted {
			add(b, i)
		}
	} else {
		byRack := map[string][]*Broker{}
		var order []string // racks in order of their least loaded broker
		for _, b := range sorted {
			if byRack[b.Rack] == nil {
				order = append(order, b.Rack)
			}
			byRack[b.Rack] = append(byRack[b.Rack], b)
		}
		for len(r.seats) < len(sorted) {
			for number, rack := range order {
				if waiting := byRack[rack]; len(waiting) > 0 {
					add(waiting[0], number)
					byRack[rack] = waiting[1:]
				}
			}
		}
	}
	for i := range min(p.Partitions, len(r.seats)) {
		// The first ones lead one partition more, if they do not come out even.
		r.seats[i].topic = (p.Partitions - i + len(r.seats) - 1) / len(r.seats)
	}
	return r
}

// place chooses the replicas of one partition, its leader being the seat first.
func (r *ring) place(first, shift, factor int) []NodeID {
	n := len(r.seats)
	chosen := []NodeID{r.seats[first].node}
	inRack := map[int]int{r.seats[first].rack: 1}
	taken := make([]bool, n)
	taken[first] = true
	for len(chosen) < factor {
		best := -1
		for k := range n - 1 { // equals in the order of their distance
			i := (first + 1 + (shift+k)%(n-1)) % n
			if taken[i] || best >= 0 && !r.before(i, best, inRack) {
				continue
			}
			best = i
		}
		taken[best] = true
		r.seats[best].topic++
		inRack[r.seats[best].rack]++
		chosen = append(chosen, r.seats[best].node)
	}
	return chosen
}

// before tells whether seat a is to get the next replica rather than seat b.
func (r *ring) before(a, b int, inRack map[int]int) bool {
	x, y := &r.seats[a], &r.seats[b]
	return cmp.Or(cmp.Compare(inRack[x.rack], inRack[y.rack]), cmp.Compare(x.topic, y.topic), cmp.Compare(x.total, y.total)) < 0
}
