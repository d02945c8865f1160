package replication

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// Policy is a topic's configuration as its logs need it.
type Policy struct {
	// SegmentBytes is the size in bytes at which a segment is closed; segment.bytes.
	SegmentBytes int64
	// SegmentAge is the age at which a segment is closed; segment.ms. 0: at no age.
	SegmentAge time.Duration
	// Delete says that old records are removed as Retention says; cleanup.policy.
	Delete bool
	// Retention says which records are kept; retention.ms and retention.bytes.
	Retention log.Retention
}

const (
	defaultRetentionInterval = 5 * time.Minute
	// clockTolerance is how far the wall clock may move against the monotonic one, and
	// how long retention rests after it moved further.
	clockTolerance = time.Hour
	// heldBackInterval is how often it is said who holds retention back.
	heldBackInterval = time.Hour
)

// retainer removes what has expired, for all partitions of a node, on one goroutine:
// thousands of partitions that are idle cost a look at their memory every few minutes.
//
// Where this node leads, it proposes a trim for what has expired; where a trim was
// applied, leader or not, it frees the space. A trim removes nothing that some member
// of the group has not acknowledged, so that a member that is away holds the files of
// its groups back on every replica, and retention by time and size waits for it, for as
// long as Config.RetentionWait; that is logged once an hour.
type retainer struct {
	host  *Host
	clock clockWatch

	mu      sync.Mutex
	pending map[*Partition]struct{} // something to free
	poke    chan struct{}

	reported time.Duration // when somebody was last said to hold retention back
}

func newRetainer(h *Host) *retainer {
	return &retainer{host: h, clock: newClockWatch(machineClock()), pending: map[*Partition]struct{}{},
		poke: make(chan struct{}, 1), reported: -heldBackInterval}
}

// tidy notes that a partition may have something to free. It does not wait.
func (r *retainer) tidy(p *Partition) {
	r.mu.Lock()
	r.pending[p] = struct{}{}
	r.mu.Unlock()
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

func (r *retainer) run() {
	defer r.host.workers.Done()
	tick := time.NewTicker(orDefault(r.host.config.RetentionInterval, defaultRetentionInterval))
	defer tick.Stop()
	for {
		select {
		case <-r.host.stop:
			return
		case <-r.poke:
		case <-tick.C:
			r.check()
		}
		r.reclaim()
	}
}

// reclaim frees the space of what was trimmed. Without space for a new manifest it
// tries again at the next check.
func (r *retainer) reclaim() {
	r.mu.Lock()
	pending := r.pending
	r.pending = map[*Partition]struct{}{}
	r.mu.Unlock()
	for p := range pending {
		p.tidyStaging()
		var fatal *log.FatalError
		switch err := p.Log().Reclaim(); {
		case err == nil || errors.Is(err, log.ErrClosed):
		case errors.As(err, &fatal):
			r.host.fatal(err)
		default:
			r.host.logger.Warn("could not free trimmed segments", "topic", p.topic, "partition", p.group.Partition, "err", err)
			r.mu.Lock()
			r.pending[p] = struct{}{}
			r.mu.Unlock()
		}
	}
}

// check looks for what has expired where this node leads.
func (r *retainer) check() {
	now, steady := r.clock.look()
	if !steady {
		r.host.logger.Warn("the wall clock has jumped: nothing expires for an hour", "now", now.Format(time.RFC3339))
		return
	}
	view := r.host.meta.View()
	var held heldBack
	for _, p := range r.host.allPartitions() {
		topic, ok := view.Topic(p.group.Topic)
		if ok && !topic.Internal {
			p.retain(r.host.policy(topic), now, &held)
		}
	}
	r.report(&held)
}

// retain proposes a trim for what has expired, and for what earlier trims had to leave.
// It waits for nothing: what does not come about is tried again at the next check.
func (p *Partition) retain(policy Policy, now time.Time, held *heldBack) {
	role := p.Leadership()
	if last := p.trimming.Load(); !role.Ready || last != nil && !last.isDone() {
		return
	}
	through, slowest := p.acknowledged(role.Term)
	start, waits := p.Log().StartOffset(), false
	if policy.Delete {
		start, waits = p.Log().Expired(policy.Retention, now, through)
	}
	if waits && p.heldBack { // for longer than an acknowledgement takes
		held.add(p, slowest)
	}
	p.heldBack = waits
	if start <= p.Log().StartOffset() && !p.Log().Trimmable(through) {
		return
	}
	full, cancel := context.WithCancel(context.Background())
	cancel() // a queue without room is not waited for
	p.trimming.Store(p.proposeTrim(full, role.Term, segment.Trim{Start: start, Through: through}))
}

// heldBack counts the partitions whose retention waits for a member.
type heldBack struct {
	partitions int
	example    *Partition
	members    map[raft.ServerID]int
}

func (h *heldBack) add(p *Partition, member raft.ServerID) {
	if h.members == nil {
		h.members = map[raft.ServerID]int{}
	}
	h.partitions++
	h.members[member]++
	h.example = p
}

// report says who holds retention back, once an hour at most.
func (r *retainer) report(held *heldBack) {
	since := r.clock.elapsed()
	if held.partitions == 0 || since-r.reported < heldBackInterval {
		return
	}
	r.reported = since
	for member, count := range held.members {
		r.host.logger.Warn("retention waits for a replica that has not acknowledged what would be removed",
			"replica", member, "partitions", count, "for_example", held.example.topic, "partition", held.example.group.Partition)
	}
}

// clockWatch compares the wall clock with the monotonic one. A wall clock that jumped
// makes all records look old, or new records look as if they came from the future; it
// must not remove a week of data before anybody has noticed (T1 of the fault
// catalogue). Jumps add up: the clocks are compared with where they were when they
// were last believed.
type clockWatch struct {
	now   func() (wall time.Time, since time.Duration)
	apart time.Duration // wall clock minus monotonic clock, as believed
	begun time.Time
	rests time.Duration // until when, by the monotonic clock
}

func newClockWatch(now func() (time.Time, time.Duration)) clockWatch {
	wall, since := now()
	return clockWatch{now: now, begun: wall, apart: -since, rests: math.MinInt64}
}

// machineClock reads both clocks of the machine at once.
func machineClock() func() (time.Time, time.Duration) {
	start := time.Now()
	return func() (time.Time, time.Duration) {
		now := time.Now()
		return now.Round(0), now.Sub(start)
	}
}

// look is the wall clock, and whether it can be believed: it has not moved by more than
// an hour against the monotonic clock, within the last hour.
func (w *clockWatch) look() (time.Time, bool) {
	wall, since := w.now()
	apart := wall.Sub(w.begun) - since
	if (apart - w.apart).Abs() > clockTolerance {
		w.apart, w.rests = apart, since+clockTolerance
	}
	return wall, since >= w.rests
}

// elapsed is the monotonic clock.
func (w *clockWatch) elapsed() time.Duration {
	_, since := w.now()
	return since
}

// policy is a topic's.
func (h *Host) policy(topic *metadata.Topic) Policy {
	if h.config.Policy == nil {
		return Policy{SegmentBytes: segmentBytes(topic)}
	}
	return h.config.Policy(topic)
}
