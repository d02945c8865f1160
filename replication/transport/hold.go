package transport

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// absence is why a call is held.
type absence struct {
	// unknown: the peer answered that it has no such replica. Else it is down.
	unknown bool
	// announced is how often the replica had said "group up" before the call was
	// sent. The announcement and the answer travel on different connections: one
	// that arrived in between is the reason to try again at once, and waiting for
	// the next one could be for ever.
	announced uint64
}

// unknownRecheck is how long a call waits for the "group up" of a replica on a
// node that is up before it looks again without: an announcement may be lost
// with the call that carries it.
const unknownRecheck = 10 * time.Second

// hold waits until the peer is up again and, where that was the trouble, the
// replica has said that it knows the group. Without it each failed AppendEntries
// would double a sleep of raft's of up to 10.24 s that nothing can end
// (replication.go:207), and a broker that comes back would get its first entry
// after that.
//
// It ends with an error when the replica is no longer a member (raft cannot stop
// a replication goroutine that sits in a call) or ctx ends: then this instance
// no longer leads, or the facade is closed. There is no time limit. It reports
// whether it had to wait.
func (f *Facade) hold(ctx context.Context, p *replica, gone absence) (waited bool, err error) {
	f.mu.Lock()
	f.waiters++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.waiters--
		f.mu.Unlock()
	}()
	var recheck <-chan time.Time
	for ; ; waited = true {
		// The channel first: a change after the checks below closes it.
		f.mu.Lock()
		changed, announced := f.changed, p.announced
		f.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return waited, context.Cause(ctx)
		case !f.isMember(p.id):
			return waited, ErrPeerLeft
		case !f.config.Network.Up(p.node):
			gone, recheck = absence{}, nil // when it is back, that is reason enough
		case gone.unknown && announced == gone.announced:
			if recheck == nil {
				timer := time.NewTimer(unknownRecheck)
				defer timer.Stop()
				recheck = timer.C
			}
		default:
			return waited, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-recheck:
			return true, nil
		}
	}
}

// wakeLocked lets the held calls look again.
func (f *Facade) wakeLocked() {
	if f.waiters > 0 {
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// peersChanged lets the held calls look again, after a node went up or down, and has
// the followers that are back hear what was committed meanwhile.
func (f *Facade) peersChanged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wakeLocked()
	for _, p := range f.replicas {
		f.rearmLocked(p)
	}
}

// groupUp notes that a replica has said that its instance has started. Replicas
// that this facade never called are not waited for.
func (f *Facade) groupUp(replica raft.ServerID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.replicas[replica]; p != nil {
		p.announced++
		// A new instance knows of nothing that it is committed, nor of a leader: the
		// nudge tells it both, whatever the one before it knew.
		p.progress.commit = 0
		f.rearmLocked(p)
		f.wakeLocked()
	}
}

// announcements is how often the replica has said "group up" so far.
func (f *Facade) announcements(p *replica) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return p.announced
}

// isMember reports whether the replica is in the latest configuration; before
// Bind, raft is believed.
func (f *Facade) isMember(id raft.ServerID) bool {
	_, member := f.suffrage(id)
	return member || f.instance() == nil
}

// suffrage is the role of a replica in the latest configuration.
func (f *Facade) suffrage(id raft.ServerID) (raft.ServerSuffrage, bool) {
	instance := f.instance()
	if instance == nil {
		return raft.Nonvoter, false
	}
	for _, server := range instance.GetConfiguration().Configuration().Servers {
		if server.ID == id {
			return server.Suffrage, true
		}
	}
	return raft.Nonvoter, false
}
