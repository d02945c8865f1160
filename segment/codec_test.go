package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// someRecords are records that compress well.
func someRecords(n int) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = Record{Offset: Offset(i), Timestamp: int64(i), Key: []byte("key"), Value: bytes.Repeat([]byte(`{"event":"push"}`), 20)}
	}
	return records
}

func TestCompress(t *testing.T) {
	frame := Build(someRecords(100), BuildOptions{Producer: &Producer{ID: 1, Epoch: 2, Sequence: 3}})
	Stamp(frame, 77, 8)
	for _, codec := range allCodecs[1:] {
		before := bytes.Clone(frame)
		out, smaller, err := Compress(frame, codec)
		if err != nil || !smaller || len(out) >= len(frame) || cap(out) != len(out) {
			t.Fatalf("%s: %d bytes (cap %d) of %d, smaller %v, %v", codec, len(out), cap(out), len(frame), smaller, err)
		}
		if !bytes.Equal(frame, before) {
			t.Errorf("%s: the frame was changed", codec)
		}
		h, err := Check(out, Limits{})
		if err != nil || h.Attributes.Codec() != codec || h.BaseOffset != 77 || h.Term() != 8 || h.ProducerEpoch != 2 {
			t.Errorf("%s: header %+v, %v", codec, h, err)
		}
		again, smaller, err := Compress(out, CodecZstd)
		if err != nil || smaller || &again[0] != &out[0] {
			t.Errorf("%s: compressed twice: %v, %v", codec, smaller, err)
		}
		back, err := Inflate(out, DefaultMaxInflated)
		if err != nil || !bytes.Equal(back, frame) {
			t.Errorf("%s: inflates to something else: %v", codec, err)
		}
	}
}

// TestCompressKeeps lists what is never compressed.
func TestCompressKeeps(t *testing.T) {
	random := []Record{{Value: noise(5000)}}
	tests := []struct {
		name  string
		frame []byte
		codec Codec
	}{
		{"random bytes", Build(random, BuildOptions{}), CodecZstd},
		{"codec none", Build(someRecords(10), BuildOptions{}), CodecNone},
		{"control batch", Build(someRecords(10), BuildOptions{Control: true}), CodecZstd},
		{"no records", Build(nil, BuildOptions{}), CodecZstd},
		{"internal frame", EncodeInternal(KindConfiguration, 0, make([]byte, 5000)), CodecZstd},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, smaller, err := Compress(tt.frame, tt.codec)
			if err != nil || smaller || &out[0] != &tt.frame[0] {
				t.Errorf("%d bytes of %d, smaller %v, %v", len(out), len(tt.frame), smaller, err)
			}
		})
	}
	_, _, err := Compress(tests[0].frame, 5)
	wantReason(t, err, UnsupportedCodec)
	_, _, err = Compress(tests[0].frame[:100], CodecZstd)
	wantReason(t, err, Corrupt)
}

// bomb is a batch of one record of n zeros, compressed.
func bomb(t *testing.T, codec Codec, n int) []byte {
	return Build([]Record{{Value: make([]byte, n)}}, BuildOptions{Codec: codec})
}

// TestBombs checks that inflating stops at the limit, and that Check keeps nothing
// of what it inflates.
func TestBombs(t *testing.T) {
	const size = 40 << 20
	for _, codec := range allCodecs[1:] {
		t.Run(codec.String(), func(t *testing.T) {
			frame := bomb(t, codec, size)
			inflated := int64(size + minRecordSize + 6)
			if _, err := Check(frame, Limits{MaxInflatedBytes: inflated}); err != nil {
				t.Errorf("within the limit: %v", err)
			}
			_, err := Check(frame, Limits{MaxInflatedBytes: inflated - 1})
			wantReason(t, err, TooLarge)
			for _, limit := range []int64{0, 1, 100, 1 << 20, inflated - 1} {
				if _, err := Inflate(frame, limit); !errors.Is(err, ErrInflatedTooLarge) {
					t.Errorf("Inflate to %d: %v", limit, err)
				}
				if _, err := Records(frame, limit); !errors.Is(err, ErrInflatedTooLarge) {
					t.Errorf("Records to %d: %v", limit, err)
				}
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 5 {
				Check(frame, Limits{MaxInflatedBytes: size / 2})
			}
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 12<<20 {
				t.Errorf("five checks of %d bytes allocate %d", len(frame), used)
			}
		})
	}
}

// TestRawSnappyBomb checks the one format that cannot be inflated as a stream: a
// block is refused by the length that it claims.
func TestRawSnappyBomb(t *testing.T) {
	payload := Build([]Record{{Value: make([]byte, 40<<20)}}, BuildOptions{})[HeaderSize:]
	frame := append(make([]byte, HeaderSize), s2.EncodeSnappy(nil, payload)...)
	Header{Attributes: Attributes(CodecSnappy), ProducerID: -1, NumRecords: 1}.put(frame)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Check(frame, Limits{MaxInflatedBytes: 30 << 20})
	runtime.ReadMemStats(&after)
	wantReason(t, err, TooLarge)
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("%d bytes allocated", used)
	}
	if _, err := Check(frame, Limits{}); err != nil {
		t.Errorf("within the limit: %v", err)
	}
}

