package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment/vfs"
)

// metaInstance is one run of raft in the metadata group.
type metaInstance struct {
	id          raft.ServerID
	raft        *raft.Raft
	facade      *transport.Facade
	stores      MetaStores
	readyTerm   atomic.Uint64 // the term in which this instance leads and has applied all that came before
	stopped     chan struct{}
	poke        chan struct{}  // capacity 1: a peer said something new
	work        sync.WaitGroup // joined by stop
	campaigning atomic.Bool    // a goroutine of work asks raft for an election, see stand
	resigned    atomic.Uint64  // the last term that it gave up because the disk hung

	gate    sync.Mutex // guards closing against await, and letGo
	closing bool
	futures sync.WaitGroup // waiters for raft's futures
	letGo   chan struct{}  // closed and replaced when a term is given up
}

// futureGrace bounds how long stop waits for raft to answer its futures. Raft
// forgets a future if it stops between committing an entry and handing it to the
// state machine.
const futureGrace = time.Second

// takeGrace is how long stop lets raft take what it was handed. Raft that is shut
// down leaves the futures of what is still in its channels without an answer
// (measured), and with them whoever waits; what it has taken it answers.
const takeGrace = 100 * time.Millisecond

// metaRaftConfig are the settings of the metadata group: ordinary snapshots.
func (m *MetaGroup) metaRaftConfig(id raft.ServerID) *raft.Config {
	config := raft.DefaultConfig()
	config.LocalID = id
	config.HeartbeatTimeout = m.config.Timings.Heartbeat
	config.ElectionTimeout = m.config.Timings.Election
	config.LeaderLeaseTimeout = m.config.Timings.Lease
	config.CommitTimeout = m.config.Timings.Commit
	config.SnapshotThreshold = m.config.SnapshotEntries
	config.TrailingLogs = m.config.SnapshotEntries
	config.ShutdownOnRemove = false
	config.NoLegacyTelemetry = true
	config.Logger = raftLogger(m.logger, "metadata", 0)
	return config
}

// storeIdentity says whose the stores are. It is written before anything of raft,
// so stores without it never took part.
type storeIdentity struct {
	Cluster     string    `json:"cluster"`
	Node        int32     `json:"node"`
	Incarnation hexNumber `json:"incarnation"`
	// Founders is how many brokers found the cluster, for who writes Found; 0 in the
	// stores of all others.
	Founders int `json:"founders,omitempty"`
}

// identityKey is where it is kept in the stable store.
var identityKey = []byte("millrace/identity")

func (m *MetaGroup) identity(cluster string) storeIdentity {
	return storeIdentity{Cluster: cluster, Node: int32(m.node.ID()), Incarnation: hexNumber(m.node.Incarnation())}
}

// createStores makes empty stores for a cluster, durably; founders is how many
// found it, or 0 if this node does not. What may be there is left over from a
// crash before this node became a member, and never took part.
func (m *MetaGroup) createStores(cluster string, founders int) (MetaStores, error) {
	fsys := m.config.FS
	if err := fsys.RemoveAll(m.config.Dir); err != nil {
		return nil, fmt.Errorf("clear the metadata folder: %w", err)
	}
	if err := fsys.MkdirAll(m.config.Dir); err != nil {
		return nil, fmt.Errorf("make the metadata folder: %w", err)
	}
	if err := fsys.SyncDir(m.dataDir()); err != nil {
		return nil, fmt.Errorf("make the metadata folder: %w", err)
	}
	stores, err := m.config.Stores(fsys, m.config.Dir)
	if err != nil {
		return nil, err
	}
	identity := m.identity(cluster)
	identity.Founders = founders
	text, err := json.Marshal(identity)
	if err == nil {
		err = stores.Set(identityKey, text)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("name the metadata store: %w", err), stores.Close())
	}
	return stores, nil
}

