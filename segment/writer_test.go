package segment

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestRoundOrder: a round is written once and synced once, its index entry follows
// the sync and is not synced itself.
func TestRoundOrder(t *testing.T) {
	s := newSegmentFixture(t, 1)
	defer s.w.Close()
	s.write(t, s.batch(100, 1)) // reserves space
	trace := s.disk.Trace()
	s.write(t, s.batch(5000, 1), s.batch(5000, 1), s.batch(20, 1))
	var got []string
	for _, e := range trace.Stop() {
		got = append(got, e.Op.String()+" "+e.Path[strings.LastIndexByte(e.Path, '.'):])
	}
	want := []string{"preallocate .log", "write .log", "sync .log", "write .idx"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestPreallocation: space grows with what is there, is zeroed, and is given back.
func TestPreallocation(t *testing.T) {
	s := newSegmentFixture(t, 1)
	defer s.w.Close()
	size := func() int64 {
		n, err := s.w.File().Size()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if size() != 0 {
		t.Errorf("an empty segment has %d bytes", size())
	}
	s.write(t, s.batch(100, 1))
	if size() > 16<<10 {
		t.Errorf("a segment with one small batch has %d bytes", size())
	}
	grown, last := 0, size()
	for s.w.End().Position < 2<<20 {
		s.write(t, s.batch(10_000, 1))
		if size() != last {
			grown, last = grown+1, size()
		}
		if err := onlyZerosBehind(s.w); err != nil {
			t.Fatal(err)
		}
	}
	if spare := size() - s.w.End().Position; spare > allocationStep+allocationUnit || grown > 40 {
		t.Errorf("%d bytes spare after 2 MiB, grown %d times", spare, grown)
	}
	if err := s.w.Seal(); err != nil {
		t.Fatal(err)
	}
	if size() != s.w.End().Position {
		t.Errorf("a sealed segment has %d bytes, its frames %d", size(), s.w.End().Position)
	}
}

// TestRoundLimit: a larger round is written only after the header says so, durably.
func TestRoundLimit(t *testing.T) {
	s := newSegmentFixture(t, 1)
	s.write(t, s.batch(100, 1))
	trace := s.disk.Trace()
	s.write(t, s.batch(20_000, 1))
	raised, written := -1, -1
	for i, e := range trace.Stop() {
		switch {
		case e.Op == crashfs.OpSyncDir && raised < 0:
			raised = i
		case e.Op == crashfs.OpWrite && strings.HasSuffix(e.Path, ".log"):
			written = i
		}
	}
	if raised < 0 || written < raised {
		t.Errorf("header durable at call %d, frames written at %d", raised, written)
	}
	_ = s.w.Close()
	h, err := ReadHeader(s.disk, s.dir, 0)
	if err != nil || h.RoundLimit < 20_000 || h.RoundLimit >= 4*20_000 {
		t.Errorf("round limit %d, %v", h.RoundLimit, err)
	}
}

// TestIndexDensity: there is an entry for every 4 KiB or for each larger frame, and
// the index stays below 2% of the frames, whatever their size.
func TestIndexDensity(t *testing.T) {
	for _, size := range []int{1, 100, 1000, 1400, 2000, 2100, 4000, 5000, 100_000} {
		s := newSegmentFixture(t, 1)
		for s.w.End().Position < 400_000 {
			s.write(t, s.batch(size, 1))
		}
		frame := int64(size) + 80
		last := int64(0)
		for i := range s.w.index.Len() {
			e, err := s.w.index.at(i)
			if err != nil {
				t.Fatal(err)
			}
			if gap := e.Position - last; gap > indexInterval && gap > frame {
				t.Errorf("frames of %d bytes: %d bytes without an entry", size, gap)
			}
			last = e.Position
		}
		if index := int64(s.w.index.Len()) * indexEntrySize; index*50 > s.w.End().Position {
			t.Errorf("frames of %d bytes: an index of %d bytes for %d", size, index, s.w.End().Position)
		}
		_ = s.w.Close()
	}
}

// filled is a sealed segment of n batches and an internal frame after each tenth.
func filled(t *testing.T, n, size int) (*segmentFixture, [][]byte) {
	t.Helper()
	s := newSegmentFixture(t, 1)
	var frames [][]byte
	for i := range n {
		frames = append(frames, s.batch(size, 1))
		if i%10 == 9 {
			frames = append(frames, s.stamp(EncodeInternal(KindNoop, 0, nil), 1))
		}
	}
	for from := 0; from < len(frames); from += 7 {
		s.write(t, frames[from:min(from+7, len(frames))]...)
	}
	if err := s.w.Seal(); err != nil {
		t.Fatal(err)
	}
	s.header = s.w.Header()
	if err := s.w.Close(); err != nil {
		t.Fatal(err)
	}
	return s, frames
}

// TestLocate finds every frame by index, offset and position.
func TestLocate(t *testing.T) {
	s, frames := filled(t, 60, 700)
	r, err := OpenReader(s.disk, s.dir, s.header)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	at := s.header.Start()
	for _, frame := range frames {
		h, _ := DecodeHeader(frame)
		for what, locate := range map[string]func() (Cursor, Header, error){
			"index": func() (Cursor, Header, error) {
				return r.Locate(s.header.Seal.Length, func(e IndexEntry) bool { return e.Index <= at.Index },
					func(c Cursor, _ Header) bool { return c.Index == at.Index })
			},
			"position": func() (Cursor, Header, error) {
				return r.Locate(s.header.Seal.Length, func(e IndexEntry) bool { return e.Position <= at.Position },
					func(c Cursor, _ Header) bool { return c.Position >= at.Position })
			},
		} {
			c, got, err := locate()
			if err != nil || got != h || c.Position != at.Position || c.Index != at.Index || c.Chain != at.Chain || c.MaxTimestamp != at.MaxTimestamp {
				t.Fatalf("by %s: %+v, %+v, %v; must be %+v", what, c, got, err, at)
			}
		}
		at.Step(frame, h, nil)
	}
	_, _, err = r.Locate(s.header.Seal.Length, func(IndexEntry) bool { return true }, func(Cursor, Header) bool { return false })
	if !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %v", err)
	}
}

// TestIndexRebuilt: without its index, or with a damaged one, a sealed segment is
// read as before, and the index is there again, byte for byte.
func TestIndexRebuilt(t *testing.T) {
	s, _ := filled(t, 60, 700)
	name := s.path(IndexName(0))
	want, err := vfs.ReadFile(s.disk, name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for what, harm := range map[string]func() error{
		"missing":  func() error { return s.disk.Remove(name) },
		"shorter":  func() error { return vfs.WriteFile(s.disk, name, want[:len(want)-5]) },
		"preamble": func() error { return s.disk.FlipBit(name, 70) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		r, err := OpenReader(s.disk, s.dir, s.header)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		_ = r.Close()
		if got, err := vfs.ReadFile(s.disk, name, 1<<20); err != nil || string(got) != string(want) {
			t.Errorf("%s: another index, %v", what, err)
		}
	}
	// A bad entry in the middle is noticed when it is met; the frames answer.
	if err := s.disk.FlipBit(name, (indexPreamble+4*indexEntrySize)*8+3); err != nil {
		t.Fatal(err)
	}
	r, err := OpenReader(s.disk, s.dir, s.header)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := s.header.BaseIndex; i <= s.header.Seal.LastIndex; i++ {
		c, _, err := r.Locate(s.header.Seal.Length, func(e IndexEntry) bool { return e.Index <= i }, func(c Cursor, _ Header) bool { return c.Index == i })
		if err != nil || c.Index != i {
			t.Fatalf("index %d: %+v, %v", i, c, err)
		}
	}
}

// TestVerify: a piece is checked at the first read and again after an hour, not in
// between; the first internal frame of a range is found.
func TestVerify(t *testing.T) {
	s, frames := filled(t, 200, 20_000)
	r, err := OpenReader(s.disk, s.dir, s.header)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var checks Checks
	var boundaries []int64
	var internals []int64
	at := int64(0)
	for _, frame := range frames {
		boundaries = append(boundaries, at)
		if h, _ := DecodeHeader(frame); h.Kind() != KindRecords {
			internals = append(internals, at)
		}
		at += int64(len(frame))
	}
	now := time.Unix(1_000_000, 0)
	for i := 0; i < len(boundaries); i += 9 {
		for j := i + 1; j < len(boundaries); j += 31 {
			from, to := boundaries[i], boundaries[j]
			want := int64(math.MaxInt64)
			for _, at := range internals {
				if at >= from && at < to {
					want = min(want, at)
				}
			}
			got, found, err := r.Verify(&checks, from, to, now)
			if err != nil || found != (want != math.MaxInt64) || found && got.Position != want {
				t.Fatalf("from %d to %d: %+v, %v, %v; must be %d", from, to, got, found, err, want)
			}
		}
	}
	if err := s.disk.FlipBit(s.path(LogName(0)), (boundaries[100]+1000)*8); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Verify(&checks, boundaries[100], boundaries[101], now.Add(59*time.Minute)); err != nil {
		t.Errorf("checked again within the hour: %v", err)
	}
	_, _, err = r.Verify(&checks, boundaries[100], boundaries[101], now.Add(time.Hour))
	var damage *DamageError
	if !errors.As(err, &damage) || damage.Position != boundaries[100] {
		t.Errorf("after an hour: %v", err)
	}
}

// TestNames reads the names it writes and no others.
func TestNames(t *testing.T) {
	for _, base := range []Offset{0, 1, 70_000, math.MaxInt64} {
		for _, name := range []string{LogName(base), IndexName(base), HeaderName(base)} {
			if got, ok := ParseName(name); !ok || got != base {
				t.Errorf("%s: %d, %v", name, got, ok)
			}
		}
	}
	for _, name := range []string{"manifest", "0.log", "00000000000000000000", "00000000000000000000.log.tmp", "-0000000000000000000.log",
		"99999999999999999999.log", "00000000000000000000.torn"} {
		if _, ok := ParseName(name); ok {
			t.Errorf("%s is taken for a segment", name)
		}
	}
}
