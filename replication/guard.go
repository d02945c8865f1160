package replication

import (
	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/planted"
)

// judge decides about a fresh batch at the end of the log, earlier entries of
// the same append included, and returns the frame to store: the batch stamped
// with its offset and term, or a void that says why it was refused.
//
// Here and nowhere before, because a check before Apply says nothing about the
// position that the entry gets: raft refuses one Apply during a leadership
// transfer and accepts a later one of the same term, and commits proposals that
// were queued in one term in the next (DESIGN 4.2). A void is replicated and
// applied like any entry, so no duplicate is acknowledged, and no error is
// definite, before its reason is.
func judge(batch *log.Append, table *proposalTable, p *Proposal, term segment.Term) []byte {
	next := batch.NextOffset()
	if p.guard.Term != 0 && p.guard.Term != term {
		return void(next, term, segment.Void{Code: segment.VoidStaleTerm})
	}
	if p.header.ProducerID < 0 || planted.CheckBeforeApply {
		segment.Stamp(p.frame, next, term)
		return p.frame
	}
	if !batch.Knows(p.header.ProducerID) && table.overtakes(p) {
		return void(next, term, segment.Void{Code: segment.VoidNotLeader})
	}
	verdict := batch.Judge(p.header)
	switch verdict.Outcome {
	case log.Accepted:
		segment.Stamp(p.frame, next, term)
		return p.frame
	case log.Duplicate:
		return void(next, term, segment.Void{Code: segment.VoidDuplicate, Offset: verdict.Offset})
	case log.DuplicateTooOld:
		return void(next, term, segment.Void{Code: segment.VoidDuplicateTooOld})
	case log.Fenced:
		return void(next, term, segment.Void{Code: segment.VoidFencedEpoch})
	default:
		return void(next, term, segment.Void{Code: segment.VoidOutOfOrderSequence})
	}
}

func void(next segment.Offset, term segment.Term, v segment.Void) []byte {
	frame := segment.EncodeVoid(next, v)
	segment.Stamp(frame, next, term)
	return frame
}
