package replication

import (
	"errors"
	"math"
	"slices"
	"time"

	"github.com/millrace/millrace/segment"
)

// An unknown producer is accepted with any first sequence number, as in Kafka,
// because its state may have been forgotten. But a producer has several batches
// under way: when its first is refused (raft refuses one Apply during a transfer
// of leadership and accepts the next in the same term) and the second taken for
// the beginning, the first can only come after it, or never. So what this broker
// refused lately is remembered, and a batch of a producer of which the log knows
// nothing must not follow a refused one that it should have come after.

// Refusal is the earliest batch of a producer that was refused and that its
// client will send again.
type Refusal struct {
	// Epoch is the producer epoch of the batch.
	Epoch int16
	// Sequence is the sequence number of its first record.
	Sequence int32
}

// RefusalOf is the refusal of a batch; false if it has no sequence number, so
// that nothing can be said about what comes after it.
func RefusalOf(h segment.Header) (Refusal, bool) {
	return Refusal{h.ProducerEpoch, h.BaseSequence}, h.ProducerID >= 0 && h.BaseSequence >= 0
}

// Precedes reports whether a batch continues the sequence that was refused. The
// refused batch itself, sent again, does not: it may begin anew.
func (r Refusal) Precedes(h segment.Header) bool {
	if h.ProducerEpoch != r.Epoch || h.BaseSequence <= 0 {
		return false
	}
	// Sequence numbers wrap after math.MaxInt32 (KIP-98).
	distance := (int64(h.BaseSequence) - int64(r.Sequence)) & math.MaxInt32
	return distance > 0 && distance < 1<<30
}

// Earlier is the one of two refusals of a producer that later batches must not
// overtake: that of the newer epoch, in one epoch that of the lower sequence.
func (r Refusal) Earlier(other Refusal) Refusal {
	switch {
	case r.Epoch != other.Epoch:
		if r.Epoch > other.Epoch {
			return r
		}
		return other
	case other.Precedes(segment.Header{ProducerEpoch: r.Epoch, BaseSequence: r.Sequence}):
		return other
	}
	return r
}

const (
	// refusalMemory is how long a refusal is remembered at least.
	refusalMemory = time.Minute
	// maxRefusals bounds each generation of a partition; beyond it every unknown
	// producer counts as refused, which errs on the side of a retry.
	maxRefusals = 1000
)

// refusalTable remembers refusals by producer id, for one to two minutes. Its
// owner's lock guards it.
type refusalTable struct {
	now   func() time.Time
	began time.Time
	young refusalSet
	old   refusalSet // of the generation before
}

type refusalSet struct {
	refused map[int64]Refusal
	full    bool
}

// note remembers that a batch was refused.
func (t *refusalTable) note(h segment.Header) {
	r, ok := RefusalOf(h)
	if !ok {
		return
	}
	t.age()
	known, ok := t.young.refused[h.ProducerID]
	switch {
	case ok:
		r = r.Earlier(known)
	case len(t.young.refused) >= maxRefusals:
		t.young.full = true
		return
	case t.young.refused == nil:
		t.young.refused = map[int64]Refusal{}
	}
	t.young.refused[h.ProducerID] = r
}

// precedes reports whether a batch would overtake one that was refused.
func (t *refusalTable) precedes(h segment.Header) bool {
	t.age()
	for _, set := range []*refusalSet{&t.young, &t.old} {
		r, ok := set.refused[h.ProducerID]
		if ok && r.Precedes(h) || set.full && !ok && h.BaseSequence > 0 {
			return true
		}
	}
	return false
}

// age forgets what is older than two generations.
func (t *refusalTable) age() {
	now := t.now()
	switch age := now.Sub(t.began); {
	case age < refusalMemory:
		return
	case age < 2*refusalMemory:
		t.old = t.young
	default:
		t.old = refusalSet{}
	}
	t.young, t.began = refusalSet{}, now
}

// willRetry reports whether a client sends a batch again after this outcome. It
// does not after a definite one that is the batch's own fault.
func willRetry(err error) bool {
	var void *VoidError
	if errors.As(err, &void) {
		return void.Void.Code == segment.VoidNotLeader || void.Void.Code == segment.VoidStaleTerm
	}
	return err != nil
}

// underWay are the batches of one producer that were handed to raft and whose
// outcome is not known, in that order.
type underWay []*Proposal

// precedes reports whether a batch would overtake one that was handed to raft
// before it. Called where the log knows nothing of the producer, so what was
// handed over before is not in the log: raft has refused it, or cut it, and the
// goroutine that will say so has not run yet. The first stands for all: a client
// sends in the order of its sequence.
func (u underWay) precedes(p *Proposal) bool {
	if len(u) == 0 || u[0].handle >= p.handle {
		return false
	}
	r, ok := RefusalOf(u[0].header)
	return ok && r.Precedes(p.header)
}

func (u underWay) without(p *Proposal) underWay {
	at := slices.Index(u, p) // the first one most often: outcomes come in order
	if at == 0 {
		u[0] = nil
		return u[1:]
	}
	if at < 0 {
		return u
	}
	return slices.Delete(u, at, at+1)
}
