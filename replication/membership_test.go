package replication

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestNextReplicaStep holds every step, and every state in which none may be taken.
func TestNextReplicaStep(t *testing.T) {
	ids := func(text string) (list []raft.ServerID) {
		for _, name := range strings.Fields(text) {
			list = append(list, raft.ServerID(name))
		}
		return list
	}
	for name, row := range map[string]struct {
		voters, others, target, leaving string
		down, behind                    string
		want                            string
	}{
		"nothing to do":                    {voters: "a b c", target: "a b c", want: "done"},
		"only another order":               {voters: "a b c", target: "c b a", want: "done"},
		"a new one":                        {voters: "a b c", target: "a b d", leaving: "c", want: "add without a vote d"},
		"two new ones":                     {voters: "a", others: "b", target: "a b c", behind: "b c", want: "add without a vote c"},
		"a new one that is down":           {voters: "a b c", target: "a b d", leaving: "c", down: "d"},
		"the second while the first is":    {voters: "a", target: "a b c", down: "b", want: "add without a vote c"},
		"not caught up":                    {voters: "a b c", others: "d", target: "a b d", leaving: "c", behind: "d"},
		"caught up, and down since":        {voters: "a b c", others: "d", target: "a b d", leaving: "c", down: "d"},
		"caught up":                        {voters: "a b c", others: "d", target: "a b d", leaving: "c", want: "give a vote d"},
		"a vote would cost the quorum":     {voters: "a b c", others: "d", target: "a b d", leaving: "c", down: "b", behind: "c"},
		"a vote for the second of two":     {voters: "a", others: "b", target: "a b", want: "give a vote b"},
		"one leaves":                       {voters: "a b c d", target: "a b d", leaving: "c", want: "remove c"},
		"one that is down leaves":          {voters: "a b c d", target: "a b d", leaving: "c", down: "c", want: "remove c"},
		"the rest is no quorum":            {voters: "a b c d", target: "a b d", leaving: "c", down: "b", behind: "d"},
		"one without a vote leaves":        {voters: "a b c", others: "d", target: "a b c", leaving: "d", down: "b c", want: "remove d"},
		"nobody leaves before all vote":    {voters: "a b c", others: "d", target: "b d", leaving: "a c", behind: "d"},
		"the others before the leader":     {voters: "a b c d", target: "c d", leaving: "a b", want: "remove b"},
		"the leader":                       {voters: "a c d", target: "c d", leaving: "a", want: "hand the leadership over c"},
		"the leader, to who is caught up":  {voters: "a c d", target: "c d", leaving: "a", behind: "c", want: "hand the leadership over d"},
		"the leader, to nobody":            {voters: "a c d", target: "c d", leaving: "a", behind: "c", down: "d"},
		"left":                             {voters: "a b d", target: "a b d", leaving: "c", want: "done"},
		"somebody whom nobody knows":       {voters: "a b c", target: "a b"},
		"a member that is to stay, silent": {voters: "a b c", target: "a b c", down: "b c", want: "done"},
	} {
		g := memberState{own: "a", target: ids(row.target), leaving: ids(row.leaving),
			up:       func(id raft.ServerID) bool { return !slices.Contains(ids(row.down), id) },
			holdsAll: func(id raft.ServerID) bool { return !slices.Contains(ids(row.behind), id) }}
		for _, id := range ids(row.voters) {
			g.servers = append(g.servers, raft.Server{Suffrage: raft.Voter, ID: id})
		}
		for _, id := range ids(row.others) {
			g.servers = append(g.servers, raft.Server{Suffrage: raft.Nonvoter, ID: id})
		}
		step := g.next()
		if got := strings.TrimSpace(step.what + " " + string(step.id)); got != row.want {
			t.Errorf("%s: %q, want %q", name, got, row.want)
		}
	}
}

// createOn makes a topic of one partition with replicas on these nodes.
func (c *hosts) createOn(name string, nodes ...metadata.NodeID) *metadata.Topic {
	c.Helper()
	var p metadata.Partition
	for _, n := range nodes {
		b, _ := c.running().host.Meta().View().Broker(n)
		p.Replicas = append(p.Replicas, metadata.Replica{Node: n, Incarnation: uint64(newIncarnation()), NodeIncarnation: b.Incarnation})
	}
	c.change(&metadata.CreateTopic{Name: name, ID: segment.NewTopicID(), Partitions: []metadata.Partition{p}})
	topic, ok := c.running().host.Meta().View().TopicNamed(name)
	if !ok {
		c.Fatalf("topic %s is not there after its creation", name)
	}
	return topic
}

