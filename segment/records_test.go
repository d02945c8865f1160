package segment

import (
	"bytes"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestBuild(t *testing.T) {
	frame := Build(threeRecords(), BuildOptions{BaseOffset: 10, Term: 3})
	got, err := Records(frame, 0)
	want := threeRecords()
	for i := range want {
		want[i].Offset += 10
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if len(frame) != cap(frame) && cap(frame) > len(frame)+5*len(want) {
		t.Errorf("%d bytes in a buffer of %d", len(frame), cap(frame))
	}
	empty := Build(nil, BuildOptions{})
	if records, err := Records(empty, 0); len(records) != 0 || err != nil {
		t.Errorf("empty batch: %v, %v", records, err)
	}
	_, err = Check(empty, Limits{})
	wantReason(t, err, InvalidRecord)
}

// TestRecordsOfCompactedBatch checks a batch that compaction left gaps in: fewer
// records than offsets.
func TestRecordsOfCompactedBatch(t *testing.T) {
	payload := join(record(0, zero, one, null, null, zero), record(0, zero, 8, null, null, zero)) // deltas 1 and 4
	frame := batchOf(t, CodecNone, 2, payload)
	set32(atLastDelta, 5)(frame)
	got, err := Records(frame, 0)
	if err != nil || len(got) != 2 || got[0].Offset != 1 || got[1].Offset != 4 {
		t.Errorf("%+v, %v", got, err)
	}
	set32(atLastDelta, 3)(frame)
	_, err = Records(frame, 0)
	wantReason(t, err, Corrupt)
	_, err = Records(batchOf(t, CodecNone, 1, record(0, zero, null, null, null, zero)), 0) // delta -1
	wantReason(t, err, Corrupt)
}

func TestRecordsRefuses(t *testing.T) {
	frame := Build(threeRecords(), BuildOptions{})
	_, err := Records(frame[:len(frame)-1], 0)
	wantReason(t, err, Corrupt)
	_, err = Records(append(frame, 0), 0)
	wantReason(t, err, Corrupt)
	many := Build(someRecords(10), BuildOptions{Codec: CodecZstd})
	set32(atNumRecords, 1<<30)(many)
	set32(atLastDelta, 1<<30)(many)
	_, err = Records(many, 1<<20) // must not allocate for a billion records
	wantReason(t, err, Corrupt)
}

// TestVarintSize checks the sizes that Build reserves, at each length.
func TestVarintSize(t *testing.T) {
	for shift := range 63 {
		for _, v := range []int64{1 << shift, -1 << shift, 1<<shift - 1} {
			if got := varintSize(v); got != len(varint(v)) {
				t.Errorf("%d: %d, want %d", v, got, len(varint(v)))
			}
		}
	}
}

// TestWalkerWindows reads records through windows that are smaller than a field
// and from a reader that gives one byte at a time.
func TestWalkerWindows(t *testing.T) {
	frame := Build(append(someRecords(5), threeRecords()...), BuildOptions{})
	h, err := DecodeHeader(frame)
	if err != nil {
		t.Fatal(err)
	}
	payload := frame[HeaderSize:]
	for window := maxVarlong; window < 400; window++ {
		w := &walker{reader: iotest.OneByteReader(bytes.NewReader(payload)), buf: make([]byte, 0, window)}
		if newest, err := walkRecords(w, h, Limits{}); err != nil || newest != h.MaxTimestamp {
			t.Fatalf("window of %d: %d, %v", window, newest, err)
		}
		cut := &walker{reader: iotest.OneByteReader(bytes.NewReader(payload[:window])), buf: make([]byte, 0, 16)}
		if _, err := walkRecords(cut, h, Limits{}); err == nil {
			t.Fatalf("cut off at %d and accepted", window)
		}
	}
}
