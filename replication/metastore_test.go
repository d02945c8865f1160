package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// storeUnderTest opens the same stores again and again.
type storeUnderTest struct {
	name string
	open func() (MetaStores, error)
}

func bothStores(t *testing.T) []storeUnderTest {
	dir := t.TempDir()
	fs := crashfs.New(1)
	if err := fs.MkdirAll("/m"); err != nil {
		t.Fatal(err)
	}
	return []storeUnderTest{
		{"raft-boltdb", func() (MetaStores, error) { return BoltStores(vfs.OS(), dir) }},
		{"model", func() (MetaStores, error) { return modelStores(fs.Mount(), "/m") }},
	}
}

// TestStoresAgree runs the same calls against raft-boltdb and its model, over a
// reopening, and compares what they answer.
func TestStoresAgree(t *testing.T) {
	var transcripts []string
	for _, s := range bothStores(t) {
		stores, err := s.open()
		if err != nil {
			t.Fatal(err)
		}
		text := storeTranscript(t, stores)
		if err := stores.Close(); err != nil {
			t.Fatal(err)
		}
		if stores, err = s.open(); err != nil {
			t.Fatal(err)
		}
		text += describeStores(stores) + describeSnapshots(t, stores)
		if err := stores.Close(); err != nil {
			t.Fatal(err)
		}
		transcripts = append(transcripts, text)
	}
	if diff := cmp.Diff(transcripts[0], transcripts[1]); diff != "" {
		t.Errorf("(-raft-boltdb +model):\n%s", diff)
	}
}

func storeTranscript(t *testing.T, s MetaStores) (text string) {
	t.Helper()
	entry := func(index, term uint64) *raft.Log {
		return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: fmt.Append(nil, "data ", index, term), AppendedAt: time.Unix(1700000000, 5).UTC()}
	}
	step := func(what string, err error) { text += fmt.Sprintf("%s: %v\n%s", what, err, describeStores(s)) }
	step("nothing", nil)
	step("set", s.Set([]byte("CurrentCand"), []byte("1/aa")))
	step("set empty", s.Set([]byte("empty"), nil))
	step("number", s.SetUint64([]byte("CurrentTerm"), 7))
	step("store one", s.StoreLog(entry(1, 1)))
	step("store more", s.StoreLogs([]*raft.Log{entry(2, 1), entry(3, 1), entry(4, 2)}))
	step("cut the end", s.DeleteRange(3, 4))
	step("store again", s.StoreLogs([]*raft.Log{entry(3, 3), entry(4, 3)}))
	step("trim the begin", s.DeleteRange(1, 2))
	step("delete nothing", s.DeleteRange(90, 99))
	step("number again", s.SetUint64([]byte("CurrentTerm"), 8))
	_, peers := raft.NewInmemTransport("1/aa")
	configuration := raft.Configuration{Servers: []raft.Server{{ID: "1/aa", Address: "1/aa"}}}
	for index := uint64(3); index <= 6; index++ {
		sink, err := s.Snapshots().Create(raft.SnapshotVersionMax, index, 3, configuration, 1, peers)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(sink, "state ", index); err != nil {
			t.Fatal(err)
		}
		finish := sink.Close
		if index == 5 {
			finish = sink.Cancel
		}
		step(fmt.Sprint("snapshot ", index), finish())
	}
	return text + describeSnapshots(t, s)
}

func describeStores(s MetaStores) (text string) {
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	text = fmt.Sprintf("  first %d %v, last %d %v\n", first, err1, last, err2)
	for i := uint64(0); i <= 5; i++ {
		var l raft.Log
		err := s.GetLog(i, &l)
		text += fmt.Sprintf("  %d: term %d type %v %q at %v, %v, bare %v\n", i, l.Term, l.Type, l.Data, l.AppendedAt.UTC(), err, err == raft.ErrLogNotFound)
	}
	for _, key := range []string{"CurrentCand", "empty", "absent"} {
		v, err := s.Get([]byte(key))
		text += fmt.Sprintf("  %s: %q %v\n", key, v, err)
	}
	n, err := s.GetUint64([]byte("CurrentTerm"))
	_, absent := s.GetUint64([]byte("absent"))
	return text + fmt.Sprintf("  CurrentTerm: %d %v; absent: %v\n", n, err, absent)
}

func describeSnapshots(t *testing.T, s MetaStores) (text string) {
	t.Helper()
	list, err := s.Snapshots().List()
	if err != nil {
		t.Fatal(err)
	}
	for _, listed := range list {
		meta, from, err := s.Snapshots().Open(listed.ID)
		if err != nil {
			t.Fatal(err)
		}
		state, err := io.ReadAll(from)
		text += fmt.Sprintf("  snapshot %d.%d size %d %v: %q %v %v\n", meta.Term, meta.Index, meta.Size, meta.Configuration, state, err, from.Close())
	}
	return text
}

