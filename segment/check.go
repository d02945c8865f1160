package segment

import (
	"errors"
	"math"
	"time"
)

// Limits are what a batch is checked against.
type Limits struct {
	// MaxBatchBytes bounds the frame as it came (max.message.bytes); 0 is
	// MaxFrameSize, which is never exceeded.
	MaxBatchBytes int
	// MaxInflatedBytes bounds the records when inflated; 0 is DefaultMaxInflated.
	MaxInflatedBytes int64
	// Before is how much older than Now a record may be
	// (message.timestamp.before.max.ms); 0 is no limit.
	Before time.Duration
	// After is how much newer than Now a record may be
	// (message.timestamp.after.max.ms); 0 is no limit.
	After time.Duration
	// Now is the broker's time.
	Now time.Time
	// RequireKeys refuses records without a key (compacted topics).
	RequireKeys bool
	// AllowControl admits control batches: for markers, never for clients.
	AllowControl bool
}

// Check checks a whole frame as a client sent it, and is the reason why nothing
// behind it needs to: header, size, CRC, codec, what clients may not set, and
// every record (lengths, dense offsets, timestamps, keys), inflated as a stream
// of which nothing is kept. A batch with a right CRC and garbage inside would
// stop every consumer for ever. The error is a *BatchError.
//
// One thing is put right in place, with a new CRC, as Kafka does: a max
// timestamp that is not the largest of the records. Retention goes by it.
func Check(frame []byte, limits Limits) (Header, error) {
	if limits.MaxBatchBytes > 0 && len(frame) > limits.MaxBatchBytes {
		return Header{}, batchErrorf(TooLarge, "%d bytes, at most %d", len(frame), limits.MaxBatchBytes)
	}
	h, err := DecodeHeader(frame)
	if err != nil {
		return h, err
	}
	if err := checkHeader(h, len(frame), limits); err != nil {
		return h, err
	}
	if !ChecksumOK(frame) {
		return h, batchErrorf(Corrupt, "checksum %#08x, the bytes have %#08x", h.CRC, checksum(frame))
	}
	newest, err := checkRecords(frame, h, limits)
	if err != nil {
		return h, err
	}
	if newest != h.MaxTimestamp {
		setMaxTimestamp(frame, newest)
		return DecodeHeader(frame)
	}
	return h, nil
}

// checkHeader checks what a client may say in a header.
func checkHeader(h Header, size int, limits Limits) error {
	switch {
	case h.FrameSize() > size:
		return batchErrorf(Corrupt, "%d bytes, the header says %d", size, h.FrameSize())
	case h.FrameSize() < size:
		return batchErrorf(InvalidRecord, "more than one batch")
	case h.Attributes&^attrClient != 0:
		return batchErrorf(InvalidRecord, "reserved attribute bits %#04x", uint16(h.Attributes&^attrClient))
	case h.Attributes.Control() && !limits.AllowControl:
		return batchErrorf(InvalidRecord, "clients may not write control batches")
	case h.Attributes.LogAppendTime():
		return batchErrorf(InvalidTimestamp, "producers may not set the append time")
	case !h.Attributes.Codec().Known():
		return batchErrorf(UnsupportedCodec, "%s", h.Attributes.Codec())
	case h.NumRecords == 0 || h.LastOffsetDelta != h.NumRecords-1:
		return batchErrorf(InvalidRecord, "%d records, last offset delta %d", h.NumRecords, h.LastOffsetDelta)
	case h.ProducerID < -1:
		return batchErrorf(InvalidRecord, "producer id %d", h.ProducerID)
	case h.Attributes.Transactional() && !h.Idempotent():
		return batchErrorf(InvalidRecord, "transactional without a producer id")
	case h.Idempotent() && h.ProducerEpoch < 0:
		return batchErrorf(InvalidRecord, "producer epoch %d", h.ProducerEpoch)
	case h.Idempotent() && h.BaseSequence < 0 && !h.Attributes.Control():
		return batchErrorf(InvalidRecord, "sequence %d", h.BaseSequence)
	}
	return nil
}

// checkRecords walks all records and returns their largest timestamp, -1 if none
// has one.
func checkRecords(frame []byte, h Header, limits Limits) (newest int64, err error) {
	payload := frame[HeaderSize:]
	codec := h.Attributes.Codec()
	if codec == CodecNone {
		return walkRecords(&walker{buf: payload}, h, limits)
	}
	limit := limits.MaxInflatedBytes
	if limit <= 0 {
		limit = DefaultMaxInflated
	}
	stream, err := openStream(codec, payload, limit)
	if err != nil {
		return 0, asBatchError(err)
	}
	defer stream.close()
	newest, err = walkRecords(&walker{reader: stream, buf: stream.window[:0]}, h, limits)
	return newest, asBatchError(err)
}

// walkRecords is checkRecords over the inflated bytes.
func walkRecords(w *walker, h Header, limits Limits) (newest int64, err error) {
	oldest, youngest := timestampRange(limits)
	newest = -1
	for i := range int(h.NumRecords) {
		raw, err := w.next(i)
		if err != nil {
			return 0, err
		}
		timestamp := h.BaseTimestamp + raw.timestampDelta
		switch {
		case int(raw.offsetDelta) != i:
			return 0, recordErrorf(InvalidRecord, i, "offset delta %d", raw.offsetDelta)
		case (timestamp < h.BaseTimestamp) != (raw.timestampDelta < 0):
			return 0, recordErrorf(InvalidTimestamp, i, "timestamp overflows")
		case timestamp != -1 && (timestamp < oldest || timestamp > youngest):
			return 0, recordErrorf(InvalidTimestamp, i, "timestamp %d, must be within %d and %d", timestamp, oldest, youngest)
		case raw.nullKey && limits.RequireKeys:
			return 0, recordErrorf(NullKey, i, "the topic is compacted")
		}
		newest = max(newest, timestamp)
	}
	return newest, w.end()
}

// timestampRange are the first and last timestamp in milliseconds that the
// limits admit.
func timestampRange(limits Limits) (oldest, youngest int64) {
	oldest, youngest = math.MinInt64, math.MaxInt64
	now := limits.Now.UnixMilli()
	if limits.Before > 0 {
		oldest = now - limits.Before.Milliseconds()
	}
	if limits.After > 0 {
		youngest = now + limits.After.Milliseconds()
	}
	return oldest, youngest
}

// asBatchError makes every error of the decoders a *BatchError.
func asBatchError(err error) error {
	var batch *BatchError
	switch {
	case err == nil || errors.As(err, &batch):
		return err
	case errors.Is(err, ErrInflatedTooLarge):
		return batchErrorf(TooLarge, "%v", err)
	}
	return batchErrorf(Corrupt, "%v", err)
}
