package replication

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// TestMetaChangeIsOfItsSender: the leader takes a forwarded change only of the node
// that it is from, as its handshake says; else one node could end another's session
// or have its replicas forgotten.
func TestMetaChangeIsOfItsSender(t *testing.T) {
	net := newMetaNet(t)
	for _, n := range net.founders(3) {
		n.start()
	}
	net.settled()
	leader := net.leader()
	var sender, third *metaNode
	for _, n := range net.nodes {
		switch {
		case n == leader:
		case sender == nil:
			sender = n
		default:
			third = n
		}
	}
	own := metadata.Origin{Node: sender.id, Session: sender.group.process.Load(), Sequence: 1000, Done: 1000}
	others := metadata.Origin{Node: third.id, Session: third.group.process.Load(), Sequence: 1000, Done: 1000}
	change := &metadata.DeleteTopic{ID: segment.TopicID{1}}
	registration, foreign := sender.group.registration(), third.group.registration()
	wrongDisk := *registration
	wrongDisk.Incarnation++
	for _, row := range []struct {
		name   string
		origin metadata.Origin
		cmd    metadata.Command
		want   string // of the refusal, empty: it is taken
	}{
		{"its own", own, change, ""},
		{"of another node's session", others, change, "sends a change"},
		{"outside of any session", metadata.Origin{Node: sender.id}, change, "outside of any session"},
		{"another's deletion", own, &metadata.ConfirmDelete{Node: third.id}, "on behalf of"},
		{"another's producer ids", own, &metadata.AllocateProducerIDs{Node: third.id, Count: 1}, "on behalf of"},
		{"the founding", own, &metadata.Found{ClusterID: "other"}, "founding"},
		{"its own registration", metadata.Origin{}, registration, ""},
		{"its registration in a session", own, registration, "belongs to none"},
		{"another's registration", metadata.Origin{}, foreign, "registers node"},
		{"its registration with another disk", metadata.Origin{}, &wrongDisk, "registers node"},
	} {
		t.Run(row.name, func(t *testing.T) {
			command, err := metadata.EncodeCommand(row.origin, row.cmd)
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), testWait)
			defer cancel()
			before := leader.group.View()
			_, err = sender.mux.Call(ctx, leader.id, transport.Control, transport.MethodMetaChange, command)
			if row.want == "" {
				must(t, err)
				return
			}
			var remote *transport.RemoteError
			if !errors.As(err, &remote) || remote.Code != transport.CodeBadRequest || !strings.Contains(remote.Message, row.want) {
				t.Errorf("refused with %v, want %q", err, row.want)
			}
			if leader.group.View() != before {
				t.Error("the state has changed")
			}
		})
	}
}
