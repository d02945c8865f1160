package client

import "sync"

// horizon is where a subscription with Until ends: it knows the end and the
// present position of each partition that is being read. It may be used
// concurrently by the loop and by the callbacks of the group.
type horizon struct {
	ends   map[topicPartition]int64
	begins map[topicPartition]int64 // where a group without a committed position begins

	mu    sync.Mutex
	given bool                     // partitions have been assigned once
	left  map[topicPartition]int64 // position, for partitions not yet at their end
	done  chan struct{}            // closed once every assigned partition is at its end
	over  bool                     // done is closed
}

func newHorizon(ends, begins map[topicPartition]int64) *horizon {
	return &horizon{ends: ends, begins: begins, left: map[topicPartition]int64{}, done: make(chan struct{})}
}

// expect notes what a rebalance added; assign follows with the positions. A
// member that has been given something and has nothing left is done; one that
// was never given anything waits for its turn, or until the group is done (see
// reached).
func (h *horizon) expect(added map[string][]int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for topic, partitions := range added {
		for _, p := range partitions {
			h.left[topicPartition{topic, p}] = -1
		}
	}
	h.checkLocked()
}

// assign sets the positions where reading begins.
func (h *horizon) assign(at map[topicPartition]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.given = h.given || len(at) > 0
	for tp, position := range at {
		if position < h.ends[tp] {
			h.left[tp] = position
		} else {
			delete(h.left, tp)
		}
	}
	h.checkLocked()
}

// revoke forgets partitions that were taken away. It never ends the loop: with
// an eager rebalance they come back in a moment, and expect follows.
func (h *horizon) revoke(gone map[string][]int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for topic, partitions := range gone {
		for _, p := range partitions {
			delete(h.left, topicPartition{topic, p})
		}
	}
}

// beyond reports whether the record lies at or after the end of its partition.
func (h *horizon) beyond(r *Record) bool {
	return r.Offset >= h.ends[topicPartition{r.Topic, r.Partition}]
}

// advance notes that the record has been dealt with.
func (h *horizon) advance(r *Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	tp := topicPartition{r.Topic, r.Partition}
	if _, ok := h.left[tp]; !ok {
		return
	}
	h.left[tp] = r.Offset + 1
	if r.Offset+1 >= h.ends[tp] {
		delete(h.left, tp)
	}
	h.checkLocked()
}

// idle reports whether the member has nothing to read and waits.
func (h *horizon) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.left) == 0 && !h.over
}

// reached ends the loop of an idle member if the group has finished everything before
// the end: these are its committed positions.
func (h *horizon) reached(committed map[topicPartition]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for tp, end := range h.ends {
		position, ok := committed[tp]
		if !ok {
			position = h.begins[tp]
		}
		if position < end {
			return
		}
	}
	if len(h.left) == 0 {
		h.finishLocked()
	}
}

func (h *horizon) checkLocked() {
	if h.given && len(h.left) == 0 {
		h.finishLocked()
	}
}

func (h *horizon) finishLocked() {
	if !h.over {
		h.over = true
		close(h.done)
	}
}
