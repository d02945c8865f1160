package replication

import (
	"runtime"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// stableStore is a group's term and vote as one raft instance sees them.
//
// Raft panics when a term cannot be stored (raft.go:2167), which would take an
// embedding process with it. Once the instance runs, a failure therefore ends
// raft's main goroutine here instead, after failed was told: its deferred calls
// answer what it was doing with "no", and it never acts again. While NewRaft
// runs, the error is returned, and the panic is caught by newRaft.
type stableStore struct {
	raft.StableStore
	// disk counts the calls that may wait for the disk; may be nil.
	disk *diskCalls
	// poisoned says that the instance must not vote any more.
	poisoned *atomic.Bool
	// started says that NewRaft has returned.
	started *atomic.Bool
	// failed is told about the error; it must not wait for raft.
	failed func(error)
}

// Set implements raft.StableStore: the candidate of a vote.
func (s stableStore) Set(key, value []byte) error {
	if s.poisoned.Load() {
		return errPoisoned
	}
	defer s.disk.begin()()
	return s.StableStore.Set(key, value)
}

// SetUint64 implements raft.StableStore: the current term, and the term of a vote.
func (s stableStore) SetUint64(key []byte, value uint64) error {
	end := s.disk.begin()
	err := s.StableStore.SetUint64(key, value)
	end()
	if err == nil || !s.started.Load() {
		return err
	}
	s.failed(err)
	runtime.Goexit()
	return err
}
