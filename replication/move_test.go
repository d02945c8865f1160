package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// inSync waits until every node has heard that all replicas of a partition are.
func (c *hosts) inSync(topic *metadata.Topic, p int32) {
	c.Helper()
	for _, n := range c.nodes {
		eventually(c.T, "all replicas to be in sync", func() bool {
			info, known := n.host.Leader(topic.ID, p)
			return known && len(info.InSync) == len(c.nodes)
		})
	}
}

// move asks a node to move a leadership and bounds how long that may take.
func (n *hostNode) move(topic *metadata.Topic, p int32, to metadata.NodeID) error {
	ctx, cancel := context.WithTimeout(n.cluster.Context(), testWait)
	defer cancel()
	return n.host.MoveLeader(ctx, topic.ID, p, to)
}

// load produces to a partition, one batch after the other, from when the first is
// acknowledged until the returned function is called or the outcome of one is unknown, which moving a leadership must
// not cost. A batch that was refused is produced again.
func (c *hosts) load(topic *metadata.Topic, p int32) (stop func() (acknowledged uint64, unknown error)) {
	var done sync.WaitGroup
	quit := make(chan struct{})
	var count uint64
	var unknown error
	began := make(chan struct{})
	begin := sync.OnceFunc(func() { close(began) })
	done.Go(func() {
		defer begin()
		for {
			select {
			case <-quit:
				return
			default:
			}
			result, err := await(c.Context(), c.leader(topic, p).Propose(c.Context(), batch(-1, -1, -1, count), Guard{}))
			switch {
			case err == nil && uint64(result.Base) != count:
				c.Errorf("value %d is at offset %d", count, result.Base)
				return
			case err == nil:
				count++
				begin()
			case !definiteRefusal(err):
				unknown = fmt.Errorf("value %d: %w", count, err)
				return
			}
		}
	})
	<-began
	return func() (uint64, error) {
		close(quit)
		done.Wait()
		return count, unknown
	}
}

// definiteRefusal: the batch was certainly not appended.
func definiteRefusal(err error) bool {
	var void *VoidError
	return errors.Is(err, ErrNotLeader) || errors.As(err, &void)
}

// TestMoveLeader moves a leadership from and to every node at load (M7 of the fault
// catalogue, without the network failing): the one that was named leads, everybody
// knows, and no write fails but with an error after which it is certain not to be
// there.
func TestMoveLeader(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.inSync(topic, 0)
	before, _ := c.nodes[0].host.Leader(topic.ID, 0)
	stop := c.load(topic, 0)
	term, moved := before.Term, segment.Term(0)
	for i := range 12 {
		asked, to := c.nodes[i%3], metadata.NodeID(1+(i*2+1)%3)
		eventually(t, "the move", func() bool { // the machine may be too busy for the hand-over's clocks
			if err := asked.move(topic, 0, to); err != nil {
				t.Log(err)
				return false
			}
			info, known := asked.host.Leader(topic.ID, 0)
			led := known && info.Node == to
			if led && info.Term > term {
				moved++
			}
			term = max(term, info.Term)
			return led
		})
		c.inSync(topic, 0)
	}
	n, unknown := stop()
	if n == 0 {
		t.Error("nothing was acknowledged")
	}
	// An election that nobody asked for, on a busy machine, may leave an outcome open.
	if unknown != nil && term == before.Term+moved {
		t.Errorf("after %d moves and no other election: %v", moved, unknown)
	}
}

// TestMoveLeaderRefused: what cannot take over is not tried, or the leader goes on
// (M8 of the fault catalogue).
func TestMoveLeaderRefused(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.inSync(topic, 0)
	eventually(t, "the first to lead", func() bool { return c.nodes[1].move(topic, 0, 1) == nil })
	c.inSync(topic, 0)
	value := uint64(0)
	refused := func(what string, want error) {
		t.Helper()
		for _, asked := range c.nodes[:2] { // the leader itself, and another
			eventually(t, "the refusal of "+what, func() bool { // a busy machine may hold an election in between
				err := asked.move(topic, 0, 3)
				if err == nil {
					t.Fatalf("%s leads at the request of node %d", what, asked.id)
				}
				return want == nil || errors.Is(err, want)
			})
		}
		c.produce(topic, 0, value)
		value++
	}
	if err := c.nodes[1].move(topic, 0, 7); !errors.Is(err, ErrNotInSync) {
		t.Errorf("a node without a replica: %v", err)
	}
	release := make(chan struct{})
	c.nodes[2].fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: "/orders/", Repeat: true, Do: func() { <-release }})
	c.produce(topic, 0, value)
	value++
	refused("a replica that is behind", ErrNoSuccessor)
	close(release)
	third, _ := c.nodes[2].host.Partition(topic.ID, 0)
	eventually(t, "the third to catch up", func() bool { return third.Log().HighWatermark() == segment.Offset(value) })
	c.nodes[2].deaf(transport.MethodRaftHandOver) // never hears it again
	refused("a replica that does not campaign", nil)
	c.nodes[2].stop()
	eventually(t, "the third to be gone", func() bool { return !c.nodes[0].host.Up(3) && !c.nodes[1].host.Up(3) })
	refused("a node that is down", ErrNotInSync)
	for _, n := range c.nodes[:2] {
		if err := n.host.MoveLeader(t.Context(), segment.NewTopicID(), 0, 1); !errors.Is(err, ErrNoLeader) {
			t.Errorf("an unknown partition: %v", err)
		}
	}
}

// TestMoveOneAtATime: while a node hands one leadership over, others wait their turn.
func TestMoveOneAtATime(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.inSync(topic, 0)
	for _, asked := range c.nodes[:2] {
		eventually(t, "an attempt without an election of its own", func() bool {
			eventually(t, "the first to lead", func() bool { return c.nodes[1].move(topic, 0, 1) == nil })
			c.inSync(topic, 0)
			before := asked.host.LastTerm(topic.ID, 0)
			c.nodes[0].host.moving <- struct{}{} // another one is on its way
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			err := asked.host.MoveLeader(ctx, topic.ID, 0, 2)
			cancel()
			<-c.nodes[0].host.moving
			if asked.host.LastTerm(topic.ID, 0) != before {
				return false // on a busy machine: the move may have been of another leader
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("asked of node %d: %v", asked.id, err)
			}
			return true
		})
	}
	eventually(t, "the second to lead", func() bool { return c.nodes[0].move(topic, 0, 2) == nil })
}

func TestMoveFormat(t *testing.T) {
	group := transport.GroupID{Topic: segment.TopicID{1, 2, 15: 16}, Partition: 0x01020304}
	b := encodeMove(group, 5)
	want := []byte{1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 1, 2, 3, 4, 0, 0, 0, 5}
	if diff := cmp.Diff(want, b); diff != "" {
		t.Errorf("the format changed (-want +got):\n%s", diff)
	}
	got, to, err := decodeMove(b)
	if err != nil || got != group || to != 5 {
		t.Errorf("%v, %d, %v", got, to, err)
	}
	for _, bad := range [][]byte{nil, b[:23], append(b, 0)} {
		if _, _, err := decodeMove(bad); err == nil {
			t.Errorf("%d bytes accepted", len(bad))
		}
	}
}
