package segment

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestRecoverWritesAgain: what is not proven synced is written once more before it
// is synced, and what is proven, or was released, is not touched.
func TestRecoverWritesAgain(t *testing.T) {
	for name, c := range map[string]struct {
		from      func(middle Cursor) Place
		indexed   bool
		cleanStop bool
		want      func(middle, end Cursor) (from, to int64)
	}{
		"everything":         {from: start, want: func(_, end Cursor) (int64, int64) { return 0, end.Position }},
		"behind the index":   {from: start, indexed: true, want: func(m, end Cursor) (int64, int64) { return m.Position, end.Position }},
		"behind the place":   {from: at, want: func(m, end Cursor) (int64, int64) { return m.Position, end.Position }},
		"after a clean stop": {from: start, cleanStop: true, want: func(Cursor, Cursor) (int64, int64) { return 0, 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSegmentFixture(t, 1)
			if err := s.w.WriteRound([][]byte{s.batch(300_000, 1), s.batch(5000, 1)}, 1); err != nil {
				t.Fatal(err)
			}
			if c.indexed {
				if err := s.w.FlushIndex(); err != nil {
					t.Fatal(err)
				}
			}
			middle := s.w.End()
			for range 3 {
				if err := s.w.WriteRound([][]byte{s.batch(400, 2)}, 1); err != nil {
					t.Fatal(err)
				}
			}
			end := s.w.End()
			_ = s.w.Close()
			trace := s.disk.Trace()
			w, _, err := Recover(s.disk, s.dir, s.header, RecoverOptions{From: c.from(middle), CleanStop: c.cleanStop})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			from, to := c.want(middle, end)
			synced := false
			for _, e := range trace.Stop() {
				switch {
				case e.Op == crashfs.OpWrite && strings.HasSuffix(e.Path, logSuffix):
					if e.Offset != from || synced {
						t.Errorf("written at byte %d, must be %d; synced before: %v", e.Offset, from, synced)
					}
					from += e.Length
				case e.Op == crashfs.OpSync && strings.HasSuffix(e.Path, logSuffix):
					synced = true
				case e.Op == crashfs.OpWrite && strings.HasSuffix(e.Path, indexSuffix) && !synced:
					t.Error("an index entry was written before its data was synced")
				}
			}
			if from != to || !synced {
				t.Errorf("written up to byte %d, must be %d; synced: %v", from, to, synced)
			}
		})
	}
}

// start and at are where a recovery begins: at the first frame, or at a checkpoint.
func start(Cursor) Place { return Place{Index: 1} }

func at(c Cursor) Place {
	return Place{Index: c.Index, Offset: c.Offset, Position: c.Position, Term: c.Term}
}

// TestRecoverWritesOnlyWhatItChecked: the kernel has dropped a page since the
// recovery read it, and has an older one from the disk. It is not written back, and
// nobody may count what was read.
func TestRecoverWritesOnlyWhatItChecked(t *testing.T) {
	for name, damage := range map[string]func(s *segmentFixture, frame []byte) error{
		"zeros": func(s *segmentFixture, frame []byte) error {
			return s.disk.Corrupt(s.path(LogName(0)), sectorSize, make([]byte, sectorSize))
		},
		"an older frame": func(s *segmentFixture, frame []byte) error {
			return s.disk.Corrupt(s.path(LogName(0)), 0, frame)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSegmentFixture(t, 1)
			older := s.stamp(Build([]Record{{Value: []byte(strings.Repeat("o", 1400))}}, BuildOptions{}), 1)
			s.next = s.header.Start()
			s.write(t, s.stamp(Build([]Record{{Value: []byte(strings.Repeat("n", 1400))}}, BuildOptions{}), 1))
			_ = s.w.Close()
			var trace *crashfs.Trace
			_, _, err := Recover(s.disk, s.dir, s.header, RecoverOptions{
				From: Place{Index: 1},
				Before: func() error {
					trace = s.disk.Trace()
					return damage(s, older)
				},
			})
			var corrupt *DamageError
			if err == nil || errors.As(err, &corrupt) {
				t.Errorf("error %v", err)
			}
			for _, e := range trace.Stop() {
				if strings.HasSuffix(e.Path, logSuffix) && e.Op.String() != "read" && e.Op != crashfs.OpClose {
					t.Errorf("%v of the frames", e.Op)
				}
			}
		})
	}
}
