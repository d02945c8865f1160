package replication

import (
	"errors"
	"fmt"
	"path/filepath"
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