// TestInflatePayloads checks payloads that other clients write, and ones that
// some of their readers refuse, each in a batch that is right otherwise.
func TestInflatePayloads(t *testing.T) {
	payload := Build(someRecords(100), BuildOptions{})[HeaderSize:]
	xerial := func(version uint32, blocks ...[]byte) []byte {
		out := append([]byte(snappyMagic), 0, 0, 0, 1)
		out = binary.BigEndian.AppendUint32(out, version)
		for _, b := range blocks {
			out = append(binary.BigEndian.AppendUint32(out, uint32(len(b))), b...)
		}
		return out
	}
	half := len(payload) / 2
	block := s2.EncodeSnappy(nil, payload)
	zframe := func(b []byte, o ...zstd.EOption) []byte {
		w, err := zstd.NewWriter(nil, append(o, zstd.WithEncoderConcurrency(1))...)
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(b, nil)
	}
	l4 := lz4Frame(t, payload)
	tests := []struct {
		name    string
		codec   Codec
		payload []byte
		good    bool
	}{
		{"gzip", CodecGzip, gzipped(t, payload), true},
		{"gzip of two members", CodecGzip, append(gzipped(t, payload[:half]), gzipped(t, payload[half:])...), true},
		{"gzip with a tail", CodecGzip, append(gzipped(t, payload), 'x'), false},
		{"gzip cut off", CodecGzip, gzipped(t, payload)[:50], false},
		{"gzip without checksum", CodecGzip, cutTail(gzipped(t, payload), 8), false},
		{"gzip, nothing", CodecGzip, nil, false},

		{"snappy block", CodecSnappy, block, true},
		{"snappy framed", CodecSnappy, xerial(1, block), true},
		{"snappy in two blocks", CodecSnappy, xerial(1, s2.EncodeSnappy(nil, payload[:half]), s2.EncodeSnappy(nil, payload[half:])), true},
		{"snappy with an empty block", CodecSnappy, xerial(1, block, s2.EncodeSnappy(nil, nil)), true},
		{"snappy of another version", CodecSnappy, xerial(2, block), false},
		{"snappy framed, cut off", CodecSnappy, cutTail(xerial(1, block), 1), false},
		{"snappy framed, with a tail", CodecSnappy, append(xerial(1, block), 0, 0), false},
		{"snappy framed, size beyond the end", CodecSnappy, append(xerial(1, block), 0xff, 0xff, 0xff, 0xff), false},
		{"snappy block cut off", CodecSnappy, cutTail(block, 1), false},
		{"snappy block, length of 4 GiB", CodecSnappy, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0}, false},
		{"s2 block", CodecSnappy, s2Repeats, false},
		{"snappy, nothing", CodecSnappy, nil, false},

		{"lz4", CodecLZ4, l4, true},
		{"lz4 with checksums and size", CodecLZ4, lz4Frame(t, payload, lz4.BlockChecksumOption(true), lz4.ChecksumOption(true),
			lz4.SizeOption(uint64(len(payload)))), true},
		{"lz4 of 4 MiB blocks", CodecLZ4, lz4Frame(t, payload, lz4.BlockSizeOption(lz4.Block4Mb)), true},
		{"lz4 of two frames", CodecLZ4, append(lz4Frame(t, payload[:half]), lz4Frame(t, payload[half:])...), false},
		{"lz4 with a tail", CodecLZ4, append(bytes.Clone(l4), 0), false},
		{"lz4 without end mark", CodecLZ4, cutTail(l4, 4), false},
		{"lz4 cut off", CodecLZ4, l4[:20], false},
		{"lz4 of dependent blocks", CodecLZ4, lz4Flags(l4, func(f byte) byte { return f &^ lz4Independent }), false},
		{"lz4 with dictionary", CodecLZ4, lz4Flags(l4, func(f byte) byte { return f | 1 }), false},
		{"lz4 of version 2", CodecLZ4, lz4Flags(l4, func(f byte) byte { return f ^ 0xc0 }), false},
		{"lz4 legacy", CodecLZ4, append([]byte{0x02, 0x21, 0x4c, 0x18}, l4[4:]...), false},
		{"lz4, nothing", CodecLZ4, nil, false},

		{"zstd", CodecZstd, zframe(payload), true},
		{"zstd with checksum", CodecZstd, zframe(payload, zstd.WithEncoderCRC(true)), true},
		{"zstd of two frames", CodecZstd, append(zframe(payload[:half]), zframe(payload[half:])...), true},
		{"zstd with a window of 8 MiB", CodecZstd, zstdStream(t, payload, 8<<20), true},
		{"zstd with a window of 128 MiB", CodecZstd, zstdStream(t, payload, 128<<20), true},
		{"zstd with a window of 256 MiB", CodecZstd, zstdStream(t, payload, 256<<20), false},
		{"zstd with a tail", CodecZstd, append(zframe(payload), 'x'), false},
		{"zstd cut off", CodecZstd, cutTail(zframe(payload), 1), false},
		{"zstd of a wrong checksum", CodecZstd, flipLast(zframe(payload, zstd.WithEncoderCRC(true))), false},
		{"zstd, nothing", CodecZstd, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := Header{Attributes: Attributes(tt.codec), LastOffsetDelta: 99, MaxTimestamp: 99, ProducerID: -1, NumRecords: 100}
			frame := append(make([]byte, HeaderSize), tt.payload...)
			h.put(frame)
			_, err := Check(frame, Limits{})
			out, inflateErr := Inflate(frame, DefaultMaxInflated)
			if tt.good {
				if err != nil || inflateErr != nil || !bytes.Equal(out[HeaderSize:], payload) {
					t.Errorf("refused: %v, %v", err, inflateErr)
				}
				return
			}
			wantReason(t, err, Corrupt)
			if inflateErr == nil && len(tt.payload) > 0 {
				t.Error("inflated")
			}
		})
	}
}

