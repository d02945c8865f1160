package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// The header of a record batch, version 2 (magic 2), big endian, as KIP-98 laid
// it down. An internal frame has the same header.
//
//	 0        8        12          16    17    21         23
//	+--------+--------+-----------+-----+-----+----------+-----------------+
//	| base   | length | partition | ma- | crc | attri-   | last offset     |
//	| offset |        | leader    | gic | 32C | butes    | delta (4)       |
//	| (8)    | (4)    | epoch (4) | (1) | (4) | (2)      |                 |
//	+--------+--------+-----------+-----+-----+----------+-----------------+
//	27          35          43           51            53         57       61
//	+-----------+-----------+------------+-------------+----------+--------+----
//	| base      | max       | producer   | producer    | base     | number | records,
//	| timestamp | timestamp | id (8)     | epoch (2)   | sequence | of re- | maybe
//	| (8)       | (8)       |            |             | (4)      | cords  | compressed
//	+-----------+-----------+------------+-------------+----------+--------+----
//
// length counts what follows it; crc covers everything from attributes to the
// end of the frame. So base offset and leader epoch can be stamped, at no cost,
// after the checksum was computed.
//
// Attribute bits: 0-2 codec, 3 timestamp type (1: append time), 4 transactional,
// 5 control, 6 delete horizon (compaction's), 7-14 unused, 15 internal frame
// (ours; Kafka leaves it unused).
//
// On disk and on the wire: never change.
const (
	// HeaderSize is the size of a batch header, base offset and length included.
	HeaderSize = 61

	lengthEnd     = 12 // a frame is lengthEnd + length bytes
	minLength     = HeaderSize - lengthEnd
	atLength      = 8
	atLeaderEpoch = 12
	atMagic       = 16
	atCRC         = 17
	atAttributes  = 21 // the checksum begins here
	atLastDelta   = 23
	atBaseTime    = 27
	atMaxTime     = 35
	atProducerID  = 43
	atEpoch       = 51
	atSequence    = 53
	atNumRecords  = 57

	magicV2 = 2

	// MaxFrameSize is the longest frame in bytes that is ever stored or sent
	// between brokers, whatever max.message.bytes says: with its envelope it
	// fits into a message of 64 MiB. A longer length in a header is damage.
	MaxFrameSize = 64<<20 - 64<<10
	// MaxTerm is the greatest Raft term that fits the leader epoch of a frame.
	MaxTerm Term = math.MaxInt32
)

// Attributes are the 16 attribute bits of a batch.
type Attributes int16

const (
	attrCodecMask     Attributes = 0x07
	attrAppendTime    Attributes = 0x08
	attrTransactional Attributes = 0x10
	attrControl       Attributes = 0x20
	attrDeleteHorizon Attributes = 0x40
	attrInternal      Attributes = -0x8000
	// attrClient are the bits that a producer may set. Not among them: the
	// delete horizon, which gives the base timestamp another meaning, what Kafka
	// leaves unused, and bit 15, with which a client would forge internal frames.
	attrClient = attrCodecMask | attrAppendTime | attrTransactional | attrControl
)

// Codec is the compression of the records; see Codec.Known.
func (a Attributes) Codec() Codec { return Codec(a & attrCodecMask) }

// Control reports a transaction marker or another control batch.
func (a Attributes) Control() bool { return a&attrControl != 0 }

// Transactional reports a batch that belongs to a transaction.
func (a Attributes) Transactional() bool { return a&attrTransactional != 0 }

// LogAppendTime reports that all records have the batch's max timestamp.
func (a Attributes) LogAppendTime() bool { return a&attrAppendTime != 0 }

// DeleteHorizon reports that the base timestamp is the time from which on
// compaction may drop the batch's tombstones (KIP-534).
func (a Attributes) DeleteHorizon() bool { return a&attrDeleteHorizon != 0 }

// Internal reports a frame of Millrace itself, see Kind.
func (a Attributes) Internal() bool { return a&attrInternal != 0 }

