package client_test

import (
	"testing"
	"time"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/client/millracetest"
)

// TestCloseWithoutAQuorum: closing a member whose coordinator is gone, while brokers
// go on saying so, takes no longer than it promises, and says that its positions
// were not committed.
func TestCloseWithoutAQuorum(t *testing.T) {
	for name, coordinatorStays := range map[string]bool{"the coordinator is left": true, "another broker is left": false} {
		t.Run(name, func(t *testing.T) { closeWithoutAQuorum(t, coordinatorStays) })
	}
}

func closeWithoutAQuorum(t *testing.T, coordinatorStays bool) {
	cluster := millracetest.Start(t, millracetest.Nodes(3), millracetest.Setting("group.initial.rebalance.delay.ms", "0"))
	c := cluster.Client()
	if err := c.Admin().Create(limited(t), client.TopicSpec{Name: "t", Partitions: 1, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	numbers(t, c, "t", 3)
	sub := subscribe(t, c, client.Topics("t"), client.Group("g"))
	const promised = 500 * time.Millisecond
	sub.CloseWithin(promised)
	var begin time.Time
	for r, err := range sub.Records(limited(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if string(r.Value) != "2" {
			continue
		}
		sub.Finish(r)
		found := c.Admin().Kadm().FindGroupCoordinators(limited(t), "g")["g"]
		if found.Err != nil {
			t.Fatal(found.Err)
		}
		coordinator := int(found.NodeID)
		left := coordinator
		if !coordinatorStays {
			left = coordinator%3 + 1
		}
		for id := 1; id <= 3; id++ {
			if id != left {
				cluster.Kill(id)
			}
		}
		begin = time.Now()
		break // closes it
	}
	if err := sub.Close(); err == nil {
		t.Error("nothing tells that the positions were not committed")
	}
	if took := time.Since(begin); took > promised+2*time.Second {
		t.Errorf("Close took %s", took)
	}
}
