package durability

import (
	"errors"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Reader reads all partitions without a group and without a gap.
type Reader struct {
	load   *Load
	name   string
	client *kgo.Client

	mu   sync.Mutex
	next []int64 // by partition; -1 until the first record
}

// Reader starts a consumer that is assigned every partition, from its beginning,
// or, with latest, from its end, where it also goes when it is told that its offset
// is out of range (auto.offset.reset=latest). Whatever happens, it must be given
// every record from where it began, once and in order.
func (l *Load) Reader(name string, latest bool) (*Reader, error) {
	begin := kgo.NewOffset().AtStart()
	if latest {
		begin = kgo.NewOffset().AtEnd()
	}
	assigned := map[int32]kgo.Offset{}
	r := &Reader{load: l, name: name, next: make([]int64, l.target.Partitions)}
	for p := range l.target.Partitions {
		assigned[p] = begin
		if r.next[p] = 0; latest {
			r.next[p] = -1
		}
	}
	var err error
	r.client, err = l.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.target.Topic: assigned}), kgo.ConsumeResetOffset(begin))
	if err != nil {
		return nil, err
	}
	l.others.Go(r.run)
	return r, nil
}

func (r *Reader) run() {
	defer r.client.Close()
	for r.load.context.Err() == nil {
		fetches := r.client.PollFetches(r.load.context)
		fetches.EachError(func(_ string, partition int32, err error) { r.load.consumerError(r.name, partition, err) })
		r.take(fetches)
	}
}

// take checks that records follow on those before.
func (r *Reader) take(fetches kgo.Fetches) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fetches.EachRecord(func(record *kgo.Record) {
		next := &r.next[record.Partition]
		if *next < 0 {
			*next = record.Offset
		}
		if record.Offset != *next {
			r.load.faults.Add(MN, "%s was given offset %d of partition %d after offset %d", r.name, record.Offset, record.Partition, *next-1)
		}
		*next = record.Offset + 1
		r.load.ledger.Read(record.Partition, record.Offset, record.Value)
	})
}

// Next is the offset after the last record of a partition, -1 before the first one
// of a reader from the end.
func (r *Reader) Next(partition int32) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next[partition]
}

// consumerError judges what a client did not keep to itself: it is silent about
// what it can try again, so that what is left is a broken promise.
func (l *Load) consumerError(name string, partition int32, err error) {
	var loss *kgo.ErrDataLoss
	switch {
	case l.context.Err() != nil, errors.Is(err, kgo.ErrClientClosed):
	case errors.As(err, &loss), errors.Is(err, kerr.OffsetOutOfRange), errors.Is(err, kerr.CorruptMessage):
		l.faults.Add(MN, "%s, partition %d: %v", name, partition, err)
	case kerr.IsRetriable(err), !isCode(err):
	case expectedOfMembers(err): // a member that joins again, as after a change of coordinator
	default:
		l.faults.Add(CE, "%s, partition %d: %v", name, partition, err)
	}
}

func isCode(err error) bool {
	var code *kerr.Error
	return errors.As(err, &code)
}
