package replication

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/millrace/millrace/replication/transport"
)

// ErrStopping is a leadership that a broker was to take over while it stops.
var ErrStopping = errors.New("the broker is stopping")

// HandOverAll moves the leadership of every partition to another broker (HandOver), as
// far as that works until ctx ends, and is the begin of a stop: from now on this node
// takes no leadership over, of a partition or the metadata group, and stands for no
// election in a partition. The others may balance leaders in that very moment, and what
// they gave it would be without a leader when it is gone. Called again it tries again.
func (h *Host) HandOverAll(ctx context.Context) {
	for _, method := range []transport.Method{transport.MethodRaftHandOver, transport.MethodRaftTimeoutNow} {
		h.mux.Handle(method, func(r *transport.Request) { r.ReplyError(moveRefusal(ErrStopping)) })
	}
	level := slog.LevelWarn
	if h.leaving.Swap(true) {
		level = slog.LevelDebug // it was said before
	}
	var wait sync.WaitGroup
	for _, p := range h.allPartitions() {
		p.retire()
		if len(p.assigned()) == 1 {
			continue
		}
		wait.Go(func() {
			if err := h.HandOver(ctx, p); err != nil {
				h.logger.Log(ctx, level, "leadership stays until the stop", "topic", p.topic, "partition", p.group.Partition, "err", err)
			}
		})
	}
	wait.Wait()
}

// retire keeps the replica from standing for election.
func (p *Partition) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = true
}
