package log

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment"
)

// updateGolden writes the golden files anew. A difference in what exists means that
// logs already written can no longer be read.
var updateGolden = flag.Bool("update-golden", false, "write testdata/files anew")

func goldenManifest() *manifest {
	return &manifest{
		identity: testIdentity, start: 17,
		segments: []segmentRef{{base: 0, index: 1}, {base: 70_000, index: 1001}},
		dropped:  []segment.Offset{80_000, 90_000},
	}
}

func goldenCheckpoint() *checkpoint {
	return &checkpoint{
		Checkpoint: Checkpoint{
			Index: 1500, Term: 6, Configuration: []byte("configuration"), ConfigurationIndex: 900, HighWatermark: 75_000,
		},
		incarnation: 0xfeed, base: 70_000, position: 4096,
		terms: []segment.TermStart{{Term: 1, Index: 1, Offset: 0}, {Term: 6, Index: 1400, Offset: 74_000}},
		producers: []segment.ProducerState{{
			ID: 9, Epoch: 2, LastTimestamp: 1_700_000_000_000, Accepted: 5, Count: 1,
			Batches: [segment.RememberedBatches]segment.BatchSpan{{First: 3, Records: 2, Base: 74_100}},
		}},
	}
}

// golden compares an encoding with testdata/files and returns what is there.
func golden(t *testing.T, name string, encoded []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", "files", name+".hex")
	if *updateGolden {
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(hex.EncodeToString(encoded)+"\n"), 0o644))
	}
	text, err := os.ReadFile(path)
	must(t, err)
	want, err := hex.DecodeString(strings.TrimSpace(string(text)))
	must(t, err)
	if !bytes.Equal(encoded, want) {
		t.Errorf("encoding has changed:\n got %x\nwant %x", encoded, want)
	}
	return want
}

// damaged checks that no flipped bit and no other length of a file is accepted.
func damaged(t *testing.T, data []byte, decode func([]byte) error) {
	t.Helper()
	for i := range data {
		b := bytes.Clone(data)
		b[i] ^= 1 << (i % 8)
		if decode(b) == nil || decode(data[:i]) == nil {
			t.Errorf("changed or cut at byte %d, and it is still accepted", i)
		}
	}
	if decode(append(bytes.Clone(data), 0)) == nil {
		t.Error("longer, and it is still accepted")
	}
}

func TestGoldenManifest(t *testing.T) {
	data := golden(t, "manifest", goldenManifest().encode())
	got, err := decodeManifest(data)
	must(t, err)
	if diff := cmp.Diff(goldenManifest(), got, cmp.AllowUnexported(manifest{}, segmentRef{})); diff != "" {
		t.Error(diff)
	}
	damaged(t, data, func(b []byte) error { _, err := decodeManifest(b); return err })
}

// TestGoldenTrimmedManifest: the layout once a trim has allowed to remove segments.
func TestGoldenTrimmedManifest(t *testing.T) {
	want := goldenManifest()
	want.through = 1000
	data := golden(t, "manifest-trimmed", want.encode())
	got, err := decodeManifest(data)
	must(t, err)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(manifest{}, segmentRef{})); diff != "" {
		t.Error(diff)
	}
	damaged(t, data, func(b []byte) error { _, err := decodeManifest(b); return err })
	if _, err := decodeManifest(segment.Wrap(segment.FormatManifest2, make([]byte, 200))); err == nil {
		t.Error("a trim through entry 0 is accepted")
	}
}

func TestGoldenCheckpoint(t *testing.T) {
	data := golden(t, "checkpoint", goldenCheckpoint().encode())
	got, err := decodeCheckpoint(data)
	must(t, err)
	if diff := cmp.Diff(goldenCheckpoint(), got, cmp.AllowUnexported(checkpoint{})); diff != "" {
		t.Error(diff)
	}
	damaged(t, data, func(b []byte) error { _, err := decodeCheckpoint(b); return err })
}

// TestFormatLimits rejects files whose fields contradict each other.
func TestFormatLimits(t *testing.T) {
	for name, change := range map[string]func(*manifest){
		"no segments":        func(m *manifest) { m.segments = nil },
		"negative start":     func(m *manifest) { m.start = -1 },
		"negative partition": func(m *manifest) { m.identity.Partition = -1 },
		"index 0":            func(m *manifest) { m.segments[0].index = 0 },
		"one base twice":     func(m *manifest) { m.segments[1].base = 0 },
		"indexes fall":       func(m *manifest) { m.segments[1].index = 1 },
	} {
		m := goldenManifest()
		change(m)
		if _, err := decodeManifest(m.encode()); err == nil {
			t.Errorf("manifest, %s: accepted", name)
		}
	}
	for name, change := range map[string]func(*checkpoint){
		"term":            func(c *checkpoint) { c.Term = segment.MaxTerm + 1 },
		"position":        func(c *checkpoint) { c.position = -1 },
		"base":            func(c *checkpoint) { c.base = 75_001 },
		"configuration":   func(c *checkpoint) { c.ConfigurationIndex = 1501 },
		"high watermark":  func(c *checkpoint) { c.HighWatermark = -1 },
		"terms in order":  func(c *checkpoint) { c.terms[1].Term = 1 },
		"remembers seven": func(c *checkpoint) { c.producers[0].Batches[0].Records = -1 },
	} {
		c := goldenCheckpoint()
		change(c)
		if _, err := decodeCheckpoint(c.encode()); err == nil {
			t.Errorf("checkpoint, %s: accepted", name)
		}
	}
}

// FuzzManifest: no manifest makes the decoder panic, and what it accepts is what it
// writes.
func FuzzManifest(f *testing.F) {
	f.Add(goldenManifest().encode())
	trimmed := goldenManifest()
	trimmed.through = 1000
	f.Add(trimmed.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, b := range [][]byte{data, segment.Wrap(segment.FormatManifest1, data), segment.Wrap(segment.FormatManifest2, data)} {
			m, err := decodeManifest(b)
			if err == nil && !bytes.Equal(m.encode(), b) {
				t.Errorf("%x is read as %+v", b, m)
			}
		}
	})
}

// FuzzCheckpoint: likewise for checkpoints.
func FuzzCheckpoint(f *testing.F) {
	f.Add(goldenCheckpoint().encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, b := range [][]byte{data, segment.Wrap(segment.FormatCheckpoint1, data)} {
			c, err := decodeCheckpoint(b)
			if err == nil && !bytes.Equal(c.encode(), b) {
				t.Errorf("%x is read as %+v", b, c)
			}
		}
	})
}
