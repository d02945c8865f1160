package replication

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
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

// TestReplicaWithoutDescriptorsIsTriedAgain: that the process has too many files open
// says nothing about a replica, neither while it is made nor when it is opened; and
// topics can be deleted meanwhile, which gives descriptors back.
func TestReplicaWithoutDescriptorsIsTriedAgain(t *testing.T) {
	c := newHosts(t, 1)
	n := c.nodes[0]
	old, topic := c.create("old", 1), c.create("orders", 1)
	c.produce(old, 0, 1)
	c.produce(topic, 0, 1)
	making := n.fs.Inject(crashfs.Fault{Op: crashfs.OpCreate, PathContains: "/topics/new", Err: syscall.EMFILE, Repeat: true})
	added := c.create("new", 1)
	eventually(t, "a creation without descriptors", func() bool { return n.logs.has("create replica new/0") })
	n.stop()
	making.Remove()
	for _, missing := range []error{syscall.EMFILE, syscall.ENFILE} {
		before := n.logs.count("open replica orders/0")
		opening := n.fs.Inject(crashfs.Fault{Op: crashfs.OpOpen, PathContains: "/topics/orders", Err: missing, Repeat: true})
		n.start()
		c.produce(added, 0, 1)
		eventually(t, "an opening without descriptors", func() bool { return n.logs.count("open replica orders/0") > before })
		if err := n.host.ReplicaFailed(topic.ID, 0); err != nil {
			t.Errorf("out of its group for good: %v", err)
		}
		if missing == syscall.ENFILE {
			c.remove(old)
			eventually(t, "the deleted topic's folder to go", func() bool {
				_, err := n.fs.Stat(n.folder(old, 0))
				return err != nil
			})
		}
		opening.Remove()
		c.produce(topic, 0, 1)
		c.ready()
		n.stop()
	}
	n.start()
	c.ready()
}

