package seeding

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"golang.org/x/time/rate"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

const (
	// firstPause and longestPause are between two attempts at a broker that is away, or
	// whose seed changes; the pause doubles while nothing comes.
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	// maxDamaged is how often one copy may find a file damaged: what is bad at the giver
	// is bad each time.
	maxDamaged = 3
)

// Sink takes a seed in; *log.Staging is one.
type Sink interface {
	// Next is what it lacks next, see log.Staging.
	Next() (file int, at, lacks int64, more bool)
	// Write takes bytes at that place.
	Write(data []byte) error
	// Close gives it up; what it has is kept for another one.
	Close() error
}

// Fetch copies a seed from another broker.
type Fetch struct {
	// Network is the mux.
	Network transport.Network
	// Node is the broker that gives.
	Node metadata.NodeID
	// Group is the partition.
	Group transport.GroupID
	// At is the entry with which the seed must end; 0 for the newest that there is.
	At segment.Index
	// Throttle bounds what this broker reads, see NewThrottle; nil: nothing.
	Throttle *rate.Limiter
	// Open makes the sink for a seed, and again when the giver has another one. It may
	// refuse it.
	Open func(log.Seed) (Sink, error)
}

// Run copies until all is there, and returns the complete sink. While the giver is away
// it waits, as long as ctx allows. It ends with an error of the sink or of Open, with the
// giver's *transport.RemoteError if that has no such seed, and with log.ErrSeedDamaged if
// its files are bad again and again; then the sink is closed.
func (f *Fetch) Run(ctx context.Context) (Sink, error) {
	c := fetching{Fetch: f, pause: firstPause}
	for {
		done, err := c.step(ctx)
		if done {
			return c.sink, nil
		}
		if err != nil {
			err = c.recover(ctx, err)
		}
		if err != nil {
			if c.sink != nil {
				err = errors.Join(err, c.sink.Close())
			}
			return nil, fmt.Errorf("seed %s from node %d: %w", f.Group, f.Node, err)
		}
	}
}

// fetching is a Run.
type fetching struct {
	*Fetch
	described bool // the session is believed to be there
	session   uint64
	seed      log.Seed
	sink      Sink
	damaged   int
	pause     time.Duration
}

// step asks for one thing.
func (c *fetching) step(ctx context.Context) (done bool, err error) {
	if !c.described {
		return false, c.describe(ctx)
	}
	file, at, lacks, more := c.sink.Next()
	if !more {
		return true, nil
	}
	asked := read{session: c.session, file: file, position: at, length: int(min(lacks, MaxRead))}
	if err := throttle(ctx, c.Throttle, asked.length); err != nil {
		return false, err
	}
	answer, err := c.Network.Call(ctx, c.Node, transport.Seed, transport.MethodSeedRead, asked.encode())
	if err != nil {
		return false, err
	}
	data, err := sized(answer, 1+asked.length)
	if err != nil {
		return false, err
	}
	c.pause = firstPause
	return false, c.sink.Write(data)
}

// describe asks for a description, and opens a sink for one that is new.
func (c *fetching) describe(ctx context.Context) error {
	answer, err := c.Network.Call(ctx, c.Node, transport.Seed, transport.MethodSeedDescribe, describe{c.Group, c.At}.encode())
	if err != nil {
		return err
	}
	session, seed, err := decodeSeed(c.Group, answer)
	if err != nil {
		return err
	}
	if c.At != 0 && seed.Index != c.At {
		return fmt.Errorf("%w: it ends at entry %d, not at %d", errMalformed, seed.Index, c.At)
	}
	c.session, c.described = session, true
	if c.sink != nil && reflect.DeepEqual(seed, c.seed) {
		return nil
	}
	if c.sink != nil {
		old := c.sink
		c.sink = nil
		if err := old.Close(); err != nil {
			return err
		}
	}
	c.seed = seed
	sink, err := c.Open(seed)
	if err != nil {
		return err
	}
	c.sink = sink
	return nil
}

// recover says nil if an error is one to go on after.
func (c *fetching) recover(ctx context.Context, err error) error {
	var remote *transport.RemoteError
	switch {
	case ctx.Err() != nil:
		return err
	case errors.Is(err, log.ErrSeedDamaged):
		if c.damaged++; c.damaged >= maxDamaged || c.sink == nil {
			return err
		}
		return nil
	case errors.Is(err, transport.ErrPeerDown), errors.Is(err, transport.ErrConnectionLost):
	case errors.As(err, &remote) && remote.Code == CodeChanged:
		c.described = false
	default:
		return err
	}
	timer := time.NewTimer(c.pause)
	defer timer.Stop()
	c.pause = min(2*c.pause, longestPause)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errors.Join(err, ctx.Err())
	}
}