func TestBoltStoresRefuseDamage(t *testing.T) {
	dir := t.TempDir()
	stores, err := BoltStores(vfs.OS(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	garbage := make([]byte, 64<<10)
	for i := range garbage {
		garbage[i] = byte(i * 7)
	}
	if err := os.WriteFile(filepath.Join(dir, "raft.db"), garbage, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := BoltStores(vfs.OS(), dir); err == nil {
		t.Error("a damaged database was opened")
	}
}

// TestFailStop: after the first failed write nothing is written any more, and
// raft's term, whose failure would be a panic, fails in silence.
func TestFailStop(t *testing.T) {
	fs := crashfs.New(1)
	if err := fs.MkdirAll("/m"); err != nil {
		t.Fatal(err)
	}
	stores, err := modelStores(fs, "/m")
	if err != nil {
		t.Fatal(err)
	}
	var failures []error
	s := &failStop{MetaStores: stores, failed: func(err error) { failures = append(failures, err) }}
	if err := s.SetUint64([]byte("CurrentTerm"), 1); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("input/output error")
	fs.Inject(crashfs.Fault{Op: crashfs.OpSync, Err: broken}) // once
	if err := s.StoreLog(&raft.Log{Index: 1}); !errors.Is(err, broken) {
		t.Errorf("store: %v", err)
	}
	if len(failures) != 1 || !errors.Is(failures[0], broken) {
		t.Errorf("reported: %v", failures)
	}
	if s.StoreLog(&raft.Log{Index: 1}) == nil || s.StoreLogs([]*raft.Log{{Index: 1}}) == nil || s.DeleteRange(1, 1) == nil || s.Set([]byte("k"), nil) == nil {
		t.Error("a store that failed was written again")
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 2); err != nil {
		t.Errorf("term: %v", err)
	}
	if n, err := s.GetUint64([]byte("CurrentTerm")); n != 1 || err != nil || len(failures) != 1 {
		t.Errorf("term %d %v, %d reports", n, err, len(failures))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestMetaStoreFailureStopsTheNode: the node stops, without a panic, and its
// voice in the group is silenced.
func TestMetaStoreFailureStopsTheNode(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	victim := net.leader()
	broken := errors.New("input/output error")
	victim.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: "raft.model", Err: broken})
	for _, n := range nodes {
		if n != victim {
			n.create(fmt.Sprint("t", n.id))
		}
	}
	eventually(t, "the node to stop", func() bool { return errors.Is(victim.fatalError(), broken) })
	victim.kill().start()
	net.settled()
	net.sameState()
}

// TestMetadataOutlivesAFailedSync: the process that ended because a sync failed
// leaves an entry in the page cache alone. The next one counts it as stored, and
// says so to others; it must not be gone after a power cut. The entry is larger than
// a sector, or the next one would bring it onto the disk by chance.
func TestMetadataOutlivesAFailedSync(t *testing.T) {
	net := newMetaNet(t)
	n := net.founders(1)[0].start()
	net.settled()
	own := metadata.Replica{Node: n.id, Incarnation: 7, NodeIncarnation: n.node.Incarnation()}
	topic := &metadata.CreateTopic{Name: "t", ID: segment.NewTopicID(), Configs: map[string]string{"long": strings.Repeat("x", 20_000)},
		Partitions: []metadata.Partition{{Replicas: []metadata.Replica{own}}}}
	n.fs.Inject(crashfs.Fault{Op: crashfs.OpSync, PathContains: "raft.model"})
	ctx, cancel := context.WithCancel(t.Context())
	created := make(chan error, 1)
	go func() {
		_, _, err := n.group.Change(ctx, topic)
		created <- err
	}()
	eventually(t, "the node to stop", func() bool { return n.fatalError() != nil })
	if cancel(); <-created == nil {
		t.Fatal("the topic was created though the sync of its entry failed")
	}
	n.stop().start()
	n.serves()
	if _, ok := n.group.View().TopicNamed("t"); !ok {
		t.Fatal("the entry was not counted, and this test shows nothing")
	}
	n.kill().start()
	n.serves()
	if _, ok := n.group.View().TopicNamed("t"); !ok {
		t.Error("a topic that clients could see is gone")
	}
}

// TestMetaGroupOnRealFiles runs a single node on raft-boltdb and the machine's own
// file system, from an empty folder and again.
func TestMetaGroupOnRealFiles(t *testing.T) {
	dir := t.TempDir()
	network := transporttest.New()
	for start := range 2 {
		began := time.Now()
		node, err := OpenNode(vfs.OS(), dir, 1)
		if err != nil {
			t.Fatal(err)
		}
		listener, err := network.Listen("host1:1")
		if err != nil {
			t.Fatal(err)
		}
		mux := transport.New(transport.Config{Listener: listener, Dial: network.Dialer("host1"), Identity: node.Identity, Logger: discard()})
		router := transport.NewRouter(transport.RouterConfig{Server: mux})
		group, err := OpenMetaGroup(context.Background(), MetaConfig{FS: vfs.OS(), Dir: filepath.Join(dir, "metadata"), Node: node, Mux: mux, Router: router,
			RPCAddress: "host1:1", Logger: discard(), Fatal: func(err error) { t.Errorf("fatal: %v", err) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), testWait)
		_, _, err = group.Change(ctx, &metadata.AllocateProducerIDs{Node: 1, Count: 10})
		if err == nil {
			err = group.CaughtUp(ctx)
		}
		cancel()
		t.Logf("start %d: first change after %v", start, time.Since(began))
		if err != nil || group.View().NextProducerID() != int64(10*(start+1)) {
			t.Errorf("start %d: %v, next id %d", start, err, group.View().NextProducerID())
		}
		if leader, ok := group.Leader(); !ok || leader != 1 {
			t.Errorf("leader %d %v", leader, ok)
		}
		if err := errors.Join(group.Close(), mux.Close(), router.Close(), node.MarkClean(), node.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
