package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

func flexibleTestKey(key, version int16) bool { return key == 18 && version >= 3 }

func TestFrameLength(t *testing.T) {
	for _, row := range []struct {
		name string
		n    uint32
		ok   bool
	}{
		{"minimum", minFrame, true},
		{"limit", 1000, true},
		{"above limit", 1001, false},
		{"zero", 0, false},
		{"too short for a header", minFrame - 1, false},
		{"minus one", 0xffffffff, false},
		{"largest", 0x7fffffff, false},
		{"smallest", 0x80000000, false},
		{"HTTP", binary.BigEndian.Uint32([]byte("GET ")), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			var prefix [4]byte
			binary.BigEndian.PutUint32(prefix[:], row.n)
			n, err := frameLength(prefix, 1000)
			if (err == nil) != row.ok {
				t.Fatalf("frameLength(%d) = %d, %v", row.n, n, err)
			}
			if err != nil && !errors.Is(err, errFrameLength) {
				t.Fatalf("error %v is not errFrameLength", err)
			}
		})
	}
}

// A connection that claims a large frame and sends little must not make the
// broker allocate it.
func TestReadFrameAllocatesOnlyWhatArrives(t *testing.T) {
	read := func(have, size int, refuse error) (frame []byte, claimed, arrived int, err error) {
		source := bytes.NewReader(bytes.Repeat([]byte("abcdefg"), have/7+1)[:have])
		fill := func(p []byte) error {
			n, err := io.ReadFull(source, p)
			arrived += n
			return err
		}
		frame, err = readFrame(size, fill, func(n int) error {
			if claimed += n; claimed > frameGrowth*arrived {
				t.Errorf("%d bytes are to be allocated after %d of %d", claimed, arrived, size)
			}
			return refuse
		})
		return frame, claimed, arrived, err
	}
	if _, claimed, _, err := read(100, 100<<20, nil); !errors.Is(err, io.ErrUnexpectedEOF) || claimed != 0 {
		t.Errorf("100 bytes: claimed %d, %v", claimed, err)
	}
	if _, claimed, _, err := read(eagerFrame, 100<<20, nil); !errors.Is(err, io.EOF) || claimed != (frameGrowth-1)*eagerFrame {
		t.Errorf("the eager part: claimed %d, %v", claimed, err)
	}
	for _, size := range []int{minFrame, eagerFrame, eagerFrame + 1, frameGrowth*eagerFrame + 1, 5_000_000} {
		frame, claimed, _, err := read(size, size, nil)
		if err != nil || len(frame) != size || claimed != max(size-eagerFrame, 0) || !bytes.HasPrefix(frame, []byte("abcdefga")) || frame[size-1] != "abcdefg"[(size-1)%7] {
			t.Errorf("%d bytes: read %d, claimed %d, %v", size, len(frame), claimed, err)
		}
	}
	refused := errors.New("refused")
	if _, _, arrived, err := read(5_000_000, 5_000_000, refused); !errors.Is(err, refused) || arrived != eagerFrame {
		t.Errorf("refused: %v after %d bytes", err, arrived)
	}
}

func TestDecodeHeader(t *testing.T) {
	v1 := []byte{0, 3, 0, 1, 0, 0, 0, 7, 0, 2, 'm', 'e', 0xaa}
	v2 := []byte{0, 18, 0, 3, 0, 0, 0, 8, 0xff, 0xff, 1, 5, 2, 'x', 'y', 0xbb}
	h, body, err := decodeHeader(v1, flexibleTestKey)
	if want := (header{key: 3, version: 1, correlation: 7, clientID: "me"}); err != nil || h != want || !bytes.Equal(body, []byte{0xaa}) {
		t.Fatalf("v1: %+v %x %v", h, body, err)
	}
	h, body, err = decodeHeader(v2, flexibleTestKey)
	if want := (header{key: 18, version: 3, correlation: 8}); err != nil || h != want || !bytes.Equal(body, []byte{0xbb}) {
		t.Fatalf("v2: %+v %x %v", h, body, err)
	}
	for _, row := range []struct {
		name  string
		frame []byte
	}{
		{"nine bytes", v1[:9]},
		{"client id longer than the frame", []byte{0, 3, 0, 1, 0, 0, 0, 7, 0x7f, 0xff, 'm'}},
		{"client id of -2", []byte{0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xfe, 'm'}},
		{"no tag count", v2[:10]},
		{"4 billion tags", append(v2[:10:10], 0xff, 0xff, 0xff, 0xff, 0x0f)},
		{"20 million tags", append(v2[:10:10], 0x80, 0xda, 0xc4, 0x09)},
		{"tag longer than the frame", append(v2[:10:10], 1, 5, 200, 1, 'x')},
		{"endless varint", append(v2[:10:10], 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
		{"more tags than any client sends", append(append(v2[:10:10], maxHeaderTags+1), make([]byte, 400)...)},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, _, err := decodeHeader(row.frame, flexibleTestKey); !errors.Is(err, errHeader) {
				t.Fatalf("err = %v", err)
			}
		})
	}
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add([]byte{0, 3, 0, 1, 0, 0, 0, 7, 0, 2, 'm', 'e', 0xaa})
	f.Add([]byte{0, 18, 0, 3, 0, 0, 0, 8, 0xff, 0xff, 1, 5, 2, 'x', 'y', 0xbb})
	f.Add([]byte{0, 18, 0, 3, 0, 0, 0, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, body, err := decodeHeader(frame, flexibleTestKey)
		if err != nil {
			return
		}
		if len(h.clientID)+len(body)+minFrame+2 > len(frame) {
			t.Fatalf("more came out than went in: %+v, body %d of %d bytes", h, len(body), len(frame))
		}
	})
}
