package durability

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// maxBuffered bounds what a producer has under way, in records.
const maxBuffered = 4096

// Producer starts an idempotent producer with acks=all, which sends to all
// partitions in turn and tries until it is answered.
func (l *Load) Producer() error {
	client, err := l.client(
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MaxBufferedRecords(maxBuffered), kgo.ProducerLinger(2*time.Millisecond),
		kgo.UnknownTopicRetries(-1), kgo.StopProducerOnDataLossDetected(),
		kgo.ProducerBatchMaxBytes(int32(max(l.target.MaxMessageBytes, 1<<16))),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	)
	if err != nil {
		return err
	}
	p := &producer{load: l, client: client, id: l.next}
	l.next++
	for partition := range l.target.Partitions {
		l.ledger.open(p.id, partition, true)
	}
	l.producers.Go(p.run)
	return nil
}

// producer is one idempotent producer.
type producer struct {
	load   *Load
	client *kgo.Client
	id     int
}

func (p *producer) run() {
	defer p.client.Close()
	pace := newPace(p.load.target.Rate)
	for n := int64(0); pace.wait(p.load.producing, n); n++ {
		e := Event{Producer: p.id, Partition: int32(n % int64(p.load.target.Partitions)), Sequence: n / int64(p.load.target.Partitions)}
		p.load.sent.Add(1)
		record := &kgo.Record{Topic: p.load.target.Topic, Partition: e.Partition, Value: e.encode(p.load.ledger.run, p.load.target.ValueBytes)}
		p.load.gate.RLock()
		p.client.Produce(p.load.context, record, func(r *kgo.Record, err error) { p.done(e, r, err) })
		p.load.gate.RUnlock()
	}
	if err := p.client.Flush(p.load.context); err != nil && p.load.context.Err() == nil {
		p.load.faults.Add(CE, "producer %d: flush: %v", p.id, err)
	}
}

// done notes an outcome. No fault is long enough to make a producer fail that
// tries for ever, so every error is one that no client should get.
func (p *producer) done(e Event, r *kgo.Record, err error) {
	switch {
	case err == nil && r.Partition != e.Partition:
		p.load.faults.Add(CE, "%s was acknowledged in partition %d", e, r.Partition)
	case err == nil:
		p.load.acked(e, r.Offset)
	case errors.Is(err, kgo.ErrClientClosed) || p.load.context.Err() != nil:
		p.load.ledger.Unknown(e)
	default:
		p.load.faults.Add(CE, "%s failed: %v", e, err)
		if definite(err) {
			p.load.ledger.Refused(e)
		} else {
			p.load.ledger.Unknown(e)
		}
	}
}

// definite reports whether an error promises that the record will never be read:
// every code of Kafka's but those which say that the outcome is not known. An error
// that is no code (a connection that ended) promises nothing.
func definite(err error) bool {
	var code *kerr.Error
	if !errors.As(err, &code) {
		return false
	}
	switch code {
	case kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend, kerr.UnknownServerError, kerr.NetworkException:
		return false
	}
	return true
}

// pace keeps a loop at so many turns a second.
type pace struct {
	began time.Time
	rate  int
}

func newPace(rate int) *pace { return &pace{began: time.Now(), rate: rate} }

// wait waits until turn n is due; false when ctx has ended.
func (p *pace) wait(ctx context.Context, n int64) bool {
	if p.rate == 0 || n%64 != 0 {
		return ctx.Err() == nil
	}
	due := p.began.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	late := time.Since(due)
	switch {
	case late >= time.Second: // what an outage held up is made up for at double speed at most
		p.began = p.began.Add(late / 2)
	case late < 0:
		return rest(ctx, -late)
	}
	return ctx.Err() == nil
}

// rest waits for d; false when ctx has ended.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