// openStores opens the stores of a member; errOtherDisk if they are not those
// that this incarnation took part with. That is said only of what is known to be
// missing or to be somebody else's, for it cannot be undone: this disk would be
// another broker from then on, and what its replicas hold lost. What cannot be
// read now may be read at the next start.
func (m *MetaGroup) openStores() (MetaStores, error) {
	switch _, err := m.config.FS.Stat(m.config.Dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s is lost: %w", errOtherDisk, m.config.Dir, err)
	case err != nil:
		return nil, fmt.Errorf("look for the metadata store: %w", err)
	}
	if !m.node.CleanStop() {
		if err := rewriteFiles(m.config.FS, m.config.Dir); err != nil {
			return nil, fmt.Errorf("make the metadata store durable: %w", err)
		}
	}
	stores, err := m.config.Stores(m.config.FS, m.config.Dir)
	if err != nil {
		return nil, err
	}
	found, err := readIdentity(stores)
	found.Founders = 0
	switch {
	case err != nil && err.Error() != errNotFound.Error():
		return nil, errors.Join(fmt.Errorf("read whose the metadata store in %s is: %w", m.config.Dir, err), stores.Close())
	case err != nil || found != m.identity(m.node.ClusterID()):
		lost := fmt.Errorf("%w: %s does not hold the metadata of %s", errOtherDisk, m.config.Dir, m.serverID())
		return nil, errors.Join(lost, stores.Close())
	}
	return stores, nil
}

// rewriteFiles makes the files of a folder durable as they can be read. The process
// before may have ended because a sync of one failed, and then what it holds is only
// in the page cache, where neither raft nor bbolt can tell it from what is stored:
// a vote or an entry that this node vouches for would be gone after a power cut.
// (bbolt syncs the pages of a transaction before it writes the one that names them.)
func rewriteFiles(fsys vfs.FS, dir string) error {
	names, err := fsys.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		name = filepath.Join(dir, name)
		info, err := fsys.Stat(name)
		if err == nil && info.Mode().IsRegular() {
			err = vfs.Rewrite(fsys, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readIdentity reads whose the stores are; without a word of it the text of the
// error is "not found".
func readIdentity(stores MetaStores) (identity storeIdentity, err error) {
	text, err := stores.Get(identityKey)
	if err == nil {
		err = json.Unmarshal(text, &identity)
	}
	return identity, err
}

// startInstance runs raft on the stores, which it owns from here on.
func (m *MetaGroup) startInstance(stores MetaStores) error {
	id := m.serverID()
	facade, err := transport.NewFacade(transport.FacadeConfig{LocalID: id, Network: m.config.Mux, Logger: m.logger})
	if err != nil {
		return errors.Join(err, stores.Close())
	}
	in := &metaInstance{id: id, facade: facade, stopped: make(chan struct{}), poke: make(chan struct{}, 1), letGo: make(chan struct{})}
	stores = &failStop{MetaStores: stores, failed: func(err error) {
		facade.Silence()
		m.config.Fatal(fmt.Errorf("metadata group: %w", err))
	}, watch: newStoreWatch(m.disk, func() uint64 { return 0 }, func() { m.diskHangs(in) })}
	in.stores = stores
	machine := &metaMachine{group: m, state: metadata.NewState(), moved: facade.CommitMoved}
	in.raft, err = newRaft(m.metaRaftConfig(id), machine, stores, stores, stores.Snapshots(), facade)
	if err != nil {
		return errors.Join(fmt.Errorf("start the metadata group: %w", err), facade.Close(), stores.Close())
	}
	facade.Bind(in.raft)
	in.raft.RegisterObserver(raft.NewObserver(nil, false, func(o *raft.Observation) bool {
		if _, ok := o.Data.(raft.LeaderObservation); ok {
			m.leaderMoved()
		}
		return false // nothing is sent; this runs in raft's goroutine
	}))
	m.logger.Debug("metadata replica runs", "server", id)
	m.mu.Lock()
	closed := m.closed
	if !closed {
		m.instance = in
	}
	m.mu.Unlock()
	if closed {
		return errors.Join(ErrClosed, in.stop())
	}
	if err := m.config.Router.Register(facade); err != nil {
		return err
	}
	in.work.Go(func() { m.watchLeadership(in) })
	in.work.Go(func() { m.sayUp(in) })
	return nil
}

// storedVoters reads the voters from the stores of a member, without running raft.
func (m *MetaGroup) storedVoters(stores MetaStores) ([]raft.ServerID, error) {
	id := m.serverID()
	facade, err := transport.NewFacade(transport.FacadeConfig{LocalID: id, Network: m.config.Mux, Logger: m.logger})
	if err != nil {
		return nil, err
	}
	config := m.metaRaftConfig(id)
	config.NoSnapshotRestoreOnStart = true
	machine := &metaMachine{group: m, state: metadata.NewState()}
	configuration, err := storedConfiguration(config, machine, stores, facade)
	if err = errors.Join(err, facade.Close()); err != nil {
		return nil, fmt.Errorf("read the members of the metadata group: %w", err)
	}
	return voterIDs(configuration.Servers), nil
}

// storedConfiguration turns raft's panic on a disk that fails it into an error.
func storedConfiguration(config *raft.Config, machine raft.FSM, stores MetaStores, trans raft.Transport) (c raft.Configuration, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("raft could not read its log: %v", cause)
		}
	}()
	return raft.GetConfiguration(config, machine, stores, stores, stores.Snapshots(), trans)
}

func voterIDs(servers []raft.Server) []raft.ServerID {
	var ids []raft.ServerID
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// stopInstance stops raft if it runs.
func (m *MetaGroup) stopInstance() error {
	m.mu.Lock()
	in := m.instance
	m.instance = nil
	m.mu.Unlock()
	if in == nil {
		return nil
	}
	return in.stop()
}

// stop ends the instance in the order of DESIGN 4.3 (g).
func (in *metaInstance) stop() error {
	in.gate.Lock()
	in.closing = true
	in.gate.Unlock()
	close(in.stopped)
	answered := make(chan struct{})
	go func() {
		in.futures.Wait()
		close(answered)
	}()
	wait(answered, takeGrace)
	future := in.raft.Shutdown()
	err := in.facade.Close()
	err = errors.Join(err, future.Error())
	in.work.Wait()
	wait(answered, futureGrace)
	return errors.Join(err, in.stores.Close())
}

// wait returns when ch is closed, or after a while.
func wait(ch <-chan struct{}, atMost time.Duration) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-ch:
	case <-timer.C:
	}
}

