package replication

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/segment"
)

// fsm is a partition's state machine: applying an entry moves the high
// watermark and the producers' sequences, which the log keeps. It is idempotent
// by index. On an entry it does not know it stops the replica, and applies
// nothing after it: a replica that guesses diverges.
type fsm struct {
	log  *log.Log
	disk *diskCalls // counts the calls that may wait for the disk; may be nil
	// moved is called after a batch was applied.
	moved func()
	// trimmed is called after a trim was applied; may be nil.
	trimmed func()
	// stop is told once why nothing more is applied.
	stop    func(error)
	stopped atomic.Bool
}

var (
	_ raft.FSM         = (*fsm)(nil)
	_ raft.BatchingFSM = (*fsm)(nil)
)

// Apply implements raft.FSM.
func (f *fsm) Apply(entry *raft.Log) any {
	answer := f.apply(entry)
	f.moved()
	return answer
}

// ApplyBatch implements raft.BatchingFSM.
func (f *fsm) ApplyBatch(entries []*raft.Log) []any {
	answers := make([]any, len(entries))
	for i, entry := range entries {
		answers[i] = f.apply(entry)
	}
	f.moved()
	return answers
}

func (f *fsm) apply(entry *raft.Log) applied {
	if f.stopped.Load() {
		return applied{err: ErrClosed}
	}
	defer f.disk.begin()()
	info, err := f.log.Apply(segment.Index(entry.Index))
	if err != nil {
		if f.stopped.CompareAndSwap(false, true) {
			f.stop(err)
		}
		return applied{err: err}
	}
	if info.Kind == segment.KindTrim && f.trimmed != nil {
		f.trimmed()
	}
	return applied{base: info.Base, void: info.Void}
}

// Snapshot implements raft.FSM; the settings rule it out.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return nil, errNoSnapshots }

// Restore implements raft.FSM; nothing is ever installed.
func (f *fsm) Restore(content io.ReadCloser) error {
	return errors.Join(errNoSnapshots, content.Close())
}
