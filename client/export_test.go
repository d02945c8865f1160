package client

import "time"

// NarrowTo makes a new subscription forget all its partitions but one, as if the
// others had been added since, and look for new ones at this interval.
func (s *Subscription) NarrowTo(partition int32, every time.Duration) {
	s.growthInterval = every
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := map[string][]int32{}
	for tp := range s.owned {
		if tp.partition != partition {
			gone[tp.topic] = append(gone[tp.topic], tp.partition)
			delete(s.owned, tp)
		}
	}
	s.kgo.RemoveConsumePartitions(gone)
}

// CloseWithin sets what bounds the last flush of Close.
func (c *Client) CloseWithin(d time.Duration) { c.closeTimeout = d }

// CloseWithin sets what bounds Close.
func (s *Subscription) CloseWithin(d time.Duration) { s.closeTimeout = d }

// Pending counts the records at hand by partition.
func (s *Subscription) Pending() map[int32]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[int32]int{}
	for _, r := range s.pending {
		counts[r.Partition]++
	}
	return counts
}

// Refusals are what a client remembers of the answers to its produce requests.
type Refusals = refusals

// NewRefusals makes refusals that know of none.
func NewRefusals() *Refusals { return newRefusals() }

// Since is the cause of a failure of the partition that began then.
func (r *refusals) Since(topic string, partition int32, begin time.Time) error {
	return r.since(topic, partition, begin)
}