// await waits for one of raft's futures, until ctx ends or the instance stops.
func (in *metaInstance) await(ctx context.Context, future raft.Future) error {
	return in.awaitCall(ctx, future.Error)
}

// awaitCall is await for a call that waits for raft in the same way, as those do that
// hand it something while it waits for the disk.
func (in *metaInstance) awaitCall(ctx context.Context, call func() error) error {
	done := make(chan error, 1)
	in.gate.Lock()
	if in.closing {
		in.gate.Unlock()
		return raft.ErrRaftShutdown
	}
	letGo := in.letGo
	in.futures.Go(func() { done <- call() })
	in.gate.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-letGo:
		return ErrControllerResigned
	case <-in.stopped:
		return raft.ErrRaftShutdown
	}
}

// leads reports whether the instance leads and has applied all that came before
// its term, so that its view is at least every acknowledged change.
func (in *metaInstance) leads() bool {
	term := in.readyTerm.Load()
	return term != 0 && term > in.resigned.Load() && in.raft.State() == raft.Leader && in.raft.CurrentTerm() == term
}

// metaMachine is raft's state machine over metadata.State.
type metaMachine struct {
	group  *MetaGroup
	state  *metadata.State
	moved  func()      // the commit index has moved, which the followers should hear of; may be nil
	failed atomic.Bool // a command could not be followed; nothing is applied any more
}

// metaAnswer is what Apply responds to the future.
type metaAnswer struct {
	result metadata.Result
	err    error
}

var errMachineStopped = errors.New("the metadata could not be followed any further; the node stops")

// Apply implements raft.FSM. A command that this program does not know ends the
// node: the other replicas may have changed their state by it.
func (f *metaMachine) Apply(entry *raft.Log) any {
	if f.failed.Load() {
		return metaAnswer{err: errMachineStopped}
	}
	result, err := f.state.Apply(entry.Index, entry.Data)
	if err != nil {
		f.failed.Store(true)
		f.group.config.Fatal(fmt.Errorf("metadata group: %w", err))
		return metaAnswer{err: err}
	}
	f.group.publish(f.state.View())
	if f.moved != nil {
		f.moved()
	}
	return metaAnswer{result: result}
}

// Snapshot implements raft.FSM.
func (f *metaMachine) Snapshot() (raft.FSMSnapshot, error) {
	if f.failed.Load() {
		return nil, errMachineStopped
	}
	return metaSnapshot{f.state.View()}, nil
}

// Restore implements raft.FSM.
func (f *metaMachine) Restore(from io.ReadCloser) error {
	defer from.Close()
	if err := f.state.Restore(from); err != nil {
		f.failed.Store(true)
		f.group.config.Fatal(fmt.Errorf("metadata group: %w", err))
		return err
	}
	f.group.publish(f.state.View())
	return nil
}

// metaSnapshot is one view, which never changes.
type metaSnapshot struct{ view *metadata.View }

// Persist implements raft.FSMSnapshot.
func (s metaSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.view.WriteSnapshot(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (metaSnapshot) Release() {}
