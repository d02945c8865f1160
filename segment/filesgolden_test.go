package segment

import (
	"bytes"
	"encoding/binary"
	"math"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// goldenHeader is a header file with something in every field.
func goldenHeader() *FileHeader {
	return &FileHeader{
		Cluster: "p5dJrQ2FQ8O9", TopicID: TopicID{0xa0, 1, 2, 3, 4, 5, 0x46, 7, 0x88, 9, 10, 11, 12, 13, 14, 15}, Partition: 3,
		BaseIndex: 1001, BaseOffset: 70_000, PrevTerm: 4, RoundLimit: 8 << 20,
		Configuration: []byte("configuration"), ConfigurationIndex: 17,
		Terms: []TermStart{{Term: 1, Index: 1, Offset: 0}, {Term: 4, Index: 900, Offset: 69_000}},
		Producers: []ProducerState{
			{ID: 9, Epoch: 2, LastTimestamp: 1_700_000_000_000, Accepted: 12, Count: 2, Batches: [RememberedBatches]BatchSpan{
				{First: 0, Records: 5, Base: 100}, {First: 5, Records: 7, Base: 200},
			}},
			{ID: 8, Epoch: 0, LastTimestamp: -1},
		},
	}
}

// goldenSealedHeader is the same with a seal.
func goldenSealedHeader() *FileHeader {
	h := goldenHeader()
	h.Seal = &Seal{
		Length: 123_456, LastIndex: 2000, LastTerm: 5, NextOffset: 80_000, MaxTimestamp: 1_700_000_000_123,
		FirstAppend: 1_700_000_000_000, LastAppend: 1_700_000_009_000, IndexEntries: 30, Chain: 0xfeedf00d,
		Aborted: []AbortedTransaction{{ProducerID: 9, First: 70_100, Last: 70_200}},
	}
	return h
}

// TestGoldenHeaderFiles holds header files to the bytes in testdata/files.
func TestGoldenHeaderFiles(t *testing.T) {
	for name, header := range map[string]*FileHeader{"header": goldenHeader(), "header-sealed": goldenSealedHeader()} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", "files", name+".hex")
			if *updateGolden {
				writeHex(t, path, header.Encode())
			}
			golden := readHex(t, path)
			if !bytes.Equal(header.Encode(), golden) {
				t.Errorf("encoding has changed:\n got %x\nwant %x", header.Encode(), golden)
			}
			got, err := DecodeFileHeader(golden)
			if diff := cmp.Diff(header, got); diff != "" || err != nil {
				t.Error(err, diff)
			}
			damaged(t, golden, func(b []byte) error { _, err := DecodeFileHeader(b); return err })
		})
	}
}

// damaged checks that no flipped bit and no other length of a file is accepted.
func damaged(t *testing.T, golden []byte, decode func([]byte) error) {
	t.Helper()
	for i := range golden {
		b := bytes.Clone(golden)
		b[i] ^= 1 << (i % 8)
		if decode(b) == nil {
			t.Errorf("byte %d changed, and it is still accepted", i)
		}
		if decode(golden[:i]) == nil {
			t.Errorf("cut at byte %d, and it is still accepted", i)
		}
	}
	if decode(append(bytes.Clone(golden), 0)) == nil {
		t.Error("longer, and it is still accepted")
	}
}

// goldenIndex are entries of an index of goldenHeader's segment.
func goldenIndex() []IndexEntry {
	return []IndexEntry{
		{Index: 1002, Offset: 70_005, Position: 5000, MaxTimestamp: -1, Chain: 1},
		{Index: 1005, Offset: 70_005, Position: 9000, MaxTimestamp: 1_700_000_000_000, Chain: 0xffffffff},
		{Index: 9999, Offset: math.MaxInt64 - 1, Position: math.MaxUint32, MaxTimestamp: math.MaxInt64, Chain: 7},
	}
}

// TestGoldenIndex holds index files to the bytes in testdata/files.
func TestGoldenIndex(t *testing.T) {
	start := goldenHeader().Start()
	data := encodeIndexPreamble(start)
	sum := binary.BigEndian.Uint32(data[28:])
	for _, e := range goldenIndex() {
		data = appendIndexEntry(data, start, sum, e)
	}
	path := filepath.Join("testdata", "files", "index.hex")
	if *updateGolden {
		writeHex(t, path, data)
	}
	golden := readHex(t, path)
	if !bytes.Equal(data, golden) {
		t.Errorf("encoding has changed:\n got %x\nwant %x", data, golden)
	}
	got, err := decodeIndex(golden, start)
	if diff := cmp.Diff(goldenIndex(), got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	// A damaged entry and all behind it do not count; a damaged preamble is an error.
	for i := range golden {
		b := bytes.Clone(golden)
		b[i] ^= 1 << (i % 8)
		got, err := decodeIndex(b, start)
		if i < indexPreamble {
			if err == nil {
				t.Errorf("byte %d of the preamble changed, and it is accepted", i)
			}
			continue
		}
		if want := (i - indexPreamble) / indexEntrySize; len(got) != want || err != nil {
			t.Errorf("byte %d changed: %d entries, %v; must be %d", i, len(got), err, want)
		}
	}
	other := goldenHeader()
	other.BaseIndex++
	if _, err := decodeIndex(golden, other.Start()); err == nil {
		t.Error("the index of another segment is accepted")
	}
}

// TestHeaderLimits rejects header files whose fields contradict each other.
func TestHeaderLimits(t *testing.T) {
	for name, change := range map[string]func(*FileHeader){
		"partition":           func(h *FileHeader) { h.Partition = -1 },
		"base index":          func(h *FileHeader) { h.BaseIndex = 0 },
		"base offset":         func(h *FileHeader) { h.BaseOffset = -1 },
		"previous term":       func(h *FileHeader) { h.PrevTerm = MaxTerm + 1 },
		"round limit":         func(h *FileHeader) { h.RoundLimit = 0 },
		"terms in order":      func(h *FileHeader) { h.Terms[1].Term = 1 },
		"term offsets":        func(h *FileHeader) { h.Terms[0].Offset = 69_001 },
		"producer id":         func(h *FileHeader) { h.Producers[0].ID = -1 },
		"batch of a sequence": func(h *FileHeader) { h.Producers[0].Batches[1].First = -1 },
		"batch of records":    func(h *FileHeader) { h.Producers[0].Batches[1].Records = 0 },
		"seal's length":       func(h *FileHeader) { h.Seal.Length = 0 },
		"seal's index":        func(h *FileHeader) { h.Seal.LastIndex = 1000 },
		"seal's offset":       func(h *FileHeader) { h.Seal.NextOffset = 70_000 },
		"seal's term":         func(h *FileHeader) { h.Seal.LastTerm = 3 },
	} {
		h := goldenSealedHeader()
		change(h)
		if _, err := DecodeFileHeader(h.Encode()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
