//lint:file-ignore SA1019 raft reads Leader and Candidate where Addr is empty, so both are filled in.

package transport

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// The messages of a raft group between brokers, as bodies of the mux's frames,
// which have the length and a checksum. Big endian. Every request begins with an
// envelope:
//
//	0         1       17          21                22+n
//	+---------+-------+-----------+--------+--------+--------+--------+
//	| version | topic | partition | length | target | length | sender |
//	| (1) = 1 | (16)  | (4)       | (1)    | (n)    | (1)    | (m)    |
//	+---------+-------+-----------+--------+--------+--------+--------+
//
// Target and sender are server ids. A request names the replica that it is meant
// for, so that one with a new, empty disk is never taken for its old self.
//
// AppendEntries, after the envelope:
//
//	+------+------------+-----------+--------+------+-------+---------------+------
//	| term | prev index | prev term | commit | form | count | entries       | data
//	| (8)  | (8)        | (8)       | (8)    | (1)  | (4)   | (13 an entry) |
//	+------+------------+-----------+--------+------+-------+---------------+------
//	an entry:  term (8)  raft type (1)  length of its data (4)
//
// Indexes are implied: prev index + 1 and on. Form says what the data of an entry
// is: 0 raft's own data (the metadata group), 1 the whole frame as the log stores
// it (partitions). A heartbeat is an AppendEntries of which all but the term is
// zero. Extensions and append times of entries are not sent.
//
// RequestVote and RequestPreVote:   term (8) last index (8) last term (8) flags (1)
// TimeoutNow:                       term of the sender (8)
// HandOver:                         term of the sender (8) mark (8) milliseconds (4)
// InstallSnapshot:                  snapshot version (1) term (8) last index (8) last term (8)
//
//	configuration index (8) length (4) configuration, length (8) data
//
// GroupUp has no envelope, because it is about many groups:
//
//	version (1)  count (4)  and for each:
//	topic (16)  partition (4)  replica (1+n)  last term (8)  last index (8)  term (8)  probation (8)
//	flags (1): 1 votes are withheld  leader (1+n)
//
// Suspect, about many groups too:
//
//	version (1)  count (4)  and for each:
//	topic (16)  partition (4)  leader (1+n)
//
// Replies, which need no envelope because they belong to a call:
//
//	AppendEntries                    version (1) term (8) last log (8) flags (1)
//	RequestVote, RequestPreVote      version (1) term (8) flags (1)
//	TimeoutNow                       version (1)
//	HandOver                         version (1) mark (8)
//	InstallSnapshot                  version (1) term (8) flags (1)
//	Suspect                          version (1) count (4), for each group that agrees:
//	                                 topic (16) partition (4) replica (1+n) last term (8) last index (8)
//
// Between brokers of different versions: never change; add a version.
const (
	wireVersion = 1

	formData   = 0
	formFrames = 1

	entrySize = 8 + 1 + 4

	// maxEntries bounds the entries of one request; raft itself allows 1,024.
	maxEntries = 4096
	// maxConfiguration bounds an encoded raft configuration.
	maxConfiguration = 1 << 20

	flagSuccess        = 1 << 0 // AppendEntries, InstallSnapshot
	flagWithholds      = 1 << 0 // GroupUp
	flagNoRetryBackoff = 1 << 1 // AppendEntries
	flagGranted        = 1 << 0 // votes
	flagTransfer       = 1 << 0 // RequestVote
)

// protocolVersion is raft's protocol of every request; older ones are not spoken.
const protocolVersion = raft.ProtocolVersion(3)

// rpcHeader is raft's header for a message of the server: id and address are the
// same text.
func rpcHeader(id raft.ServerID) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: protocolVersion, ID: []byte(id), Addr: []byte(id)}
}

// envelope is the begin of each request.
type envelope struct {
	group          GroupID
	target, sender raft.ServerID
}

// append writes the envelope, with room for what follows it.
func (e envelope) append(room int) []byte {
	b := make([]byte, 0, 1+16+4+1+len(e.target)+1+len(e.sender)+room)
	b = appendGroup(append(b, wireVersion), e.group)
	return appendID(appendID(b, e.target), e.sender)
}

// readEnvelope reads the begin of a request.
func readEnvelope(r *wireReader) (e envelope) {
	r.version()
	e.group = r.group()
	e.target = r.id()
	e.sender = r.id()
	return e
}

// entryMeta is one line of the table of entries.
type entryMeta struct {
	term uint64
	kind raft.LogType
	size int
}

