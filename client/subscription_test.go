package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/client"
)

func TestPositions(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 1)
	base := time.UnixMilli(1_700_000_000_000)
	for i := range 10 {
		r := &client.Record{Topic: topic, Value: fmt.Append(nil, i), Timestamp: base.Add(time.Duration(i) * time.Second)}
		if err := c.Produce(limited(t), r); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name        string
		from, until client.Position
		first, last int // first > last: nothing
	}{
		{"all", client.Start(), client.End(), 0, 9},
		{"an offset", client.At(4), client.End(), 4, 9},
		{"a range", client.At(2), client.At(5), 2, 4},
		{"below the start", client.At(-7), client.At(1), 0, 0},
		{"above the end", client.At(100), client.End(), 10, 9},
		{"an empty range", client.At(5), client.At(5), 5, 4},
		{"a range backwards", client.At(5), client.At(2), 5, 4},
		{"the last three", client.BeforeEnd(3), client.End(), 7, 9},
		{"all but the last three", client.Start(), client.BeforeEnd(3), 0, 6},
		{"after the first three", client.AfterStart(3), client.End(), 3, 9},
		{"more than there are", client.BeforeEnd(30), client.End(), 0, 9},
		{"a time", client.Time(base.Add(2500 * time.Millisecond)), client.End(), 3, 9},
		{"between two times", client.Time(base.Add(2 * time.Second)), client.Time(base.Add(5 * time.Second)), 2, 4},
		{"after all times", client.Time(base.Add(time.Hour)), client.End(), 10, 9},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := []string{}
			for i := test.first; i <= test.last; i++ {
				want = append(want, fmt.Sprint(i))
			}
			got := values(t, subscribe(t, c, client.Topics(topic), client.From(test.from), client.Until(test.until)))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
		})
	}
	offsets, err := c.Offsets(limited(t), topic, client.BeforeEnd(2))
	if err != nil || offsets[0] != 8 || len(offsets) != 1 {
		t.Errorf("Offsets: %v, %v", offsets, err)
	}
}

