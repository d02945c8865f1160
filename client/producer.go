package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Failure is a record that was not acknowledged, and why.
type Failure struct {
	// Record is the record as it was given.
	Record *Record
	// Err says why. One that matches [ErrOutcomeUnknown] leaves open whether the
	// record was written; time that was up is joined by the broker's last answer,
	// where there was one.
	Err error
}

// ProduceError tells which records of one Produce were not acknowledged; all
// others were. errors.Is and errors.As look into every failure.
type ProduceError struct {
	// Failed has at least one element, in the order of the records.
	Failed []Failure
	// Sent is how many records the call had.
	Sent int
}

// Error names the count and the first reason.
func (e *ProduceError) Error() string {
	if e.Sent == 1 {
		return fmt.Sprintf("produce: %v", e.Failed[0].Err)
	}
	return fmt.Sprintf("produce: %d of %d records were not acknowledged, the first: %v", len(e.Failed), e.Sent, e.Failed[0].Err)
}

// Unwrap gives the reasons.
func (e *ProduceError) Unwrap() []error {
	reasons := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		reasons[i] = f.Err
	}
	return reasons
}

// Produce sends the records and waits until all are acknowledged: durable on a
// majority of their partition's replicas, with Partition, Offset and Timestamp
// set. Records that were not make it return a [*ProduceError].
//
// A network error, a lost leader or a restarting broker is retried until ctx
// ends, without writing anything twice. When ctx ends, Produce returns. A record
// that was sent by then and has no answer cannot be taken back: its error matches
// [ErrOutcomeUnknown] besides ctx's, it may have been written or may be yet, and
// producing it again may write it twice. Its Key, Value and Headers must not be
// changed until [Client.Flush] has returned nil or the client is closed.
func (c *Client) Produce(ctx context.Context, records ...*Record) error {
	if c.isClosed() {
		return allFailed(records, ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return allFailed(records, err) // nothing was sent: that is known
	}
	begin := time.Now()
	answers := make(chan answer, len(records)) // room for all: a late one waits for nobody
	for i, r := range records {
		// A copy is sent: what becomes of it after ctx has ended would otherwise
		// be written into a record that the caller has back.
		sent := *r
		c.kgo.Produce(ctx, &sent, func(r *Record, err error) { answers <- answer{i, r, err} })
	}
	reasons := make([]error, len(records))
	for i, a := range await(ctx, answers, len(records)) {
		if a == nil {
			reasons[i] = c.failure(fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err()), records[i].Topic, -1, begin)
			continue
		}
		own := records[i].Context // the copy has that of this call
		*records[i] = *a.record
		records[i].Context = own
		reasons[i] = c.failure(a.err, records[i].Topic, records[i].Partition, begin)
	}
	var failed []Failure
	for i, err := range reasons {
		if err != nil {
			failed = append(failed, Failure{Record: records[i], Err: err})
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &ProduceError{Failed: failed, Sent: len(records)}
}

// answer is what became of a record.
type answer struct {
	index  int
	record *Record
	err    error
}

// await collects n answers, until ctx ends; what has none by then is nil.
func await(ctx context.Context, answers <-chan answer, n int) []*answer {
	known := make([]*answer, n)
	for range n {
		select {
		case a := <-answers:
			known[a.index] = &a
			continue
		case <-ctx.Done():
		}
		select { // one that is there already counts
		case a := <-answers:
			known[a.index] = &a
		default:
			return known
		}
	}
	return known
}

func allFailed(records []*Record, err error) error {
	if len(records) == 0 {
		return err
	}
	failed := make([]Failure, len(records))
	for i, r := range records {
		failed[i] = Failure{Record: r, Err: err}
	}
	return &ProduceError{Failed: failed, Sent: len(records)}
}

// failure gives the error of a record that was given at begin its final form: with
// the types of this package, and with what the broker said meanwhile if the error is
// only that time was up. partition is -1 where it is not known.
func (c *Client) failure(err error, topic string, partition int32, begin time.Time) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kgo.ErrClientClosed):
		err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, ErrClosed)
	case !errors.Is(err, kgo.ErrRecordTimeout) && !errors.Is(err, kgo.ErrRecordRetries) && !errors.Is(err, ErrOutcomeUnknown) &&
		!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled):
		return convert(err, topic, partition)
	}
	if cause := c.refusals.since(topic, partition, begin); cause != nil {
		return fmt.Errorf("%w; the last answer: %w", err, cause)
	}
	return err
}

// ProduceAsync sends a record and returns once it is buffered, which waits only
// when 10,000 records or 64 MiB of them are under way. done, which may be nil, is
// called when the record is acknowledged or has failed, for one partition in the
// order of the records, on a goroutine that all callbacks share: it must not block.
// The record must not be changed before.
//
// When ctx ends, a record that was not sent yet fails with ctx's error. One that was
// sent waits for its answer however long that takes, since whether it was written is
// not known before; done is called at the latest by [Client.Close], then with an
// error that matches [ErrOutcomeUnknown]. On a client that is closed already done is
// called before ProduceAsync returns, with [ErrClosed].
func (c *Client) ProduceAsync(ctx context.Context, record *Record, done func(*Record, error)) {
	if done == nil {
		done = func(*Record, error) {}
	}
	if c.isClosed() {
		done(record, ErrClosed)
		return
	}
	begin := time.Now()
	c.kgo.Produce(ctx, record, func(r *Record, err error) { done(r, c.failure(err, r.Topic, r.Partition, begin)) })
}

// Flush waits until every record given so far is acknowledged or has failed, and
// its callback has returned. Its only error is ctx's: then records are still under
// way, and those that were sent have an unknown outcome (see [ErrOutcomeUnknown]).
func (c *Client) Flush(ctx context.Context) error {
	if err := c.kgo.Flush(ctx); err != nil {
		if errors.Is(err, kgo.ErrClientClosed) {
			return ErrClosed
		}
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}
