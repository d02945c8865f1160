package durability

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// commitInterval is how often members commit.
const commitInterval = 100 * time.Millisecond

// Group is the members of a consumer group: together they must be given every
// record at least once, and what they have committed must stay.
type Group struct {
	load *Load
	name string

	mu        sync.Mutex
	seen      []bitmap // by partition
	committed []int64  // by partition: the largest position whose commit was acknowledged
}

// Group starts a consumer group of some members.
func (l *Load) Group(name string, members int) (*Group, error) {
	g := &Group{load: l, name: name, seen: make([]bitmap, l.target.Partitions), committed: make([]int64, l.target.Partitions)}
	for n := range members {
		client, err := l.client(
			kgo.ClientID(fmt.Sprintf("%s-%d", name, n)), kgo.ConsumerGroup(name), kgo.ConsumeTopics(l.target.Topic),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitInterval(commitInterval), kgo.AutoCommitCallback(g.done),
			kgo.SessionTimeout(10*time.Second), kgo.HeartbeatInterval(200*time.Millisecond),
		)
		if err != nil {
			return nil, err
		}
		l.others.Go(func() { g.read(client) })
	}
	return g, nil
}

// read is the loop of a member.
func (g *Group) read(client *kgo.Client) {
	defer client.CloseAllowingRebalance()
	for g.load.context.Err() == nil {
		fetches := client.PollFetches(g.load.context)
		fetches.EachError(func(_ string, partition int32, err error) { g.load.consumerError("group "+g.name, partition, err) })
		fetches.EachRecord(func(r *kgo.Record) { g.load.ledger.Read(r.Partition, r.Offset, r.Value) })
		g.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) { g.seen[r.Partition].set(r.Offset) })
		g.mu.Unlock()
	}
}

// done notes the commits that were acknowledged.
func (g *Group) done(_ *kgo.Client, req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
	if err != nil || resp == nil {
		return
	}
	positions := map[int32]int64{}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			positions[p.Partition] = p.Offset
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			position, asked := positions[p.Partition]
			err := kerr.ErrorForCode(p.ErrorCode)
			switch {
			case !asked:
				g.load.faults.Add(CE, "group %s: a commit of partition %d was answered that nobody sent", g.name, p.Partition)
			case err == nil:
				g.committed[p.Partition] = max(g.committed[p.Partition], position)
			case !kerr.IsRetriable(err) && !expectedOfMembers(err):
				g.load.faults.Add(CE, "group %s, partition %d: commit: %v", g.name, p.Partition, err)
			}
		}
	}
}

// expectedOfMembers are errors that tell a member to join again.
func expectedOfMembers(err error) bool {
	return errors.Is(err, kerr.RebalanceInProgress) || errors.Is(err, kerr.IllegalGeneration) || errors.Is(err, kerr.UnknownMemberID)
}

// Committed is the largest position whose commit was acknowledged.
func (g *Group) Committed(partition int32) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.committed[partition]
}

// Missing is the first offset below limit that no member was given, -1 if there is
// none.
func (g *Group) Missing(partition int32, limit int64) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen[partition].firstUnset(limit)
}

// bitmap is a set of offsets.
type bitmap []uint64

func (b *bitmap) set(i int64) {
	*b = grown(*b, i/64)
	(*b)[i/64] |= 1 << (i % 64)
}

// firstUnset is the smallest number below limit that is not in the set, or -1.
func (b bitmap) firstUnset(limit int64) int64 {
	for i := int64(0); i < limit; i++ {
		if i/64 >= int64(len(b)) {
			return i
		}
		if i%64 == 0 && b[i/64] == ^uint64(0) {
			i += 63
			continue
		}
		if b[i/64]&(1<<(i%64)) == 0 {
			return i
		}
	}
	return -1
}

// CommittedSum is the sum of Committed over all partitions.
func (g *Group) CommittedSum() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	sum := int64(0)
	for _, position := range g.committed {
		sum += position
	}
	return sum
}
