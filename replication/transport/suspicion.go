package transport

import (
	"encoding/binary"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// Suspicion is a group whose leader a node takes for dead. Peers are asked about
// it before anybody campaigns (MethodSuspect, DESIGN 4.3 f), which stands for the
// pre-vote that a campaign at will leaves out.
type Suspicion struct {
	// Group is the group.
	Group GroupID
	// Leader is the replica that leads it, as far as the sender knows.
	Leader raft.ServerID
}

// Agreement is the answer of a replica with a vote to a Suspicion that it shares.
// A replica that does not share it, or has no vote, does not answer.
type Agreement struct {
	// Group is the group.
	Group GroupID
	// Replica is the one that agrees.
	Replica raft.ServerID
	// LastTerm and LastIndex are the last entry of its log: the longest is the one
	// that should campaign.
	LastTerm segment.Term
	// LastIndex is the index of that entry.
	LastIndex segment.Index
}

// MaxSuspicions bounds the groups of one message.
const MaxSuspicions = 4096

// The least that a suspicion and an agreement take.
const (
	suspicionSize = 16 + 4 + 1
	agreementSize = 16 + 4 + 1 + 2*8
)

// EncodeSuspicions writes at most MaxSuspicions of them.
func EncodeSuspicions(suspicions []Suspicion) []byte {
	b := binary.BigEndian.AppendUint32([]byte{wireVersion}, uint32(len(suspicions)))
	for _, s := range suspicions {
		b = appendID(appendGroup(b, s.Group), s.Leader)
	}
	return b
}

// DecodeSuspicions reads them; its error is ErrMalformed.
func DecodeSuspicions(b []byte) ([]Suspicion, error) {
	r := &wireReader{rest: b}
	r.version()
	suspicions := make([]Suspicion, r.count(suspicionSize, MaxSuspicions))
	for i := range suspicions {
		suspicions[i].Group, suspicions[i].Leader = r.group(), r.id()
	}
	return suspicions, r.end()
}

// EncodeAgreements writes at most MaxSuspicions of them.
func EncodeAgreements(agreements []Agreement) []byte {
	b := binary.BigEndian.AppendUint32([]byte{wireVersion}, uint32(len(agreements)))
	for _, a := range agreements {
		b = appendID(appendGroup(b, a.Group), a.Replica)
		b = appendUint64s(b, uint64(a.LastTerm), uint64(a.LastIndex))
	}
	return b
}

// DecodeAgreements reads them; its error is ErrMalformed.
func DecodeAgreements(b []byte) ([]Agreement, error) {
	r := &wireReader{rest: b}
	r.version()
	agreements := make([]Agreement, r.count(agreementSize, MaxSuspicions))
	for i := range agreements {
		a := &agreements[i]
		a.Group, a.Replica = r.group(), r.id()
		a.LastTerm, a.LastIndex = segment.Term(r.term()), segment.Index(r.index())
	}
	return agreements, r.end()
}