// TestManyFailuresAreToldInFew: an error with a line for each of ten thousand
// replicas helps nobody.
func TestManyFailuresAreToldInFew(t *testing.T) {
	errs := make([]error, 100)
	if several(slices.Clone(errs)) != nil {
		t.Error("no failure is one")
	}
	for i := range errs {
		errs[i] = fmt.Errorf("%d: %w", i, syscall.EMFILE)
	}
	err := several(errs)
	if lines := strings.Count(err.Error(), "\n") + 1; lines != maxTold+1 || !strings.HasSuffix(err.Error(), "and 95 more replicas") || !errors.Is(err, syscall.EMFILE) {
		t.Errorf("told in %d lines: %v", lines, err)
	}
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

// TestUncertainEndIsMadeGood: what was cut may have been acknowledged, so the replica
// does not vote with what is left until another leader has brought it up; then it is
// like any other, also at later starts.
func TestUncertainEndIsMadeGood(t *testing.T) {
	c := newHosts(t, 3)
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n := c.nodes[1]
	n.hasReplica(topic, 0)
	n.stop()
	must(t, vfs.WriteFile(n.fs, n.folder(topic, 0)+"/00000000000000000000-100.torn", []byte("cut")))
	for range 2 {
		n.start()
		n.hasReplica(topic, 0)
		p, _ := n.host.Partition(topic.ID, 0)
		c.produce(topic, 0, 2)
		eventually(t, "the end of the probation", func() bool { return p.probation.doubt() == 0 })
		if _, err := n.fs.Stat(n.folder(topic, 0) + "/00000000000000000000-100.torn.kept"); err != nil {
			t.Errorf("what was cut is not kept: %v", err)
		}
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

// TestTopicThatCannotBeMadeHoldsUpNoOther: its folder cannot be made (a file of that
// name, say). Later topics are served; it is neither lost meanwhile nor made twice.
func TestTopicThatCannotBeMadeHoldsUpNoOther(t *testing.T) {
	c := newHosts(t, 1)
	n := c.nodes[0]
	fault := n.fs.Inject(crashfs.Fault{Op: crashfs.OpMkdir, PathContains: "/topics/bad", Err: fs.ErrPermission, Repeat: true})
	bad := c.create("bad", 2)
	good := c.create("good", 1)
	c.produce(good, 0, 1)
	if n.host.node.MetadataIndex() < good.Index || !n.host.node.MayMake(bad.Index) || n.host.node.MayMake(good.Index) {
		t.Errorf("after topics %d, which failed, and %d: %+v", bad.Index, good.Index, n.host.node.read())
	}
	for range 2 {
		n.fs.Crash(crashfs.CrashOptions{})
		n.stop()
		n.start()
		n.failedWith(bad, 0, fs.ErrPermission)
		c.ready()
		c.produce(good, 0, 2)
	}
	late := c.create("late", 1)
	c.produce(late, 0, 1)
	fault.Remove()
	c.produce(bad, 0, 1)
	c.produce(bad, 1, 1)
	if n.host.node.MayMake(bad.Index) || n.host.node.MetadataIndex() < late.Index {
		t.Errorf("after topic %d was made: %+v", bad.Index, n.host.node.read())
	}
	n.fs.Crash(crashfs.CrashOptions{})
	n.stop()
	must(t, n.fs.RemoveAll(n.folder(bad, 0)))
	n.start()
	n.failedWith(bad, 0, ErrLostReplica) // once
	c.produce(bad, 1, 2)
	c.produce(good, 0, 3)
}

// TestTopicThatCannotBeRemovedHoldsUpNoOther: nor does one that is deleted.
func TestTopicThatCannotBeRemovedHoldsUpNoOther(t *testing.T) {
	c := newHosts(t, 1)
	n := c.nodes[0]
	stuck, old := c.create("stuck", 1), c.create("old", 1)
	c.produce(stuck, 0, 1)
	c.produce(old, 0, 1)
	fault := n.fs.Inject(crashfs.Fault{Op: crashfs.OpRemove, PathContains: "/topics/stuck", Err: fs.ErrPermission, Repeat: true})
	c.remove(stuck)
	c.remove(old)
	gone := func(topic *metadata.Topic) func() bool {
		return func() bool {
			_, err := n.fs.Stat(n.folder(topic, 0))
			return err != nil
		}
	}
	eventually(t, "the other topic's folder to go", gone(old))
	n.stop()
	n.start()
	c.ready()
	fault.Remove()
	eventually(t, "the folder to go", gone(stuck))
}

func TestSortMade(t *testing.T) {
	failure := errors.New("made up")
	assignments := func(indexes ...uint64) (list []assignment) {
		for _, i := range indexes {
			list = append(list, assignment{topic: &metadata.Topic{Index: i}})
		}
		return list
	}
	for name, row := range map[string]struct {
		known   uint64
		created []uint64
		failed  []int // positions in created
		made    []uint64
		index   uint64
		unmade  []uint64
	}{
		"all":                           {0, []uint64{3, 5}, nil, []uint64{3, 5}, 5, nil},
		"none":                          {2, []uint64{3, 5}, []int{0, 1}, nil, 2, nil},
		"the last":                      {0, []uint64{3, 5}, []int{1}, []uint64{3}, 3, nil},
		"the first":                     {0, []uint64{3, 5}, []int{0}, []uint64{5}, 5, []uint64{3}},
		"one of a topic's replicas":     {0, []uint64{3, 3, 5}, []int{1}, []uint64{5}, 5, []uint64{3}},
		"an old one again":              {9, []uint64{3, 12}, []int{0}, []uint64{12}, 12, []uint64{3}},
		"an old one at last, not other": {9, []uint64{3, 7}, []int{1}, []uint64{3}, 9, []uint64{7}},
		"an old one at last":            {9, []uint64{7}, nil, []uint64{7}, 9, nil},
	} {
		t.Run(name, func(t *testing.T) {
			errs := make([]error, len(row.created))
			for _, i := range row.failed {
				errs[i] = failure
			}
			list, index, unmade := sortMade(row.known, assignments(row.created...), errs)
			var made []uint64
			for _, a := range list {
				made = append(made, a.topic.Index)
			}
			if !slices.Equal(made, row.made) || index != row.index || !slices.Equal(unmade, row.unmade) {
				t.Errorf("made %v, index %d, unmade %v, want %v, %d, %v", made, index, unmade, row.made, row.index, row.unmade)
			}
		})
	}
	var indexes []uint64
	for i := range uint64(2 * (maxUnmade + 10)) {
		indexes = append(indexes, i+1)
	}
	errs := make([]error, len(indexes))
	for i := range errs {
		if i%2 == 0 {
			errs[i] = failure
		}
	}
	made, index, unmade := sortMade(0, assignments(indexes...), errs)
	if len(unmade) != maxUnmade || len(made) != maxUnmade || index != unmade[maxUnmade-1]+1 {
		t.Errorf("of too many that failed %d are named, %d others are made, up to %d", len(unmade), len(made), index)
	}
}

// TestQuarantineThatCannotBeReadIsTriedAgain: a name that nobody can look at is not
// taken, and no reason to look for others for ever.
func TestQuarantineThatCannotBeReadIsTriedAgain(t *testing.T) {
	c := newHosts(t, 1)
	n := c.nodes[0]
	topic := c.create("orders", 1)
	c.produce(topic, 0, 1)
	n.stop()
	folder := "7-" + segment.NewTopicID().String()
	must(t, n.fs.MkdirAll("/data/topics/orders/"+folder))
	must(t, n.fs.MkdirAll("/data/quarantine/orders-"+folder)) // the name is taken
	fault := n.fs.Inject(crashfs.Fault{Op: crashfs.OpStat, PathContains: "/data/quarantine/", Err: syscall.EIO, Repeat: true})
	n.start()
	eventually(t, "a word about it", func() bool { return n.logs.has("set unknown folders aside") })
	if _, err := n.fs.Stat("/data/topics/orders/" + folder); err != nil {
		t.Errorf("the folder was moved somewhere: %v", err)
	}
	fault.Remove()
	c.ready()
	if _, err := n.fs.Stat("/data/quarantine/orders-" + folder + ".1"); err != nil {
		t.Errorf("the folder is not in the quarantine under the next name: %v", err)
	}
	c.produce(topic, 0, 2)
}

// TestVotesOfADeletedReplicaAreForgotten: else votes.log grows with each topic that
// ever was.
func TestVotesOfADeletedReplicaAreForgotten(t *testing.T) {
	c := newHosts(t, 1)
	n := c.nodes[0]
	topic := c.create("orders", 2)
	c.produce(topic, 0, 1)
	c.produce(topic, 1, 1)
	if got := len(n.host.votes.Groups()); got != 2 {
		t.Fatalf("%d groups have votes, want 2", got)
	}
	c.remove(topic)
	eventually(t, "the topic's folder to go", func() bool {
		_, err := n.fs.Stat(n.folder(topic, 1))
		return err != nil
	})
	eventually(t, "the confirmation", func() bool {
		_, there := n.host.Meta().View().Deletion(topic.ID)
		return !there
	})
	if left := n.host.votes.Groups(); len(left) != 0 {
		t.Errorf("votes of %v are left", left)
	}
}