// encodeAppend writes everything of an AppendEntries but the data of its entries,
// which follow in the same order, uncopied.
func encodeAppend(e envelope, a *raft.AppendEntriesRequest, form uint8, entries []entryMeta) []byte {
	b := e.append(4*8 + 1 + 4 + len(entries)*entrySize)
	b = appendUint64s(b, a.Term, a.PrevLogEntry, a.PrevLogTerm, a.LeaderCommitIndex)
	b = binary.BigEndian.AppendUint32(append(b, form), uint32(len(entries)))
	for _, entry := range entries {
		b = append(binary.BigEndian.AppendUint64(b, entry.term), byte(entry.kind))
		b = binary.BigEndian.AppendUint32(b, uint32(entry.size))
	}
	return b
}

// decodeAppend reads an AppendEntries after its envelope. The entries' data
// aliases the message, and all entries lie in one allocation. What the data is,
// the caller finds out by the form.
func decodeAppend(r *wireReader, sender raft.ServerID) (*raft.AppendEntriesRequest, uint8, error) {
	a := &raft.AppendEntriesRequest{RPCHeader: rpcHeader(sender), Leader: []byte(sender)}
	a.Term, a.PrevLogEntry, a.PrevLogTerm, a.LeaderCommitIndex = r.term(), r.index(), r.term(), r.index()
	form := r.uint8()
	if form != formData && form != formFrames {
		r.fail("entries of form %d", form)
	}
	n := r.count(entrySize, maxEntries)
	table := wireReader{rest: r.take(n * entrySize), err: r.err}
	if n > 0 {
		entries := make([]raft.Log, n)
		a.Entries = make([]*raft.Log, n)
		for i := range entries {
			entry := &entries[i]
			entry.Index = a.PrevLogEntry + 1 + uint64(i)
			entry.Term = table.uint64()
			entry.Type = raft.LogType(table.uint8())
			size := table.uint32()
			if size > segment.MaxFrameSize {
				r.fail("entry of %d bytes", size)
			}
			entry.Data = r.take(int(size))
			a.Entries[i] = entry
		}
	}
	if err := checkTerms(a); err != nil {
		r.fail("%v", err)
	}
	return a, form, r.end()
}

// encodeAppendReply writes the answer to an AppendEntries.
func encodeAppendReply(resp *raft.AppendEntriesResponse) []byte {
	b := appendUint64s(append(make([]byte, 0, 18), wireVersion), resp.Term, resp.LastLog)
	return append(b, flag(resp.Success, flagSuccess)|flag(resp.NoRetryBackoff, flagNoRetryBackoff))
}

// decodeAppendReply reads the answer of server from.
func decodeAppendReply(b []byte, from raft.ServerID, resp *raft.AppendEntriesResponse) error {
	r := &wireReader{rest: b}
	r.version()
	term, last, flags := r.term(), r.index(), r.uint8()
	if err := r.end(); err != nil {
		return err
	}
	*resp = raft.AppendEntriesResponse{
		RPCHeader: rpcHeader(from), Term: term, LastLog: last,
		Success: flags&flagSuccess != 0, NoRetryBackoff: flags&flagNoRetryBackoff != 0,
	}
	return nil
}

// encodeVote writes a RequestVote, or a RequestPreVote, which never is part of a
// transfer.
func encodeVote(e envelope, term, lastIndex, lastTerm uint64, transfer bool) []byte {
	return append(appendUint64s(e.append(3*8+1), term, lastIndex, lastTerm), flag(transfer, flagTransfer))
}

// decodeVote reads a RequestVote after its envelope.
func decodeVote(r *wireReader, sender raft.ServerID) (*raft.RequestVoteRequest, error) {
	v := &raft.RequestVoteRequest{RPCHeader: rpcHeader(sender), Candidate: []byte(sender)}
	v.Term, v.LastLogIndex, v.LastLogTerm = r.term(), r.index(), r.term()
	v.LeadershipTransfer = r.uint8()&flagTransfer != 0
	return v, r.end()
}

// encodeVoteReply writes the answer to either kind of vote.
func encodeVoteReply(term uint64, granted bool) []byte {
	return append(appendUint64s(append(make([]byte, 0, 10), wireVersion), term), flag(granted, flagGranted))
}

// decodeVoteReply reads the answer to either kind of vote.
func decodeVoteReply(b []byte) (term uint64, granted bool, err error) {
	r := &wireReader{rest: b}
	r.version()
	term = r.term()
	granted = r.uint8()&flagGranted != 0
	return term, granted, r.end()
}

// encodeTimeoutNow writes the request to campaign at once. The sender's term lets
// the receiver drop one that was overtaken by an election.
func encodeTimeoutNow(e envelope, term uint64) []byte {
	return appendUint64s(e.append(8), term)
}

// decodeTimeoutNow reads a TimeoutNow after its envelope.
func decodeTimeoutNow(r *wireReader) (term uint64, err error) {
	term = r.term()
	return term, r.end()
}

