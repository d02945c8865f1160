package segment

import (
	"encoding/binary"
	"math"
)

// A record within a batch (magic 2); "varint" is a zigzag varint of at most 32
// bits, "varlong" of 64:
//
//	length      varint    bytes after this field
//	attributes  int8      unused
//	timestamp   varlong   less the batch's base timestamp
//	offset      varint    less the base offset
//	key         varint length or -1 for null, bytes
//	value       varint length or -1 for null, bytes
//	headers     varint count, each: varint length, key; varint length or -1, value
//
// On disk and on the wire: never change.
const (
	// minRecordSize is the size of a record with null key and value.
	minRecordSize = 7
	// minRecordHeaderSize is the size of a header with empty key and null value.
	minRecordHeaderSize = 2
	// maxInflatedFrame bounds frames in memory: lengths are 31 bits.
	maxInflatedFrame = math.MaxInt32
)

// Record is a record of a batch. nil and empty keys and values differ.
type Record struct {
	// Offset is the record's offset in its partition.
	Offset Offset
	// Timestamp is in milliseconds since 1970, -1 for none.
	Timestamp int64
	// Key may be nil.
	Key []byte
	// Value may be nil (a tombstone on compacted topics).
	Value []byte
	// Headers are in the producer's order; keys may repeat.
	Headers []RecordHeader
}

// RecordHeader is a header of a record.
type RecordHeader struct {
	// Key is never null.
	Key string
	// Value may be nil.
	Value []byte
}

// Records decodes all records of a whole frame, none of an internal one. Keys
// and values are parts of frame, or of a buffer of their own where the batch is
// compressed. The CRC is not looked at; the offsets are as they are stored, with
// gaps where compaction left some. Errors are *BatchError or ErrInflatedTooLarge.
func Records(frame []byte, inflatedLimit int64) ([]Record, error) {
	h, err := wholeHeader(frame)
	if err != nil {
		return nil, err
	}
	if h.Attributes.Internal() {
		return nil, nil
	}
	payload := frame[HeaderSize:]
	if codec := h.Attributes.Codec(); codec != CodecNone {
		inflated, err := inflate(frame, codec, inflatedLimit)
		if err != nil {
			return nil, err
		}
		payload = inflated[HeaderSize:]
	}
	if int64(h.NumRecords)*minRecordSize > int64(len(payload)) {
		return nil, batchErrorf(Corrupt, "%d records in %d bytes", h.NumRecords, len(payload))
	}
	records := make([]Record, 0, h.NumRecords)
	w := walker{buf: payload, keep: true}
	for i := range int(h.NumRecords) {
		raw, err := w.next(i)
		if err != nil {
			return nil, err
		}
		if raw.offsetDelta < 0 || raw.offsetDelta > h.LastOffsetDelta {
			return nil, recordErrorf(Corrupt, i, "offset delta %d, the last is %d", raw.offsetDelta, h.LastOffsetDelta)
		}
		r := Record{
			Offset: h.BaseOffset + Offset(raw.offsetDelta), Timestamp: h.BaseTimestamp + raw.timestampDelta,
			Key: raw.key, Value: raw.value, Headers: raw.headers,
		}
		if h.Attributes.LogAppendTime() {
			r.Timestamp = h.MaxTimestamp
		}
		records = append(records, r)
	}
	return records, w.end()
}

// Producer are the fields of an idempotent or transactional producer.
type Producer struct {
	// ID is the producer id.
	ID int64
	// Epoch is the producer epoch.
	Epoch int16
	// Sequence is the sequence number of the first record, -1 in control batches.
	Sequence int32
}