// reassign gives the topic's partition replicas on these nodes; without any it takes the
// last move back.
func (c *hosts) reassign(topic *metadata.Topic, nodes ...metadata.NodeID) {
	c.Helper()
	eventually(c.T, "the change of the replicas", func() bool {
		view := c.running().host.Meta().View()
		now, _ := view.Topic(topic.ID)
		change := view.Reassign(now, 0, nodes, func() uint64 { return uint64(newIncarnation()) })
		if len(nodes) == 0 {
			change, _ = view.CancelReassignment(now, 0)
		}
		ctx, cancel := context.WithTimeout(c.Context(), testWait)
		defer cancel()
		_, _, err := c.running().host.Meta().Change(ctx, change)
		return err == nil
	})
}

// settledOn waits until the metadata says that the partition is on these nodes, its group
// has these voters and nobody else, and no other node that runs has a replica or folder.
func (c *hosts) settledOn(topic *metadata.Topic, nodes ...metadata.NodeID) {
	c.Helper()
	eventually(c.T, fmt.Sprintf("the replicas to be on %v", nodes), func() bool {
		for _, n := range c.nodes {
			if n.host != nil && !n.settledOn(topic, nodes) {
				return false
			}
		}
		return true
	})
}

func (n *hostNode) settledOn(topic *metadata.Topic, nodes []metadata.NodeID) bool {
	now, ok := n.host.Meta().View().Topic(topic.ID)
	if !ok || !now.Partitions[0].IsSettled() {
		return false
	}
	want := serverIDs(now.Partitions[0].Replicas)
	var on []metadata.NodeID
	for _, r := range now.Partitions[0].Replicas {
		on = append(on, r.Node)
	}
	p, runs := n.host.Partition(topic.ID, 0)
	if !slices.Equal(on, nodes) || runs != slices.Contains(nodes, n.id) {
		return false
	}
	if !runs {
		_, err := n.fs.Mount().Stat(n.folder(topic, 0))
		return err != nil
	}
	in := p.current()
	if in == nil {
		return false
	}
	servers := in.raft.GetConfiguration().Configuration().Servers
	return len(servers) == len(want) && !slices.ContainsFunc(servers, func(s raft.Server) bool {
		return s.Suffrage != raft.Voter || !slices.Contains(want, s.ID)
	})
}

// holds waits until a node has as many records as were acknowledged, committed.
func (c *hosts) holds(topic *metadata.Topic, node metadata.NodeID, count uint64) {
	c.Helper()
	eventually(c.T, fmt.Sprintf("node %d to hold %d records", node, count), func() bool {
		p, ok := c.nodes[node-1].host.Partition(topic.ID, 0)
		return ok && uint64(p.Log().HighWatermark()) >= count
	})
}

// TestMovePartition: under load a partition moves to other nodes, its leader among those
// that leave. Everything acknowledged is on the new ones, and nothing on the old ones; it
// goes on after all of them have started again.
func TestMovePartition(t *testing.T) {
	c := newHosts(t, 5)
	topic := c.createOn("orders", 1, 2, 3)
	c.produce(topic, 0, 0)
	for v := range uint64(50) {
		c.produce(topic, 0, v+1)
	}
	c.reassign(topic, 4, 5, 3)
	c.produceMany(topic, 51, 60)
	c.settledOn(topic, 4, 5, 3)
	c.produceMany(topic, 60, 70)
	for _, node := range []metadata.NodeID{3, 4, 5} {
		c.holds(topic, node, 70)
	}
	for _, n := range c.nodes {
		n.stop()
	}
	for _, n := range c.nodes {
		n.start()
	}
	c.ready()
	c.produceMany(topic, 70, 75)
	c.settledOn(topic, 4, 5, 3)
	c.reassign(topic, 1, 2, 3) // a node that had it before gets it again, as another replica
	c.settledOn(topic, 1, 2, 3)
	c.produceMany(topic, 75, 80)
	for _, node := range []metadata.NodeID{1, 2, 3} {
		c.holds(topic, node, 80)
	}
}

