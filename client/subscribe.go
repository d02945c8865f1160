package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// SubscribeOption says what a subscription reads, and how.
type SubscribeOption interface{ applySubscribe(*subscribeConfig) }

type subscribeFunc func(*subscribeConfig)

func (f subscribeFunc) applySubscribe(c *subscribeConfig) { f(c) }

type subscribeConfig struct {
	topics      []string
	partitions  []int32
	group       string
	from        Position
	until       *Position
	commitEvery time.Duration // 0: only by Commit
	committed   bool
	extra       []kgo.Opt
}

// manualInterval never comes. Committing only by hand uses the same marks as
// committing by time does, so that both take the same path.
const manualInterval = time.Duration(math.MaxInt64)

// Topics names what is read; at least one is needed, and each must exist.
func Topics(names ...string) SubscribeOption {
	return subscribeFunc(func(c *subscribeConfig) { c.topics = append(c.topics, names...) })
}

// Partitions limits the subscription to these partitions of every topic; default
// all, also those added later. It cannot be used in a group.
func Partitions(partitions ...int32) SubscribeOption {
	return subscribeFunc(func(c *subscribeConfig) { c.partitions = append(c.partitions, partitions...) })
}

// Group makes the subscription a member of a consumer group: the partitions are
// shared among its members, and finished positions are committed. Kafka
// property: group.id.
func Group(name string) SubscribeOption {
	return subscribeFunc(func(c *subscribeConfig) { c.group = name })
}

// From sets where to begin; default [Start]. It is resolved when Subscribe is
// called, so with [End] every record produced after Subscribe has returned is
// read. In a group it counts for partitions without a committed position only,
// and must be Start or End. Kafka property: auto.offset.reset.
func From(p Position) SubscribeOption {
	return subscribeFunc(func(c *subscribeConfig) { c.from = p })
}

// Until makes the loop end by itself at this position, resolved when Subscribe
// is called; default never. With [End] it ends once it has read what was there.
// In a group each member ends when the partitions it has are read up to there; one
// that has none ends when the group has committed everything up to there, so not
// before the others commit.
func Until(p Position) SubscribeOption {
	return subscribeFunc(func(c *subscribeConfig) { c.until = &p })
}

// CommitEvery sets how often finished positions are committed; default 5 s.
// Shorter means fewer redeliveries after a crash. Kafka property:
// auto.commit.interval.ms.
func CommitEvery(d time.Duration) SubscribeOption {
	return subscribeFunc(func(c *subscribeConfig) { c.commitEvery = d })
}

// CommitManually turns off every commit but those of [Subscription.Commit].
func CommitManually() SubscribeOption { return CommitEvery(0) }

// ReadUncommitted also gives records of transactions that are not ended or were
// aborted; default is committed ones only. Kafka property: isolation.level.
func ReadUncommitted() SubscribeOption {
	return subscribeFunc(func(c *subscribeConfig) { c.committed = false })
}

// SubscribeKgo passes options to the franz-go client of the subscription, over
// those of this package.
func SubscribeKgo(options ...kgo.Opt) SubscribeOption {
	return subscribeFunc(func(c *subscribeConfig) { c.extra = append(c.extra, options...) })
}

