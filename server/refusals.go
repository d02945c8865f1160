package server

import (
	"sync"
	"time"

	"github.com/millrace/millrace/segment"
)

const (
	// refusalMemory is how long a refusal is remembered at least.
	refusalMemory = time.Minute
	// maxRefusals bounds each generation; beyond it every producer counts as
	// refused, which errs on the side of a retry.
	maxRefusals = 10_000
)

// refusals remembers which idempotent producers were refused something, by
// partition. When a client has five batches under way and the first is refused,
// the others leave a gap in its sequence; OUT_OF_ORDER_SEQUENCE_NUMBER, which
// clients take for a loss of data, would be wrong then, and
// NOT_LEADER_OR_FOLLOWER, after which they send all five again, is right.
type refusals struct {
	now func() time.Time

	mu    sync.Mutex
	began time.Time
	young refusalSet
	old   refusalSet // of the generation before
}

// refusalKey names a producer in a partition.
type refusalKey struct {
	topic     segment.TopicID
	partition int32
	producer  int64
}

type refusalSet struct {
	keys map[refusalKey]struct{}
	full bool
}

func newRefusals(now func() time.Time) *refusals { return &refusals{now: now} }

// note records a refusal.
func (r *refusals) note(k refusalKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ageLocked()
	if len(r.young.keys) >= maxRefusals {
		r.young.full = true
		return
	}
	if r.young.keys == nil {
		r.young.keys = map[refusalKey]struct{}{}
	}
	r.young.keys[k] = struct{}{}
}

// recent reports whether the producer was refused something in the last minute;
// up to two minutes count.
func (r *refusals) recent(k refusalKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ageLocked()
	_, young := r.young.keys[k]
	_, old := r.old.keys[k]
	return young || old || r.young.full || r.old.full
}

func (r *refusals) ageLocked() {
	now := r.now()
	switch age := now.Sub(r.began); {
	case age < refusalMemory:
		return
	case age < 2*refusalMemory:
		r.old = r.young
	default:
		r.old = refusalSet{}
	}
	r.young, r.began = refusalSet{}, now
}
