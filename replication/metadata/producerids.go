package metadata

import "math"

// ProducerIDBlock is how many producer ids a broker asks for at once, as in
// Kafka.
const ProducerIDBlock = 1000

// AllocateProducerIDs gives a broker a block of producer ids that no other gets.
// What a broker has not used when it stops is skipped, never given again.
//
//	i32 node | i32 count
type AllocateProducerIDs struct {
	// Node is the broker that will hand the ids out.
	Node NodeID
	// Count is the size of the block, 1 to 1,000,000; usually ProducerIDBlock.
	Count int32
}

func (*AllocateProducerIDs) number() number { return numberAllocateProducerIDs }

func (a *AllocateProducerIDs) fields(c *coder) {
	code32(c, &a.Node)
	code32(c, &a.Count)
}

func (a *AllocateProducerIDs) apply(d *draft) Result {
	if a.Count < 1 || a.Count > 1_000_000 {
		return refuse(Malformed, "a block of %d producer ids", a.Count)
	}
	if d.nextProducerID > math.MaxInt64-int64(a.Count) {
		return refuse(Malformed, "producer ids are used up")
	}
	first := d.nextProducerID
	d.nextProducerID += int64(a.Count)
	return Result{FirstID: first, Count: a.Count}
}