func (c *subscribeConfig) validate() error {
	var faults []error
	if len(c.topics) == 0 {
		faults = append(faults, errors.New("no topic: use Topics"))
	}
	if c.group != "" && len(c.partitions) > 0 {
		faults = append(faults, errors.New("Partitions cannot be used with Group: the group assigns them"))
	}
	if c.group != "" && c.from != Start() && c.from != End() {
		faults = append(faults, errors.New("in a group, From must be Start or End"))
	}
	if c.commitEvery < 0 || c.commitEvery > 0 && c.commitEvery < 100*time.Millisecond {
		faults = append(faults, errors.New("CommitEvery is less than 100ms"))
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("subscribe: %w", errors.Join(faults...))
}

// Subscribe begins to read topics. A topic or partition that does not exist is an
// error that matches [ErrUnknownTopic]. The subscription has connections of its
// own; close it when its loop is done, at the latest the client's Close does.
func (c *Client) Subscribe(ctx context.Context, options ...SubscribeOption) (*Subscription, error) {
	cfg := subscribeConfig{commitEvery: 5 * time.Second, committed: true}
	for _, o := range options {
		o.applySubscribe(&cfg)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if c.isClosed() {
		return nil, ErrClosed
	}
	s := newSubscription(c, cfg)
	opts := append(c.config.base(), kgo.WithContext(s.life))
	if cfg.committed {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	plan, err := c.plan(ctx, &cfg, s)
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	opts = append(append(append(opts, plan...), c.config.extra...), cfg.extra...)
	if s.kgo, err = kgo.NewClient(opts...); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	if !c.register(s) {
		s.kgo.Close()
		return nil, ErrClosed
	}
	return s, nil
}

// plan looks up what is to be read and gives the options for it. It also fills
// the subscription's horizon, if it has one.
func (c *Client) plan(ctx context.Context, cfg *subscribeConfig, s *Subscription) ([]kgo.Opt, error) {
	adm := kadm.NewClient(c.kgo)
	within, err := listBounds(ctx, adm, cfg.topics)
	if err != nil {
		return nil, err
	}
	if within, err = cfg.selected(within); err != nil {
		return nil, err
	}
	var opts []kgo.Opt
	if cfg.until != nil {
		ends, err := resolve(ctx, adm, *cfg.until, within, cfg.topics)
		if err != nil {
			return nil, err
		}
		begins := make(map[topicPartition]int64, len(within))
		for tp, b := range within {
			begins[tp] = b.start
			if cfg.from == End() {
				begins[tp] = b.end
			}
		}
		s.horizon = newHorizon(ends, begins)
		opts = append(opts, kgo.KeepControlRecords()) // they move the position, too
	}
	if cfg.group != "" {
		return append(opts, cfg.groupOptions(s, within)...), nil
	}
	from, err := resolve(ctx, adm, cfg.from, within, cfg.topics)
	if err != nil {
		return nil, err
	}
	for tp := range from {
		s.owned[tp] = struct{}{}
	}
	if s.horizon != nil {
		s.horizon.assign(from)
	}
	return append(opts, kgo.ConsumePartitions(kgoOffsets(from))), nil
}

// selected leaves what the options ask for; what does not exist is an error.
func (c *subscribeConfig) selected(within map[topicPartition]bounds) (map[topicPartition]bounds, error) {
	if len(c.partitions) == 0 {
		return within, nil
	}
	chosen := map[topicPartition]bounds{}
	for _, topic := range c.topics {
		for _, p := range c.partitions {
			tp := topicPartition{topic, p}
			b, ok := within[tp]
			if !ok {
				return nil, unknownPartition(topic, p)
			}
			chosen[tp] = b
		}
	}
	return chosen, nil
}

// groupOptions make the connection a member. Rebalances are blocked while
// records are taken over from a poll, and after that between two turns of the
// loop only (see Subscription.turn).
func (c *subscribeConfig) groupOptions(s *Subscription, within map[topicPartition]bounds) []kgo.Opt {
	interval := c.commitEvery
	if interval == 0 {
		interval = manualInterval
	}
	reset := kgo.NewOffset().AtStart()
	if c.from == End() {
		reset = kgo.NewOffset().AtEnd()
	}
	opts := []kgo.Opt{
		kgo.ConsumerGroup(c.group),
		kgo.ConsumeTopics(c.topics...),
		kgo.ConsumeResetOffset(reset),
		kgo.BlockRebalanceOnPoll(),
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(interval),
		kgo.AutoCommitCallback(func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
			s.noteCommit(commitError(answer, err))
		}),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, added map[string][]int32) { s.assigned(added) }),
		kgo.OnPartitionsRevoked(func(ctx context.Context, _ *kgo.Client, gone map[string][]int32) { s.revoked(ctx, gone) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, gone map[string][]int32) { s.lost(gone) }),
	}
	if s.horizon != nil {
		opts = append(opts, kgo.AdjustFetchOffsetsFn(func(_ context.Context, assigned map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			s.horizon.assign(startingAt(assigned, within, c.from))
			return assigned, nil
		}))
	}
	return opts
}

// startingAt tells where a member begins in the partitions it was given: at the
// committed position, or where From says.
func startingAt(assigned map[string]map[int32]kgo.Offset, within map[topicPartition]bounds, from Position) map[topicPartition]int64 {
	at := map[topicPartition]int64{}
	for topic, partitions := range assigned {
		for partition, offset := range partitions {
			tp := topicPartition{topic, partition}
			position := offset.EpochOffset().Offset
			if position < 0 {
				position = within[tp].start
				if from == End() {
					position = within[tp].end
				}
			}
			at[tp] = position
		}
	}
	return at
}

func kgoOffsets(offsets map[topicPartition]int64) map[string]map[int32]kgo.Offset {
	all := map[string]map[int32]kgo.Offset{}
	for tp, offset := range offsets {
		if all[tp.topic] == nil {
			all[tp.topic] = map[int32]kgo.Offset{}
		}
		all[tp.topic][tp.partition] = kgo.NewOffset().At(offset)
	}
	return all
}
