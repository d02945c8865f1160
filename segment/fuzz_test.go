package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The corpora are in testdata/fuzz. Seeds that code makes are the golden frames.

func seed(f *testing.F) {
	for _, frame := range goldenFrames() {
		f.Add(frame)
	}
}

// fuzzLimit keeps bombs from slowing the fuzzer down.
const fuzzLimit = 1 << 20

// plausible makes length, magic and checksum right, without which no input would
// get beyond the header.
func plausible(data []byte) []byte {
	if len(data) < HeaderSize {
		return data
	}
	frame := bytes.Clone(data)
	binary.BigEndian.PutUint32(frame[atLength:], uint32(len(frame)-lengthEnd))
	frame[atMagic] = magicV2
	return recrc(frame)
}

func FuzzDecodeHeader(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := DecodeHeader(data)
		if err != nil {
			var batch *BatchError
			if !errors.As(err, &batch) {
				t.Fatalf("error of another type: %v", err)
			}
			return
		}
		if h.FrameSize() < HeaderSize || h.FrameSize() > MaxFrameSize || h.NextOffset() < h.BaseOffset {
			t.Fatalf("accepted %+v", h)
		}
	})
}

// FuzzCheck holds Check against what stands behind it: what it accepts decodes
// here and with franz-go to the same dense records, compressed and inflated.
func FuzzCheck(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		frame := plausible(data)
		h, err := Check(frame, Limits{AllowControl: true, MaxInflatedBytes: fuzzLimit})
		if err != nil {
			return
		}
		if !ChecksumOK(frame) {
			t.Fatal("the checksum is wrong afterwards")
		}
		records, err := Records(frame, fuzzLimit)
		if err != nil || len(records) != int(h.NumRecords) {
			t.Fatalf("%d records of %d, %v", len(records), h.NumRecords, err)
		}
		newest := int64(-1)
		for i, r := range records {
			if r.Offset != h.BaseOffset+Offset(i) {
				t.Fatalf("record %d has offset %d", i, r.Offset)
			}
			newest = max(newest, r.Timestamp)
		}
		if newest != h.MaxTimestamp {
			t.Fatalf("max timestamp %d, records have %d", h.MaxTimestamp, newest)
		}
		inflated, err := Inflate(frame, fuzzLimit)
		if err != nil {
			t.Fatal(err)
		}
		if len(inflated) <= MaxFrameSize {
			if _, err := Check(inflated, Limits{AllowControl: true}); err != nil {
				t.Fatalf("inflated: %v", err)
			}
		}
		if franz, err := franzRecords(frame); err != nil || len(franz) != len(records) {
			t.Fatalf("franz-go reads %d of %d records, %v", len(franz), len(records), err)
		}
	})
}

func FuzzRecords(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		frame := plausible(data)
		records, err := Records(frame, fuzzLimit)
		if err != nil || len(records) == 0 {
			return
		}
		again, err := Records(Build(records, BuildOptions{}), 0)
		if err != nil {
			t.Fatal(err)
		}
		first := records[0].Offset
		for i := range records { // Build makes offsets dense
			if records[i].Offset < first {
				return
			}
			records[i].Offset = Offset(i)
		}
		if diff := cmp.Diff(records, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

// FuzzInflate feeds payloads to the decoders, whatever is in them.
func FuzzInflate(f *testing.F) {
	for _, frame := range goldenFrames() {
		f.Add(frame[atAttributes+1]&7, frame[HeaderSize:])
	}
	f.Fuzz(func(t *testing.T, codec byte, payload []byte) {
		frame := append(make([]byte, HeaderSize), payload...)
		Header{Attributes: Attributes(codec & 7)}.put(frame)
		out, err := Inflate(frame, fuzzLimit)
		if err == nil && len(out) > HeaderSize+fuzzLimit {
			t.Fatalf("%d bytes, the limit is %d", len(out), fuzzLimit)
		}
		if err == nil && Codec(codec&7) != CodecNone && !ChecksumOK(out) {
			t.Fatal("wrong checksum")
		}
	})
}

func FuzzDecodeInternal(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		frame := plausible(data)
		kind, payload, err := DecodeInternal(frame)
		if err != nil {
			return
		}
		if len(payload) != len(frame)-HeaderSize-internalPrefix {
			t.Fatalf("content of %d bytes in a frame of %d", len(payload), len(frame))
		}
		if kind == KindTrim {
			trim, err := DecodeTrim(payload)
			if _, again, _ := DecodeInternal(EncodeTrim(0, trim)); err == nil && !bytes.Equal(again, payload) {
				t.Fatalf("%+v encodes to %x, was %x", trim, again, payload)
			}
		}
		if kind != KindVoid {
			return
		}
		void, err := DecodeVoid(payload)
		if err != nil {
			return
		}
		next := Offset(binary.BigEndian.Uint64(frame))
		if _, again, _ := DecodeInternal(EncodeVoid(next, void)); !bytes.Equal(again, payload) {
			t.Fatalf("%+v encodes to %x, was %x", void, again, payload)
		}
	})
}
