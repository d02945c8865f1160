package replication

import (
	"sync"

	"github.com/hashicorp/raft"
)

// maxUnanswered is how many proposals raft may have and not have answered before
// the next one waits.
const maxUnanswered = 4 * maxAppendEntries

// pending is a proposal that raft has.
type pending struct {
	proposal *Proposal
	future   raft.Future
}

// unanswered holds the proposals that raft has, in the order in which it got them.
// One goroutine answers them while there are any: a partition without traffic
// costs neither its stack nor a buffer.
type unanswered struct {
	answer func(pending) // waits for the future and resolves the proposal

	mu      sync.Mutex
	queued  []pending
	first   *Proposal     // the one that is being answered, nil if none is
	given   *Proposal     // the one that raft is being given, nil if none is
	unbound bool          // nobody waits for room any more
	room    chan struct{} // closed and made anew when a proposal was answered, nil if nobody waits
	idle    chan struct{} // closed when the goroutine ends, nil while none runs
}

// handing notes which proposal raft is about to be given. While its main goroutine
// waits for the disk it takes none, and the call that gives it this one hangs.
func (u *unanswered) handing(p *Proposal) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.given = p
}

// all are the proposals that raft has, or is being given.
func (u *unanswered) all() []*Proposal {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := u.allLocked()
	if u.given != nil {
		all = append(all, u.given)
	}
	return all
}

// allLocked are those that raft has.
func (u *unanswered) allLocked() []*Proposal {
	var all []*Proposal
	if u.first != nil {
		all = append(all, u.first)
	}
	for _, p := range u.queued {
		all = append(all, p.proposal)
	}
	return all
}

// add takes a proposal, once fewer than maxUnanswered are there. One caller at a
// time: the order of the calls is the order of the answers.
func (u *unanswered) add(p pending) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.queued) >= maxUnanswered && !u.unbound {
		if u.room == nil {
			u.room = make(chan struct{})
		}
		room := u.room
		u.mu.Unlock()
		<-room
		u.mu.Lock()
	}
	u.queued, u.given = append(u.queued, p), nil
	if u.idle == nil {
		u.idle = make(chan struct{})
		go u.run()
	}
}

// run answers proposals until there are none.
func (u *unanswered) run() {
	for {
		next, ok := u.next()
		if !ok {
			return
		}
		u.answer(next)
	}
}

// next takes the first proposal, or ends the goroutine.
func (u *unanswered) next() (pending, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.first = nil
	u.makeRoomLocked()
	if len(u.queued) == 0 {
		u.queued = nil // a burst's memory goes back
		close(u.idle)
		u.idle = nil
		return pending{}, false
	}
	next := u.queued[0]
	u.queued[0] = pending{}
	u.queued = u.queued[1:]
	u.first = next.proposal
	return next, true
}

func (u *unanswered) makeRoomLocked() {
	if u.room != nil {
		close(u.room)
		u.room = nil
	}
}

// release lets whoever waits for room go on, now and later. Raft was shut down: what
// it has it may never answer.
func (u *unanswered) release() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unbound = true
	u.makeRoomLocked()
}

// done is closed when everything was answered; nil if it is so now.
func (u *unanswered) done() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.idle
}

// abandon takes everything out, the one that is being answered too, whose
// goroutine stays until raft answers it after all.
func (u *unanswered) abandon() []*Proposal {
	u.mu.Lock()
	defer u.mu.Unlock()
	left := u.allLocked()
	u.queued = nil
	return left
}
