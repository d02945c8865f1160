package transport

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// goldenHeader is a head and its bytes, which never change.
var goldenHeader = frameHeader{length: 0x010203, kind: frameRequest, method: MethodRaftAppend, id: 0x1122334455667788, bodyCRC: 0xcafebabe}

const goldenHeaderBytes = "00010203" + "01" + "05" + "0000" + "1122334455667788" + "cafebabe" + "b0f6294a"

func TestFrameGolden(t *testing.T) {
	encoded := appendFrameHeader(nil, goldenHeader)
	if got := hex.EncodeToString(encoded); got != goldenHeaderBytes {
		t.Errorf("encoded %s, want %s", got, goldenHeaderBytes)
	}
	decoded, err := decodeFrameHeader(encoded, DefaultMaxFrame)
	if err != nil || decoded != goldenHeader {
		t.Errorf("decoded %+v, %v", decoded, err)
	}
	frame := newFrame(frameHeader{kind: frameReply, id: 7}, [][]byte{[]byte("123"), []byte("456789")}, nil)
	if got := hex.EncodeToString(frame.head[16:20]); got != "e3069283" { // CRC32C's check value
		t.Errorf("checksum of 123456789 is %s", got)
	}
}

func TestFrameHeaderIsChecked(t *testing.T) {
	const limit = 1 << 20
	for name, h := range map[string]frameHeader{
		"above the limit":       {length: limit + 1, kind: frameRequest, method: 1},
		"negative":              {length: math.MaxUint32, kind: frameRequest, method: 1},
		"reply above the limit": {length: limit + 1, kind: frameReply},
		"long error":            {length: maxErrorText + 1, kind: frameError, code: 1},
		"ping with a body":      {length: 1, kind: framePing},
		"pong with a body":      {length: 1, kind: framePong},
		"type 0":                {kind: 0},
		"type 6":                {kind: 6},
		"request for nothing":   {kind: frameRequest},
		"reply with a method":   {kind: frameReply, method: 1},
		"error without a code":  {kind: frameError},
		"reply with a code":     {kind: frameReply, code: 1},
	} {
		if _, err := decodeFrameHeader(appendFrameHeader(nil, h), limit); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, h := range map[string]frameHeader{
		"at the limit": {length: limit, kind: frameRequest, method: 255},
		"empty reply":  {kind: frameReply},
		"error":        {length: maxErrorText, kind: frameError, code: math.MaxUint16},
	} {
		if got, err := decodeFrameHeader(appendFrameHeader(nil, h), limit); err != nil || got != h {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestFrameFindsEveryFlippedBit: in head and body, and every cut.
func TestFrameFindsEveryFlippedBit(t *testing.T) {
	frame := newFrame(frameHeader{kind: frameRequest, method: MethodForward, id: 1}, [][]byte{[]byte("a body of some bytes")}, nil)
	read := func(b []byte) error {
		r := bufio.NewReader(bytes.NewReader(b))
		head := make([]byte, frameHeaderSize)
		if _, err := io.ReadFull(r, head); err != nil {
			return err
		}
		h, err := decodeFrameHeader(head, DefaultMaxFrame)
		if err != nil {
			return err
		}
		_, err = readBody(r, h, nil)
		return err
	}
	if err := read(frame.head); err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(frame.head) {
		bad := bytes.Clone(frame.head)
		bad[bit/8] ^= 1 << (bit % 8)
		if err := read(bad); !errors.Is(err, ErrFrame) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	for n := range frame.head {
		if read(frame.head[:n]) == nil {
			t.Fatalf("%d bytes are a frame", n)
		}
	}
	if _, err := decodeFrameHeader(frame.head[:frameHeaderSize-1], DefaultMaxFrame); !errors.Is(err, ErrFrame) {
		t.Errorf("a short head: %v", err)
	}
}

// TestBatcherKeepsBytesAndOrder: whatever sizes are mixed, the buffers are the
// frames one after the other, and large bodies are not copied.
func TestBatcherKeepsBytesAndOrder(t *testing.T) {
	var b batcher
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 100, smallBody, smallBody + 1, 5000, 40_000}), 0, 80).Draw(t, "sizes")
		var frames []*outFrame
		var want []byte
		for i, size := range sizes {
			body := bytes.Repeat([]byte{byte(i)}, size)
			f := newFrame(frameHeader{kind: frameReply, id: uint64(i)}, [][]byte{body[:size/2], body[size/2:]}, nil)
			frames = append(frames, f)
			want = append(append(want, f.head[:frameHeaderSize]...), body...)
			if int64(frameHeaderSize+size) != f.size {
				t.Fatalf("size %d of a frame with %d bytes", f.size, size)
			}
		}
		buffers := b.build(frames)
		if got := bytes.Join(buffers, nil); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes in %d buffers, want %d", len(got), len(buffers), len(want))
		}
		if len(buffers) > 4*len(frames) {
			t.Fatalf("%d buffers for %d frames", len(buffers), len(frames))
		}
		buffers.WriteTo(io.Discard)
		b.clear()
	})
}

func FuzzFrame(f *testing.F) {
	for _, h := range []frameHeader{{kind: frameRequest, method: MethodForward, id: 1}, {kind: frameReply, id: 2}, {kind: frameError, code: 3, id: 3}, {kind: framePing}} {
		body := [][]byte{[]byte("body")}
		if h.kind == framePing {
			body = nil
		}
		f.Add(newFrame(h, body, nil).head)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1 << 16
		r := bufio.NewReader(bytes.NewReader(data))
		head := make([]byte, frameHeaderSize)
		for {
			if _, err := io.ReadFull(r, head); err != nil {
				return
			}
			h, err := decodeFrameHeader(head, limit)
			if err != nil {
				return
			}
			if h.length > limit {
				t.Fatalf("length %d passed", h.length)
			}
			if !bytes.Equal(appendFrameHeader(nil, h), head) {
				t.Fatalf("read %x, written anew %x", head, appendFrameHeader(nil, h))
			}
			if _, err := readBody(r, h, nil); err != nil {
				return
			}
		}
	})
}