// Header is a decoded batch header. Times are milliseconds since 1970.
type Header struct {
	// BaseOffset is the offset of the first record; for an internal frame that
	// of the record that comes next. Not covered by CRC.
	BaseOffset Offset
	// Length is the frame's size in bytes less the first 12.
	Length int32
	// LeaderEpoch is the Raft term of the entry. Not covered by CRC.
	LeaderEpoch int32
	// Magic is the format version, always 2.
	Magic int8
	// CRC is the CRC32C of the frame from the attributes on.
	CRC uint32
	// Attributes are the 16 flag bits.
	Attributes Attributes
	// LastOffsetDelta is the last offset less the base offset; -1 for internal
	// frames.
	LastOffsetDelta int32
	// BaseTimestamp is what the records' timestamp deltas count from.
	BaseTimestamp int64
	// MaxTimestamp is the largest timestamp of the records, or the append time.
	MaxTimestamp int64
	// ProducerID is -1 where the producer is not idempotent.
	ProducerID int64
	// ProducerEpoch is -1 where the producer is not idempotent.
	ProducerEpoch int16
	// BaseSequence is the sequence number of the first record, -1 without one.
	BaseSequence int32
	// NumRecords is the number of records; 0 in internal frames.
	NumRecords int32
}

// DecodeHeader reads and checks the header at the start of b, which need not
// hold more than that: magic 2, a length between an empty batch and
// MaxFrameSize, counts that are not negative and fit the length, and in an
// internal frame the counts of one. The checksum is not looked at. The error is
// a *BatchError.
func DecodeHeader(b []byte) (Header, error) {
	return decodeHeader(b, MaxFrameSize)
}

// decodeHeader is DecodeHeader with another limit: an inflated batch may be
// longer than what is stored.
func decodeHeader(b []byte, limit int) (Header, error) {
	if len(b) > atMagic && b[atMagic] != magicV2 {
		return Header{}, batchErrorf(UnsupportedMagic, "magic %d", int8(b[atMagic]))
	}
	if len(b) < HeaderSize {
		return Header{}, batchErrorf(Corrupt, "%d bytes, a header has %d", len(b), HeaderSize)
	}
	h := Header{
		BaseOffset:      Offset(binary.BigEndian.Uint64(b)),
		Length:          int32(binary.BigEndian.Uint32(b[atLength:])),
		LeaderEpoch:     int32(binary.BigEndian.Uint32(b[atLeaderEpoch:])),
		Magic:           int8(b[atMagic]),
		CRC:             binary.BigEndian.Uint32(b[atCRC:]),
		Attributes:      Attributes(binary.BigEndian.Uint16(b[atAttributes:])),
		LastOffsetDelta: int32(binary.BigEndian.Uint32(b[atLastDelta:])),
		BaseTimestamp:   int64(binary.BigEndian.Uint64(b[atBaseTime:])),
		MaxTimestamp:    int64(binary.BigEndian.Uint64(b[atMaxTime:])),
		ProducerID:      int64(binary.BigEndian.Uint64(b[atProducerID:])),
		ProducerEpoch:   int16(binary.BigEndian.Uint16(b[atEpoch:])),
		BaseSequence:    int32(binary.BigEndian.Uint32(b[atSequence:])),
		NumRecords:      int32(binary.BigEndian.Uint32(b[atNumRecords:])),
	}
	return h, h.validate(limit)
}

