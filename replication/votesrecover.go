package replication

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/millrace/millrace/replication/transport"
)

// votesTail says how a file of votes ends.
type votesTail uint8

const (
	// votesClean: only zeros follow the last round.
	votesClean votesTail = iota
	// votesTorn: the last round was never completed, so nobody was promised it.
	votesTorn
	// votesUncertain: the last round is bad and nothing says whether it was cut
	// off by a crash or went bad later.
	votesUncertain
)

// groupState is what is known of one group.
type groupState struct {
	incarnation   uint64
	term          uint64 // 0: none stored
	voteTerm      uint64 // 0: none stored
	voteCandidate string
	doubt         bool
}

// votesContent is what a file of votes says.
type votesContent struct {
	groups map[transport.GroupID]groupState
	tail   votesTail
	// end is the position behind the last good round; what a bad one left begins there.
	end int64
	// next is the sequence of the next round.
	next uint64
}

// scanVotes reads a whole file of votes. A bad place that a crash cannot explain
// is a *VotesCorruptionError.
//
// A crash can spoil only the last round, because each begins after the sync of
// the one before. So a bad round is corruption if it lies in what was settled
// when the file got its name, or if anything follows it that is not part of it.
// Else it is torn for certain if a sector of it is still all zeros, as
// preallocated, or the file ends inside it (assumption: a disk does not turn
// synced sectors into zeros), and uncertain without such a hole.
func scanVotes(data []byte) (votesContent, error) {
	content := votesContent{groups: map[transport.GroupID]groupState{}, end: votesBlock, next: 1}
	settled, err := decodeVotesHeader(data)
	if err != nil {
		return content, &VotesCorruptionError{Position: 0, Err: err}
	}
	for content.end < int64(len(data)) {
		rest := data[content.end:]
		records, size, ok := intactVotesRound(rest, content.next)
		if !ok && content.end < settled {
			return content, votesCorruption(content.end, "bad round in the part that was synced as a whole")
		}
		if !ok {
			content.tail, err = judgeVotesTail(rest, content.end, content.next)
			return content, err
		}
		decoded, err := decodeVoteRecords(records)
		if err != nil { // its checksum is right: not a crash but another writer
			return content, &VotesCorruptionError{Position: content.end, Err: err}
		}
		for _, r := range decoded {
			applyVote(content.groups, r)
		}
		content.end += int64(size)
		content.next++
	}
	return content, nil
}

// intactVotesRound returns the records of a round that is as it was written, and
// the bytes of its blocks.
func intactVotesRound(b []byte, sequence uint64) (records []byte, size int, ok bool) {
	found, length, ok := votesRoundHead(b)
	if !ok || found != sequence || votesRoundHeader+length > len(b) {
		return nil, 0, false
	}
	records = b[votesRoundHeader : votesRoundHeader+length]
	if crc32.Checksum(records, castagnoli) != binary.BigEndian.Uint32(b[16:]) {
		return nil, 0, false
	}
	return records, wholeBlocks(votesRoundHeader + length), true
}

// judgeVotesTail decides what a round that is not intact is; b begins with it and
// goes to the end of the file.
func judgeVotesTail(b []byte, position int64, sequence uint64) (votesTail, error) {
	used := len(bytes.TrimRight(b, "\x00"))
	if used == 0 {
		return votesClean, nil
	}
	if used > votesMaxRound {
		return 0, votesCorruption(position, "bad round, and more follows than one round can be")
	}
	for next := votesBlock; next < used; next += votesBlock {
		if later, _, ok := votesRoundHead(b[next:]); ok && later > sequence {
			return 0, votesCorruption(position, "bad round with a later one behind it")
		}
	}
	found, length, ok := votesRoundHead(b)
	switch {
	case ok && found != sequence:
		return 0, votesCorruption(position, "round out of sequence")
	case !ok && isZero(b[:min(votesSector, len(b))]):
		return votesTorn, nil // its first sector was never written
	case !ok:
		return votesUncertain, nil
	}
	end := votesRoundHeader + length
	if used > wholeBlocks(end) {
		return 0, votesCorruption(position, "bad round with something behind it")
	}
	if end > len(b) || hasHole(b[:end]) {
		return votesTorn, nil
	}
	return votesUncertain, nil
}

// minHole is how many bytes of zeros at the end of a round, in a sector it shares
// with padding, count as a hole: fewer may be what was written.
const minHole = 12

// hasHole reports whether a sector of the round is all zeros.
func hasHole(round []byte) bool {
	for start := 0; start < len(round); start += votesSector {
		part := round[start:min(start+votesSector, len(round))]
		if len(part) >= minHole && isZero(part) {
			return true
		}
	}
	return false
}

// isZero reports whether b has only zeros.
func isZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// applyVote applies a record to the states of the groups.
func applyVote(groups map[transport.GroupID]groupState, r voteRecord) {
	state, known := groups[r.group]
	switch r.kind {
	case voteRegister:
		state, known = groupState{incarnation: r.value}, true
	case voteTerm:
		state.term = r.value
	case voteCast:
		state.voteTerm, state.voteCandidate = r.value, r.text
	case voteForget:
		delete(groups, r.group)
		return
	case voteDoubt:
		state.doubt = true
	}
	if known { // a write of an instance that lost a race with Forget says nothing
		groups[r.group] = state
	}
}
