package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// pollRecords bounds how many records the loop holds. They stay valid over a
// rebalance, less those of partitions that went away.
const pollRecords = 1000

// growthInterval is the pause between two looks for new partitions.
const growthInterval = 30 * time.Second

// groupInterval is the pause between two looks of a member without partitions at
// what the others have committed.
const groupInterval = 500 * time.Millisecond

// Subscription reads topics; [Client.Subscribe] makes one. Records may be ranged
// over once. Finish, Commit and Close may be called from inside the loop and from
// other goroutines.
type Subscription struct {
	client  *Client
	kgo     *kgo.Client
	config  subscribeConfig
	horizon *horizon // nil: the loop has no end of its own

	growthInterval time.Duration
	closeTimeout   time.Duration

	// turn is held by the loop while its body works on a record, and by the
	// callback of a rebalance that takes partitions away: so a partition never
	// changes hands in the middle of a turn, and what the turn finished is in
	// the commit that the callback makes.
	turn    chan struct{}
	closing chan struct{}   // closed by Close: callbacks no longer wait for the loop
	life    context.Context // of all requests; ended by Close, at the latest when its time is over
	end     context.CancelFunc
	ended   chan struct{} // closed when Close is done
	close   sync.Once
	ranged  atomic.Bool

	mu        sync.Mutex
	owned     map[topicPartition]struct{} // what the member has, or what is read
	pending   []*Record                   // taken from a poll, not yet handed to the loop
	commitErr error                       // of the last commit; nil when it succeeded
	closeErr  error                       // valid once ended is closed
}

func newSubscription(c *Client, cfg subscribeConfig) *Subscription {
	life, end := context.WithCancel(context.Background())
	return &Subscription{
		life: life, end: end,
		client: c, config: cfg,
		growthInterval: growthInterval,
		closeTimeout:   closeTimeout,
		turn:           make(chan struct{}, 1),
		closing:        make(chan struct{}),
		ended:          make(chan struct{}),
		owned:          map[topicPartition]struct{}{},
	}
}

// Records is the loop over what the subscription reads. Each turn has either a
// record or an error. Errors that time can heal are retried and never shown;
// after one that is shown the loop may go on, except that [ErrClosed] and the cause of
// ctx's end (see [context.Cause]; without one it is ctx's error) are always the last
// turn. When the loop ends, for whatever reason, what
// it finished is committed (in a group, unless [CommitManually]) and the
// subscription is closed; [Subscription.Close] then gives the error of that
// commit.
func (s *Subscription) Records(ctx context.Context) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		if !s.ranged.CompareAndSwap(false, true) {
			yield(nil, errors.New("a subscription can be ranged over once"))
			return
		}
		defer s.Close()
		polling, cancel := context.WithCancel(ctx)
		var waker sync.WaitGroup
		defer waker.Wait()
		defer cancel()
		if s.horizon != nil {
			waker.Go(func() { cancelWhenDone(polling, cancel, s.horizon.done) })
			if s.config.group != "" {
				waker.Go(func() { s.watchGroup(polling) })
			}
		} else if s.config.group == "" && len(s.config.partitions) == 0 {
			waker.Go(func() { s.watchGrowth(polling, s.growthInterval) })
		}
		for !s.finished() {
			if err := ctx.Err(); err != nil {
				yield(nil, context.Cause(ctx))
				return
			}
			if !s.round(ctx, polling, yield) {
				return
			}
		}
	}
}