// validate checks what a header says against itself.
func (h Header) validate(limit int) error {
	if h.Length < minLength {
		return batchErrorf(Corrupt, "length %d, at least %d", h.Length, minLength)
	}
	if int64(h.Length)+lengthEnd > int64(limit) {
		return batchErrorf(TooLarge, "length %d, at most %d", h.Length, limit-lengthEnd)
	}
	if h.BaseOffset < 0 {
		return batchErrorf(Corrupt, "base offset %d", h.BaseOffset)
	}
	if h.Attributes.Internal() {
		if h.LastOffsetDelta != -1 || h.NumRecords != 0 {
			return batchErrorf(Corrupt, "internal frame with %d records, last offset delta %d", h.NumRecords, h.LastOffsetDelta)
		}
		return nil
	}
	if h.NumRecords < 0 || h.LastOffsetDelta < 0 || int64(h.NumRecords) > int64(h.LastOffsetDelta)+1 {
		return batchErrorf(Corrupt, "%d records, last offset delta %d", h.NumRecords, h.LastOffsetDelta)
	}
	if int64(h.BaseOffset) > math.MaxInt64-int64(h.LastOffsetDelta)-1 {
		return batchErrorf(Corrupt, "base offset %d, last offset delta %d", h.BaseOffset, h.LastOffsetDelta)
	}
	if h.Attributes.Codec() == CodecNone && int64(h.NumRecords)*minRecordSize > int64(h.Length)-minLength {
		return batchErrorf(Corrupt, "%d records in %d bytes", h.NumRecords, h.Length-minLength)
	}
	return nil
}

// FrameSize is the size of the whole frame in bytes.
func (h Header) FrameSize() int { return lengthEnd + int(h.Length) }

// Term is the Raft term in the leader epoch.
func (h Header) Term() Term { return Term(uint32(h.LeaderEpoch)) }

// LastOffset is the offset of the last record; BaseOffset-1 for internal frames.
func (h Header) LastOffset() Offset { return h.BaseOffset + Offset(h.LastOffsetDelta) }

// NextOffset is the base offset of the frame after this one: internal frames
// take no offset.
func (h Header) NextOffset() Offset { return h.LastOffset() + 1 }

// Kind is KindRecords, for control batches too, unless the frame is internal;
// then DecodeInternal knows more, and Kind is KindInternal.
func (h Header) Kind() Kind {
	if h.Attributes.Internal() {
		return KindInternal
	}
	return KindRecords
}

// Idempotent reports that the batch has a producer id, so that its sequence
// numbers count.
func (h Header) Idempotent() bool { return h.ProducerID >= 0 }

// LastSequence is the sequence number of the last record. Numbers wrap from
// math.MaxInt32 to 0 (KIP-98); -1 without a sequence.
func (h Header) LastSequence() int32 {
	if h.BaseSequence < 0 {
		return -1
	}
	return int32((int64(h.BaseSequence) + int64(max(h.LastOffsetDelta, 0))) & math.MaxInt32)
}

// Stamp writes base offset and term into a frame of at least HeaderSize bytes,
// in place. The checksum covers neither. A term above MaxTerm is the caller's
// to refuse.
func Stamp(frame []byte, base Offset, term Term) {
	binary.BigEndian.PutUint64(frame, uint64(base))
	binary.BigEndian.PutUint32(frame[atLeaderEpoch:], uint32(term))
}

// castagnoli is the polynomial of CRC32C, which Kafka uses and CPUs compute.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC32C of a frame of at least HeaderSize bytes.
func checksum(frame []byte) uint32 { return crc32.Checksum(frame[atAttributes:], castagnoli) }

// ChecksumOK reports whether the CRC of a whole frame is right. Fewer bytes than
// a header are not.
func ChecksumOK(frame []byte) bool {
	return len(frame) >= HeaderSize && binary.BigEndian.Uint32(frame[atCRC:]) == checksum(frame)
}

// SetAppendTime makes now (milliseconds) the timestamp of every record, in place
// and with a new CRC: message.timestamp.type=LogAppendTime (KIP-32). Base
// timestamp and deltas stay as they are, as in Kafka; readers ignore them.
func SetAppendTime(frame []byte, now int64) {
	attributes := Attributes(binary.BigEndian.Uint16(frame[atAttributes:])) | attrAppendTime
	binary.BigEndian.PutUint16(frame[atAttributes:], uint16(attributes))
	setMaxTimestamp(frame, now)
}

