package transport

import (
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// Leading reports whether the facade's instance leads, and in which term. It does
// not wait, so it answers while raft's main goroutine sits in a call to the disk.
func (f *Facade) Leading() (term segment.Term, leads bool) {
	instance := f.instance()
	if instance == nil || instance.State() != raft.Leader {
		return 0, false
	}
	return segment.Term(instance.CurrentTerm()), true
}

// Resign ends everything that this instance says as the leader of a term, for
// good: heartbeats and entries, under way and to come, fail with ErrNotLeading.
// Raft itself cannot step down while its main goroutine waits for the disk, but its
// heartbeats go on from other goroutines (measured, raftprobes P10), and would keep
// the followers from electing anybody (DESIGN 4.3 c). What peers ask of the instance
// still reaches it, and RequestCampaign still goes out. It does not wait.
//
// When raft goes on it learns of the next leader, or finds that its lease is over;
// in a later term it may lead again.
func (f *Facade) Resign(term segment.Term) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resigned = max(f.resigned, uint64(term))
	if f.reign.term <= f.resigned {
		f.endReignLocked()
	}
	f.wakeLocked()
}
