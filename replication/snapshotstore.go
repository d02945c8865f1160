package replication

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
)

// errNoSnapshots answers every attempt to make or read a snapshot of a
// partition: its log is its content.
var errNoSnapshots = errors.New("a partition has no raft snapshots")

// snapshotStore makes raft start at what is applied, the partition's checkpoint in a
// new process, instead of reading the whole log: while NewRaft runs, List returns
// that; afterwards it is empty, so that nothing is ever installed over a replica.
// Raft that began below would get entries from GetLog once more to apply them, and
// panics when one cannot be read (raft.go:1333); above, they are in memory.
// (Seeding, which replaces installing, comes with trimmed logs.)
type snapshotStore struct {
	checkpoint log.Checkpoint
	started    atomic.Bool
}

var _ raft.SnapshotStore = (*snapshotStore)(nil)

// List implements raft.SnapshotStore.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	if s.started.Load() || s.checkpoint.Index == 0 || len(s.checkpoint.Configuration) == 0 {
		return nil, nil
	}
	return []*raft.SnapshotMeta{{
		Version:            raft.SnapshotVersionMax,
		ID:                 "checkpoint",
		Index:              uint64(s.checkpoint.Index),
		Term:               uint64(s.checkpoint.Term),
		Configuration:      raft.DecodeConfiguration(s.checkpoint.Configuration),
		ConfigurationIndex: uint64(s.checkpoint.ConfigurationIndex),
	}}, nil
}

// Create implements raft.SnapshotStore; nothing may call it.
func (s *snapshotStore) Create(raft.SnapshotVersion, uint64, uint64, raft.Configuration, uint64, raft.Transport) (raft.SnapshotSink, error) {
	return nil, errNoSnapshots
}

// Open implements raft.SnapshotStore; nothing may call it.
func (s *snapshotStore) Open(string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	return nil, nil, errNoSnapshots
}
