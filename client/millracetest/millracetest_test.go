package millracetest_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/client/millracetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExample(t *testing.T) { testOrders(t) }

// produceAndRead writes one record and reads the whole topic.
func produceAndRead(t *testing.T, c *client.Client, value string, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Produce(ctx, &client.Record{Topic: "t", Value: []byte(value)}); err != nil {
		t.Fatal(err)
	}
	sub, err := c.Subscribe(ctx, client.Topics("t"), client.Until(client.End()))
	if err != nil {
		t.Fatal(err)
	}
	got, last := 0, ""
	for r, err := range sub.Records(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		got, last = got+1, string(r.Value)
	}
	if got != want || last != value {
		t.Fatalf("read %d records, the last %q; want %d and %q", got, last, want, value)
	}
}

func TestOneNodeKeepsItsDataOverARestart(t *testing.T) {
	cluster := millracetest.Start(t)
	c := cluster.Client()
	if err := c.Admin().Create(t.Context(), client.TopicSpec{Name: "t", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	produceAndRead(t, c, "one", 1)
	cluster.Restart(1)
	produceAndRead(t, c, "two", 2)
	cluster.Stop(1)
	cluster.Restart(1)
	produceAndRead(t, c, "three", 3)
}

func TestThreeNodesGoOnWithoutOne(t *testing.T) {
	cluster := millracetest.Start(t, millracetest.Nodes(3))
	c := cluster.Client()
	if err := c.Admin().Create(t.Context(), client.TopicSpec{Name: "t", Partitions: 1, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	produceAndRead(t, c, "one", 1)
	leader := leaderOf(t, c, "t")
	cluster.Kill(leader)
	produceAndRead(t, c, "two", 2)
	cluster.Restart(leader)
	produceAndRead(t, c, "three", 3)
}
