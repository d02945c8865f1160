package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cmd/internal/durability"
	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

const (
	// inFlight is how many batches an idempotent producer has under way.
	inFlight = 5
	// maxPatience is how long a client waits for an answer at most. Some wait less than
	// a leader takes to notice that it is alone, and ask it again.
	maxPatience = 1500 * time.Millisecond
	// firstProducerID keeps Kafka's producer ids apart from the ledger's numbers.
	firstProducerID = 1000
	// maxInflated bounds a batch that is read back in bytes.
	maxInflated = 1 << 20
)

// load is the clients of a run. They speak to replicas as a broker's handlers do:
// they offer batches to one that believes to lead, and read up to the high
// watermark of one that is ready.
type load struct {
	cluster   *cluster
	run       uint32
	ledger    *durability.Ledger
	histories []*history // by partition
	positions []*positionHistory
	clock     atomic.Int64
	clients   atomic.Int64
	wait      sync.WaitGroup
	finish    chan struct{} // closed: begin nothing new
	giveUp    chan struct{} // closed: end now
	burst     atomic.Bool   // do not pause between batches
}

func newLoad(c *cluster, run uint32, ledger *durability.Ledger, partitions int) *load {
	l := &load{cluster: c, run: run, ledger: ledger, finish: make(chan struct{}), giveUp: make(chan struct{})}
	for range partitions {
		l.histories = append(l.histories, newHistory(&l.clock))
	}
	for g := range groupCount {
		l.positions = append(l.positions, &positionHistory{history: newHistory(&l.clock), group: fmt.Sprintf("group-%d", g)})
	}
	return l
}

// start begins the clients, each with a random number generator of its own.
func (l *load) start(seed uint64) {
	for p := range l.histories {
		for range 2 {
			l.client(seed, func(c *client) { c.idempotent(int32(p)) })
		}
		for range 3 {
			l.client(seed, func(c *client) { c.plain(int32(p)) })
		}
		for range 2 {
			l.client(seed, func(c *client) { c.read(int32(p)) })
		}
		l.client(seed, func(c *client) { c.trim(int32(p)) })
	}
	l.startGroups(seed)
}

// startGroups begins the clients of the groups.
func (l *load) startGroups(seed uint64) {
	for _, h := range l.positions {
		for range 2 {
			l.client(seed, func(c *client) { c.commit(h) })
		}
	}
}

func (l *load) client(seed uint64, run func(*client)) {
	id := int(l.clients.Add(1))
	c := &client{load: l, id: id, rng: rand.New(rand.NewPCG(seed, uint64(id)))}
	l.wait.Go(func() { run(c) })
}

// client is one of them, a goroutine.
type client struct {
	*load
	id   int
	rng  *rand.Rand
	next int64 // its next event
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// pause waits a little; most of a burst has no pauses.
func (c *client) pause() {
	d := time.Duration(1+c.rng.IntN(60)) * time.Millisecond
	if c.burst.Load() && c.rng.IntN(8) > 0 {
		d = time.Millisecond
	}
	time.Sleep(d)
}

// patience is how long the client waits this time.
func (c *client) patience() time.Duration {
	if c.rng.IntN(2) == 0 {
		return maxPatience
	}
	return time.Duration(20+c.rng.IntN(200)) * time.Millisecond
}

// target is a replica that believes to lead: mostly the one of the highest term,
// now and then any, as a client with old metadata would ask.
func (c *client) target(partition int32) (*replication.Partition, *process) {
	first := c.rng.IntN(members)
	switch c.rng.IntN(8) {
	case 0: // which may refuse it
		return c.cluster.nodes[first].replica(partition)
	case 1, 2:
	default:
		if n := c.cluster.leader(partition); n != nil {
			return n.replica(partition)
		}
	}
	for i := range members {
		if r, p := c.cluster.nodes[(first+i)%members].replica(partition); r != nil && r.Leadership().Leader {
			return r, p
		}
	}
	return nil, nil
}

func (c *client) event(partition int32) durability.Event {
	e := durability.Event{Producer: c.id, Partition: partition, Sequence: c.next}
	c.next++
	return e
}

// value stands for an event in the histories.
func value(e durability.Event) uint64 { return uint64(e.Producer)<<40 | uint64(e.Sequence) }

// batch is the event's batch, the producer's if it is not nil.
func (c *client) batch(e durability.Event, producer *segment.Producer) []byte {
	size := durability.MinValue + int(e.Sequence*37%200)
	return segment.Build([]segment.Record{{Value: e.Value(c.run, size)}}, segment.BuildOptions{Producer: producer})
}

// idempotent keeps batches under way and, after a failure, sends everything that
// is unanswered again, in order, until it was told to finish and has all answers.
func (c *client) idempotent(partition int32) {
	c.ledger.Open(c.id, partition, true)
	var window []durability.Event
	for !closed(c.giveUp) {
		for len(window) < inFlight && !closed(c.finish) {
			window = append(window, c.event(partition))
			if c.rng.IntN(3) == 0 {
				break
			}
		}
		if len(window) == 0 {
			return
		}
		window = window[c.send(partition, window):]
		c.pause()
	}
	for range window {
		c.ledger.Unknown(durability.Event{})
	}
}

// send offers the window and returns how many of its first batches were
// acknowledged.
func (c *client) send(partition int32, window []durability.Event) (settled int) {
	for _, e := range window {
		c.histories[partition].called(c.id, value(e))
	}
	r, _ := c.target(partition)
	if r == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.patience())
	defer cancel()
	var proposals []*replication.Proposal
	for _, e := range window {
		producer := &segment.Producer{ID: int64(firstProducerID + c.id), Sequence: int32(e.Sequence)}
		proposals = append(proposals, r.Propose(ctx, c.batch(e, producer), replication.Guard{}))
	}
	for i, proposal := range proposals {
		result, err := answer(ctx, proposal)
		if err != nil {
			return settled
		}
		c.ledger.Acked(window[i], int64(result.Base))
		c.histories[partition].appended(value(window[i]), int64(result.Base))
		settled++
	}
	return settled
}

