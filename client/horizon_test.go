package client_test

import (
	"testing"
	"time"

	"github.com/millrace/millrace/client"
)

// TestUntilWithoutPartitions: a member that is given nothing, because others have all
// partitions, ends when they have committed everything, and not before.
func TestUntilWithoutPartitions(t *testing.T) {
	c := open(t)
	topic := newTopic(t, c, 1)
	numbers(t, c, topic, 3)
	options := []client.SubscribeOption{client.Topics(topic), client.Group(topic), client.Until(client.End()), client.CommitManually()}
	busy := subscribe(t, c, options...)
	ended := make(chan struct{})
	read := 0
	for r, err := range busy.Records(limited(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if read++; read == 1 { // it has the partition, and keeps it
			idle := subscribe(t, c, options...)
			go func() {
				defer close(ended)
				for r, err := range idle.Records(limited(t)) {
					if err != nil || r != nil {
						t.Errorf("the other member read %v, %v", r, err)
					}
				}
			}()
		}
		if read == 2 { // nothing is committed, and the other has looked a few times
			select {
			case <-ended:
				t.Fatal("the other member ended before the records were finished")
			case <-time.After(1500 * time.Millisecond):
			}
		}
		if string(r.Value) == "2" {
			if err := busy.Commit(limited(t), r); err != nil {
				t.Fatal(err)
			}
			<-ended
		}
	}
}
