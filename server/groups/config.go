package groups

import (
	"context"
	"log/slog"
	"math"
	"time"

	"github.com/millrace/millrace/segment"
)

// Limits on names. Kafka's records hold their length in 16 bits; requests of the
// flexible versions can carry longer ones.
const (
	maxGroupID    = 4096 // bytes of a group id
	maxName       = 4096 // bytes of an instance id, protocol name or type, or host
	maxClientID   = 255  // bytes of a client id that become part of a member id
	maxTopicName  = 249  // Kafka's own limit
	maxProtocols  = 256  // protocols offered by one member
	maxStringSize = math.MaxInt16
)

// Config is what a Coordinator is made with. It is copied and not changed later.
type Config struct {
	// Store is the replicated log. Required.
	Store Store
	// Partitions returns the number of partitions of __consumer_offsets, 0 while
	// the topic does not exist. It must be the same on every node. Required.
	Partitions func() int32
	// Topics looks up a topic by name in this node's copy of the metadata. It is
	// called with locks held: it must not wait for anything that calls the
	// Coordinator. Nil accepts every topic and partition.
	Topics func(name string) (Topic, bool)
	// Confirm, when set, is asked before committed positions are answered: it
	// returns nil only if this node surely still leads the partition in term
	// (DESIGN 4.3 k). Without it, a leader that was deposed while paused can answer
	// an old position until it hears of its successor.
	Confirm func(ctx context.Context, partition int32, term segment.Term) error
	// Now is the clock of timers and of record timestamps. Default time.Now.
	Now func() time.Time
	// Logger receives one line for each rebalance, load and failure. Default
	// slog.Default.
	Logger *slog.Logger

	// InitialRebalanceDelay is how long the first rebalance of an empty group waits
	// for more members (group.initial.rebalance.delay.ms). 0 is Kafka's 3 s;
	// negative is none.
	InitialRebalanceDelay time.Duration
	// MinSessionTimeout and MaxSessionTimeout bound what a member may ask for
	// (group.min.session.timeout.ms, group.max.session.timeout.ms). Default 6 s and
	// 30 min.
	MinSessionTimeout, MaxSessionTimeout time.Duration
	// NewMemberTimeout is how long a member stays that joined and whose first
	// rebalance is not over, since it sends no heartbeats yet. Default 5 min.
	NewMemberTimeout time.Duration
	// MaxGroupSize is the largest number of members of a group (group.max.size).
	// Default math.MaxInt32.
	MaxGroupSize int
	// MaxMetadataBytes bounds the text stored with a committed position
	// (offset.metadata.max.bytes). Default 4096, at most 32767.
	MaxMetadataBytes int
	// MaxAppendBytes bounds the records of one Append; it must stay below the
	// topic's max.message.bytes. Default 1 MiB less 16 KiB.
	MaxAppendBytes int
	// MaxQueuedBytes bounds what waits for an Append, a partition. Default 32 MiB.
	MaxQueuedBytes int
	// AppendTimeout is how long one Append may take before its outcome counts as
	// unknown. Default 10 s.
	AppendTimeout time.Duration
	// RetryDelay is the pause before a failed Load or barrier is tried again; it
	// doubles up to 5 s. Default 100 ms.
	RetryDelay time.Duration
	// Retention is how long the committed positions of a group without members are
	// kept (offsets.retention.minutes). 0 or less: for ever, Millrace's default.
	Retention time.Duration
	// SweepInterval is the time between two passes that drop expired positions and
	// groups with neither members nor positions
	// (offsets.retention.check.interval.ms). Default 10 min.
	SweepInterval time.Duration
}

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Topics == nil {
		c.Topics = func(string) (Topic, bool) { return Topic{Partitions: math.MaxInt32}, true }
	}
	if c.Confirm == nil {
		c.Confirm = func(context.Context, int32, segment.Term) error { return nil }
	}
	orDefault(&c.InitialRebalanceDelay, 3*time.Second)
	c.InitialRebalanceDelay = max(c.InitialRebalanceDelay, 0)
	orDefault(&c.MinSessionTimeout, 6*time.Second)
	orDefault(&c.MaxSessionTimeout, 30*time.Minute)
	orDefault(&c.NewMemberTimeout, 5*time.Minute)
	orDefault(&c.MaxGroupSize, math.MaxInt32)
	orDefault(&c.MaxMetadataBytes, 4096)
	c.MaxMetadataBytes = min(c.MaxMetadataBytes, maxStringSize)
	orDefault(&c.MaxAppendBytes, 1<<20-16<<10)
	orDefault(&c.MaxQueuedBytes, 32<<20)
	orDefault(&c.AppendTimeout, 10*time.Second)
	orDefault(&c.RetryDelay, 100*time.Millisecond)
	orDefault(&c.SweepInterval, 10*time.Minute)
	return c
}

// orDefault replaces a zero by the default.
func orDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}
