package transport

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// testGroup is the partition of the tests.
var testGroup = GroupID{Topic: segment.TopicID{1, 2, 3, 0x40, 5, 6, 7, 8, 0x80}, Partition: 7}

// quiet is a logger that says nothing.
var quiet = slog.New(slog.DiscardHandler)

// testID is the server id of a node's replica in the tests.
func testID(node metadata.NodeID) raft.ServerID { return ServerID(node, 0xa0+uint64(node)) }

// member is one replica with a real raft instance.
type member struct {
	t      *testing.T
	node   metadata.NodeID
	server Server
	router *Router
	log    *memLog
	stable *raft.InmemStore
	// Of the running instance.
	facade  *Facade
	machine *machine
	raft    *raft.Raft
}

// group is three replicas of one partition.
type group struct {
	t       *testing.T
	network *fakeNetwork
	members []*member
}

// commitTimeout of the tests is so long that what a follower hears sooner comes
// from elsewhere.
const commitTimeout = 30 * time.Second

// raftSettings are those of DESIGN 4.1.
func raftSettings(id raft.ServerID) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = id
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = time.Second, time.Second, time.Second
	c.CommitTimeout = commitTimeout
	c.MaxAppendEntries = 256
	c.BatchApplyCh = true
	c.TrailingLogs, c.SnapshotThreshold, c.SnapshotInterval = math.MaxUint64, math.MaxUint64, 24*time.Hour
	c.NoSnapshotRestoreOnStart = true
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	c.Logger = hclog.NewNullLogger()
	return c
}

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("no snapshots") }

// Restore implements raft.FSM.
func (m *machine) Restore(r io.ReadCloser) error { return errors.New("no snapshots") }

// testConfiguration has voters on nodes 1 to n.
func testConfiguration(n int) (c raft.Configuration) {
	for i := 1; i <= n; i++ {
		id := testID(metadata.NodeID(i))
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(id)})
	}
	return c
}

// newMember makes a replica, not started.
func newMember(t *testing.T, node metadata.NodeID, server Server) *member {
	m := &member{t: t, node: node, server: server, log: &memLog{}, stable: raft.NewInmemStore()}
	m.router = NewRouter(RouterConfig{Server: server})
	return m
}

// start runs a new raft instance on the log as it is.
func (m *member) start() {
	m.t.Helper()
	var err error
	m.facade, err = NewFacade(FacadeConfig{Group: testGroup, LocalID: testID(m.node), Network: m.server, Source: m.log, Logger: quiet, MaxEntriesBytes: 64 << 10})
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.router.Register(m.facade); err != nil {
		m.t.Fatal(err)
	}
	m.machine = &machine{log: m.log, moved: m.facade.CommitMoved}
	m.raft, err = raft.NewRaft(raftSettings(testID(m.node)), m.machine, m.log, m.stable, raft.NewDiscardSnapshotStore(), m.facade)
	if err != nil {
		m.t.Fatal(err)
	}
	m.facade.Bind(m.raft)
}

// stop ends the instance in the order that the design asks for.
func (m *member) stop() {
	m.t.Helper()
	done := m.raft.Shutdown()
	m.facade.Close()
	if err := done.Error(); err != nil {
		m.t.Errorf("shutdown: %v", err)
	}
	if m.machine.fault != nil {
		m.t.Error(m.machine.fault)
	}
}

// announce tells the other members that this one's instance has started.
func (m *member) announce(others ...*member) {
	for _, other := range others {
		if other != m {
			m.router.Announce(m.t.Context(), other.node, GroupUp{Group: testGroup, Replica: testID(m.node)})
		}
	}
}

// bootstrap gives a replica the group's first configuration.
func (m *member) bootstrap(voters int) {
	m.t.Helper()
	err := raft.BootstrapCluster(raftSettings(testID(m.node)), m.log, m.stable, raft.NewDiscardSnapshotStore(), nil, testConfiguration(voters))
	if err != nil {
		m.t.Fatal(err)
	}
}

// newGroup starts three replicas over a fake network; stop it before the test
// ends.
func newGroup(t *testing.T) *group {
	g := &group{t: t, network: newFakeNetwork(t)}
	for node := metadata.NodeID(1); node <= 3; node++ {
		m := newMember(t, node, g.network.node(node))
		m.bootstrap(3)
		g.members = append(g.members, m)
	}
	for _, m := range g.members {
		m.start()
	}
	return g
}

// stop ends all replicas.
func (g *group) stop() {
	g.t.Helper()
	for _, m := range g.members {
		m.stop()
		m.router.Close()
	}
	g.network.work.Wait()
}

// elect makes a replica the leader and waits until it is ready.
func (g *group) elect(i int) *member {
	g.t.Helper()
	m := g.members[i]
	if err := m.facade.Campaign(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
	eventually(g.t, 5*time.Second, "the campaigner leads", func() bool { return m.raft.State() == raft.Leader })
	if err := m.raft.Barrier(0).Error(); err != nil {
		g.t.Fatal(err)
	}
	return m
}

// propose appends n records and waits for all of them.
func (m *member) propose(from, n int) {
	m.t.Helper()
	futures := make([]raft.ApplyFuture, n)
	for i := range futures {
		futures[i] = m.raft.ApplyLog(fresh(fmt.Sprint("value ", from+i)), 0)
	}
	for i, f := range futures {
		if err := f.Error(); err != nil {
			m.t.Fatalf("record %d: %v", from+i, err)
		}
	}
}

// same checks that all replicas hold equal frames and applied the same.
func (g *group) same() {
	g.t.Helper()
	want := g.members[0]
	for _, m := range g.members[1:] {
		if m.log.last() != want.log.last() {
			g.t.Fatalf("node %d has %d entries, node %d %d", m.node, m.log.last(), want.node, want.log.last())
		}
		for i := uint64(1); i <= uint64(want.log.last()); i++ {
			if diff := cmp.Diff(want.log.frame(i), m.log.frame(i)); diff != "" {
				g.t.Fatalf("entry %d of node %d differs:\n%s", i, m.node, diff)
			}
		}
		if diff := cmp.Diff(want.machine.applied, m.machine.applied); diff != "" {
			g.t.Fatalf("node %d applied something else:\n%s", m.node, diff)
		}
	}
}

// level waits until every replica has applied n records.
func (g *group) level(n int, within time.Duration) {
	g.t.Helper()
	eventually(g.t, within, fmt.Sprintf("all replicas have applied %d records", n), func() bool {
		for _, m := range g.members {
			if m.machine.count() != n {
				return false
			}
		}
		return true
	})
}
