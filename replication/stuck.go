package replication

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// A disk that hangs (DESIGN 4.3 c, faults D15). Raft stores entries on its main
// goroutine, so a leader whose disk hangs in there neither commits nor steps down;
// its heartbeats go on from other goroutines, and without what is in this file
// nobody else would ever be elected (raftprobes P10). A follower needs none of it:
// heartbeats reach raft through the goroutine that waits for the disk, so it is
// silent, votes for nobody, and takes what it was sent when the disk is back (D16).

const (
	// stuckLimit is how long a StoreLogs may make no progress.
	stuckLimit = 1500 * time.Millisecond
	// stuckInterval is how often one that takes that long is looked at. With the
	// limit and an election it stays below the 3 s in which a leader with a hung disk
	// must be replaced.
	stuckInterval = 250 * time.Millisecond
	// stuckCampaign bounds how long one follower may take to begin an election.
	stuckCampaign = 5 * time.Second
)

// storeWatch notices a StoreLogs that makes no progress. It costs a timer that is
// set and stopped for each call, nothing while there is none. The nil pointer
// watches nothing.
type storeWatch struct {
	// steps counts what was done on the disk so far: a long StoreLogs writes and
	// syncs several times, and only the time since the last of them counts.
	steps func() uint64
	// stuck is called every stuckInterval while a call hangs. It must not wait for
	// raft, whose main goroutine may wait for it in end.
	stuck func()
	disk  *diskState // is told about a call that hangs; may be nil

	mu    sync.Mutex
	timer *time.Timer
	seen  uint64    // steps at the last look
	since time.Time // when they were first seen; zero while no call is under way
	hangs bool      // the disk was told so
}

func newStoreWatch(disk *diskState, steps func() uint64, stuck func()) *storeWatch {
	return &storeWatch{disk: disk, steps: steps, stuck: stuck}
}

// begin starts the watch over one call.
func (w *storeWatch) begin() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.since = w.steps(), time.Now()
	if w.timer == nil {
		w.timer = time.AfterFunc(stuckInterval, w.look)
		return
	}
	w.timer.Reset(stuckInterval)
}

// end ends it. When it returns, stuck is not running and is not called any more.
func (w *storeWatch) end() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since = time.Time{}
	w.timer.Stop()
	w.progressLocked()
}

// look is what the timer calls.
func (w *storeWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since.IsZero() {
		return // the call came back while this waited for the lock
	}
	now := time.Now()
	if steps := w.steps(); steps != w.seen {
		w.seen, w.since = steps, now
		w.progressLocked()
	}
	if now.Sub(w.since) >= stuckLimit {
		if !w.hangs {
			w.hangs = true
			w.disk.hangs(w.since)
		}
		w.stuck()
	}
	w.timer.Reset(stuckInterval)
}

// progressLocked ends what was told about the call.
func (w *storeWatch) progressLocked() {
	if w.hangs {
		w.hangs = false
		w.disk.goesOn()
	}
}

// hasResigned reports whether the instance has given up the term it is in.
func (in *instance) hasResigned() bool {
	resigned := in.resigned.Load()
	return resigned > 0 && resigned >= in.raft.CurrentTerm()
}

// diskHangs gives the leadership up, if this instance has it and the others can
// elect another without it. It is called again while the disk hangs: until they can,
// and then for proposals that came past the look at the role.
func (in *instance) diskHangs() {
	p := in.partition
	term, leads := in.facade.Leading()
	if !leads {
		return
	}
	if in.resigned.Load() < uint64(term) {
		if !p.electable() {
			return // nobody could lead instead, and the disk may come back
		}
		in.resign(term)
	}
	// Never appended: raft did not get them.
	p.refuse(p.queue.expel())
	// Raft has these, or is being given them. It answers when the disk does; the
	// clients should ask the next leader before that.
	for _, proposal := range in.unanswered.all() {
		if !proposal.barrier {
			proposal.resolve(Result{}, ErrUnknownOutcome)
		}
	}
}

// resign makes this replica no leader for clients and peers, and has another elected.
func (in *instance) resign(term segment.Term) {
	p := in.partition
	successors := p.successors(in.facade.Matches(term)) // before they are forgotten
	in.resigned.Store(uint64(term))
	in.facade.Resign(term)
	p.lead(Leadership{})
	p.logger.Debug("this replica gives up leading its group: the disk hangs", "topic", p.topic,
		"partition", p.group.Partition, "term", int64(term))
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.restarts.Go(func() { p.elect(in, term, successors) })
	}
}

// electable reports whether the other replicas that are connected are a majority of
// the group.
func (p *Partition) electable() bool {
	up, voters := 0, p.voters()
	for _, r := range voters {
		if transport.ServerID(r.Node, r.Incarnation) != p.local && p.up(r.Node) {
			up++
		}
	}
	return up > len(voters)/2
}

// successors are the other replicas, those first that have acknowledged most; ties
// in order of preference.
func (p *Partition) successors(matches map[raft.ServerID]transport.Match) []raft.ServerID {
	others := slices.DeleteFunc(p.members(), func(id raft.ServerID) bool { return id == p.local })
	longestFirst(others, matches)
	return others
}

// longestFirst puts those first that have acknowledged most; ties stay as they are.
func longestFirst(ids []raft.ServerID, matches map[raft.ServerID]transport.Match) {
	slices.SortStableFunc(ids, func(a, b raft.ServerID) int { return cmp.Compare(matches[b].Index, matches[a].Index) })
}

// elect has one of the followers elected.
func (p *Partition) elect(in *instance, term segment.Term, successors []raft.ServerID) {
	electOneOf(in.facade, p.stop, term, successors, func(id raft.ServerID, err error) {
		p.logger.Debug("no election started", "topic", p.topic, "partition", p.group.Partition, "at", string(id), "err", err)
	})
}

// electOneOf asks the successors to a leadership that was given up to campaign, one
// after the other. Each has secondChoice to be elected; whoever has voted in a term
// later than the one that was given up refuses the request, so that it deposes nobody.
// The disk may come back meanwhile, and this replica follow the next leader: its own
// term says nothing then.
func electOneOf(facade *transport.Facade, stop <-chan struct{}, term segment.Term, successors []raft.ServerID, failed func(raft.ServerID, error)) {
	var asked sync.WaitGroup
	defer asked.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), stuckCampaign)
	defer cancel()
	for _, id := range successors {
		asked.Go(func() {
			if err := facade.RequestCampaign(ctx, id, term); err != nil {
				failed(id, err)
			}
		})
		select {
		case <-stop:
			return
		case <-time.After(secondChoice):
		}
	}
}
