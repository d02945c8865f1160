package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// threeRecords is a small batch that most tests start from.
func threeRecords() []Record {
	return []Record{
		{Timestamp: 1_700_000_000_000, Key: []byte("key"), Value: []byte("value"), Headers: []RecordHeader{{Key: "h", Value: []byte{1}}, {Key: ""}}},
		{Offset: 1, Timestamp: 1_700_000_000_007, Key: []byte{}},
		{Offset: 2, Timestamp: 1_699_999_999_999, Value: []byte{}},
	}
}

// wantReason checks that an error is a *BatchError of a reason.
func wantReason(t *testing.T, err error, want Reason) {
	t.Helper()
	var batch *BatchError
	if !errors.As(err, &batch) || batch.Reason != want {
		t.Errorf("error %v, want one of reason %q", err, want)
	}
}

func TestDecodeHeader(t *testing.T) {
	frame := Build(threeRecords(), BuildOptions{Producer: &Producer{ID: 1 << 40, Epoch: 3, Sequence: 9}, Transactional: true})
	Stamp(frame, 1<<33, 5)
	got, err := DecodeHeader(frame[:HeaderSize])
	if err != nil {
		t.Fatal(err)
	}
	want := Header{
		BaseOffset: 1 << 33, Length: int32(len(frame) - 12), LeaderEpoch: 5, Magic: 2, CRC: checksum(frame),
		Attributes: attrTransactional, LastOffsetDelta: 2, BaseTimestamp: 1_700_000_000_000, MaxTimestamp: 1_700_000_000_007,
		ProducerID: 1 << 40, ProducerEpoch: 3, BaseSequence: 9, NumRecords: 3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.FrameSize() != len(frame) || got.LastOffset() != 1<<33+2 || got.NextOffset() != 1<<33+3 || got.Term() != 5 ||
		got.LastSequence() != 11 || got.Kind() != KindRecords || !got.Idempotent() {
		t.Errorf("derived values of %+v", got)
	}
}

// setters change one field of a frame, under a CRC that is right again.
func set16(at int, v uint16) func([]byte) {
	return func(f []byte) { binary.BigEndian.PutUint16(f[at:], v) }
}
func set32(at int, v int32) func([]byte) {
	return func(f []byte) { binary.BigEndian.PutUint32(f[at:], uint32(v)) }
}
func set64(at int, v int64) func([]byte) {
	return func(f []byte) { binary.BigEndian.PutUint64(f[at:], uint64(v)) }
}

// recrc makes the CRC right.
func recrc(frame []byte) []byte {
	binary.BigEndian.PutUint32(frame[atCRC:], checksum(frame))
	return frame
}

func TestDecodeHeaderRefuses(t *testing.T) {
	tests := []struct {
		name    string
		corrupt func(frame []byte)
		want    Reason
	}{
		{"magic 0", func(f []byte) { f[atMagic] = 0 }, UnsupportedMagic},
		{"magic 1", func(f []byte) { f[atMagic] = 1 }, UnsupportedMagic},
		{"magic 3", func(f []byte) { f[atMagic] = 3 }, UnsupportedMagic},
		{"negative length", set32(atLength, -1), Corrupt},
		{"zero length", set32(atLength, 0), Corrupt},
		{"length below a header", set32(atLength, minLength-1), Corrupt},
		{"length above the limit", set32(atLength, MaxFrameSize-11), TooLarge},
		{"greatest length", set32(atLength, math.MaxInt32), TooLarge},
		{"negative base offset", set64(0, -1), Corrupt},
		{"offsets beyond the last", set64(0, math.MaxInt64-2), Corrupt},
		{"negative count", set32(atNumRecords, -1), Corrupt},
		{"count that cannot fit", set32(atNumRecords, 3<<20), Corrupt},
		{"negative last delta", set32(atLastDelta, -1), Corrupt},
		{"more records than offsets", set32(atLastDelta, 1), Corrupt},
		{"internal with records", func(f []byte) { f[atAttributes] |= 0x80 }, Corrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			frame := Build(threeRecords(), BuildOptions{})
			tt.corrupt(frame)
			_, err := DecodeHeader(frame)
			wantReason(t, err, tt.want)
		})
	}
	for n := range HeaderSize {
		_, err := DecodeHeader(Build(threeRecords(), BuildOptions{})[:n])
		wantReason(t, err, Corrupt)
	}
	frame := Build(threeRecords(), BuildOptions{})
	set32(atLength, MaxFrameSize-12)(frame)
	if _, err := DecodeHeader(frame); err != nil {
		t.Errorf("a frame of the greatest size: %v", err)
	}
}

