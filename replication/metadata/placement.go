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
	// spread over as many racks as possible; if some have none, racks do not
	// count, as in Kafka.
	Brokers []*Broker
	// Leaders is how many partitions each broker is the preferred leader of
	// already, see PreferredLeaders.
	Leaders map[NodeID]int
	// Random draws a number in [0, n); where followers begin is left to chance,
	// so that a broker's partitions do not all share the same followers.
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

// Place is Kafka's assignment (KIP-36), except that the brokers which lead least
// come first instead of a random one: preferred leaders go round the brokers, and
// the other replicas follow at a distance that grows with each round.
func Place(p Placement) ([][]NodeID, error) {
	switch {
	case p.Partitions < 1 || p.Partitions > MaxPartitions:
		return nil, fmt.Errorf("place topic: %d partitions, 1 to %d are possible", p.Partitions, MaxPartitions)
	case p.Factor < 1 || p.Factor > MaxReplicas:
		return nil, fmt.Errorf("place topic: %d replicas, 1 to %d are possible", p.Factor, MaxReplicas)
	case p.Factor > len(p.Brokers):
		return nil, fmt.Errorf("place topic: %w: %d replicas, %d brokers", ErrTooFewBrokers, p.Factor, len(p.Brokers))
	}
	ring, racks := arrange(p)
	shift := p.Random(len(ring))
	placed := make([][]NodeID, p.Partitions)
	for i := range placed {
		if i > 0 && i%len(ring) == 0 {
			shift++
		}
		placed[i] = followers(ring, racks, i%len(ring), shift, p.Factor)
	}
	return placed, nil
}

// arrange puts the brokers in the order in which they become preferred leaders:
// racks alternate, and within that who leads least comes first. racks is 0 when
// racks do not count.
func arrange(p Placement) (ring []*Broker, racks int) {
	sorted := slices.Clone(p.Brokers)
	// Equal brokers are in random order, or one-partition topics created by brokers
	// with equal views at the same time would all begin at the lowest id.
	for i := len(sorted) - 1; i > 0; i-- {
		j := p.Random(i + 1)
		sorted[i], sorted[j] = sorted[j], sorted[i]
	}
	slices.SortStableFunc(sorted, func(a, b *Broker) int { return cmp.Compare(p.Leaders[a.Node], p.Leaders[b.Node]) })
	if slices.ContainsFunc(sorted, func(b *Broker) bool { return b.Rack == "" }) {
		return sorted, 0
	}
	byRack := map[string][]*Broker{}
	var order []string // racks in order of their least loaded broker
	for _, b := range sorted {
		if byRack[b.Rack] == nil {
			order = append(order, b.Rack)
		}
		byRack[b.Rack] = append(byRack[b.Rack], b)
	}
	for len(ring) < len(sorted) {
		for _, rack := range order {
			if waiting := byRack[rack]; len(waiting) > 0 {
				ring = append(ring, waiting[0])
				byRack[rack] = waiting[1:]
			}
		}
	}
	return ring, len(order)
}

// followers chooses the replicas of one partition, the leader first. A broker is
// passed over while a rack without a replica is left and it is in none of those,
// or when it has one already.
func followers(ring []*Broker, racks, first, shift, factor int) []NodeID {
	n := len(ring)
	chosen := []NodeID{ring[first].Node}
	covered := map[string]bool{ring[first].Rack: true}
	if racks > 1 {
		shift *= racks
	}
	for k := 0; len(chosen) < factor; k++ {
		b := ring[(first+1+(shift+k)%(n-1))%n]
		if slices.Contains(chosen, b.Node) || racks > 0 && len(covered) < racks && covered[b.Rack] {
			continue
		}
		chosen = append(chosen, b.Node)
		covered[b.Rack] = true
	}
	return chosen
}