// BuildOptions say how Build makes a batch. The zero value is an uncompressed
// batch without a producer.
type BuildOptions struct {
	// Codec compresses the records, even where that makes them larger.
	Codec Codec
	// Producer is nil for a batch that is not idempotent (-1, -1, -1).
	Producer *Producer
	// Transactional marks a batch of a transaction; it needs a Producer.
	Transactional bool
	// Control marks a control batch (transaction markers).
	Control bool
	// Term is stamped as leader epoch; 0 until Stamp.
	Term Term
	// BaseOffset is the offset of the first record; 0 until Stamp.
	BaseOffset Offset
}

// Build makes a batch of records with dense offsets; their Offset does not count.
// It is for internal topics and tests: clients' batches are kept as they came. A
// frame above MaxFrameSize is refused wherever it is checked next.
func Build(records []Record, o BuildOptions) []byte {
	h := Header{
		BaseOffset: o.BaseOffset, LeaderEpoch: int32(o.Term), LastOffsetDelta: int32(max(len(records)-1, 0)),
		BaseTimestamp: -1, MaxTimestamp: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1,
		NumRecords: int32(len(records)),
	}
	if len(records) > 0 {
		h.BaseTimestamp = records[0].Timestamp
	}
	if o.Producer != nil {
		h.ProducerID, h.ProducerEpoch, h.BaseSequence = o.Producer.ID, o.Producer.Epoch, o.Producer.Sequence
	}
	if o.Transactional {
		h.Attributes |= attrTransactional
	}
	if o.Control {
		h.Attributes |= attrControl
	}
	size := HeaderSize
	for i := range records {
		size += binary.MaxVarintLen32 + recordSize(&records[i], records[i].Timestamp-h.BaseTimestamp, i)
	}
	frame := make([]byte, HeaderSize, size)
	for i := range records {
		frame = appendRecord(frame, &records[i], records[i].Timestamp-h.BaseTimestamp, i)
		h.MaxTimestamp = max(h.MaxTimestamp, records[i].Timestamp)
	}
	if o.Codec != CodecNone && o.Codec.Known() {
		if compressed, err := compress(h, frame[HeaderSize:], o.Codec, math.MaxInt32); err == nil {
			return compressed
		}
	}
	h.put(frame)
	return frame
}

// recordSize is the encoded size of a record without its length field.
func recordSize(r *Record, timestampDelta int64, offsetDelta int) int {
	n := 1 + varintSize(timestampDelta) + varintSize(int64(offsetDelta)) + bytesSize(r.Key) + bytesSize(r.Value) +
		varintSize(int64(len(r.Headers)))
	for _, h := range r.Headers {
		n += varintSize(int64(len(h.Key))) + len(h.Key) + bytesSize(h.Value)
	}
	return n
}

// appendRecord encodes one record.
func appendRecord(b []byte, r *Record, timestampDelta int64, offsetDelta int) []byte {
	b = binary.AppendVarint(b, int64(recordSize(r, timestampDelta, offsetDelta)))
	b = append(b, 0)
	b = binary.AppendVarint(b, timestampDelta)
	b = binary.AppendVarint(b, int64(offsetDelta))
	b = appendBytes(b, r.Key)
	b = appendBytes(b, r.Value)
	b = binary.AppendVarint(b, int64(len(r.Headers)))
	for _, h := range r.Headers {
		b = binary.AppendVarint(b, int64(len(h.Key)))
		b = append(b, h.Key...)
		b = appendBytes(b, h.Value)
	}
	return b
}

// appendBytes encodes a nullable byte string.
func appendBytes(b, value []byte) []byte {
	if value == nil {
		return binary.AppendVarint(b, -1)
	}
	return append(binary.AppendVarint(b, int64(len(value))), value...)
}

// bytesSize is the size of what appendBytes appends.
func bytesSize(value []byte) int {
	if value == nil {
		return 1
	}
	return varintSize(int64(len(value))) + len(value)
}

// varintSize is the size of a zigzag varint.
func varintSize(v int64) int {
	n := 1
	for u := uint64(v)<<1 ^ uint64(v>>63); u >= 0x80; u >>= 7 {
		n++
	}
	return n
}
