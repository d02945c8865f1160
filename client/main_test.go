package client_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/server"
)

// addresses are those of the broker that all tests and examples of this package
// share; each uses topics and groups of its own.
var addresses []string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "millrace-client-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	broker, err := server.Open(context.Background(), server.Config{
		DataDir: filepath.Join(dir, "data"), NodeID: 1, KafkaAddr: "127.0.0.1:0", RPCAddr: "127.0.0.1:0", HTTPAddr: "none",
		Settings: map[string]string{"group.initial.rebalance.delay.ms": "0"},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	select {
	case <-broker.Ready():
	case <-time.After(time.Minute):
		fmt.Fprintln(os.Stderr, "the broker is not ready")
		return 1
	}
	addresses = []string{broker.KafkaAddr()}
	code := m.Run()
	if err := broker.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// limited is a context that no test outlives by much.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// open opens a client that is closed with the test.
func open(t *testing.T, options ...client.Option) *client.Client {
	t.Helper()
	c, err := client.Open(limited(t), addresses, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// newTopic makes a topic named like the test.
func newTopic(t *testing.T, c *client.Client, partitions int) string {
	t.Helper()
	name := topicName(t)
	if err := c.Admin().Create(limited(t), client.TopicSpec{Name: name, Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
	return name
}

// topicCount makes names differ when a test runs several times.
var topicCount atomic.Int64

func topicName(t *testing.T) string {
	name := fmt.Appendf(nil, "%s-%d", t.Name(), topicCount.Add(1))
	for i, b := range name {
		if b == '/' || b == '_' {
			name[i] = '.'
		}
	}
	return string(name)
}

// numbers produces the values 0 to n-1 to partition 0 of a topic with one.
func numbers(t *testing.T, c *client.Client, topic string, n int) {
	t.Helper()
	records := make([]*client.Record, n)
	for i := range records {
		records[i] = &client.Record{Topic: topic, Value: fmt.Append(nil, i)}
	}
	if err := c.Produce(limited(t), records...); err != nil {
		t.Fatal(err)
	}
}

// values reads a subscription to its end.
func values(t *testing.T, sub *client.Subscription) []string {
	t.Helper()
	got := []string{}
	for r, err := range sub.Records(limited(t)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(r.Value))
	}
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	return got
}

func subscribe(t *testing.T, c *client.Client, options ...client.SubscribeOption) *client.Subscription {
	t.Helper()
	sub, err := c.Subscribe(limited(t), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sub.Close() })
	return sub
}