// watchGrowth adds partitions that a topic gets while it is read, from their
// start. In a group the group does that.
func (s *Subscription) watchGrowth(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.grow(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// grow looks once. What cannot be asked now is asked at the next tick.
func (s *Subscription) grow(ctx context.Context) {
	details, err := kadm.NewClient(s.kgo).ListTopics(fresh(ctx), s.config.topics...)
	if err != nil {
		return
	}
	added := map[topicPartition]int64{}
	s.mu.Lock()
	details.EachPartition(func(p kadm.PartitionDetail) {
		tp := topicPartition{p.Topic, p.Partition}
		if _, ok := s.owned[tp]; !ok && p.Err == nil {
			s.owned[tp] = struct{}{}
			added[tp] = 0
		}
	})
	s.mu.Unlock()
	if len(added) > 0 {
		s.kgo.AddConsumePartitions(kgoOffsets(added))
	}
}

// watchGroup ends the loop of a member that was given nothing when the others have
// finished everything before the horizon. What cannot be asked now is asked at the
// next tick.
func (s *Subscription) watchGroup(ctx context.Context) {
	tick := time.NewTicker(groupInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !s.horizon.idle() {
			continue
		}
		fetched, err := kadm.NewClient(s.kgo).FetchOffsets(ctx, s.config.group)
		if err != nil || fetched.Error() != nil {
			continue
		}
		committed := map[topicPartition]int64{}
		fetched.Each(func(o kadm.OffsetResponse) {
			if o.At >= 0 {
				committed[topicPartition{o.Topic, o.Partition}] = o.At
			}
		})
		s.horizon.reached(committed)
	}
}

// cancelWhenDone wakes a poll that would wait for records nobody asked for. It
// ends with the loop, which cancels ctx.
func cancelWhenDone(ctx context.Context, cancel context.CancelFunc, done <-chan struct{}) {
	select {
	case <-done:
		cancel()
	case <-ctx.Done():
	}
}

// round hands out one poll; false ends the loop.
func (s *Subscription) round(ctx, polling context.Context, yield func(*Record, error) bool) bool {
	fetches := s.kgo.PollRecords(polling, pollRecords)
	s.mu.Lock()
	s.pending = fetches.Records()
	s.mu.Unlock()
	s.kgo.AllowRebalance()

	for _, f := range fetches.Errors() {
		if errors.Is(f.Err, polling.Err()) && polling.Err() != nil {
			continue // the caller looks at its context
		}
		err := convert(f.Err, f.Topic, f.Partition)
		if passing(err) {
			continue
		}
		if !yield(nil, err) || errors.Is(err, ErrClosed) {
			return false
		}
	}
	for {
		more, ok := s.hand(ctx, yield)
		if !ok {
			return false
		}
		if !more {
			return true
		}
	}
}

// passing reports whether the group will be joined again without anybody doing
// anything: a coordinator moved, or the member was thrown out after a pause.
func passing(err error) bool {
	return errors.As(err, new(*kgo.ErrGroupSession)) && (Retryable(err) || errors.Is(err, ErrLostPartitions))
}

// hand gives the next pending record to the body and, if the body asks for
// more, finishes it. more is false when nothing is pending, ok when the loop ends.
func (s *Subscription) hand(ctx context.Context, yield func(*Record, error) bool) (more, ok bool) {
	if ctx.Err() != nil {
		return false, true
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-s.closing:
		yield(nil, ErrClosed)
		return false, false
	}
	s.mu.Lock()
	if len(s.pending) == 0 {
		s.mu.Unlock()
		return false, true
	}
	record := s.pending[0]
	s.pending[0] = nil
	s.pending = s.pending[1:]
	s.mu.Unlock()

	if s.horizon != nil && s.horizon.beyond(record) {
		return true, true
	}
	if !record.Attrs.IsControl() && !yield(record, nil) {
		return false, false
	}
	s.Finish(record)
	if s.horizon != nil {
		s.horizon.advance(record)
	}
	return true, true
}

// finished reports whether the loop has reached its Until.
func (s *Subscription) finished() bool {
	if s.horizon == nil {
		return false
	}
	select {
	case <-s.horizon.done:
		return true
	default:
		return false
	}
}

// Finish marks a record, and all before it in its partition, as finished: the
// next commit includes it. The loop does it by itself when a turn ends; call it
// before leaving a loop by break if the record was dealt with. Without a group
// it does nothing, nor for a partition that belongs to another member by now:
// its position must not be set back.
func (s *Subscription) Finish(record *Record) {
	if s.owns(record) {
		s.kgo.MarkCommitRecords(record)
	}
}

func (s *Subscription) owns(r *Record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.owned[topicPartition{r.Topic, r.Partition}]
	return ok
}

// Commit commits the given records (and with each all before it in its
// partition), or everything finished if there are none, and waits for the
// answer. An error that matches [ErrLostPartitions] means that another member
// reads the partition now and will read the records again.
func (s *Subscription) Commit(ctx context.Context, records ...*Record) error {
	if s.config.group == "" {
		return errors.New("commit: the subscription is not in a group")
	}
	for _, r := range records {
		if !s.owns(r) {
			return fmt.Errorf("commit: topic %q partition %d: %w", r.Topic, r.Partition, ErrLostPartitions)
		}
	}
	err := s.commit(ctx, records...)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func (s *Subscription) commit(ctx context.Context, records ...*Record) error {
	var err error
	if len(records) > 0 {
		err = s.kgo.CommitRecords(ctx, records...)
	} else {
		err = s.kgo.CommitMarkedOffsets(ctx)
	}
	err = convert(err, "", -1)
	s.noteCommit(err)
	return err
}

func (s *Subscription) noteCommit(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commitErr = err
}

// Assigned are the partitions that the member has now, by topic, sorted; without
// a group those that are read from the beginning.
func (s *Subscription) Assigned() map[string][]int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	byTopic := map[string][]int32{}
	for tp := range s.owned {
		byTopic[tp.topic] = append(byTopic[tp.topic], tp.partition)
	}
	for _, partitions := range byTopic {
		slices.Sort(partitions)
	}
	return byTopic
}

// Buffered is how many records the loop has at hand, so that a body which
// collects its output knows when the next turn may have to wait.
func (s *Subscription) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}

// Close commits what was finished (in a group, unless [CommitManually]), leaves
// the group and closes the connections; a loop that still runs ends with
// [ErrClosed]. It gives the error of the last commit: positions that were not
// committed are read again by the next member. It waits for at most ten seconds for
// a cluster that does not answer. Closing again gives the same.
func (s *Subscription) Close() error {
	s.close.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.closeTimeout)
		defer cancel()
		// franz-go leaves a group without a bound, and waits for a commit by the
		// callback below: where nobody answers, both end with the time of Close.
		defer context.AfterFunc(ctx, s.end)()
		close(s.closing)
		if s.config.group != "" && s.config.commitEvery > 0 {
			s.commit(ctx)
		}
		// Both calls wait for the leave, which ends with the life; a wait that was
		// given up would leave the goroutine of franz-go behind that does it.
		leaveErr := s.kgo.LeaveGroupContext(context.WithoutCancel(ctx))
		s.kgo.CloseAllowingRebalance()
		// The leave of the second call waits at the gate that polls shut.
		s.kgo.AllowRebalance()
		s.end()
		s.client.forget(s)
		s.mu.Lock()
		s.closeErr = s.commitErr
		if s.closeErr == nil && leaveErr != nil && !errors.Is(leaveErr, kerr.UnknownMemberID) {
			s.closeErr = fmt.Errorf("leave group: %w", convert(leaveErr, "", -1))
		}
		s.mu.Unlock()
		close(s.ended)
	})
	<-s.ended
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeErr
}