// TestStamp checks that base offset and term are outside the checksum.
func TestStamp(t *testing.T) {
	frame := Build(threeRecords(), BuildOptions{})
	Stamp(frame, math.MaxInt64-10, MaxTerm)
	if !ChecksumOK(frame) {
		t.Error("stamping broke the checksum")
	}
	h, err := DecodeHeader(frame)
	if err != nil || h.BaseOffset != math.MaxInt64-10 || h.Term() != MaxTerm {
		t.Errorf("header %+v, %v", h, err)
	}
}

// TestChecksum flips every bit in turn: the CRC covers all but the first 17 bytes.
func TestChecksum(t *testing.T) {
	frame := Build(threeRecords(), BuildOptions{})
	for bit := range 8 * len(frame) {
		flipped := bytes.Clone(frame)
		flipped[bit/8] ^= 1 << (bit % 8)
		if covered := bit/8 >= atCRC; ChecksumOK(flipped) == covered {
			t.Errorf("bit %d: covered %v", bit, covered)
		}
	}
	if ChecksumOK(frame[:HeaderSize-1]) || ChecksumOK(nil) {
		t.Error("a part of a header has a right checksum")
	}
}

func TestSetAppendTime(t *testing.T) {
	for _, codec := range allCodecs {
		frame := Build(threeRecords(), BuildOptions{Codec: codec})
		SetAppendTime(frame, 42)
		h, err := DecodeHeader(frame)
		if err != nil || !h.Attributes.LogAppendTime() || h.MaxTimestamp != 42 || !ChecksumOK(frame) {
			t.Errorf("%s: header %+v, %v", codec, h, err)
		}
		records, err := Records(frame, 1<<20)
		if err != nil || records[0].Timestamp != 42 || records[2].Timestamp != 42 {
			t.Errorf("%s: records %+v, %v", codec, records, err)
		}
		franz, err := franzRecords(frame)
		if err != nil || franz[1].Timestamp != 42 {
			t.Errorf("%s: franz-go reads %+v, %v", codec, franz, err)
		}
	}
}

// TestLastSequence checks the wrap from the greatest sequence number to 0.
func TestLastSequence(t *testing.T) {
	for _, tt := range []struct{ base, delta, want int32 }{
		{0, 0, 0}, {5, 4, 9}, {math.MaxInt32, 0, math.MaxInt32}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 1, 3, 1}, {-1, 3, -1},
	} {
		h := Header{BaseSequence: tt.base, LastOffsetDelta: tt.delta}
		if got := h.LastSequence(); got != tt.want {
			t.Errorf("base %d, delta %d: %d, want %d", tt.base, tt.delta, got, tt.want)
		}
	}
}

func TestReasonsHaveNames(t *testing.T) {
	for r := Corrupt; r <= UnsupportedMagic; r++ {
		if reasonNames[r] == "" {
			t.Errorf("reason %d has no name", r)
		}
	}
	if got := Reason(99).String(); got != "reason 99" {
		t.Errorf("unknown reason is %q", got)
	}
	err := recordErrorf(NullKey, 3, "x")
	if got := err.Error(); got != "record batch: record without a key: record 3: x" {
		t.Errorf("error text %q", got)
	}
}
