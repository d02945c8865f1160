package replication

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/millrace/millrace/segment/vfs"
)

// MetaStores keep the metadata group on disk: log, term and vote, snapshots. As
// raft wants it, each call that writes is durable when it returns; a missing key
// is an error whose text is "not found".
type MetaStores interface {
	raft.LogStore
	raft.StableStore
	// Snapshots are whole states of the metadata.
	Snapshots() raft.SnapshotStore
	// Close releases the files. Calls after it fail; it may be called once.
	Close() error
}

// StoreFactory opens the stores in a folder that exists, and makes what is
// missing; on return the files' names are durable. The real one, BoltStores,
// needs the machine's own file system; tests that crash whole brokers pass a
// model that syncs at the same calls (package metamodel).
type StoreFactory func(fsys vfs.FS, dir string) (MetaStores, error)

// retainSnapshots is how many snapshots stay on disk: the newest, and one in case
// it cannot be read.
const retainSnapshots = 2

// boltStores is raft-boltdb and raft's own snapshots in files.
type boltStores struct {
	*raftboltdb.BoltStore
	snapshots *raft.FileSnapshotStore
}

// BoltStores is the StoreFactory of the product: DIR/raft.db and DIR/snapshots.
// The library syncs once for each call that writes. A damaged database is an
// error here where that can be seen at the opening; later the library panics,
// which ends the process before a wrong vote can be given.
func BoltStores(fsys vfs.FS, dir string) (stores MetaStores, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			stores, err = nil, fmt.Errorf("open metadata store %s: damaged: %v", dir, cause)
		}
	}()
	store, err := raftboltdb.New(raftboltdb.Options{
		Path:                    filepath.Join(dir, "raft.db"),
		BoltOptions:             &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType},
		MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return nil, fmt.Errorf("open metadata store %s: %w", dir, err)
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(dir, retainSnapshots, hclog.NewNullLogger())
	if err == nil {
		err = fsys.SyncDir(dir) // neither library makes the names of its first files durable
	}
	if err != nil {
		return nil, fmt.Errorf("open metadata store %s: %w", dir, errors.Join(err, store.Close()))
	}
	return &boltStores{store, snapshots}, nil
}

// Snapshots implements MetaStores.
func (s *boltStores) Snapshots() raft.SnapshotStore { return s.snapshots }

// failStop are stores whose first failed write is the last: what it left on disk
// is unknown, so nothing that this node votes or acknowledges in the group may
// count any more. failed is told once, and has silenced the group's transport when
// it returns.
type failStop struct {
	MetaStores
	failed   func(error)
	watch    *storeWatch // notices a call that stores entries and hangs; may be nil
	poisoned atomic.Bool
}

var errPoisonedMeta = errors.New("the metadata store has failed before")

func (s *failStop) write(what string, do func() error) error {
	if s.poisoned.Load() {
		return errPoisonedMeta
	}
	err := do()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", what, err)
	if !s.poisoned.Swap(true) {
		s.failed(err)
	}
	return err
}

// StoreLog implements raft.LogStore.
func (s *failStop) StoreLog(entry *raft.Log) error {
	s.watch.begin()
	defer s.watch.end()
	return s.write("store a metadata entry", func() error { return s.MetaStores.StoreLog(entry) })
}

// StoreLogs implements raft.LogStore.
func (s *failStop) StoreLogs(entries []*raft.Log) error {
	s.watch.begin()
	defer s.watch.end()
	return s.write("store metadata entries", func() error { return s.MetaStores.StoreLogs(entries) })
}

// DeleteRange implements raft.LogStore.
func (s *failStop) DeleteRange(first, last uint64) error {
	return s.write("cut the metadata log", func() error { return s.MetaStores.DeleteRange(first, last) })
}

// Set implements raft.StableStore.
func (s *failStop) Set(key, value []byte) error {
	return s.write("store a vote", func() error { return s.MetaStores.Set(key, value) })
}

// SetUint64 implements raft.StableStore. What is there already is durable and not
// written again: raft stores its term at every start. Raft panics when its term cannot be
// stored (raft.go:2167), which would end the process that embeds the broker
// without a word of why. The transport is silenced by then and every later write
// fails, so a term that is not on the disk cannot be seen by anybody.
func (s *failStop) SetUint64(key []byte, value uint64) error {
	if present, err := s.MetaStores.GetUint64(key); err == nil && present == value {
		return nil
	}
	_ = s.write("store a term", func() error { return s.MetaStores.SetUint64(key, value) })
	return nil
}
