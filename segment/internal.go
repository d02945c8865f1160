package segment

import (
	"encoding/binary"
	"fmt"
)

// An internal frame is a batch header (attribute bit 15, last offset delta -1, no
// records, no producer, no timestamps) followed by
//
//	61        62       63
//	+---------+--------+-----------------
//	| version | kind   | content
//	| (1) = 1 | (1)    |
//	+---------+--------+-----------------
//
// Its base offset is that of the record after it, so it takes no offset; Kafka
// readers that meet one find a batch of no records. Content by kind:
//
//	configuration   raft's encoding of the configuration
//	no-op, barrier  empty
//	trim            log start (8), index (8); see Trim
//	horizon         reserved; nothing writes it yet
//	void            code (1), offset (8)
//
// On disk and between brokers: never change.
const (
	internalVersion = 1
	internalPrefix  = 2 // version, kind
	voidSize        = 9
	trimSize        = 16
)

// Kind says what a frame is. On disk: never change.
type Kind uint8

const (
	// KindRecords is a batch of a client, control batches included.
	KindRecords Kind = 0
	// KindNoop is raft's entry at the begin of a term.
	KindNoop Kind = 1
	// KindConfiguration is a raft configuration.
	KindConfiguration Kind = 2
	// KindBarrier is raft's barrier entry.
	KindBarrier Kind = 3
	// KindTrim moves the log start.
	KindTrim Kind = 4
	// KindHorizon moves the clean horizon, below which compaction may work.
	KindHorizon Kind = 5
	// KindVoid stands for a batch that was refused at append, see Void.
	KindVoid Kind = 6

	// KindInternal is an internal frame of which only the header is known. It is
	// never stored.
	KindInternal Kind = 255
)

// kindNames are the texts of Kind.
var kindNames = [...]string{"records", "no-op", "configuration", "barrier", "trim", "horizon", "void"}

// String is the kind in a word.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	if k == KindInternal {
		return "internal"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Known reports a kind that this version stores and applies.
func (k Kind) Known() bool { return int(k) < len(kindNames) }

// EncodeInternal makes an internal frame of term 0 (see Stamp) whose next record
// has offset next.
func EncodeInternal(kind Kind, next Offset, payload []byte) []byte {
	frame := make([]byte, HeaderSize+internalPrefix+len(payload))
	frame[HeaderSize], frame[HeaderSize+1] = internalVersion, byte(kind)
	copy(frame[HeaderSize+internalPrefix:], payload)
	Header{
		BaseOffset: next, Attributes: attrInternal, LastOffsetDelta: -1, BaseTimestamp: -1, MaxTimestamp: -1,
		ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1,
	}.put(frame)
	return frame
}

// DecodeInternal returns kind and content of a whole internal frame; the content
// is a part of frame. It checks the header, not the CRC. A kind it does not know
// is returned with its content and no error: what to do then is the caller's
// business (a replica stops). The error is a *BatchError.
func DecodeInternal(frame []byte) (Kind, []byte, error) {
	h, err := DecodeHeader(frame)
	if err != nil {
		return 0, nil, err
	}
	switch {
	case !h.Attributes.Internal():
		return 0, nil, batchErrorf(Corrupt, "not an internal frame")
	case h.FrameSize() != len(frame):
		return 0, nil, batchErrorf(Corrupt, "%d bytes, the header says %d", len(frame), h.FrameSize())
	case len(frame) < HeaderSize+internalPrefix:
		return 0, nil, batchErrorf(Corrupt, "internal frame without a kind")
	case h.Attributes != attrInternal:
		return 0, nil, batchErrorf(Corrupt, "internal frame with attributes %#04x", uint16(h.Attributes))
	case frame[HeaderSize] != internalVersion:
		return 0, nil, batchErrorf(Corrupt, "internal frame of version %d", frame[HeaderSize])
	}
	kind := Kind(frame[HeaderSize+1])
	if kind == KindRecords || kind == KindInternal {
		return 0, nil, batchErrorf(Corrupt, "internal frame of kind %d", uint8(kind))
	}
	return kind, frame[HeaderSize+internalPrefix:], nil
}