func TestSubscribeToWhatIsNotThere(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 2)
	tests := map[string][]client.SubscribeOption{
		"topic":      {client.Topics("nowhere")},
		"one of two": {client.Topics(topic, "nowhere")},
		"in a group": {client.Topics("nowhere"), client.Group("g")},
		"partition":  {client.Topics(topic), client.Partitions(1, 2)},
	}
	for name, options := range tests {
		if _, err := c.Subscribe(limited(t), options...); !errors.Is(err, client.ErrUnknownTopic) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFromTheEnd: what is produced after Subscribe has returned is read.
func TestFromTheEnd(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 1)
	numbers(t, c, topic, 5)
	sub := subscribe(t, c, client.Topics(topic), client.From(client.End()))
	if err := c.Produce(limited(t), &client.Record{Topic: topic, Value: []byte("new")}); err != nil {
		t.Fatal(err)
	}
	for r, err := range sub.Records(limited(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if string(r.Value) != "new" {
			t.Errorf("read %q", r.Value)
		}
		break
	}
}

func TestPartitionsAddedWhileReading(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 2)
	sub := subscribe(t, c, client.Topics(topic))
	sub.NarrowTo(0, 10*time.Millisecond)
	for i := range 20 {
		if err := c.Produce(limited(t), &client.Record{Topic: topic, Key: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	got := map[int32]int{}
	for r, err := range sub.Records(limited(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if got[r.Partition]++; got[0]+got[1] == 20 {
			break
		}
	}
	if got[0] == 0 || got[1] == 0 {
		t.Errorf("records by partition: %v", got)
	}
}

// TestWhatATurnFinishes: which record a group's next member begins with, by how
// the loop before it ended.
func TestWhatATurnFinishes(t *testing.T) {
	boom := errors.New("boom")
	// Each reads from "0" and leaves at "2".
	ends := []struct {
		name string
		loop func(sub *client.Subscription, ctx context.Context) error
		next string
	}{
		{"break", func(sub *client.Subscription, ctx context.Context) error {
			for r, err := range sub.Records(ctx) {
				if err != nil {
					return err
				}
				if string(r.Value) == "2" {
					break
				}
			}
			return nil
		}, "2"},
		{"Finish and break", func(sub *client.Subscription, ctx context.Context) error {
			for r, err := range sub.Records(ctx) {
				if err != nil {
					return err
				}
				if string(r.Value) == "2" {
					sub.Finish(r)
					break
				}
			}
			return nil
		}, "3"},
		{"panic", func(sub *client.Subscription, ctx context.Context) (err error) {
			defer func() {
				if recover() != boom {
					err = errors.New("the panic was lost")
				}
			}()
			for r, err := range sub.Records(ctx) {
				if err != nil {
					return err
				}
				if string(r.Value) == "2" {
					panic(boom)
				}
			}
			return nil
		}, "2"},
		{"Close inside the loop", func(sub *client.Subscription, ctx context.Context) error {
			for r, err := range sub.Records(ctx) {
				if errors.Is(err, client.ErrClosed) {
					return nil
				}
				if err != nil {
					return err
				}
				if string(r.Value) == "2" {
					if err := sub.Close(); err != nil {
						return err
					}
				}
			}
			return errors.New("no ErrClosed")
		}, "2"},
		{"a cancelled context", func(sub *client.Subscription, ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			for r, err := range sub.Records(ctx) {
				if errors.Is(err, context.Canceled) {
					return nil
				}
				if err != nil {
					return err
				}
				if string(r.Value) == "2" {
					cancel() // this turn still ends well
				}
			}
			return errors.New("no context.Canceled")
		}, "3"},
		{"Commit inside the loop", func(sub *client.Subscription, ctx context.Context) error {
			for r, err := range sub.Records(ctx) {
				if err != nil {
					return err
				}
				if string(r.Value) == "2" {
					return sub.Commit(ctx, r)
				}
			}
			return nil
		}, "3"},
	}
	for _, test := range ends {
		t.Run(test.name, func(t *testing.T) {
			c := open(t)
			topic := newTopic(t, c, 1)
			numbers(t, c, topic, 5)
			group := client.Group("group-" + topic)
			sub := subscribe(t, c, client.Topics(topic), group)
			if err := test.loop(sub, limited(t)); err != nil {
				t.Fatal(err)
			}
			if err := sub.Close(); err != nil {
				t.Fatal(err)
			}
			for r, err := range subscribe(t, c, client.Topics(topic), group).Records(limited(t)) {
				if err != nil {
					t.Fatal(err)
				}
				if string(r.Value) != test.next {
					t.Errorf("the next member began with %q, want %q", r.Value, test.next)
				}
				break
			}
		})
	}
}

func TestCommitManually(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 1)
	numbers(t, c, topic, 4)
	options := []client.SubscribeOption{client.Topics(topic), client.Group("group-" + topic), client.CommitManually(), client.Until(client.End())}
	if got := values(t, subscribe(t, c, options...)); len(got) != 4 {
		t.Fatalf("read %v", got)
	}
	sub := subscribe(t, c, options...)
	read := 0
	for _, err := range sub.Records(limited(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if read++; read == 3 {
			if err := sub.Commit(limited(t)); err != nil { // two turns have ended
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff([]string{"2", "3"}, values(t, subscribe(t, c, options...))); diff != "" {
		t.Errorf("after a commit of two (-want +got):\n%s", diff)
	}
	lonely := subscribe(t, c, client.Topics(topic))
	if err := lonely.Commit(limited(t)); err == nil {
		t.Error("committed without a group")
	}
}

func TestRecordsOnce(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 1)
	sub := subscribe(t, c, client.Topics(topic), client.Until(client.End()))
	if got := values(t, sub); len(got) != 0 {
		t.Errorf("read %v from an empty topic", got)
	}
	for _, err := range sub.Records(limited(t)) {
		if err == nil {
			t.Error("a second loop gave a record")
		}
	}
}

// TestMembersShare: partitions move while records are worked on; every record is
// finished, and none is worked on by two members at once.
func TestMembersShare(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 4)
	const count = 400
	for i := range count {
		c.ProduceAsync(limited(t), &client.Record{Topic: topic, Key: fmt.Append(nil, i), Value: fmt.Append(nil, i)}, nil)
	}
	if err := c.Flush(limited(t)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(limited(t))
	defer stop()
	var mu sync.Mutex
	seen := map[string]int{}
	busy := map[int32]bool{}
	var loops sync.WaitGroup
	member := func(leaveAfter int) {
		m := open(t)
		sub := subscribe(t, m, client.Topics(topic), client.Group("group-"+topic), client.CommitEvery(100*time.Millisecond))
		loops.Go(func() {
			read := 0
			for r, err := range sub.Records(ctx) {
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				if busy[r.Partition] {
					t.Errorf("partition %d is worked on twice", r.Partition)
				}
				busy[r.Partition] = true
				mu.Unlock()
				select { // some work
				case <-time.After(2 * time.Millisecond):
				case <-ctx.Done():
				}
				mu.Lock()
				busy[r.Partition] = false
				if seen[string(r.Value)]++; len(seen) == count {
					stop()
				}
				mu.Unlock()
				if read++; read == leaveAfter {
					return
				}
			}
		})
	}
	member(30)
	member(60)
	member(1 << 30)
	loops.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != count {
		t.Errorf("%d of %d records were finished", len(seen), count)
	}
	again := 0
	for _, n := range seen {
		again += n - 1
	}
	if again > 10 {
		t.Errorf("%d records were worked on again; only those in whose turn a member left should be", again)
	}
}

// TestAPartitionMovesBetweenTurns: a rebalance waits for the turn under way, and
// what the loop had at hand of a partition that went away is not handed out.
func TestAPartitionMovesBetweenTurns(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 2)
	const each = 50
	manual := open(t, client.WithKgo(kgo.RecordPartitioner(kgo.ManualPartitioner())))
	for i := range 2 * each {
		r := &client.Record{Topic: topic, Partition: int32(i % 2), Value: fmt.Append(nil, i)}
		if err := manual.Produce(limited(t), r); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(limited(t))
	defer stop()
	options := []client.SubscribeOption{client.Topics(topic), client.Group("group-" + topic), client.SubscribeKgo(kgo.HeartbeatInterval(50 * time.Millisecond))}
	first := subscribe(t, c, options...)
	inTurn, release := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	seen := map[string]int{}
	see := func(r *client.Record) {
		mu.Lock()
		defer mu.Unlock()
		if seen[string(r.Value)]++; len(seen) == 2*each {
			stop()
		}
	}
	var loops sync.WaitGroup
	defer loops.Wait()
	loops.Go(func() {
		held := false
		for r, err := range first.Records(ctx) {
			if err != nil {
				return
			}
			if pending := first.Pending(); !held && pending[0] > 0 && pending[1] > 0 {
				held = true
				close(inTurn)
				<-release
			}
			select { // slow enough for the rebalance to come between two turns
			case <-time.After(3 * time.Millisecond):
			case <-ctx.Done():
			}
			for p, n := range first.Pending() {
				if !slices.Contains(first.Assigned()[topic], p) {
					t.Errorf("%d records of partition %d are at hand, which is another member's", n, p)
				}
			}
			see(r)
		}
	})
	<-inTurn
	second := subscribe(t, c, options...)
	loops.Go(func() {
		for r, err := range second.Records(ctx) {
			if err != nil {
				return
			}
			see(r)
		}
	})
	select { // ten heartbeats: the first member knows by now
	case <-time.After(500 * time.Millisecond):
	case <-ctx.Done():
	}
	if got := second.Assigned(); len(got) != 0 {
		t.Errorf("the second member got %v in the middle of a turn", got)
	}
	close(release)
	<-ctx.Done()
	loops.Wait()
	mu.Lock()
	defer mu.Unlock()
	for value, n := range seen {
		if n != 1 {
			t.Errorf("record %s was handed out %d times", value, n)
		}
	}
	if len(seen) != 2*each {
		t.Errorf("%d of %d records were handed out", len(seen), 2*each)
	}
}

// TestFinishAfterLosingThePartition: a late Finish or Commit must not set back
// the position that the new owner commits.
func TestFinishAfterLosingThePartition(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 1)
	numbers(t, c, topic, 3)
	group := client.Group("group-" + topic)
	sub := subscribe(t, c, client.Topics(topic), group)
	var first *client.Record
	for r, err := range sub.Records(limited(t)) {
		if err != nil {
			t.Fatal(err)
		}
		first = r
		break
	}
	if got := values(t, subscribe(t, c, client.Topics(topic), group, client.Until(client.End()))); len(got) != 3 {
		t.Fatalf("the next member read %v", got)
	}
	sub.Finish(first)
	if err := sub.Commit(limited(t), first); !errors.Is(err, client.ErrLostPartitions) {
		t.Errorf("a late commit: %v", err)
	}
	if got := values(t, subscribe(t, c, client.Topics(topic), group, client.Until(client.End()))); len(got) != 0 {
		t.Errorf("the position went back: %v was read again", got)
	}
}

func TestAssigned(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 3)
	numbers(t, c, topic, 1)
	alone := subscribe(t, c, client.Topics(topic), client.Partitions(2, 0))
	if got := alone.Assigned()[topic]; !slices.Equal(got, []int32{0, 2}) {
		t.Errorf("without a group: %v", got)
	}
	sub := subscribe(t, c, client.Topics(topic), client.Group("group-"+topic))
	for _, err := range sub.Records(limited(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if got := sub.Assigned()[topic]; !slices.Equal(got, []int32{0, 1, 2}) {
			t.Errorf("in a group of one: %v", got)
		}
		break
	}
	if got := sub.Assigned(); len(got) != 0 {
		t.Errorf("after the end: %v", got)
	}
}
