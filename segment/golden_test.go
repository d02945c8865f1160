package segment

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// updateGolden writes the golden frames anew. A difference in what exists means
// that logs already written can no longer be read: add frames, change none.
var updateGolden = flag.Bool("update-golden", false, "write testdata/frames anew")

// goldenFrames are one frame of each kind and codec, by the name of its file.
func goldenFrames() map[string][]byte {
	producer := &Producer{ID: 4711, Epoch: 2, Sequence: 99}
	frames := map[string][]byte{
		"records":       Build(threeRecords(), BuildOptions{BaseOffset: 1000, Term: 7}),
		"idempotent":    Build(threeRecords(), BuildOptions{Producer: producer}),
		"transactional": Build(threeRecords(), BuildOptions{Producer: producer, Transactional: true}),
		"control": Build([]Record{{Timestamp: 5, Key: []byte{0, 0, 0, 1}, Value: []byte{0, 0, 0, 0, 0, 9}}},
			BuildOptions{Producer: &Producer{ID: 4711, Epoch: 2, Sequence: -1}, Transactional: true, Control: true}),
		"empty":                  Build(nil, BuildOptions{BaseOffset: 12}),
		"internal-noop":          EncodeInternal(KindNoop, 17, nil),
		"internal-configuration": EncodeInternal(KindConfiguration, 17, []byte("configuration")),
		"internal-barrier":       EncodeInternal(KindBarrier, 17, nil),
		"internal-trim":          EncodeTrim(17, Trim{Start: 5, Through: 9}),
		"internal-horizon":       EncodeInternal(KindHorizon, 17, []byte{0, 0, 0, 0, 0, 0, 0, 6}),
		"void-duplicate":         EncodeVoid(18, Void{Code: VoidDuplicate, Offset: 3}),
		"void-out-of-order":      EncodeVoid(18, Void{Code: VoidOutOfOrderSequence, Offset: -1}),
		"void-not-leader":        EncodeVoid(18, Void{Code: VoidNotLeader, Offset: -1}),
		"void-fenced-epoch":      EncodeVoid(18, Void{Code: VoidFencedEpoch, Offset: -1}),
		"void-stale-term":        EncodeVoid(18, Void{Code: VoidStaleTerm, Offset: -1}),
		"void-too-old":           EncodeVoid(18, Void{Code: VoidDuplicateTooOld, Offset: -1}),
	}
	appended := Build(threeRecords(), BuildOptions{})
	SetAppendTime(appended, 1_800_000_000_000)
	frames["append-time"] = appended
	stamped := EncodeInternal(KindNoop, 0, nil)
	Stamp(stamped, 1<<40, MaxTerm)
	frames["internal-stamped"] = stamped
	for _, codec := range allCodecs[1:] {
		frames["records-"+codec.String()] = Build(threeRecords(), BuildOptions{Codec: codec})
	}
	return frames
}

// TestGolden holds all frames to the bytes in testdata/frames: encoding gives
// them, and decoding them gives what was encoded. Only what compressors make may
// change from one version of them to the next.
func TestGolden(t *testing.T) {
	for name, frame := range goldenFrames() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", "frames", name+".hex")
			if *updateGolden {
				writeHex(t, path, frame)
			}
			golden := readHex(t, path)
			compressed := Attributes(golden[atAttributes+1]).Codec() != CodecNone
			if !compressed && !bytes.Equal(frame, golden) {
				t.Errorf("encoding has changed:\n got %x\nwant %x", frame, golden)
			}
			if !ChecksumOK(golden) {
				t.Error("wrong checksum")
			}
			h, err := DecodeHeader(golden)
			if err != nil || h.FrameSize() != len(golden) {
				t.Fatalf("header %+v, %v", h, err)
			}
			if h.Kind() == KindInternal {
				if _, _, err := DecodeInternal(golden); err != nil {
					t.Error(err)
				}
				return
			}
			want, err := Records(frame, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Records(golden, 1<<20)
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Error(err, diff)
			}
		})
	}
}

// hexColumns is how many bytes a line of a golden file has.
const hexColumns = 32

func writeHex(t *testing.T, path string, data []byte) {
	t.Helper()
	var out strings.Builder
	for len(data) > 0 {
		n := min(hexColumns, len(data))
		out.WriteString(hex.EncodeToString(data[:n]) + "\n")
		data = data[n:]
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readHex(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return data
}
