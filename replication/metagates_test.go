package replication

import (
	"bytes"
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// metaTrio is three founders that have settled, and the one that leads.
func metaTrio(t *testing.T) (net *metaNet, leader *metaNode, others []*metaNode) {
	t.Helper()
	return newMetaNet(t).trio()
}

func (net *metaNet) trio() (_ *metaNet, leader *metaNode, others []*metaNode) {
	net.Helper()
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	leader = net.leader()
	for _, n := range nodes {
		if n != leader {
			others = append(others, n)
		}
	}
	return net, leader, others
}

// TestMetaLeaderIsReadyOnlyBehindItsBarrier: a new leader that cannot commit anything
// yet may lack changes that were acknowledged, which commit with its first entry.
func TestMetaLeaderIsReadyOnlyBehindItsBarrier(t *testing.T) {
	_, old, others := metaTrio(t)
	next := others[0]
	in := next.group.current()
	before := in.raft.CurrentTerm()
	release := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn) // before the nodes stop, which waits for their writes
	for _, n := range []*metaNode{old, others[1]} {
		n.fs.Inject(crashfs.Fault{Op: crashfs.OpWrite, PathContains: "raft.model", Repeat: true, Do: func() {
			if in.raft.State() == raft.Leader { // votes are written before
				<-release
			}
		}})
	}
	eventually(t, "another leader", func() bool {
		_ = in.facade.Campaign(t.Context())
		return in.raft.State() == raft.Leader && in.raft.CurrentTerm() > before
	})
	for looks := 0; in.raft.State() == raft.Leader; looks++ {
		if in.leads() {
			t.Fatal("ready, though nothing of its term can be committed")
		}
		if looks == 30 {
			break
		}
		pause()
	}
	goOn()
	next.net.leader()
}

// TestMetaReadIndexNeedsAMajority: a leader that was deposed and does not know it yet
// would let a node believe that it has caught up.
func TestMetaReadIndexNeedsAMajority(t *testing.T) {
	net, leader, others := metaTrio(t)
	in := leader.group.current()
	host := func(n *metaNode) string { return transporttest.Host(n.address) }
	net.network.Isolate(host(leader), host(others[0]), host(others[1]))
	for range 5 { // what was under way arrives
		pause()
	}
	led := in.leads()
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	if index, err := leader.group.readIndexHere(ctx, nil); err == nil {
		t.Errorf("a leader that reaches nobody answered with %x", index)
	}
	if !led {
		t.Log("leadership was lost at once: nothing was tested")
	}
	net.network.RestoreAll()
	net.settled()
}

// TestMetaReadIndexOfAReadyLeaderAlone: a leader that becomes ready while a majority
// confirms it has taken the index of its view before.
func TestMetaReadIndexOfAReadyLeaderAlone(t *testing.T) {
	net, leader, others := metaTrio(t)
	in := leader.group.current()
	for _, n := range others { // long enough to become ready meanwhile
		net.network.Delay(transporttest.Host(leader.address), transporttest.Host(n.address), 40*time.Millisecond)
	}
	term := in.readyTerm.Swap(0)
	answered := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	go func() {
		_, err := leader.group.readIndexHere(ctx, nil)
		answered <- err
	}()
	eventually(t, "an answer, or the question to the majority", func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		asks := slices.ContainsFunc(bytes.Split(stacks, []byte("\n\n")), func(stack []byte) bool {
			return bytes.Contains(stack, []byte(").readIndexHere(")) && bytes.Contains(stack, []byte(").await("))
		})
		return asks || len(answered) > 0
	})
	in.readyTerm.Store(term)
	if err := <-answered; err == nil {
		t.Error("the index of a view without acknowledged changes was given out")
	}
}

// TestMetaMemberHasItsStores: once node.json says that this disk takes part, a lost
// DATA/metadata makes it another one. So the stores come first.
func TestMetaMemberHasItsStores(t *testing.T) {
	for what, id := range map[string]metadata.NodeID{"founder": 1, "joiner": 3} {
		t.Run(what, func(t *testing.T) {
			net := newMetaNet(t)
			nodes := net.founders(3)
			n := nodes[id-1]
			var cut atomic.Bool
			n.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: "raft.model", Do: func() {
				n.fs.Crash(crashfs.CrashOptions{})
				cut.Store(true)
			}})
			for _, n := range nodes {
				n.start()
			}
			eventually(t, "the power cut", cut.Load)
			before := n.node.Incarnation()
			n.stop()
			n.start().serves()
			if now := n.node.Incarnation(); now != before {
				t.Errorf("incarnation %s became %s", before, now)
			}
			net.settled()
		})
	}
}

// TestMetaNothingIsAppliedBehindAnUnknownCommand: what a command of a newer version
// did to the state is not known here.
func TestMetaNothingIsAppliedBehindAnUnknownCommand(t *testing.T) {
	n := newMetaNet(t).add(1).start()
	n.serves()
	view := n.group.View()
	known, err := metadata.EncodeCommand(metadata.Origin{}, n.group.registration())
	must(t, err)
	machine := &metaMachine{group: n.group, state: metadata.NewState()}
	for i, data := range [][]byte{[]byte("what a newer version might write"), known} {
		if a := machine.Apply(&raft.Log{Index: view.Index() + 1 + uint64(i), Data: data}).(metaAnswer); a.err == nil {
			t.Errorf("command %d was applied: %+v", i, a.result)
		}
	}
	if n.group.View() != view || n.fatalError() == nil {
		t.Errorf("the view moved: %v, the node stops: %v", n.group.View() != view, n.fatalError())
	}
}