// VoidCode says why a batch was refused at append. On disk: never change.
type VoidCode uint8

const (
	// VoidDuplicate: the batch is in the log already, at Void.Offset.
	VoidDuplicate VoidCode = 1
	// VoidOutOfOrderSequence: sequence numbers are missing before it.
	VoidOutOfOrderSequence VoidCode = 2
	// VoidNotLeader: sequence numbers are missing because this broker refused
	// what came before; the client tries again.
	VoidNotLeader VoidCode = 3
	// VoidFencedEpoch: a newer epoch of its producer is known.
	VoidFencedEpoch VoidCode = 4
	// VoidStaleTerm: it was checked in an earlier term than it got.
	VoidStaleTerm VoidCode = 5
	// VoidDuplicateTooOld: a duplicate whose first copy is not remembered.
	VoidDuplicateTooOld VoidCode = 6
)

// voidNames are the texts of VoidCode.
var voidNames = [...]string{"", "duplicate", "out of order sequence", "not leader", "fenced epoch", "stale term", "duplicate, too old"}

// String is the code in words.
func (c VoidCode) String() string {
	if c > 0 && int(c) < len(voidNames) {
		return voidNames[c]
	}
	return fmt.Sprintf("void code %d", uint8(c))
}

// Void is the content of a frame that stands for a refused batch.
type Void struct {
	// Code is why it was refused.
	Code VoidCode
	// Offset is the base offset of the first copy of a duplicate, else -1.
	Offset Offset
}

// EncodeVoid makes a void whose next record has offset next.
func EncodeVoid(next Offset, v Void) []byte {
	var payload [voidSize]byte
	payload[0] = byte(v.Code)
	binary.BigEndian.PutUint64(payload[1:], uint64(v.Offset))
	return EncodeInternal(KindVoid, next, payload[:])
}

// DecodeVoid reads the content of a void frame. An unknown code is an error: the
// client would get no answer that is true. The error is a *BatchError.
func DecodeVoid(payload []byte) (Void, error) {
	if len(payload) != voidSize {
		return Void{}, batchErrorf(Corrupt, "void of %d bytes, must be %d", len(payload), voidSize)
	}
	v := Void{Code: VoidCode(payload[0]), Offset: Offset(binary.BigEndian.Uint64(payload[1:]))}
	if v.Code == 0 || int(v.Code) >= len(voidNames) {
		return Void{}, batchErrorf(Corrupt, "%s", v.Code)
	}
	return v, nil
}

// Trim is the content of a frame that moves the start of the log.
type Trim struct {
	// Start is the new log start: the offset of the first record that is left.
	Start Offset
	// Through is the last entry whose bytes may go, with the whole segment that
	// holds it: every member of the group has acknowledged the entries up to there,
	// so that nobody will ask for them. Entries above it stay, also where their
	// records are below Start.
	Through Index
}

// EncodeTrim makes a trim whose next record has offset next.
func EncodeTrim(next Offset, t Trim) []byte {
	var payload [trimSize]byte
	binary.BigEndian.PutUint64(payload[:], uint64(t.Start))
	binary.BigEndian.PutUint64(payload[8:], uint64(t.Through))
	return EncodeInternal(KindTrim, next, payload[:])
}

// DecodeTrim reads the content of a trim frame. The error is a *BatchError.
func DecodeTrim(payload []byte) (Trim, error) {
	if len(payload) != trimSize {
		return Trim{}, batchErrorf(Corrupt, "trim of %d bytes, must be %d", len(payload), trimSize)
	}
	t := Trim{Start: Offset(binary.BigEndian.Uint64(payload)), Through: Index(binary.BigEndian.Uint64(payload[8:]))}
	if t.Start < 0 {
		return Trim{}, batchErrorf(Corrupt, "trim to offset %d", t.Start)
	}
	return t, nil
}
