package metadata

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace/millrace/segment"
)

// Assigned is one partition and the brokers that have its replicas, the preferred leader
// first.
type Assigned struct {
	// Topic and Partition name it.
	Topic     segment.TopicID
	Partition int32
	// Nodes are the brokers.
	Nodes []NodeID
}

// Plan works out where replicas should move. It is a picture that its methods change:
// each returns what is different from before, and the next one goes on from there. It is
// deterministic, moves no more replicas than its goal needs, and follows the rules of
// Place: no broker has two replicas of a partition, and racks count if all brokers have
// one. Racks are never spread worse by Balance; Evacuate and Resize spread them as well as
// the brokers allow.
type Plan struct {
	brokers    []*Broker // that can get replicas, by id
	rack       map[NodeID]string
	partitions []Assigned
	replicas   map[NodeID]int
	leaders    map[NodeID]int
}

// NewPlan begins with partitions as they are. Replicas are moved only to brokers that are
// not drained; all brokers count, whose replicas may be moved away.
func NewPlan(brokers []*Broker, partitions []Assigned) *Plan {
	p := &Plan{rack: map[NodeID]string{}, replicas: map[NodeID]int{}, leaders: map[NodeID]int{}}
	racks := !slices.ContainsFunc(brokers, func(b *Broker) bool { return b.Rack == "" })
	for _, b := range brokers {
		p.rack[b.Node] = fmt.Sprint(b.Node) // each one of its own
		if racks {
			p.rack[b.Node] = "rack " + b.Rack
		}
		if !b.Drained {
			p.brokers = append(p.brokers, b)
		}
	}
	slices.SortFunc(p.brokers, func(a, b *Broker) int { return cmp.Compare(a.Node, b.Node) })
	for _, a := range partitions {
		a.Nodes = slices.Clone(a.Nodes)
		p.partitions = append(p.partitions, a)
		p.count(a.Nodes, 1)
	}
	return p
}

// count takes a partition's replicas in or out of the counts.
func (p *Plan) count(nodes []NodeID, by int) {
	for _, n := range nodes {
		p.replicas[n] += by
	}
	if len(nodes) > 0 {
		p.leaders[nodes[0]] += by
	}
}

// set gives a partition other replicas.
func (p *Plan) set(i int, nodes []NodeID) {
	p.count(p.partitions[i].Nodes, -1)
	p.partitions[i].Nodes = nodes
	p.count(nodes, 1)
}

// since are the partitions that differ from an older picture.
func (p *Plan) since(before []Assigned) (changed []Assigned) {
	for i, a := range p.partitions {
		if !slices.Equal(a.Nodes, before[i].Nodes) {
			changed = append(changed, Assigned{a.Topic, a.Partition, slices.Clone(a.Nodes)})
		}
	}
	return changed
}

// crowding is how unevenly brokers are spread over racks: the sum over the racks of the
// square of their number, which is least when they are spread evenly.
func (p *Plan) crowding(nodes []NodeID) (sum int) {
	inRack := map[string]int{}
	for _, n := range nodes {
		inRack[p.rack[n]]++
	}
	for _, n := range inRack {
		sum += n * n
	}
	return sum
}

// best is the broker that should get another replica of a partition that has these: in
// the rack with the fewest of them, and then the one with the fewest replicas.
func (p *Plan) best(nodes []NodeID) (NodeID, bool) {
	var fit []NodeID
	for _, b := range p.brokers {
		if !slices.Contains(nodes, b.Node) {
			fit = append(fit, b.Node)
		}
	}
	if len(fit) == 0 {
		return 0, false
	}
	with := func(n NodeID) int { return p.crowding(append(slices.Clone(nodes), n)) }
	return slices.MinFunc(fit, func(a, b NodeID) int {
		return cmp.Or(cmp.Compare(with(a), with(b)), cmp.Compare(p.replicas[a], p.replicas[b]))
	}), true
}

// Evacuate moves every replica away from a broker. ErrTooFewBrokers if a partition has
// nowhere to go: then nothing is changed.
func (p *Plan) Evacuate(node NodeID) ([]Assigned, error) {
	before := slices.Clone(p.partitions)
	candidates := p.brokers
	p.brokers = slices.DeleteFunc(slices.Clone(candidates), func(b *Broker) bool { return b.Node == node })
	defer func() { p.brokers = candidates }()
	for i, a := range p.partitions {
		at := slices.Index(a.Nodes, node)
		if at < 0 {
			continue
		}
		rest := slices.Delete(slices.Clone(a.Nodes), at, at+1)
		to, ok := p.best(rest)
		if !ok {
			p.restore(before)
			return nil, fmt.Errorf("%w: a partition has %d replicas, and %d brokers are left for them", ErrTooFewBrokers, len(a.Nodes), len(p.brokers))
		}
		next := slices.Clone(a.Nodes)
		next[at] = to
		p.set(i, next)
	}
	return p.since(before), nil
}