// plain sends each batch once, so that a definite error can be held against the
// log.
func (c *client) plain(partition int32) {
	c.ledger.Open(c.id, partition, false)
	for !closed(c.finish) {
		c.pause()
		r, _ := c.target(partition)
		if r == nil {
			continue
		}
		e := c.event(partition)
		c.histories[partition].called(c.id, value(e))
		ctx, cancel := context.WithTimeout(context.Background(), c.patience())
		result, err := answer(ctx, r.Propose(ctx, c.batch(e, nil), replication.Guard{}))
		cancel()
		switch {
		case err == nil:
			c.ledger.Acked(e, int64(result.Base))
			c.histories[partition].appended(value(e), int64(result.Base))
		case definite(err):
			c.ledger.Refused(e)
			c.histories[partition].refused(value(e))
		default:
			c.ledger.Unknown(e)
		}
	}
}

// definite reports an error that promises that the batch never comes to be in the log:
// those that a broker answers with another code than that of an unknown outcome.
func definite(err error) bool {
	var void *replication.VoidError
	return errors.As(err, &void) || errors.Is(err, replication.ErrNotLeader) ||
		errors.Is(err, replication.ErrClosed) || errors.Is(err, vfs.ErrNoSpace)
}

// answer waits for a proposal's outcome; what comes too late is unknown.
func answer(ctx context.Context, p *replication.Proposal) (replication.Result, error) {
	select {
	case <-p.Done():
		return p.Result()
	case <-ctx.Done():
		return replication.Result{}, replication.ErrUnknownOutcome
	}
}

// read asks for the end of the log and for the last records below it.
func (c *client) read(partition int32) {
	for !closed(c.finish) {
		c.pause()
		c.readOnce(partition, int64(1+c.rng.IntN(100)))
	}
}

// confirmed asks the replica's group whether it leads, as a broker does before it
// answers with the end of a log.
func (c *client) confirmed(r *replication.Partition, role replication.Leadership) bool {
	ctx, cancel := context.WithTimeout(context.Background(), c.patience())
	defer cancel()
	return r.Confirm(ctx, role.Term) == nil
}

// readOnce reads the last count records of a ready leader and notes the reading;
// false if there was none, or it lost its role or its life meanwhile.
func (c *client) readOnce(partition int32, count int64) bool {
	call := c.clock.Add(1)
	r, p := c.target(partition)
	if r == nil {
		return false
	}
	role := r.Leadership()
	if !role.Ready {
		return false
	}
	start, end := r.Log().StartOffset(), r.Log().HighWatermark()
	if !c.confirmed(r, role) || p.dead.Load() {
		return false
	}
	c.histories[partition].began(c.id, call, int64(start))
	last := uint64(unread)
	for from := max(start, end-segment.Offset(count)); from < end; {
		last = 0
		records, next, err := readSome(r, from, end)
		if err != nil || next <= from {
			return false // it was stopped meanwhile; the replicas' files are read in the end
		}
		for _, record := range records {
			if record.Offset < from || record.Offset >= end {
				continue
			}
			c.ledger.Read(partition, int64(record.Offset), record.Value)
			if e, err := durability.EventOf(c.run, record.Value); err == nil {
				last = value(e)
			}
		}
		from = next
	}
	c.histories[partition].read(c.id, call, int64(end), last)
	return true
}

// readSome reads some batches as a fetch does.
func readSome(r *replication.Partition, from, end segment.Offset) (records []segment.Record, next segment.Offset, err error) {
	slice, err := r.Log().Read(from, end, 256<<10, true)
	if err != nil {
		return nil, 0, err
	}
	defer slice.Release()
	data := slice.Bytes
	if slice.File != nil {
		data = make([]byte, slice.Length)
		if _, err := slice.File.ReadAt(data, slice.Position); err != nil {
			return nil, 0, err
		}
	}
	for len(data) > 0 {
		h, err := segment.DecodeHeader(data)
		if err != nil {
			return nil, 0, err
		}
		some, err := segment.Records(data[:h.FrameSize()], maxInflated)
		if err != nil {
			return nil, 0, err
		}
		records = append(records, some...)
		data = data[h.FrameSize():]
	}
	return records, slice.Next, nil
}
