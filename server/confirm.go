package server

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/segment"
)

// What only a leader knows (the end of the log, where an epoch ended, the positions
// of a group) is taken from memory, where it may have been overtaken: this broker is
// cut off, or its process was paused, and another leads since (DESIGN 4.3 k). Every
// answer of that kind is taken first and confirmed then, by a round trip to a majority
// of the group. Two kinds need none: an acknowledgement takes a majority by itself,
// and records below the high watermark are committed, whoever leads.

const (
	// confirmWait bounds how long a request waits for a majority to confirm that this
	// broker leads. A client that is told NOT_LEADER_OR_FOLLOWER asks again, and may
	// find the next leader meanwhile.
	confirmWait = time.Second
	// confirmsAtOnce bounds how many partitions one request asks for at a time.
	confirmsAtOnce = 128
)

// reading is an answer that was taken from a replica while it led in term.
type reading struct {
	partition partition
	term      segment.Term
	withdraw  func(code int16) // puts an error in the place of the answer
}

// settle withdraws those of a request's readings that no majority confirms.
func settle(ctx context.Context, readings []reading) {
	ctx, cancel := context.WithTimeout(ctx, confirmWait)
	defer cancel()
	slots := make(chan struct{}, confirmsAtOnce)
	var waits sync.WaitGroup // each partition waits for a round of its own group
	for _, c := range readings {
		slots <- struct{}{}
		waits.Go(func() {
			defer func() { <-slots }()
			if c.partition.Confirm(ctx, c.term) != nil {
				c.withdraw(kerr.NotLeaderForPartition.Code)
			}
		})
	}
	waits.Wait()
}

// confirm is settle for one reading: what to tell the client instead of the answer, nil
// if that may be given.
func confirm(ctx context.Context, p partition, term segment.Term) *failure {
	ctx, cancel := context.WithTimeout(ctx, confirmWait)
	defer cancel()
	if p.Confirm(ctx, term) != nil {
		return fail(kerr.NotLeaderForPartition, "")
	}
	return nil
}