// Resize gives every partition so many replicas: new ones where they spread best, or
// without its last ones. ErrTooFewBrokers if there are fewer brokers that can get one.
func (p *Plan) Resize(factor int) ([]Assigned, error) {
	if factor < 1 || factor > MaxReplicas {
		return nil, fmt.Errorf("%d replicas, 1 to %d are possible", factor, MaxReplicas)
	}
	before := slices.Clone(p.partitions)
	for i, a := range p.partitions {
		next := slices.Clone(a.Nodes[:min(factor, len(a.Nodes))])
		for len(next) < factor {
			to, ok := p.best(next)
			if !ok {
				p.restore(before)
				return nil, fmt.Errorf("%w: %d replicas wanted, %d brokers can get one", ErrTooFewBrokers, factor, len(p.brokers))
			}
			next = append(next, to)
		}
		p.set(i, next)
	}
	return p.since(before), nil
}

func (p *Plan) restore(before []Assigned) {
	for i := range before {
		p.set(i, before[i].Nodes)
	}
}

// Balance spreads racks, then replicas and then preferred leaders evenly. Only what is too
// much on one broker moves, to where there is too little. Preferring another leader moves
// nothing.
func (p *Plan) Balance() []Assigned {
	before := slices.Clone(p.partitions)
	for i := range p.partitions {
		for p.uncrowd(i) {
		}
	}
	for p.level() {
	}
	for p.prefer() {
	}
	return p.since(before)
}

// uncrowd moves one replica of a partition to a rack with fewer of them.
func (p *Plan) uncrowd(i int) bool {
	nodes := p.partitions[i].Nodes
	least, chosen := p.crowding(nodes), []NodeID(nil)
	for at := range nodes {
		rest := slices.Delete(slices.Clone(nodes), at, at+1)
		to, ok := p.best(rest)
		if !ok || to == nodes[at] {
			continue
		}
		next := slices.Clone(nodes)
		next[at] = to
		if c := p.crowding(next); c < least {
			least, chosen = c, next
		}
	}
	if chosen == nil {
		return false
	}
	p.set(i, chosen)
	return true
}

// level moves one replica from a broker with more to one with at least two fewer.
func (p *Plan) level() bool {
	byCount := func(a, b NodeID) int { return cmp.Or(cmp.Compare(p.replicas[a], p.replicas[b]), cmp.Compare(a, b)) }
	var to []NodeID
	for _, b := range p.brokers {
		to = append(to, b.Node)
	}
	slices.SortFunc(to, byCount)
	from := slices.SortedFunc(maps.Keys(p.rack), func(a, b NodeID) int { return byCount(b, a) })
	for _, source := range from {
		for _, target := range to {
			if p.replicas[source]-p.replicas[target] < 2 {
				break // the others have more
			}
			if p.shift(source, target) {
				return true
			}
		}
	}
	return false
}

// shift moves the replica of one partition between two brokers, if racks are not spread
// worse by it: of one that the first is not the preferred leader of, if possible.
func (p *Plan) shift(from, to NodeID) bool {
	chosen, place := -1, 0
	for i, a := range p.partitions {
		at := slices.Index(a.Nodes, from)
		if at < 0 || slices.Contains(a.Nodes, to) || chosen >= 0 && at == 0 {
			continue
		}
		next := slices.Clone(a.Nodes)
		next[at] = to
		if p.crowding(next) > p.crowding(a.Nodes) {
			continue
		}
		chosen, place = i, at
		if at > 0 {
			break
		}
	}
	if chosen < 0 {
		return false
	}
	next := slices.Clone(p.partitions[chosen].Nodes)
	next[place] = to
	p.set(chosen, next)
	return true
}

// prefer makes another replica of one partition the preferred leader, where that broker is
// preferred by at least two fewer, or where the present one is drained.
func (p *Plan) prefer() bool {
	able := map[NodeID]bool{}
	for _, b := range p.brokers {
		able[b.Node] = true
	}
	for i, a := range p.partitions {
		for at := 1; at < len(a.Nodes); at++ {
			first, other := a.Nodes[0], a.Nodes[at]
			if !able[other] || able[first] && p.leaders[first]-p.leaders[other] < 2 {
				continue
			}
			next := slices.Clone(a.Nodes)
			next[0], next[at] = other, first
			p.set(i, next)
			return true
		}
	}
	return false
}