// setMaxTimestamp writes the max timestamp and computes the CRC anew.
func setMaxTimestamp(frame []byte, max int64) {
	binary.BigEndian.PutUint64(frame[atMaxTime:], uint64(max))
	binary.BigEndian.PutUint32(frame[atCRC:], checksum(frame))
}

// put writes the header over the first HeaderSize bytes of a whole frame, with
// the length that the frame has and its CRC. Length, Magic and CRC of h do not
// count.
func (h Header) put(frame []byte) {
	binary.BigEndian.PutUint64(frame, uint64(h.BaseOffset))
	binary.BigEndian.PutUint32(frame[atLength:], uint32(len(frame)-lengthEnd))
	binary.BigEndian.PutUint32(frame[atLeaderEpoch:], uint32(h.LeaderEpoch))
	frame[atMagic] = magicV2
	binary.BigEndian.PutUint16(frame[atAttributes:], uint16(h.Attributes))
	binary.BigEndian.PutUint32(frame[atLastDelta:], uint32(h.LastOffsetDelta))
	binary.BigEndian.PutUint64(frame[atBaseTime:], uint64(h.BaseTimestamp))
	binary.BigEndian.PutUint64(frame[atMaxTime:], uint64(h.MaxTimestamp))
	binary.BigEndian.PutUint64(frame[atProducerID:], uint64(h.ProducerID))
	binary.BigEndian.PutUint16(frame[atEpoch:], uint16(h.ProducerEpoch))
	binary.BigEndian.PutUint32(frame[atSequence:], uint32(h.BaseSequence))
	binary.BigEndian.PutUint32(frame[atNumRecords:], uint32(h.NumRecords))
	binary.BigEndian.PutUint32(frame[atCRC:], checksum(frame))
}

// Reason says in one word what is wrong with a batch, so that a caller can find
// the Kafka error for it.
type Reason uint8

const (
	// Corrupt is a frame whose bytes contradict themselves: CORRUPT_MESSAGE.
	Corrupt Reason = iota + 1
	// TooLarge is over a size limit, as sent or inflated: MESSAGE_TOO_LARGE.
	TooLarge
	// InvalidTimestamp is outside the limits or of the wrong type: INVALID_TIMESTAMP.
	InvalidTimestamp
	// NullKey is a record without a key where one is needed: INVALID_RECORD.
	NullKey
	// UnsupportedCodec is a codec that is not known: UNSUPPORTED_COMPRESSION_TYPE.
	UnsupportedCodec
	// InvalidRecord is something that a client may not send: INVALID_RECORD.
	InvalidRecord
	// UnsupportedMagic is a message format other than 2: UNSUPPORTED_FOR_MESSAGE_FORMAT.
	UnsupportedMagic
)

// reasonNames are the texts of Reason.
var reasonNames = [...]string{
	Corrupt: "corrupt", TooLarge: "too large", InvalidTimestamp: "invalid timestamp", NullKey: "record without a key",
	UnsupportedCodec: "unsupported codec", InvalidRecord: "invalid record", UnsupportedMagic: "unsupported message format",
}

// String is the reason in words.
func (r Reason) String() string {
	if int(r) < len(reasonNames) && reasonNames[r] != "" {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// BatchError is what is wrong with a frame.
type BatchError struct {
	// Reason is the class of the error.
	Reason Reason
	// Record is the position of the record in the batch, from 0; -1 where the
	// batch as a whole is meant.
	Record int
	// Detail is the rest, for people.
	Detail string
}

// Error is the reason, the record where there is one, and the detail.
func (e *BatchError) Error() string {
	if e.Record >= 0 {
		return fmt.Sprintf("record batch: %s: record %d: %s", e.Reason, e.Record, e.Detail)
	}
	return fmt.Sprintf("record batch: %s: %s", e.Reason, e.Detail)
}

// batchErrorf is an error about the whole batch.
func batchErrorf(reason Reason, format string, args ...any) *BatchError {
	return &BatchError{Reason: reason, Record: -1, Detail: fmt.Sprintf(format, args...)}
}
