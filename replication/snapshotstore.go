package replication

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
)

// errNoSnapshots answers every attempt to make a snapshot of a partition: its log is
// its content.
var errNoSnapshots = errors.New("a partition has no raft snapshots")

// snapshotStore is two things to raft (DESIGN 4.1).
//
// While NewRaft runs, List is what is applied, the partition's checkpoint in a new
// process, so that raft starts there instead of reading the whole log. Raft that began
// below would get entries from GetLog once more to apply them, and panics when one
// cannot be read (raft.go:1333); above, they are in memory.
//
// Afterwards List is S, the last end of a sealed segment that is applied, with no
// bytes. A leader asks for it when a follower needs an entry that was trimmed, and
// sends it as an InstallSnapshot, which the receiving facade keeps from raft: there it
// says "get everything up to S" (seed.go). When that is answered with success, raft
// counts the follower as holding S, which is true, and goes on behind it.
type snapshotStore struct {
	log        *log.Log
	checkpoint log.Checkpoint
	started    atomic.Bool
}

var _ raft.SnapshotStore = (*snapshotStore)(nil)

// List implements raft.SnapshotStore.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	if s.started.Load() {
		return s.seeds()
	}
	if s.checkpoint.Index == 0 || len(s.checkpoint.Configuration) == 0 {
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

// seeds is S, without raft's configuration: the receiver takes that from the segment
// header behind S.
func (s *snapshotStore) seeds() ([]*raft.SnapshotMeta, error) {
	index, term, found := s.log.SeedEnd()
	if !found {
		return nil, nil
	}
	return []*raft.SnapshotMeta{{
		Version: raft.SnapshotVersionMax, ID: fmt.Sprintf("seed-%d-%d", index, term), Index: uint64(index), Term: uint64(term),
	}}, nil
}

// Open implements raft.SnapshotStore, for what List said last: S may have moved on
// since, and then the leader asks again.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	metas, err := s.seeds()
	if err != nil {
		return nil, nil, err
	}
	if len(metas) == 0 || metas[0].ID != id {
		return nil, nil, fmt.Errorf("%s: a later one has taken its place", id)
	}
	return metas[0], io.NopCloser(bytes.NewReader(nil)), nil
}

// Create implements raft.SnapshotStore; nothing may call it.
func (s *snapshotStore) Create(raft.SnapshotVersion, uint64, uint64, raft.Configuration, uint64, raft.Transport) (raft.SnapshotSink, error) {
	return nil, errNoSnapshots
}
