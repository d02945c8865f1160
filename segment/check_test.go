package segment

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"
	"time"
)

// batchOf is a frame whose records are the given bytes, compressed by codec.
func batchOf(t *testing.T, codec Codec, numRecords int32, payload []byte) []byte {
	t.Helper()
	h := Header{
		LastOffsetDelta: numRecords - 1, BaseTimestamp: 1000, MaxTimestamp: 1000,
		ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, NumRecords: numRecords,
	}
	if codec == CodecNone {
		frame := append(make([]byte, HeaderSize), payload...)
		h.put(frame)
		return frame
	}
	frame, err := compress(h, payload, codec, math.MaxInt32)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// record is one encoded record from its fields, with a right length.
func record(fields ...byte) []byte {
	return append(binary.AppendVarint(nil, int64(len(fields))), fields...)
}

// varint is a zigzag varint; long is one of n bytes for a value that needs fewer.
func varint(v int64) []byte { return binary.AppendVarint(nil, v) }

func long(v byte, n int) []byte {
	b := []byte{v | 0x80}
	for len(b) < n-1 {
		b = append(b, 0x80)
	}
	return append(b, 0)
}

func join(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// null, zero and one are varints as bytes of a record.
const (
	null = 1 // -1
	zero = 0
	one  = 2
)

// TestCheckWalksRecords checks every way in which records can be wrong under a
// right CRC, uncompressed and inflated as a stream.
func TestCheckWalksRecords(t *testing.T) {
	good := record(0, zero, zero, null, null, zero)
	tests := []struct {
		name    string
		n       int32
		payload []byte
		want    Reason // 0: none
	}{
		{"smallest record", 1, good, 0},
		{"key, value, header", 1, record(0, zero, zero, one, 'k', one, 'v', one, one, 'h', null), 0},
		{"unused attributes", 1, record(255, zero, zero, null, null, zero), 0},
		{"two records", 2, join(good, record(0, zero, one, null, null, zero)), 0},
		{"five byte varint", 1, join(varint(10), []byte{0, zero}, long(zero, 5), []byte{null, null, zero}), 0},

		{"nothing", 1, nil, Corrupt},
		{"one record of two", 2, append(good, make([]byte, 0)...), Corrupt},
		{"byte behind the last", 1, join(good, []byte{0}), Corrupt},
		{"a whole record behind the last", 1, join(good, good), Corrupt},
		{"length of zero", 1, []byte{0, 0, 0, 0, 0, 0, 0}, Corrupt},
		{"negative length", 1, join(varint(-7), []byte{0, zero, zero, null, null, zero}), Corrupt},
		{"length too small", 1, join(varint(5), []byte{0, zero, zero, null, null, zero}), Corrupt},
		{"length too great", 1, join(varint(7), []byte{0, zero, zero, null, null, zero}), Corrupt},
		{"length far beyond the end", 1, join(varint(math.MaxInt32), []byte{0, zero, zero, null, null, zero}), Corrupt},
		{"length of 33 bits", 1, join(varint(1<<33), []byte{0, zero, zero, null, null, zero}), Corrupt},
		{"length cut off", 1, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80}, Corrupt},
		{"six byte varint", 1, join(varint(11), []byte{0, zero}, long(zero, 6), []byte{null, null, zero}), Corrupt},
		{"six byte length", 1, join(long(12, 6), []byte{0, zero, zero, null, null, zero}), Corrupt},
		{"eleven byte timestamp", 1, join(varint(16), []byte{0}, long(zero, 11), []byte{zero, null, null, zero}), Corrupt},
		{"record too short for its fields", 1, record(0, zero, zero, null, 0), Corrupt},
		{"key of length -2", 1, record(0, zero, zero, 3, null, zero), Corrupt},
		{"key beyond the record", 1, record(0, zero, zero, 100, 'k', null, zero), Corrupt},
		{"key of 2 GiB", 1, join(varint(12), []byte{0, zero, zero}, varint(math.MaxInt32), []byte{'k', null, zero, 0, 0}), Corrupt},
		{"key up to the end", 1, record(0, zero, zero, 6, 'k', 'e', 'y'), Corrupt},
		{"value beyond the record", 2, join(record(0, zero, zero, null, 20, zero), good), Corrupt},
		{"value of length -2", 1, record(0, zero, zero, null, 3, zero), Corrupt},
		{"negative header count", 1, record(0, zero, zero, null, null, null), Corrupt},
		{"header count beyond the record", 1, record(0, zero, zero, null, null, 2*2, zero, null), Corrupt},
		{"absurd header count", 1, join(varint(10), []byte{0, zero, zero, null, null}, varint(math.MaxInt32)), Corrupt},
		{"null header key", 1, record(0, zero, zero, null, null, one, null, null), Corrupt},
		{"header value beyond the record", 1, record(0, zero, zero, null, null, one, zero, one), Corrupt},
		{"bytes behind the headers", 1, record(0, zero, zero, null, null, zero, 0), Corrupt},
		{"first delta is 1", 1, record(0, zero, one, null, null, zero), InvalidRecord},
		{"negative delta", 1, record(0, zero, null, null, null, zero), InvalidRecord},
		{"same delta twice", 2, join(good, good), InvalidRecord},
		{"timestamp overflows", 1, join(varint(15), []byte{0}, varint(math.MaxInt64), []byte{zero, null, null, zero}), InvalidTimestamp},
		{"timestamp underflows", 2, join(good, varint(15), []byte{0}, varint(math.MinInt64), []byte{one, null, null, zero}), 0},
	}
	for _, tt := range tests {
		for _, codec := range allCodecs {
			t.Run(tt.name+"/"+codec.String(), func(t *testing.T) {
				frame := batchOf(t, codec, tt.n, tt.payload)
				h, err := Check(frame, Limits{})
				if tt.want == 0 {
					if err != nil || h.NumRecords != tt.n {
						t.Errorf("refused: %v", err)
					}
					return
				}
				wantReason(t, err, tt.want)
				if records, err := Records(frame, 1<<20); err == nil && tt.want == Corrupt {
					t.Errorf("Records reads %+v", records)
				}
			})
		}
	}
}

// TestCheckHeader checks what the header of a client may say.
func TestCheckHeader(t *testing.T) {
	producer := &Producer{ID: 5, Epoch: 1, Sequence: 7}
	size := len(Build(threeRecords(), BuildOptions{}))
	tests := []struct {
		name    string
		options BuildOptions
		corrupt func([]byte)
		limits  Limits
		want    Reason // 0: none
	}{
		{"plain", BuildOptions{}, nil, Limits{}, 0},
		{"idempotent", BuildOptions{Producer: producer}, nil, Limits{}, 0},
		{"transactional", BuildOptions{Producer: producer, Transactional: true}, nil, Limits{}, 0},
		{"control", BuildOptions{Producer: producer, Control: true}, nil, Limits{}, InvalidRecord},
		{"control, allowed", BuildOptions{Producer: producer, Control: true}, nil, Limits{AllowControl: true}, 0},
		{"marker without sequence", BuildOptions{Producer: &Producer{ID: 5, Epoch: 1, Sequence: -1}, Control: true, Transactional: true}, nil,
			Limits{AllowControl: true}, 0},
		{"forged internal frame", BuildOptions{}, func(f []byte) {
			copy(f, EncodeInternal(KindTrim, 0, make([]byte, len(f)-HeaderSize-internalPrefix)))
		}, Limits{AllowControl: true}, InvalidRecord},
		{"internal bit", BuildOptions{}, set16(atAttributes, 0x8000), Limits{}, Corrupt},
		{"delete horizon", BuildOptions{}, set16(atAttributes, 0x40), Limits{}, InvalidRecord},
		{"unused bit 7", BuildOptions{}, set16(atAttributes, 0x80), Limits{}, InvalidRecord},
		{"unused bit 14", BuildOptions{}, set16(atAttributes, 0x4000), Limits{}, InvalidRecord},
		{"append time", BuildOptions{}, set16(atAttributes, 0x08), Limits{}, InvalidTimestamp},
		{"codec 5", BuildOptions{}, set16(atAttributes, 5), Limits{}, UnsupportedCodec},
		{"codec 7", BuildOptions{}, set16(atAttributes, 7), Limits{}, UnsupportedCodec},
		{"no records", BuildOptions{}, func(f []byte) { set32(atNumRecords, 0)(f); set32(atLastDelta, 0)(f) }, Limits{}, InvalidRecord},
		{"gap in the offsets", BuildOptions{}, set32(atLastDelta, 3), Limits{}, InvalidRecord},
		{"producer id -2", BuildOptions{}, set64(atProducerID, -2), Limits{}, InvalidRecord},
		{"transactional without producer", BuildOptions{Transactional: true}, nil, Limits{}, InvalidRecord},
		{"producer without epoch", BuildOptions{Producer: producer}, set16(atEpoch, 0xffff), Limits{}, InvalidRecord},
		{"producer without sequence", BuildOptions{Producer: producer}, set32(atSequence, -1), Limits{}, InvalidRecord},
		{"longer than it says", BuildOptions{}, set32(atLength, minLength+20), Limits{}, Corrupt},
		{"size at the limit", BuildOptions{}, nil, Limits{MaxBatchBytes: size}, 0},
		{"size above the limit", BuildOptions{}, nil, Limits{MaxBatchBytes: size - 1}, TooLarge},
		{"null keys", BuildOptions{}, nil, Limits{RequireKeys: true}, NullKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			frame := Build(threeRecords(), tt.options)
			if tt.corrupt != nil {
				tt.corrupt(frame)
				recrc(frame)
			}
			_, err := Check(frame, tt.limits)
			if tt.want != 0 {
				wantReason(t, err, tt.want)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestCheckFrame(t *testing.T) {
	frame := Build(threeRecords(), BuildOptions{})
	for n := range frame {
		_, err := Check(frame[:n:n], Limits{})
		wantReason(t, err, Corrupt)
	}
	_, err := Check(append(frame, frame...), Limits{})
	wantReason(t, err, InvalidRecord)
	for bit := 8 * atCRC; bit < 8*len(frame); bit++ {
		frame[bit/8] ^= 1 << (bit % 8)
		if _, err := Check(frame, Limits{AllowControl: true}); err == nil {
			t.Errorf("bit %d flipped and not found", bit)
		}
		frame[bit/8] ^= 1 << (bit % 8)
	}
}

func TestCheckTimestamps(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	tests := []struct {
		name          string
		before, after time.Duration
		timestamps    []int64 // less now; noTime is none
		record        int     // that is refused, -1 for none
	}{
		{"no limits", 0, 0, []int64{-1e12, 1e12}, -1},
		{"at the limits", time.Second, time.Minute, []int64{-1000, 60_000}, -1},
		{"too old", time.Second, 0, []int64{1e12, -1001}, 1},
		{"too new", 0, time.Minute, []int64{-1e12, 60_001}, 1},
		{"first is too old", time.Second, time.Second, []int64{-1001, 0, 1001}, 0},
		{"none is never too old", time.Second, time.Second, []int64{0, noTime}, -1},
	}
	for _, tt := range tests {
		for _, codec := range []Codec{CodecNone, CodecZstd} {
			t.Run(tt.name+"/"+codec.String(), func(t *testing.T) {
				var records []Record
				for _, ts := range tt.timestamps {
					if ts != noTime {
						ts += now.UnixMilli()
					}
					records = append(records, Record{Timestamp: ts})
				}
				_, err := Check(Build(records, BuildOptions{Codec: codec}), Limits{Now: now, Before: tt.before, After: tt.after})
				if tt.record < 0 {
					if err != nil {
						t.Error(err)
					}
					return
				}
				wantReason(t, err, InvalidTimestamp)
				var batch *BatchError
				if errors.As(err, &batch) && batch.Record != tt.record {
					t.Errorf("record %d is refused, want %d", batch.Record, tt.record)
				}
			})
		}
	}
}

const noTime = -1

// TestCheckCorrectsMaxTimestamp checks that a client cannot keep a segment for
// ever, or lose it at once, by a max timestamp that no record has.
func TestCheckCorrectsMaxTimestamp(t *testing.T) {
	for _, wrong := range []int64{-1, 0, math.MaxInt64} {
		frame := Build(threeRecords(), BuildOptions{})
		set64(atMaxTime, wrong)(frame)
		recrc(frame)
		h, err := Check(frame, Limits{})
		if err != nil || h.MaxTimestamp != 1_700_000_000_007 || h.CRC != checksum(frame) || !ChecksumOK(frame) {
			t.Errorf("max timestamp %d became %+v, %v", wrong, h, err)
		}
		if again, err := Check(frame, Limits{}); err != nil || again != h {
			t.Errorf("a second check gives %+v, %v", again, err)
		}
	}
}

// TestCheckDoesNotAllocate keeps the hot path free of garbage: what there is must
// not grow with the records. (The race detector empties pools now and then.)
func TestCheckDoesNotAllocate(t *testing.T) {
	records := make([]Record, 200)
	for i := range records {
		records[i] = Record{Timestamp: 5, Key: []byte("key"), Value: make([]byte, 300), Headers: []RecordHeader{{Key: "a", Value: []byte("b")}}}
	}
	for _, codec := range allCodecs {
		frame := Build(records, BuildOptions{Codec: codec})
		n := testing.AllocsPerRun(100, func() {
			if _, err := Check(frame, Limits{}); err != nil {
				t.Fatal(err)
			}
		})
		if limit := 50.0; n > limit {
			t.Errorf("%s: %v allocations a batch of %d records, at most %v", codec, n, len(records), limit)
		}
	}
}
