package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Record is one record: Topic, Key, Value, Headers and, if wanted, Timestamp are
// set before it is produced; Partition and Offset are known afterwards. A nil
// key or value is null, which is not the same as an empty one.
type Record = kgo.Record

// Header is a header of a record.
type Header = kgo.RecordHeader

const (
	// openTimeout bounds Open when its context has no earlier deadline.
	openTimeout = 5 * time.Second
	// closeTimeout bounds how long Close waits for buffered records and for
	// the last commit of a subscription.
	closeTimeout = 10 * time.Second
)

// Client is a connection to a cluster: it produces, subscribes and administers.
// All its methods may be called concurrently.
type Client struct {
	kgo      *kgo.Client
	config   config
	refusals *refusals // of the producer

	pings sync.WaitGroup // calls of kgo.Ping, also those that were given up

	closeTimeout time.Duration
	ended        chan struct{} // closed when Close is done
	closeErr     error         // valid once ended is closed

	mu            sync.Mutex
	closed        bool
	subscriptions map[*Subscription]struct{} // open ones; closed with the client
}

// Open connects to a cluster by the addresses ("host:port", the port is
// 9092 if left out) of some of its brokers; the others are learnt from these. It returns once a broker has
// answered. When none does within 5 seconds (or ctx's earlier deadline) the
// error is an [*UnreachableError]; faulty options are reported all at once.
func Open(ctx context.Context, addresses []string, options ...Option) (*Client, error) {
	cfg := defaultConfig()
	cfg.addresses = addresses
	for _, o := range options {
		o.apply(&cfg)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	refused := newRefusals()
	low, err := kgo.NewClient(append([]kgo.Opt{kgo.WithLogger(refused)}, cfg.producerOptions()...)...)
	if err != nil {
		return nil, fmt.Errorf("client options: %w", err)
	}
	c := &Client{kgo: low, config: cfg, refusals: refused, closeTimeout: closeTimeout, ended: make(chan struct{}), subscriptions: map[*Subscription]struct{}{}}
	if err := c.Ping(ctx); err != nil {
		low.Close() // ends a ping that still waits
		c.pings.Wait()
		return nil, err
	}
	return c, nil
}

// Ping asks for an answer from any broker, within 5 seconds or ctx's earlier
// deadline. Its error is an [*UnreachableError], or ctx's when that was cancelled.
func (c *Client) Ping(ctx context.Context) error {
	if c.isClosed() {
		return ErrClosed
	}
	limited, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	err := c.ping(limited)
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	}
	if typed := convert(err, "", -1); errors.As(typed, new(*KafkaError)) {
		return typed // a broker answered, and refused
	}
	return &UnreachableError{Addresses: c.config.addresses, Err: err}
}

// ping gives up when ctx ends. franz-go's does not while a connection is set up:
// an address that accepts and never answers would hold it for ten seconds.
func (c *Client) ping(ctx context.Context) error {
	result := make(chan error, 1)
	c.pings.Go(func() { result <- c.kgo.Ping(ctx) })
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kgo is the franz-go client that produces, for what this package leaves out.
func (c *Client) Kgo() *kgo.Client { return c.kgo }

// Admin administers topics with this client's connections.
func (c *Client) Admin() *Admin { return &Admin{client: c, kadm: kadm.NewClient(c.kgo)} }

// Close ends all subscriptions, sends what is buffered (for at most ten seconds
// each), and closes the connections. Records that have no answer by then get their
// callback with an error that matches [ErrOutcomeUnknown], as does Close's error;
// otherwise that is of a subscription's last commit. Every Close returns when the
// first has ended, with the same error. It must not be called in a callback of
// [Client.ProduceAsync], for which it waits.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		<-c.ended
		return c.closeErr
	}
	c.closed = true
	open := make([]*Subscription, 0, len(c.subscriptions))
	for s := range c.subscriptions {
		open = append(open, s)
	}
	c.mu.Unlock()
	defer close(c.ended)

	errs := make([]error, len(open))
	var closing sync.WaitGroup // together: a cluster that is gone costs its time-out once
	for i, s := range open {
		closing.Go(func() { errs[i] = s.Close() })
	}
	closing.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), c.closeTimeout)
	defer cancel()
	if err := c.kgo.Flush(ctx); err != nil {
		errs = append(errs, fmt.Errorf("close: %d records were not acknowledged, %w: %w", c.kgo.BufferedProduceRecords(), ErrOutcomeUnknown, err))
	}
	c.kgo.Close() // fails what is left, in another goroutine
	told, stop := context.WithTimeout(context.Background(), c.closeTimeout)
	defer stop()
	c.kgo.Flush(told)
	c.pings.Wait()
	c.closeErr = errors.Join(errs...)
	return c.closeErr
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// register remembers an open subscription; false if the client is closed.
func (c *Client) register(s *Subscription) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.subscriptions[s] = struct{}{}
	return true
}

func (c *Client) forget(s *Subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.subscriptions, s)
}
