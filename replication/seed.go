package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/seeding"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// Seeding brings a replica back into step that is below its leader's log: the entries
// that it needs were trimmed (DESIGN 4.5). Why nothing is lost and nothing made up, step
// by step:
//
//   - S is the end of a sealed segment that is applied at the leader, so committed. A log
//     that holds entry S with S's term holds what the group committed up to S (the log
//     matching property, section 5.3 of the Raft paper), and so does one that has applied
//     or knows to be committed anything at or above S. Such a replica copies nothing and
//     cuts nothing: what it acknowledged above S may be what a majority rests on.
//   - In any other log, what is at or above S is no committed entry, because the committed
//     entry at S is another one. What is below S is in the seed as far as it is committed.
//     So the seed may take the place of the whole log: nothing goes that may count.
//   - That is judged once more when the copy is complete and raft has stopped, because in
//     the meantime another leader may have brought this log up to S, and further.
//   - The switch is one rename (log.Staging.Switch). A crash before it leaves the old log
//     with its checkpoint, one after it the new log with the checkpoint S; the next start
//     opens either, and the leader asks again. Term and vote are in another file and stay.
//   - Only the raft instance that is started on the new log answers the leader, with a log
//     that holds S: no acknowledgement is ahead of the disk.

// seedSlots is how many replicas of a node are seeded at once, with up to four open files
// each. Others wait for their turn; one whose leader does not ask any more gives its
// place up.
const seedSlots = 4

// seedIntake is what all replicas of a node that are seeded share.
type seedIntake struct {
	throttle *rate.Limiter // nil: none
	slots    chan struct{}
}

func newSeedIntake(bytesPerSecond int64) *seedIntake {
	return &seedIntake{throttle: seeding.NewThrottle(bytesPerSecond), slots: make(chan struct{}, seedSlots)}
}

// errSeedOlder answers a leader while the replica is seeded by one of a later term.
var errSeedOlder = errors.New("the replica is seeded by a later leader")

// errSeedBetween answers a leader while the replica has no raft instance: it is asked
// again when there is one.
var errSeedBetween = errors.New("the replica is between two raft instances")

// seedJob is one attempt to be seeded. It ends when nobody asks for it any more; what
// was copied stays for the next one.
type seedJob struct {
	request transport.SeedRequest
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // read after done

	// Guarded by Partition.mu, as is the term of request.
	waiting  int  // calls of seed
	ending   bool // it was cancelled
	finished bool // it is done
}

