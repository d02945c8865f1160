package replication

import (
	"context"
	"errors"
	"testing"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
)

// TestNodeSpeaksForItselfAlone: a report in another node's name would send clients
// where nobody leads, until that term has passed.
func TestNodeSpeaksForItselfAlone(t *testing.T) {
	c := newHosts(t, 2)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	group := transport.GroupID{Topic: topic.ID}
	from, to := c.nodes[0].host, c.nodes[1].host
	before, _ := to.leaders.get(group)
	term := before.Term + 100
	for name, wrong := range map[string]leaderReport{
		"names the receiver":        {group, LeaderInfo{Node: 2, Term: term}, 1},
		"names a third":             {group, LeaderInfo{Node: 3, Term: term}, 1},
		"names nobody's successors": {group, LeaderInfo{Node: NoLeader, Term: term, InSync: []metadata.NodeID{1}}, 1},
	} {
		right := leaderReport{transport.GroupID{Topic: topic.ID, Partition: 9}, LeaderInfo{Node: 1, Term: 1}, 1}
		ctx, cancel := context.WithTimeout(t.Context(), testWait)
		_, err := from.mux.Call(ctx, 2, transport.Control, transport.MethodGossip, encodeReports([]leaderReport{right, wrong}))
		cancel()
		var remote *transport.RemoteError
		if !errors.As(err, &remote) || remote.Code != transport.CodeBadRequest {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
		if info, _ := to.leaders.get(group); info.Term >= term {
			t.Errorf("%s: learned %+v", name, info)
		}
		if _, known := to.leaders.get(right.group); known {
			t.Errorf("%s: learned the rest of a message that was refused", name)
		}
	}
}

// TestRoleIsAnnouncedAsItIs: the leadership is lost while another goroutine, which saw
// it, is about to publish it.
func TestRoleIsAnnouncedAsItIs(t *testing.T) {
	c := newHosts(t, 1)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	h := c.nodes[0].host
	p := c.leader(topic, 0)
	group := p.group
	eventually(t, "the leadership to be known", func() bool { _, ok := h.Leader(topic.ID, 0); return ok })

	p.mu.Lock() // who has seen that the role is ready waits here for the in-sync set
	published, lost := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(published)
		h.announce(p)
	}()
	for range 10 {
		pause()
	}
	h.leaders.mu.Lock() // what it publishes is to be news
	entry := h.leaders.leaders[group]
	entry.InSync = nil
	h.leaders.leaders[group] = entry
	h.leaders.mu.Unlock()
	go func() {
		defer close(lost)
		p.lead(Leadership{})
	}()
	for range 10 {
		pause()
	}
	p.mu.Unlock()
	<-published
	<-lost
	if info, _ := h.leaders.get(group); info.Node != NoLeader {
		t.Errorf("after the leadership was lost node %d is said to lead", info.Node)
	}
}
