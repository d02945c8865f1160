package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Failure is a record that was not acknowledged, and why.
type Failure struct {
	// Record is the record as it was given.
	Record *Record
	// Err says why. Unless it is a definite refusal ([Retryable] is false and
	// it is a [*KafkaError]) the record may still have been written.
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
// ends, without writing anything twice.
func (c *Client) Produce(ctx context.Context, records ...*Record) error {
	reasons := make([]error, len(records))
	var waiting sync.WaitGroup
	waiting.Add(len(records))
	for i, r := range records {
		c.kgo.Produce(ctx, r, func(_ *Record, err error) {
			reasons[i] = err
			waiting.Done()
		})
	}
	waiting.Wait()
	var failed []Failure
	for i, err := range reasons {
		if err != nil {
			failed = append(failed, Failure{Record: records[i], Err: convert(err, records[i].Topic, records[i].Partition)})
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &ProduceError{Failed: failed, Sent: len(records)}
}

// ProduceAsync sends a record and returns once it is buffered, which waits only
// when 10,000 records are under way. done, which may be nil, is called when the
// record is acknowledged or has failed, for one partition in the order of the
// records, on a goroutine that all callbacks share: it must not block. The
// record must not be changed before.
func (c *Client) ProduceAsync(ctx context.Context, record *Record, done func(*Record, error)) {
	c.kgo.Produce(ctx, record, func(r *Record, err error) {
		if done != nil {
			done(r, convert(err, r.Topic, r.Partition))
		}
	})
}

// Flush waits until every record given so far is acknowledged or has failed, and
// its callback has returned. Its only error is ctx's.
func (c *Client) Flush(ctx context.Context) error {
	if err := c.kgo.Flush(ctx); err != nil {
		if errors.Is(err, kgo.ErrClientClosed) {
			return ErrClosed
		}
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}
