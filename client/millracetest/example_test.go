package millracetest_test

import (
	"context"
	"testing"
	"time"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/client/millracetest"
)

// testOrders is a test as a program that uses Millrace would have it: an order is
// not lost when its broker crashes.
func testOrders(t *testing.T) {
	cluster := millracetest.Start(t, millracetest.Nodes(3))
	c := cluster.Client()
	if _, _, err := c.Admin().Ensure(t.Context(), client.TopicSpec{Name: "orders", Partitions: 1, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	order := &client.Record{Topic: "orders", Value: []byte("two apples")}
	if err := c.Produce(t.Context(), order); err != nil {
		t.Fatal(err)
	}

	cluster.Kill(leaderOf(t, c, "orders"))

	sub, err := c.Subscribe(t.Context(), client.Topics("orders"), client.Until(client.End()))
	if err != nil {
		t.Fatal(err)
	}
	orders := 0
	for record, err := range sub.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if string(record.Value) == "two apples" {
			orders++
		}
	}
	if orders != 1 {
		t.Errorf("%d orders after the crash, want 1", orders)
	}
}

// leaderOf is the broker that leads the topic's first partition. A broker that has not
// heard yet who does says -1.
func leaderOf(t *testing.T, c *client.Client, name string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		topic, err := c.Admin().Describe(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if leader := topic.Partitions[0].Leader; leader > 0 {
			return int(leader)
		}
	}
}

func Example() {
	// In a file of yours the function above is called TestOrders.
	_ = testOrders
}