// produceMany appends values [from, to), each at its own offset.
func (c *hosts) produceMany(topic *metadata.Topic, from, to uint64) {
	c.Helper()
	for v := from; v < to; v++ {
		if base := c.produce(topic, 0, v); uint64(base) < v {
			c.Fatalf("value %d is at offset %d", v, base)
		}
	}
}

// TestRaiseReplicationFactor: a partition of one replica gets three, and outlives its
// first broker.
func TestRaiseReplicationFactor(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.createOn("orders", 1)
	c.produceMany(topic, 0, 20)
	c.reassign(topic, 1, 2, 3)
	c.settledOn(topic, 1, 2, 3)
	for _, node := range []metadata.NodeID{2, 3} {
		c.holds(topic, node, 20)
	}
	c.nodes[0].stop()
	c.produceMany(topic, 20, 25)
	c.nodes[0].start()
	c.ready()
	c.reassign(topic, 2)
	c.settledOn(topic, 2)
	c.produceMany(topic, 25, 30)
}

// TestMoveWaitsAndIsCancelled: while the new replica's node is down nobody leaves, and the
// move can be taken back.
func TestMoveWaitsAndIsCancelled(t *testing.T) {
	c := newHosts(t, 4)
	topic := c.createOn("orders", 1, 2, 3)
	c.produceMany(topic, 0, 10)
	c.nodes[3].stop()
	c.reassign(topic, 2, 3, 4)
	c.produceMany(topic, 10, 20)
	for _, n := range c.nodes[:3] {
		p, ok := n.host.Partition(topic.ID, 0)
		if !ok || len(p.current().raft.GetConfiguration().Configuration().Servers) != 3 {
			t.Errorf("node %d: the group has changed while the new node is down", n.id)
		}
	}
	c.reassign(topic)
	c.settledOn(topic, 2, 3, 1)
	c.nodes[3].start()
	c.ready()
	c.settledOn(topic, 2, 3, 1)
	c.produceMany(topic, 20, 30)
}

// TestMoveSurvivesCrashes: every node crashes once while partitions move, the last thing
// it wrote without a sync lost; nothing acknowledged is.
func TestMoveSurvivesCrashes(t *testing.T) {
	c := newHosts(t, 4)
	topic := c.createOn("orders", 1, 2, 3)
	next := uint64(0)
	produce := func() { c.produceMany(topic, next, next+5); next += 5 }
	produce()
	for i, victim := range c.nodes {
		target := []metadata.NodeID{2, 3, 4}
		if i%2 == 1 {
			target = []metadata.NodeID{1, 2, 3}
		}
		c.reassign(topic, target...)
		produce()
		victim.fs.Crash(crashfs.CrashOptions{})
		victim.stop()
		produce()
		victim.start()
		c.ready()
		c.settledOn(topic, target...)
		for _, node := range target {
			c.holds(topic, node, next)
		}
	}
}

// TestMoveOfATrimmedLog: a new replica of a log of which the beginning is gone is seeded.
func TestMoveOfATrimmedLog(t *testing.T) {
	c := newHosts(t, 4)
	c.policy = func(*metadata.Topic) Policy {
		return Policy{SegmentBytes: 4 << 10, Delete: true, Retention: log.Retention{Age: -1, Bytes: 8 << 10}}
	}
	c.retentionInterval, c.retentionWait = 10*time.Millisecond, 50*time.Millisecond
	for _, n := range c.nodes {
		n.stop()
		n.start()
	}
	c.ready()
	topic := c.createOn("orders", 1, 2, 3)
	c.produceMany(topic, 0, 300)
	eventually(t, "the log to be trimmed", func() bool { return c.leader(topic, 0).Log().FirstIndex() > 100 })
	c.reassign(topic, 4, 2, 3)
	c.settledOn(topic, 4, 2, 3)
	c.holds(topic, 4, 300)
	if p, _ := c.nodes[3].host.Partition(topic.ID, 0); p.Log().FirstIndex() <= 100 {
		t.Errorf("the new replica's log begins at %d", p.Log().FirstIndex())
	}
	c.produceMany(topic, 300, 310)
	c.nodes[3].stop()
	c.nodes[3].start()
	c.ready()
	c.holds(topic, 4, 310)
}
