package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/client"
)

// deadAddress is one where nobody listens: one that was free a moment ago could be
// somebody's by now.
const deadAddress = "127.0.0.1:1"

func TestOpenADeadAddress(t *testing.T) {
	begin := time.Now()
	_, err := client.Open(limited(t), []string{deadAddress})
	var unreachable *client.UnreachableError
	if !errors.As(err, &unreachable) || !errors.Is(err, client.ErrUnreachable) {
		t.Fatalf("error is %v", err)
	}
	if diff := cmp.Diff([]string{deadAddress}, unreachable.Addresses); diff != "" {
		t.Error(diff)
	}
	if client.Hint(err) == "" {
		t.Error("no hint")
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

// TestOpenASilentAddress: somebody accepts and never answers.
func TestOpenASilentAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = client.Open(ctx, []string{l.Addr().String()})
	if !errors.Is(err, client.ErrUnreachable) {
		t.Fatalf("error is %v", err)
	}
	cancelled, stop := context.WithCancel(t.Context())
	stop()
	if _, err := client.Open(cancelled, []string{l.Addr().String()}); !errors.Is(err, context.Canceled) {
		t.Fatalf("error after a cancel is %v", err)
	}
}

func TestOpenWithFaultyOptions(t *testing.T) {
	if _, err := client.Open(t.Context(), nil); err == nil {
		t.Error("opened without an address")
	}
	if _, err := client.Open(t.Context(), addresses, client.WithKgo(kgo.RequiredAcks(kgo.NoAck()))); err == nil {
		t.Error("opened with an option that franz-go refuses")
	}
}

func TestProduceSetsOffsets(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 1)
	records := []*client.Record{
		{Topic: topic, Key: []byte("k"), Value: []byte("a")},
		{Topic: topic, Value: nil, Headers: []client.Header{{Key: "h", Value: []byte{0xff}}}},
		{Topic: topic, Value: []byte{}},
	}
	if err := c.Produce(limited(t), records...); err != nil {
		t.Fatal(err)
	}
	for i, r := range records {
		if r.Offset != int64(i) || r.Partition != 0 || r.Timestamp.IsZero() {
			t.Errorf("record %d is at partition %d offset %d, time %v", i, r.Partition, r.Offset, r.Timestamp)
		}
	}
	var got []*client.Record
	for r, err := range subscribe(t, c, client.Topics(topic), client.Until(client.End())).Records(limited(t)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	if len(got) != 3 {
		t.Fatalf("read %d records", len(got))
	}
	if got[1].Value != nil || got[2].Value == nil || got[1].Key != nil {
		t.Error("null and empty were confused")
	}
	if string(got[0].Key) != "k" || !bytes.Equal(got[1].Headers[0].Value, []byte{0xff}) {
		t.Error("key or header came back changed")
	}
}

func TestProduceToAnUnknownTopic(t *testing.T) {
	c := open(t)
	err := c.Produce(limited(t), &client.Record{Topic: "nowhere", Value: []byte("x")})
	if !errors.Is(err, client.ErrUnknownTopic) {
		t.Fatalf("error is %v", err)
	}
	var failed *client.ProduceError
	if !errors.As(err, &failed) || len(failed.Failed) != 1 || failed.Sent != 1 {
		t.Errorf("error is %#v", err)
	}
	topics, err := c.Admin().List(limited(t), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range topics {
		if topic.Name == "nowhere" {
			t.Error("producing made the topic")
		}
	}
}

func TestProducePartOfARecordSet(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 1)
	err := c.Produce(limited(t),
		&client.Record{Topic: topic, Value: []byte("fits")},
		&client.Record{Topic: topic, Value: make([]byte, 8<<20)})
	var failed *client.ProduceError
	if !errors.As(err, &failed) || len(failed.Failed) != 1 || failed.Sent != 2 || !errors.Is(err, client.ErrRecordTooLarge) {
		t.Fatalf("error is %v", err)
	}
	if got := values(t, subscribe(t, c, client.Topics(topic), client.Until(client.End()))); len(got) != 1 {
		t.Errorf("read %d records, want the one that fits", len(got))
	}
}

func TestProduceAsyncKeepsOrder(t *testing.T) {
	for _, codec := range []client.Codec{client.None, client.Gzip, client.Snappy, client.LZ4, client.Zstd} {
		t.Run(string(codec), func(t *testing.T) {
			c := open(t, client.WithCompression(codec))
			topic := newTopic(t, c, 1)
			const count = 2000
			var mu sync.Mutex
			var offsets []int64
			for i := range count {
				c.ProduceAsync(limited(t), &client.Record{Topic: topic, Value: fmt.Append(nil, i)}, func(r *client.Record, err error) {
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					offsets = append(offsets, r.Offset)
				})
			}
			if err := c.Flush(limited(t)); err != nil {
				t.Fatal(err)
			}
			for i, offset := range offsets {
				if offset != int64(i) {
					t.Fatalf("callback %d had offset %d", i, offset)
				}
			}
			got := values(t, subscribe(t, c, client.Topics(topic), client.Until(client.End())))
			for i, v := range got {
				if v != fmt.Sprint(i) {
					t.Fatalf("record %d is %q", i, v)
				}
			}
			if len(got) != count || len(offsets) != count {
				t.Fatalf("%d acknowledged, %d read, want %d", len(offsets), len(got), count)
			}
		})
	}
}

func TestCloseSendsWhatIsBuffered(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 1)
	slow := open(t, client.WithLinger(20*time.Second))
	var result error = errors.New("not called")
	slow.ProduceAsync(t.Context(), &client.Record{Topic: topic, Value: []byte("x")}, func(_ *client.Record, err error) { result = err })
	if err := slow.Close(); err != nil {
		t.Fatal(err)
	}
	if result != nil {
		t.Errorf("the record failed: %v", result)
	}
	if err := slow.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if err := slow.Produce(t.Context(), &client.Record{Topic: topic}); !errors.Is(err, client.ErrClosed) {
		t.Errorf("producing after Close: %v", err)
	}
	if _, err := slow.Subscribe(limited(t), client.Topics(topic)); !errors.Is(err, client.ErrClosed) {
		t.Errorf("subscribing after Close: %v", err)
	}
	if err := slow.Ping(limited(t)); !errors.Is(err, client.ErrClosed) {
		t.Errorf("pinging after Close: %v", err)
	}
	slow.ProduceAsync(t.Context(), &client.Record{Topic: topic}, func(_ *client.Record, err error) { result = err })
	if !errors.Is(result, client.ErrClosed) || errors.Is(result, client.ErrOutcomeUnknown) {
		t.Errorf("producing after Close: %v", result)
	}
	admin := slow.Admin()
	_, listErr := admin.List(limited(t), true)
	_, describeErr := admin.Describe(limited(t), topic)
	_, configsErr := admin.Configs(limited(t), topic)
	_, offsetsErr := slow.Offsets(limited(t), topic, client.End())
	for name, err := range map[string]error{
		"list": listErr, "describe": describeErr, "configs": configsErr, "offsets": offsetsErr, "delete": admin.Delete(limited(t), topic),
		"create": admin.Create(limited(t), client.TopicSpec{Name: topic}),
	} {
		if !errors.Is(err, client.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}
