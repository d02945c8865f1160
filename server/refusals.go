package server

import (
	"sync"
	"time"

	"github.com/millrace/millrace/replication"
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
// NOT_LEADER_OR_FOLLOWER, after which they send all five again, is right. And
// where the log knows nothing of the producer, so that any first sequence is
// accepted, the second of the five must not be taken for the beginning: the
// partition is told the earliest batch that was refused (replication.Guard).
type refusals struct {
	now func() time.Time

	mu    sync.Mutex
	began time.Time
	young refusalSet
	old   refusalSet // of the generation before
}

// refusalKey names a producer in a partition. The topic is what its client calls
// it: this broker may not know it yet when it refuses the first batch.
type refusalKey struct {
	topic     topicRef
	partition int32
	producer  int64
}

// refusalSet holds the earliest batch of each producer that its client will send
// again, nil where it will not.
type refusalSet struct {
	keys map[refusalKey]*replication.Refusal
	full bool
}

func newRefusals(now func() time.Time) *refusals { return &refusals{now: now} }

// note records a refusal; again is the batch, nil if its client will not send it
// again.
func (r *refusals) note(k refusalKey, again *replication.Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ageLocked()
	known, ok := r.young.keys[k]
	switch {
	case !ok && len(r.young.keys) >= maxRefusals:
		r.young.full = true
		return
	case r.young.keys == nil:
		r.young.keys = map[refusalKey]*replication.Refusal{}
	}
	r.young.keys[k] = earlier(known, again)
}

// earlier is the one of two refusals, either of which may be nil, that counts.
func earlier(a, b *replication.Refusal) *replication.Refusal {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	first := a.Earlier(*b)
	return &first
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

// before is the earliest batch that was refused lately, before the one of that
// header, and that its client will send again; nil without one.
func (r *refusals) before(k refusalKey, h segment.Header) *replication.Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ageLocked()
	young, known := r.young.keys[k]
	old, knownBefore := r.old.keys[k]
	if (r.young.full || r.old.full) && !known && !knownBefore {
		// What was refused is not known: as if it were the one just before.
		return &replication.Refusal{Epoch: h.ProducerEpoch, Sequence: max(h.BaseSequence-1, 0)}
	}
	return earlier(old, young)
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