// seed makes this replica hold everything up to what a leader asks for. It is called in
// the leader's request, and again with the next one if ctx ends first.
func (p *Partition) seed(ctx context.Context, r transport.SeedRequest) error {
	if p.holds(r) {
		return nil
	}
	job, err := p.joinSeed(r)
	if err != nil {
		return err
	}
	defer p.leaveSeed(job)
	select {
	case <-job.done:
		return job.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// holds reports whether the log holds everything up to S.
func (p *Partition) holds(r transport.SeedRequest) bool {
	l := p.Log()
	committed := l.Applied()
	if in := p.current(); in != nil {
		committed = max(committed, segment.Index(in.raft.CommitIndex()))
	}
	if r.Index <= committed {
		return true
	}
	info, err := l.Info(r.Index)
	return err == nil && info.Term == r.IndexTerm
}

// joinSeed is the job that does what a leader asks for; an older one gives way.
func (p *Partition) joinSeed(r transport.SeedRequest) (*seedJob, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.seeding
	if old != nil && old.finished {
		old = nil
	}
	switch {
	case p.closed:
		return nil, ErrClosed
	case old == nil || old.ending:
	case old.request.Index == r.Index && old.request.IndexTerm == r.IndexTerm && old.request.Node == r.Node:
		old.request.Term = max(old.request.Term, r.Term)
		old.waiting++
		return old, nil
	case old.request.Term > r.Term:
		return nil, errSeedOlder
	default:
		old.ending = true
		old.cancel()
	}
	ctx, cancel := context.WithCancel(context.Background())
	job := &seedJob{request: r, cancel: cancel, done: make(chan struct{}), waiting: 1}
	p.seeding = job
	p.restarts.Go(func() { p.runSeed(ctx, job) })
	return job, nil
}

// leaveSeed ends a job for which nobody waits any more. It does not stop a switch.
func (p *Partition) leaveSeed(job *seedJob) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if job.waiting--; job.waiting == 0 {
		job.ending = true
		job.cancel()
	}
}

func (p *Partition) runSeed(ctx context.Context, job *seedJob) {
	defer job.cancel()
	p.staging.Lock() // until the job before has ended
	job.err = p.seedOnce(ctx, job)
	p.leftover.Store(true)
	p.staging.Unlock()
	var fatal *log.FatalError
	switch {
	case errors.As(job.err, &fatal):
		p.fatal(job.err)
	case job.err != nil && ctx.Err() == nil:
		p.logger.Warn("replica could not be seeded", "topic", p.topic, "partition", p.group.Partition,
			"from", job.request.Node, "up_to", job.request.Index, "err", job.err)
	}
	p.mu.Lock()
	job.finished = true
	p.mu.Unlock()
	close(job.done)
}

// seedOnce copies the seed and switches to it.
func (p *Partition) seedOnce(ctx context.Context, job *seedJob) error {
	select {
	case p.intake.slots <- struct{}{}:
		defer func() { <-p.intake.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	r := job.request
	p.mu.Unlock()
	if p.holds(r) {
		return nil
	}
	begun := time.Now()
	var staging *log.Staging
	fetch := seeding.Fetch{Network: p.network, Node: r.Node, Group: p.group, At: r.Index, Throttle: p.intake.throttle,
		Open: func(seed log.Seed) (seeding.Sink, error) {
			if seed.Index != r.Index || seed.Term != r.IndexTerm {
				return nil, fmt.Errorf("%w: it ends with entry %d of term %d, not with %d of %d", log.ErrSeedDamaged, seed.Index, seed.Term, r.Index, r.IndexTerm)
			}
			opened, err := log.OpenStaging(p.options, seed)
			if err != nil {
				return nil, err
			}
			staging = opened
			p.logger.Info("replica is being seeded: it needs entries that its leader no longer has", "topic", p.topic,
				"partition", p.group.Partition, "from", r.Node, "up_to", r.Index, "bytes", seed.Bytes(), "kept", opened.Kept())
			return opened, nil
		}}
	if _, err := fetch.Run(ctx); err != nil {
		return err
	}
	switched, err := p.takeSeed(job, staging)
	if switched {
		p.logger.Info("replica was seeded", "topic", p.topic, "partition", p.group.Partition, "from", r.Node, "up_to", r.Index,
			"took", time.Since(begun).Round(time.Millisecond))
	}
	return err
}

// takeSeed stops raft, puts the seed in the place of the log if that still lacks it, and
// starts raft again.
func (p *Partition) takeSeed(job *seedJob, staging *log.Staging) (switched bool, err error) {
	p.mu.Lock()
	in, r := p.instance, job.request // its term may have risen
	if p.closed || in == nil {
		p.mu.Unlock()
		return false, errors.Join(errSeedBetween, staging.Close())
	}
	p.instance = nil
	p.mu.Unlock()
	p.lead(Leadership{})
	in.close() // nothing is appended, voted or acknowledged from here on
	p.lead(Leadership{})
	if in.failure.Load() == nil && p.Failed() == nil {
		// A later leader than the one that asked will ask itself, if it has to.
		if later := in.raft.CurrentTerm() > uint64(r.Term); !later && !p.holds(r) {
			switched, err = p.switchLog(staging)
		}
	}
	err = errors.Join(err, staging.Close())
	var fatal *log.FatalError
	if errors.As(err, &fatal) || p.Failed() != nil {
		return switched, err // without an instance: the process ends, or the replica is out
	}
	return switched, errors.Join(err, p.resume())
}

// switchLog closes the log, switches to the seed and opens what is there then.
func (p *Partition) switchLog(staging *log.Staging) (switched bool, err error) {
	// Its checkpoint may lack space, which does not matter to a log that goes.
	if err := p.Log().Close(); err != nil && !errors.Is(err, log.ErrNoSpace) {
		return false, err
	}
	err = staging.Switch()
	if err != nil && !errors.Is(err, log.ErrNoSpace) {
		return false, err
	}
	// After ErrNoSpace this is the old log or the new one, whole.
	options := p.options
	options.SameBoot, options.CleanStop = false, false
	for {
		l, opened := log.Open(options)
		if opened == nil {
			p.log.Store(l)
			return err == nil, err
		}
		if !mayPass(opened) {
			p.fail(fmt.Errorf("open the log after a seed: %w", opened))
			return false, errors.Join(err, opened)
		}
		select {
		case <-p.stop:
			return false, errors.Join(err, opened)
		case <-time.After(restartDelay):
		}
	}
}

// resume starts a raft instance on the log as it is, and tells the peers, of whom the
// leader waits for it.
func (p *Partition) resume() error {
	for {
		select {
		case <-p.stop:
			return ErrClosed
		default:
		}
		in, err := p.newInstance()
		if err == nil {
			p.run(in)
			p.restarted(p)
			return nil
		}
		if !mayPass(err) {
			p.fail(fmt.Errorf("start again after a seed: %w", err))
			return err
		}
		select {
		case <-p.stop:
			return err
		case <-time.After(restartDelay):
		}
	}
}

// tidyStaging throws away what a copy left that is not needed any more. It is called
// after an entry was applied: by then the leader has brought this replica into step
// without a seed, or the seed was switched to.
func (p *Partition) tidyStaging() {
	if !p.leftover.Load() || !p.staging.TryLock() {
		return
	}
	defer p.staging.Unlock()
	if err := log.RemoveStaging(p.options.FS, p.options.Dir); err != nil {
		p.logger.Warn("could not remove what was copied for nothing", "topic", p.topic, "partition", p.group.Partition, "err", err)
		return
	}
	p.leftover.Store(false)
}

// giveSeeds lets other nodes copy from the replicas of this one; find is nil for a group
// that is not here.
func giveSeeds(handle func(transport.Method, transport.Handler), bytesPerSecond int64, find func(transport.GroupID) *Partition) {
	seeding.NewServer(handle, seeding.ServerConfig{
		Throttle: seeding.NewThrottle(bytesPerSecond),
		Open: func(group transport.GroupID, at segment.Index) (seeding.Source, error) {
			p := find(group)
			if p == nil || p.Failed() != nil {
				return nil, log.ErrNotFound
			}
			source, err := p.Log().OpenSeed(at)
			if err != nil {
				return nil, err
			}
			return source, nil
		},
	})
}

var _ seeding.Sink = (*log.Staging)(nil)
