package replication

import (
	"errors"
	"io/fs"

	"github.com/millrace/millrace/log"
)

// judgedEarly is the bug planted.CheckBeforeApply, in no ordinary build: a batch is
// judged by the end of the log as it is when the batch is handed to raft, which says
// nothing about the place that it gets. A gap passes if an earlier batch of the
// producer is under way.
func (in *instance) judgedEarly(p *Proposal) bool {
	if p.barrier || p.header.ProducerID < 0 {
		return false
	}
	partition := in.partition
	batch := partition.Log().Begin()
	verdict := batch.Judge(p.header)
	batch.Abort()
	partition.proposals.mu.Lock()
	underWay := len(partition.proposals.producers[p.header.ProducerID]) > 0
	partition.proposals.mu.Unlock()
	switch {
	case verdict.Outcome == log.Duplicate:
		partition.settle(p, Result{Base: verdict.Offset, Duplicate: true}, nil)
	case verdict.Outcome == log.Accepted || underWay:
		return false
	default:
		partition.settle(p, Result{}, ErrNotLeader)
	}
	return true
}

// makeLostAnew is the bug planted.NoIncarnation, in no ordinary build: what is
// missing of a replica is made as it was when the replica was created, under the
// old incarnation.
func (h *Host) makeLostAnew(a assignment) error {
	if _, err := log.ReadIdentity(h.config.FS, h.dir(a)); errors.Is(err, fs.ErrNotExist) {
		return h.createReplica(a)
	}
	if incarnation, voted := h.votes.Incarnation(a.group()); !voted || incarnation != a.replica.Incarnation {
		return h.votes.Register(a.group(), a.replica.Incarnation)
	}
	return nil
}
