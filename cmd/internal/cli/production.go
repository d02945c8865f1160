package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/millrace/millrace/client"
)

const (
	// signalGrace bounds how long what was read before a signal may take to be
	// acknowledged.
	signalGrace = 2 * time.Second
	// stallGrace is the time after giving up in which the client tells by itself
	// which records were not sent or were refused until then, and why.
	stallGrace = time.Second
	// retryPause is the pause between two tries of a batch: longer ones would make
	// the client see too late that time is up.
	retryPause = 250 * time.Millisecond
)

// errStalled is the cause when no acknowledgement came in time.
var errStalled = errors.New("no acknowledgement came in time")

// production sends records and counts what became of them. A record in flight cannot
// be taken back, and its answer may never come: so all that waits here has an end of
// its own, after which the outcome of what is left is unknown.
type production struct {
	client *client.Client
	limit  time.Duration // how long nothing may be acknowledged while records wait for it

	mu           sync.Mutex
	given        int64 // records handed to the client
	acknowledged int64
	failed       int64
	first        error     // of those that failed by themselves
	doubt        error     // of those that have no answer, or were not sent any more
	moved        time.Time // the last outcome, or when there began to be something to wait for
}

// item is what was read: a record or the end of the input.
type item struct {
	record *client.Record
	err    error
}

// all produces until next gives io.EOF, anything fails, nothing is acknowledged for
// too long, or ctx ends; what was read by then is still sent.
func (p *production) all(ctx context.Context, next func() (*client.Record, error)) error {
	waiting, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	sending, stop := context.WithCancel(waiting)
	var watchers sync.WaitGroup
	watchers.Go(func() { p.watch(waiting, giveUp) })
	watchers.Go(func() { afterGrace(ctx, waiting, giveUp) })
	defer watchers.Wait()
	defer giveUp(nil)
	defer stop()

	inputErr := p.send(ctx, sending, stop, next)
	if err := p.client.Flush(waiting); err != nil {
		p.abandon()
	}
	return p.outcome(ctx, errors.Join(inputErr, cause(waiting)))
}

// send gives records to the client. The input is read by a goroutine that may be left
// behind in a read, which nothing can end: at a terminal it lasts until the process
// does.
func (p *production) send(ctx, sending context.Context, stop func(), next func() (*client.Record, error)) error {
	input, enough := make(chan item), make(chan struct{})
	defer close(enough)
	go func() {
		for {
			r, err := next()
			select {
			case input <- item{r, err}:
			case <-enough:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sending.Done():
			return nil
		case in := <-input:
			switch {
			case errors.Is(in.err, io.EOF):
				return nil
			case in.err != nil:
				return in.err
			}
			p.give()
			p.client.ProduceAsync(sending, in.record, func(_ *client.Record, err error) { p.done(err, stop) })
		}
	}
}

func (p *production) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.outstandingLocked() == 0 {
		p.moved = time.Now()
	}
	p.given++
}

func (p *production) done(err error, stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.acknowledged++
	case errors.Is(err, client.ErrOutcomeUnknown):
		p.doubt = err
		return // it stays outstanding
	case errors.Is(err, context.Canceled): // by giving up, or after the first failure
		p.failed++
		p.doubt = err
	default:
		p.failed++
		if p.first == nil {
			p.first = err
			stop()
		}
	}
	p.moved = time.Now()
}

func (p *production) outstandingLocked() int64 { return p.given - p.acknowledged - p.failed }

// counts are how many records are acknowledged, and how many have no outcome.
func (p *production) counts() (acknowledged, unknown int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acknowledged, p.outstandingLocked()
}

// watch gives up when nothing has moved for too long.
func (p *production) watch(ctx context.Context, giveUp context.CancelCauseFunc) {
	tick := time.NewTicker(max(p.limit/50, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			p.mu.Lock()
			stalled := p.outstandingLocked() > 0 && now.Sub(p.moved) > p.limit
			p.mu.Unlock()
			if stalled {
				giveUp(errStalled)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// afterGrace gives up some time after ctx has ended.
func afterGrace(ctx, waiting context.Context, giveUp context.CancelCauseFunc) {
	select {
	case <-ctx.Done():
	case <-waiting.Done():
		return
	}
	grace := time.NewTimer(signalGrace)
	defer grace.Stop()
	select {
	case <-grace.C:
		giveUp(context.Cause(ctx))
	case <-waiting.Done():
	}
}

// cause is why a context ended, nil while it has not.
func cause(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// abandon has the callback of every record called. The contexts of the records have
// ended: those that can fail for certain do so at their next try, and only what then
// still waits for an answer loses its connection.
func (p *production) abandon() {
	definite, cancel := context.WithTimeout(context.Background(), stallGrace)
	defer cancel()
	if p.client.Flush(definite) == nil {
		return
	}
	p.client.Kgo().Close()
	told, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = p.client.Flush(told) // what is not told now is counted as unknown
}

// outcome is the error of the whole; err is what ended it early.
func (p *production) outcome(ctx context.Context, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil && p.first == nil && (err == nil || errors.Is(err, context.Cause(ctx))) {
		return &silent{exitInterrupted} // the counts say the rest
	}
	if errors.Is(err, errStalled) {
		if unknown := p.outstandingLocked(); unknown > 0 {
			err = fmt.Errorf("%w for %d records: %w", errStalled, unknown, client.ErrOutcomeUnknown)
		} else {
			err = late{fmt.Errorf("%w for %d records", errStalled, p.failed)} // none of them was sent
		}
		if answer := lastAnswer(p.doubt); answer != nil {
			err = fmt.Errorf("%w; the last answer: %w", err, answer)
		}
	} else if p.first != nil {
		err = nil // nothing new
	}
	if p.first != nil {
		err = errors.Join(fmt.Errorf("%d records were not acknowledged: %w", p.failed, p.first), err)
	}
	return err
}

// lastAnswer is what the broker or its connection said last about a record whose
// outcome is unknown.
func lastAnswer(doubt error) error {
	var answered *client.KafkaError
	var network *net.OpError
	switch {
	case errors.As(doubt, &answered):
		return answered
	case errors.As(doubt, &network):
		return network
	}
	return nil
}
