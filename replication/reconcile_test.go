package replication

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestReplicaThatCannotBeMadeHoldsUpNothing: a full disk must not keep the broker
// from opening what it has, nor from deleting, which makes room.
func TestReplicaThatCannotBeMadeHoldsUpNothing(t *testing.T) {
	c := newHosts(t, 1)
	n := c.nodes[0]
	kept, old := c.create("kept", 1), c.create("old", 1)
	c.produce(kept, 0, 1)
	c.produce(old, 0, 1)
	cancel := n.fs.Inject(crashfs.Fault{Op: crashfs.OpCreate, PathContains: "/topics/new", Err: vfs.ErrNoSpace, Repeat: true})
	added := c.create("new", 1)
	n.stop()
	n.start()
	c.produce(kept, 0, 2)
	c.remove(old)
	eventually(t, "the deleted topic's folder to go", func() bool {
		_, err := n.fs.Stat(n.folder(old, 0))
		return err != nil
	})
	cancel.Remove()
	c.produce(added, 0, 1)
	c.ready()
	if names, err := n.fs.List("/data/quarantine"); err == nil && len(names) > 0 {
		t.Errorf("quarantine holds %v, though nothing was unknown", names)
	}
}

// TestReplicaWithoutSpaceToOpenIsTriedAgain: lack of space is not the loss of a
// replica.
func TestReplicaWithoutSpaceToOpenIsTriedAgain(t *testing.T) {
	c := newHosts(t, 1)
	n := c.nodes[0]
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n.fs.Crash(crashfs.CrashOptions{})
	n.stop()
	must(t, n.fs.Remove(n.folder(topic, 0)+"/00000000000000000000.idx"))
	fault := n.fs.Inject(crashfs.Fault{Op: crashfs.OpChange, PathContains: "00000000000000000000.idx", Err: vfs.ErrNoSpace, Repeat: true})
	n.start()
	eventually(t, "a start without space", func() bool { return n.logs.has("no space left") })
	if err := n.host.ReplicaFailed(topic.ID, 0); err != nil {
		t.Errorf("out of its group for good: %v", err)
	}
	fault.Remove()
	c.produce(topic, 0, 2)
}

// TestStrangeThingsInTheTopicsFolder: what an operator or a tool left there is
// left alone, and does not keep the broker from being ready.
func TestStrangeThingsInTheTopicsFolder(t *testing.T) {
	c := newHosts(t, 1)
	n := c.nodes[0]
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n.stop()
	must(t, vfs.WriteFile(n.fs, "/data/topics/notes.txt", []byte("do not touch")))
	must(t, n.fs.MkdirAll("/data/topics/lost+found"))
	n.start()
	c.ready()
	if _, err := n.fs.Stat("/data/topics/notes.txt"); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}

// TestStopBeforeRecoveryIsNotClean: a node that was stopped before it had looked at
// its replicas knows nothing about how they end. With a clean-stop mark the next
// start would take what a crash before left torn for rotten.
func TestStopBeforeRecoveryIsNotClean(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	for _, n := range c.nodes {
		n.fs.Crash(crashfs.CrashOptions{})
	}
	for _, n := range c.nodes {
		n.stop()
	}
	alone := c.nodes[0]
	alone.start() // no majority: its replicas stay closed
	must(t, alone.host.Shutdown(t.Context()))
	alone.host = nil
	node, err := OpenNode(alone.fs, "/data", alone.id)
	must(t, err)
	if node.CleanStop() {
		t.Error("the stop counts as clean")
	}
	must(t, node.Close())
	for _, n := range c.nodes {
		n.start()
	}
	c.ready()
	c.produce(topic, 0, 2)
	must(t, alone.host.Shutdown(t.Context()))
	alone.host = nil
	node, err = OpenNode(alone.fs, "/data", alone.id)
	must(t, err)
	if !node.CleanStop() {
		t.Error("a graceful stop of a node that had recovered everything does not count as clean")
	}
	must(t, node.Close())
}

// TestUncertainEndStaysOutOfItsGroup: what was cut may have been acknowledged, so
// the replica must not vote with what is left, at this start and at later ones.
func TestUncertainEndStaysOutOfItsGroup(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n := c.nodes[1]
	n.hasReplica(topic, 0)
	n.stop()
	must(t, vfs.WriteFile(n.fs, n.folder(topic, 0)+"/00000000000000000000-100.torn", []byte("cut")))
	for range 2 {
		n.start()
		n.failedWith(topic, 0, ErrUncertainEnd)
		c.produce(topic, 0, 2)
		n.stop()
	}
}

// TestVoteInDoubtStaysOutOfItsGroup: the operator is told that it is the file of votes
// that is damaged, not missing, and where the rest of it is.
func TestVoteInDoubtStaysOutOfItsGroup(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n := c.nodes[1]
	n.hasReplica(topic, 0)
	n.stop()
	data, err := vfs.ReadFile(n.fs, "/data/votes.log", votesMaxFile)
	must(t, err)
	end := len(bytes.TrimRight(data, "\x00")) // of the last round
	must(t, n.fs.FlipBit("/data/votes.log", int64(end-1)*8))
	for range 2 {
		n.start()
		n.failedWith(topic, 0, ErrLostReplica)
		if err := n.host.ReplicaFailed(topic.ID, 0); !errors.Is(err, ErrVotesInDoubt) || !strings.Contains(err.Error(), "votes.log.torn") {
			t.Errorf("the reason is: %v", err)
		}
		if _, err := n.fs.Stat("/data/votes.log.torn"); err != nil {
			t.Errorf("what was cut is not there: %v", err)
		}
		c.produce(topic, 0, 2)
		n.stop()
	}
}

// TestIndexThatCannotBeRaisedEndsTheBroker: tried again after a failed sync, it
// might seem to be on the disk, and a replica that has acknowledged would be made
// anew.
func TestIndexThatCannotBeRaisedEndsTheBroker(t *testing.T) {
	c := newHosts(t, 1)
	n := c.nodes[0]
	n.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: "node.json"})
	c.create("orders", 1)
	eventually(t, "the end of the process", func() bool { return n.logs.has("storage failed") })
}