func gzipped(t *testing.T, b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	return finish(t, w, b, &out)
}

func finish(t *testing.T, w io.WriteCloser, b []byte, out *bytes.Buffer) []byte {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func lz4Frame(t *testing.T, b []byte, options ...lz4.Option) []byte {
	t.Helper()
	var out bytes.Buffer
	w := lz4.NewWriter(&out)
	if err := w.Apply(append([]lz4.Option{lz4.ChecksumOption(false)}, options...)...); err != nil {
		t.Fatal(err)
	}
	return finish(t, w, b, &out)
}

// lz4Flags changes the flags of a frame; its header checksum stays wrong, but is
// looked at later.
func lz4Flags(frame []byte, change func(byte) byte) []byte {
	out := bytes.Clone(frame)
	out[4] = change(out[4])
	return out
}

// zstdStream is a frame as Java's stream writes it: content size unknown, the
// window as the level has it.
func zstdStream(t *testing.T, b []byte, window int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b[:1]); err != nil { // otherwise Close would know the size
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	frame := finish(t, w, b[1:], &out)
	var h zstd.Header
	if err := h.Decode(frame); err != nil || h.SingleSegment || h.HasFCS {
		t.Fatalf("not the frame that was meant: %+v, %v", h, err)
	}
	exponent := 0
	for 1<<(exponent+10) < window {
		exponent++
	}
	frame[5] = byte(exponent << 3) // window descriptor, RFC 8878 3.1.1.1.2
	return frame
}

// s2Repeats is a block of twelve bytes in which S2 repeats an offset: "abcd", a
// copy of it, and once more by a copy of offset 0.
var s2Repeats = []byte{12, 3 << 2, 'a', 'b', 'c', 'd', 1, 4, 1, 0}

func cutTail(b []byte, n int) []byte { return b[:len(b)-n] }

func flipLast(b []byte) []byte {
	b[len(b)-1] ^= 1
	return b
}

// TestDecodersForget checks that a decoder is as good as new after each error,
// and in concurrent use.
func TestDecodersForget(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, codec := range allCodecs[1:] {
				good := Build(someRecords(50), BuildOptions{Codec: codec})
				for n := range 20 {
					bad := bytes.Clone(good)
					bad[HeaderSize+n*len(good[HeaderSize:])/20] ^= 0xff
					Check(recrc(bad), Limits{})
					if _, err := Check(good, Limits{}); err != nil {
						t.Errorf("%s: after an error: %v", codec, err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestPlainSnappy(t *testing.T) {
	for n := range 2000 {
		b := append(bytes.Repeat([]byte("abcabcabd"), n), noise(n)...)
		if !plainSnappy(s2.EncodeSnappy(nil, b)) || !plainSnappy(s2.EncodeSnappyBest(nil, b)) {
			t.Fatalf("%d: a snappy block is refused", n)
		}
	}
	if out, err := s2.Decode(nil, s2Repeats); err != nil || plainSnappy(s2Repeats) {
		t.Errorf("the decoder reads S2 as %q, %v; it must not get that far", out, err)
	}
	if plainSnappy(nil) || plainSnappy([]byte{5, 1}) || plainSnappy([]byte{5, 0xfc, 1}) {
		t.Error("a block that is cut off is accepted")
	}
}

func TestParseCodec(t *testing.T) {
	for _, codec := range allCodecs {
		if got, ok := ParseCodec(codec.String()); !ok || got != codec {
			t.Errorf("%s parses as %v, %v", codec, got, ok)
		}
	}
	if _, ok := ParseCodec("producer"); ok {
		t.Error("producer is no codec")
	}
	if got := Codec(6).String(); got != "codec 6" || Codec(6).Known() {
		t.Errorf("codec 6 is %q", got)
	}
	if math.MaxInt32 < MaxFrameSize {
		t.Error("MaxFrameSize does not fit the length field")
	}
}
