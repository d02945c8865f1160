package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
)

// table is a state machine as the metadata group has it, with snapshots.
type table struct {
	mu       sync.Mutex
	lines    []string
	restored int
}

// Apply implements raft.FSM.
func (f *table) Apply(entry *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, string(entry.Data))
	return nil
}

// Snapshot implements raft.FSM.
func (f *table) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return tableSnapshot(strings.Join(f.lines, "\n")), nil
}

// Restore implements raft.FSM.
func (f *table) Restore(r io.ReadCloser) error {
	text, err := io.ReadAll(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = strings.Split(string(text), "\n")
	f.restored++
	return err
}

// count is how many lines it has.
func (f *table) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.lines)
}

// tableSnapshot is the lines at one moment.
type tableSnapshot string

// Persist implements raft.FSMSnapshot.
func (s tableSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := io.WriteString(sink, string(s)); err != nil {
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s tableSnapshot) Release() {}

// metaNode is one member of a metadata group.
type metaNode struct {
	facade *Facade
	raft   *raft.Raft
	table  *table
	router *Router
}

// newMetaNode starts a member of the metadata group of nodes 1 to 3.
func newMetaNode(t *testing.T, network *fakeNetwork, node metadata.NodeID) *metaNode {
	server := network.node(node)
	m := &metaNode{table: &table{}, router: NewRouter(RouterConfig{Server: server})}
	config := raftSettings(testID(node))
	config.TrailingLogs, config.SnapshotThreshold = 10, math.MaxUint64
	config.NoSnapshotRestoreOnStart = false
	store, snapshots := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	if err := raft.BootstrapCluster(config, store, store, snapshots, nil, testConfiguration(3)); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.facade, err = NewFacade(FacadeConfig{LocalID: testID(node), Network: server, Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	if err := m.router.Register(m.facade); err != nil {
		t.Fatal(err)
	}
	if m.raft, err = raft.NewRaft(config, m.table, store, store, snapshots, m.facade); err != nil {
		t.Fatal(err)
	}
	m.facade.Bind(m.raft)
	return m
}

// TestMetadataGroup: entries carry their own data, and a member that was away
// while the log was trimmed gets a snapshot, held until it is back.
func TestMetadataGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		var nodes []*metaNode
		for node := metadata.NodeID(1); node <= 3; node++ {
			nodes = append(nodes, newMetaNode(t, network, node))
		}
		defer func() {
			for _, m := range nodes {
				done := m.raft.Shutdown()
				m.facade.Close()
				if err := done.Error(); err != nil {
					t.Error(err)
				}
				m.router.Close()
			}
		}()
		leader, away := nodes[0], nodes[2]
		if err := leader.facade.Campaign(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "a leader", func() bool { return leader.raft.State() == raft.Leader })
		apply := func(n int) {
			for i := range n {
				if err := leader.raft.Apply(fmt.Appendf(nil, "line %d", i), 0).Error(); err != nil {
					t.Fatal(err)
				}
			}
		}
		apply(20)
		network.isolate(3, false)
		apply(200)
		if err := leader.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		<-time.After(5 * time.Minute)
		network.isolate(3, true)
		leader.facade.CommitMoved()
		// What goes first is the AppendEntries that was held; what it proves is that
		// the entries before it are missing, and a snapshot follows.
		eventually(t, 500*time.Millisecond, "the member has everything", func() bool { return away.table.count() >= 220 })
		if away.table.restored != 1 {
			t.Errorf("%d snapshots were restored", away.table.restored)
		}
		apply(1)
		leader.facade.CommitMoved()
		eventually(t, 100*time.Millisecond, "the member goes on", func() bool { return away.table.count() == 221 })
		if diff := cmp.Diff(leader.table.lines, away.table.lines); diff != "" {
			t.Error(diff)
		}
	})
}

// TestSnapshotIsHeld: for a member that is away, nothing is read yet, and nothing
// fails, which would put raft to sleep.
func TestSnapshotIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newFakeNetwork(t)
		a := newEndpoint(t, network, 1, FacadeConfig{})
		a.Bind(leading(5, 10))
		newEndpoint(t, network, 2, FacadeConfig{}).answer(t, func(any) any {
			return &raft.InstallSnapshotResponse{Term: 5, Success: true}
		})
		network.setLink(1, 2, false)
		args := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 5, Size: 4, Configuration: raft.EncodeConfiguration(testConfiguration(3))}
		data, resp, done := strings.NewReader("data"), raft.InstallSnapshotResponse{}, make(chan error, 1)
		go func() { done <- a.InstallSnapshot(testID(2), "", args, &resp, data) }()
		<-time.After(time.Hour)
		if len(done) > 0 || data.Len() != 4 {
			t.Fatalf("not held: %d bytes left", data.Len())
		}
		network.setLink(1, 2, true)
		if err := <-done; err != nil || !resp.Success {
			t.Fatal(resp, err)
		}
	})
}

// TestSnapshotIsBounded: one that does not fit a frame is refused before it is
// read; one that ends early is not sent.
func TestSnapshotIsBounded(t *testing.T) {
	network := newFakeNetwork(t)
	a := newEndpoint(t, network, 1, FacadeConfig{})
	a.Bind(leading(5, 10))
	newEndpoint(t, network, 2, FacadeConfig{}).answer(t, func(command any) any {
		t.Errorf("raft got %T", command)
		return nil
	})
	for _, test := range []struct {
		size int64
		data io.Reader
		err  error
	}{
		{MaxSnapshotBytes + 1, nil, ErrTooLarge},
		{-1, nil, ErrTooLarge},
		{10, bytes.NewReader([]byte("short")), io.ErrUnexpectedEOF},
	} {
		args := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 5, Size: test.size}
		if err := a.InstallSnapshot(testID(2), "", args, &raft.InstallSnapshotResponse{}, test.data); !errors.Is(err, test.err) {
			t.Errorf("size %d: %v", test.size, err)
		}
	}
	// Its configuration would make raft panic.
	args := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 5, Size: 1, Configuration: []byte("\xff")}
	if err := a.InstallSnapshot(testID(2), "", args, &raft.InstallSnapshotResponse{}, strings.NewReader("x")); code(err) != CodeBadRequest {
		t.Errorf("error %v", err)
	}
}