// assigned is called at the end of a rebalance with what it added.
func (s *Subscription) assigned(added map[string][]int32) {
	s.mu.Lock()
	for topic, partitions := range added {
		for _, p := range partitions {
			s.owned[topicPartition{topic, p}] = struct{}{}
		}
	}
	s.mu.Unlock()
	if s.horizon != nil {
		s.horizon.expect(added)
	}
}

// revoked is called when a rebalance takes partitions away.
func (s *Subscription) revoked(ctx context.Context, gone map[string][]int32) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-s.closing:
	}
	if s.config.commitEvery > 0 {
		s.commit(ctx)
	}
	s.drop(gone)
}

// lost is called when the member was thrown out: its commits would be refused.
func (s *Subscription) lost(gone map[string][]int32) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-s.closing:
	}
	s.drop(gone)
}

// drop forgets pending records of partitions that went away.
func (s *Subscription) drop(gone map[string][]int32) {
	s.mu.Lock()
	for topic, partitions := range gone {
		for _, p := range partitions {
			delete(s.owned, topicPartition{topic, p})
		}
	}
	s.pending = slices.DeleteFunc(s.pending, func(r *Record) bool {
		_, ok := s.owned[topicPartition{r.Topic, r.Partition}]
		return !ok
	})
	s.mu.Unlock()
	if s.horizon != nil {
		s.horizon.revoke(gone)
	}
}

// commitError is the first error in an answer to a commit.
func commitError(answer *kmsg.OffsetCommitResponse, err error) error {
	if err != nil || answer == nil {
		return convert(err, "", -1)
	}
	for _, topic := range answer.Topics {
		for _, p := range topic.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return convert(err, topic.Topic, p.Partition)
			}
		}
	}
	return nil
}

func unknownPartition(topic string, partition int32) error {
	return convert(kerr.UnknownTopicOrPartition, topic, partition)
}