// handOver is a request to campaign, see Facade.RequestCampaign.
type handOver struct {
	term   uint64        // of the sender
	mark   uint64        // 0: asks for one
	within time.Duration // of the mark
}

// encodeHandOver writes it; a part of a millisecond is lost.
func encodeHandOver(e envelope, h handOver) []byte {
	b := appendUint64s(e.append(2*8+4), h.term, h.mark)
	return binary.BigEndian.AppendUint32(b, uint32(min(h.within.Milliseconds(), math.MaxUint32)))
}

// decodeHandOver reads it after its envelope.
func decodeHandOver(r *wireReader) (handOver, error) {
	h := handOver{term: r.term(), mark: r.uint64()}
	h.within = time.Duration(r.uint32()) * time.Millisecond
	return h, r.end()
}

// encodeHandOverReply writes the answer: the mark.
func encodeHandOverReply(mark uint64) []byte {
	return appendUint64s(append(make([]byte, 0, 9), wireVersion), mark)
}

// decodeHandOverReply reads it.
func decodeHandOverReply(b []byte) (mark uint64, err error) {
	r := &wireReader{rest: b}
	r.version()
	mark = r.uint64()
	return mark, r.end()
}

// encodeSnapshot writes everything of an InstallSnapshot but the snapshot, which
// follows uncopied.
func encodeSnapshot(e envelope, s *raft.InstallSnapshotRequest) []byte {
	b := append(e.append(1+4*8+4+len(s.Configuration)+8), byte(s.SnapshotVersion))
	b = appendUint64s(b, s.Term, s.LastLogIndex, s.LastLogTerm, s.ConfigurationIndex)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(s.Configuration))), s.Configuration...)
	return appendUint64s(b, uint64(s.Size))
}

// decodeSnapshot reads an InstallSnapshot after its envelope; the snapshot
// aliases the message.
func decodeSnapshot(r *wireReader, sender raft.ServerID) (*raft.InstallSnapshotRequest, []byte, error) {
	s := &raft.InstallSnapshotRequest{RPCHeader: rpcHeader(sender), Leader: []byte(sender)}
	s.SnapshotVersion = raft.SnapshotVersion(r.uint8())
	s.Term, s.LastLogIndex, s.LastLogTerm, s.ConfigurationIndex = r.term(), r.index(), r.term(), r.index()
	n := r.uint32()
	if n > maxConfiguration {
		r.fail("configuration of %d bytes", n)
	}
	s.Configuration = r.take(int(n))
	size := r.uint64()
	if size != uint64(len(r.rest)) {
		r.fail("snapshot of %d bytes, %d left", size, len(r.rest))
	}
	s.Size = int64(len(r.rest))
	data := r.take(len(r.rest))
	return s, data, r.end()
}

// encodeSnapshotReply writes the answer to an InstallSnapshot.
func encodeSnapshotReply(resp *raft.InstallSnapshotResponse) []byte {
	return append(appendUint64s(append(make([]byte, 0, 10), wireVersion), resp.Term), flag(resp.Success, flagSuccess))
}

// decodeSnapshotReply reads the answer of server from.
func decodeSnapshotReply(b []byte, from raft.ServerID, resp *raft.InstallSnapshotResponse) error {
	r := &wireReader{rest: b}
	r.version()
	term, flags := r.term(), r.uint8()
	if err := r.end(); err != nil {
		return err
	}
	*resp = raft.InstallSnapshotResponse{RPCHeader: rpcHeader(from), Term: term, Success: flags&flagSuccess != 0}
	return nil
}

// groupUpSize is the least that an announcement takes.
const groupUpSize = 16 + 4 + 1 + 4*8 + 1 + 1

// encodeGroupUps writes announcements.
func encodeGroupUps(ups []GroupUp) []byte {
	b := binary.BigEndian.AppendUint32([]byte{wireVersion}, uint32(len(ups)))
	for _, up := range ups {
		b = appendID(appendGroup(b, up.Group), up.Replica)
		b = appendUint64s(b, uint64(up.LastTerm), uint64(up.LastIndex), uint64(up.Term), uint64(up.Probation))
		b = appendID(append(b, flag(up.Withholds, flagWithholds)), up.Leader)
	}
	return b
}

// decodeGroupUps reads announcements.
func decodeGroupUps(b []byte) ([]GroupUp, error) {
	r := &wireReader{rest: b}
	r.version()
	ups := make([]GroupUp, r.count(groupUpSize, maxGroupUps))
	for i := range ups {
		up := &ups[i]
		up.Group, up.Replica = r.group(), r.id()
		up.LastTerm, up.LastIndex = segment.Term(r.term()), segment.Index(r.index())
		up.Term, up.Probation = segment.Term(r.term()), segment.Term(r.term())
		up.Withholds, up.Leader = r.uint8()&flagWithholds != 0, r.id()
	}
	return ups, r.end()
}
