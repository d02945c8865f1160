package segment

import (
	"bytes"
	"testing"
)

// FuzzFileHeader: no header file makes the decoder panic, and what it accepts is
// what it writes.
func FuzzFileHeader(f *testing.F) {
	f.Add(goldenHeader().Encode())
	f.Add(goldenSealedHeader().Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, b := range [][]byte{data, Wrap(FormatHeader1, data)} {
			h, err := DecodeFileHeader(b)
			if err == nil && !bytes.Equal(h.Encode(), b) {
				t.Errorf("%x is read as %+v, which is written as %x", b, h, h.Encode())
			}
		}
	})
}

// FuzzIndex: no index file makes the decoder panic, and what it accepts is in
// order.
func FuzzIndex(f *testing.F) {
	start := goldenHeader().Start()
	preamble := encodeIndexPreamble(start)
	f.Add([]byte{})
	f.Add(appendIndexEntry(nil, start, newIndexFile(nil, "", start, 0).sum, goldenIndex()[0]))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := decodeIndex(append(bytes.Clone(preamble), data...), start)
		if err != nil || len(entries)*indexEntrySize > len(data) {
			t.Fatalf("%d entries of %d bytes, %v", len(entries), len(data), err)
		}
		for i := 1; i < len(entries); i++ {
			if a, b := entries[i-1], entries[i]; b.Position <= a.Position || b.Index <= a.Index || b.Offset < a.Offset || b.MaxTimestamp < a.MaxTimestamp {
				t.Fatalf("%+v after %+v", b, a)
			}
		}
		if _, err := decodeIndex(data, start); err == nil && len(data) < indexPreamble {
			t.Fatal("an index without a preamble is accepted")
		}
	})
}

// FuzzRecovery: whatever stands behind the synced frames of a segment, recovery
// neither panics nor takes one of them away.
func FuzzRecovery(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add(make([]byte, 100), uint8(1))
	for _, frame := range goldenFrames() {
		f.Add(frame, uint8(2))
	}
	f.Fuzz(func(t *testing.T, tail []byte, mode uint8) {
		s := newSegmentFixture(t, 1)
		s.write(t, s.batch(100, 1), s.batch(200, 2))
		end := s.w.End()
		if err := s.w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.disk.Corrupt(s.path(LogName(0)), end.Position, tail); err != nil {
			t.Fatal(err)
		}
		o := RecoverOptions{
			From:     Place{Index: end.Index, Offset: end.Offset, Position: end.Position, Term: end.Term},
			SameBoot: mode&1 != 0, CleanStop: mode&2 != 0,
		}
		w, report, err := Recover(s.disk, s.dir, s.header, o)
		if err != nil {
			return
		}
		defer w.Close()
		if w.End().Position < end.Position || w.End().Position > end.Position && report.Class == ClassClean && len(tail) == 0 {
			t.Fatalf("end %+v, was %+v; %+v", w.End(), end, report)
		}
	})
}
