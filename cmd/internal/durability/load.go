package durability

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Target is where the load goes.
type Target struct {
	// Seeds are the Kafka addresses of the brokers.
	Seeds []string
	// Dial are options that every client gets, such as kgo.Dialer.
	Dial []kgo.Opt
	// Topic is the topic, which exists.
	Topic string
	// Partitions is its number of partitions.
	Partitions int32
	// ValueBytes is the size of a record's value.
	ValueBytes int
	// MaxMessageBytes is the topic's max.message.bytes; Plain exceeds it at times.
	MaxMessageBytes int
	// Rate bounds what one Producer sends, in records a second; 0: no bound.
	Rate int
}

// Load is clients at work on a cluster, and what they were told. Everything is
// joined by Close.
type Load struct {
	target Target
	ledger *Ledger
	faults *Faults
	gaps   *Gaps

	context   context.Context // of consumers and watches
	cancel    context.CancelFunc
	producing context.Context
	quit      context.CancelFunc
	producers sync.WaitGroup
	others    sync.WaitGroup
	next      int          // number of the next producer
	sent      atomic.Int64 // events; each must get an outcome
	gate      sync.RWMutex // read-locked while an event is sent; see Pause
}

// NewLoad makes one that does nothing yet.
func NewLoad(target Target, ledger *Ledger, faults *Faults) *Load {
	l := &Load{target: target, ledger: ledger, faults: faults, gaps: newGaps(target.Partitions)}
	l.context, l.cancel = context.WithCancel(context.Background())
	l.producing, l.quit = context.WithCancel(l.context)
	return l
}

// Ledger is what the clients were told.
func (l *Load) Ledger() *Ledger { return l.ledger }

// Gaps knows when each partition acknowledged something last.
func (l *Load) Gaps() *Gaps { return l.gaps }

// client opens a client that is quick to find a new leader: a test of brokers has
// no use for a client's patience.
func (l *Load) client(opts ...kgo.Opt) (*kgo.Client, error) {
	base := []kgo.Opt{
		kgo.SeedBrokers(l.target.Seeds...),
		kgo.RetryBackoffFn(func(int) time.Duration { return 30 * time.Millisecond }),
		kgo.MetadataMinAge(20 * time.Millisecond),
		kgo.DialTimeout(2 * time.Second),
		kgo.RetryTimeout(10 * time.Minute),
		kgo.DisableClientMetrics(),
		kgo.AlwaysRetryEOF(),
	}
	c, err := kgo.NewClient(append(append(base, l.target.Dial...), opts...)...)
	if err != nil {
		return nil, fmt.Errorf("open client: %w", err)
	}
	return c, nil
}

// Pause keeps producers from sending more until resume is called: a check of all
// replicas takes the longer the more there is, and must not make it grow.
func (l *Load) Pause() (resume func()) {
	l.gate.Lock()
	return l.gate.Unlock
}

// StopProducers ends producing and waits until every event has an outcome. One that
// got none, or two, is a violation: what became of it would never be checked.
func (l *Load) StopProducers() {
	l.quit()
	l.producers.Wait()
	c := l.ledger.Counts()
	if told, sent := c.Acknowledged+c.Refused+c.Unknown, l.sent.Load(); told != sent {
		l.faults.Add(CE, "%d events were sent and %d got an outcome", sent, told)
	}
}

// Close ends everything at once. Without StopProducers before it, the outcomes of
// what is under way stay unknown.
func (l *Load) Close() {
	l.cancel()
	l.producers.Wait()
	l.others.Wait()
}

// acked notes an acknowledgement.
func (l *Load) acked(e Event, offset int64) {
	l.ledger.Acked(e, offset)
	l.gaps.acked(e.Partition, time.Now())
}
