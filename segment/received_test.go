package segment

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/segment/vfs"
)

// sealedSegment makes a sealed segment of records and an internal frame in a folder.
func sealedSegment(t *testing.T) (dir string, header *FileHeader) {
	t.Helper()
	dir = t.TempDir()
	w, err := Create(vfs.OS(), dir, &FileHeader{BaseIndex: 1, RoundLimit: MinRoundLimit})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		frame := Build([]Record{{Timestamp: int64(i), Value: bytes.Repeat([]byte{byte(i + 1)}, 700)}}, BuildOptions{})
		if i == 5 {
			frame = EncodeInternal(KindConfiguration, 0, []byte("configuration"))
		}
		Stamp(frame, w.End().Offset, Term(1+i/4))
		if err := w.WriteRound([][]byte{frame}, 1000); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Seal(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return dir, w.Header()
}

// TestReceivedSegment: the index that is made of the frames of a sealed segment is the
// one that it had, byte for byte.
func TestReceivedSegment(t *testing.T) {
	dir, h := sealedSegment(t)
	frames, err := os.ReadFile(filepath.Join(dir, LogName(0)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := CheckReceived(bytes.NewReader(frames), h.Seal.Length, h)
	if err == nil {
		err = got.Complete(h)
	}
	to := t.TempDir()
	if err == nil {
		err = got.Install(vfs.OS(), to, h)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{IndexName(0), HeaderName(0)} {
		a, aErr := os.ReadFile(filepath.Join(dir, name))
		b, bErr := os.ReadFile(filepath.Join(to, name))
		if aErr != nil || bErr != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %v, %v", name, aErr, bErr)
		}
	}
}

// TestReceivedIsChecked: with any byte changed or left out, what comes before its frame
// is good, and the whole is not.
func TestReceivedIsChecked(t *testing.T) {
	dir, h := sealedSegment(t)
	frames, err := os.ReadFile(filepath.Join(dir, LogName(0)))
	if err != nil {
		t.Fatal(err)
	}
	var ends []int64
	s := NewScanner(bytes.NewReader(frames), 0, int64(len(frames)), ChunkFar)
	for {
		frame, _, err := s.Header()
		if err != nil {
			break
		}
		ends = append(ends, s.Position())
		s.Pass(frame)
	}
	for at := range frames {
		begin := ends[0]
		for _, e := range ends {
			if e <= int64(at) {
				begin = e
			}
		}
		changed := bytes.Clone(frames)
		changed[at] ^= 1 << (at % 8)
		for what, b := range map[string][]byte{"changed": changed, "cut": frames[:at]} {
			got, err := CheckReceived(bytes.NewReader(b), int64(len(b)), h)
			if err != nil {
				t.Fatal(err)
			}
			var damage *DamageError
			if err := got.Complete(h); !errors.As(err, &damage) {
				t.Fatalf("%s at byte %d: %v", what, at, err)
			}
			// A term is not covered by a frame's own checksum: later frames show it.
			inTerm := at-int(begin) >= 12 && at-int(begin) < 16
			if got.End.Position != begin && !(what == "changed" && inTerm) {
				t.Fatalf("%s at byte %d: good up to %d, must be %d", what, at, got.End.Position, begin)
			}
		}
	}
}
