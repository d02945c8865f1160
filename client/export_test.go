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
