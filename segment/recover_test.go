package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// segmentFixture is a segment on a disk in memory.
type segmentFixture struct {
	disk   *crashfs.FS
	dir    string
	header *FileHeader
	w      *Writer
	next   Cursor
	seed   byte
}

func newSegmentFixture(t testing.TB, seed int64) *segmentFixture {
	t.Helper()
	s := &segmentFixture{disk: crashfs.New(seed), dir: "/segment", header: &FileHeader{
		TopicID: TopicID{1}, BaseIndex: 1, RoundLimit: 16 << 10,
	}}
	if err := s.disk.MkdirAll(s.dir); err != nil {
		t.Fatal(err)
	}
	w, err := Create(s.disk, s.dir, s.header)
	if err != nil {
		t.Fatal(err)
	}
	s.w, s.next = w, s.header.Start()
	return s
}

func (s *segmentFixture) path(name string) string { return filepath.Join(s.dir, name) }

// batch is a frame of about size bytes, none of which is zero behind the header.
func (s *segmentFixture) batch(size int, term Term) []byte {
	s.seed++
	frame := Build([]Record{{Timestamp: int64(s.seed), Value: []byte(strings.Repeat(string(rune('a'+s.seed%26)), size))}}, BuildOptions{})
	return s.stamp(frame, term)
}

func (s *segmentFixture) stamp(frame []byte, term Term) []byte {
	Stamp(frame, s.next.Offset, term)
	h, _ := DecodeHeader(frame)
	s.next.Step(frame, h, nil)
	return frame
}

// write writes frames as one round.
func (s *segmentFixture) write(t testing.TB, frames ...[]byte) {
	t.Helper()
	if err := s.w.WriteRound(frames, 1); err != nil {
		t.Fatal(err)
	}
	if err := s.w.FlushIndex(); err != nil {
		t.Fatal(err)
	}
}

// scenario is a segment with a synced part, a last round, and damage.
type scenario struct {
	synced    []int // sizes of batches, each a round of its own
	round     []int // sizes of the batches of the last round
	damage    func(d *damager)
	sameBoot  bool
	cleanStop bool
	class     Class
	frames    int // left; the synced ones if zero
	detail    string
}

// damager changes the file of frames as it is on the disk.
type damager struct {
	t         testing.TB
	s         *segmentFixture
	positions []int64 // of the frames of the last round, and their end
}

func (d *damager) put(at int64, b []byte) {
	file, err := d.s.disk.Open(d.s.path(LogName(0)))
	if err == nil {
		_, err = file.WriteAt(b, at)
		err = errors.Join(err, file.Sync(), file.Close())
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// zero clears a range, as a sector that was not written is.
func (d *damager) zero(from, to int64) { d.put(from, make([]byte, to-from)) }

// sector is the nth sector boundary behind a position.
func sector(at int64, n int64) int64 {
	return (at+sectorSize-1)/sectorSize*sectorSize + (n-1)*sectorSize
}

func (d *damager) flip(at int64) {
	if err := d.s.disk.FlipBit(d.s.path(LogName(0)), at*8); err != nil {
		d.t.Fatal(err)
	}
}

func (d *damager) cut(at int64) {
	file, err := d.s.disk.Open(d.s.path(LogName(0)))
	if err == nil {
		err = errors.Join(file.Truncate(at), file.Sync(), file.Close())
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// scenarios are one row for each thing that a crash or a bad disk can leave.
var scenarios = map[string]scenario{
	"nothing happened": {
		round: []int{600, 700}, damage: func(*damager) {}, class: ClassClean, frames: 4},
	"zeros behind the last frame": {
		round: []int{600}, damage: func(d *damager) { d.zero(d.positions[1], d.positions[1]+9000) }, class: ClassClean, frames: 3},
	"round not written": {
		round: []int{600, 700}, damage: func(d *damager) { d.zero(d.positions[0], d.positions[2]) }, class: ClassClean, frames: 2},
	"length not written": {
		round: []int{3000}, damage: func(d *damager) { d.cut(d.positions[0]) }, class: ClassClean, frames: 2},
	"length written in part": {
		round: []int{3000}, damage: func(d *damager) { d.cut(d.positions[0] + 1000) }, class: ClassTorn, detail: "beyond the end"},
	"header written in part": {
		round: []int{3000}, damage: func(d *damager) { d.cut(d.positions[0] + 20) }, class: ClassTorn},
	"sector in the middle lost": {
		round: []int{3000}, damage: func(d *damager) { d.zero(sector(d.positions[0], 2), sector(d.positions[0], 3)) }, class: ClassTorn, detail: "checksum"},
	"all but the last sector lost": {
		round: []int{3000}, damage: func(d *damager) { d.zero(d.positions[0], sector(d.positions[1], 0)) }, class: ClassTorn},
	"first sector lost": {
		round: []int{3000}, damage: func(d *damager) { d.zero(d.positions[0], sector(d.positions[0], 1)) }, class: ClassTorn},
	"valid frames behind the hole": {
		round:  []int{600, 3000, 700},
		damage: func(d *damager) { d.zero(sector(d.positions[1], 2), sector(d.positions[1], 3)) }, class: ClassTorn, frames: 3},
	"rotten bit in the last round": {
		round: []int{3000}, damage: func(d *damager) { d.flip(d.positions[0] + 1500) }, class: ClassUncertain, detail: "checksum"},
	"rotten term in the last round": {
		round: []int{3000}, damage: func(d *damager) { d.put(d.positions[0]+atLeaderEpoch+3, []byte{0}) }, class: ClassUncertain, detail: "term"},
	"rotten offset in the last round": {
		round: []int{3000}, damage: func(d *damager) { d.flip(d.positions[0] + 7) }, class: ClassUncertain, detail: "base offset"},
	"rotten bit below an index entry": { // it is found by whoever reads there, and the last round is not to blame
		synced: []int{5000}, round: []int{3000}, damage: func(d *damager) { d.flip(300) }, class: ClassClean, frames: 2},
	"rotten offset below an index entry": {
		synced: []int{5000, 5000}, round: []int{3000}, damage: func(d *damager) { d.flip(7) }, class: ClassCorrupt},
	"hole below an index entry": {
		synced: []int{5000, 5000}, round: []int{3000}, damage: func(d *damager) { d.zero(0, 512) }, class: ClassCorrupt},
	"synced frames vanished": {
		synced: []int{5000, 5000}, damage: func(d *damager) { d.cut(5100) }, class: ClassCorrupt, detail: "was synced"},
	"bad frame more than a round before the end": {
		synced: []int{100}, round: []int{3900}, class: ClassCorrupt,
		damage: func(d *damager) {
			d.flip(d.positions[0] + 300)
			d.put(d.positions[1]+20_000, []byte{1})
		}},
	"killed in a write": {
		round: []int{3000}, sameBoot: true, damage: func(d *damager) { d.zero(sector(d.positions[0], 3), d.positions[1]) }, class: ClassTorn},
	"killed, hole in the middle": {
		round: []int{3000}, sameBoot: true, damage: func(d *damager) { d.zero(sector(d.positions[0], 2), sector(d.positions[0], 3)) }, class: ClassUncertain},
	"killed, rotten bit": {
		round: []int{3000}, sameBoot: true, damage: func(d *damager) { d.flip(d.positions[0] + 1500) }, class: ClassUncertain},
	"killed, rotten bit before other frames": {
		round: []int{3000, 500}, sameBoot: true, damage: func(d *damager) { d.flip(d.positions[0] + 1500) }, class: ClassCorrupt},
	"stopped, torn": {
		round: []int{3000}, cleanStop: true, damage: func(d *damager) { d.zero(sector(d.positions[0], 3), d.positions[1]) }, class: ClassCorrupt},
}

// TestRecovery runs the scenarios, each twice: recovery must be idempotent.
func TestRecovery(t *testing.T) {
	for name, c := range scenarios {
		t.Run(name, func(t *testing.T) { c.run(t) })
	}
}

func (c scenario) run(t *testing.T) {
	s := newSegmentFixture(t, 1)
	synced := c.synced
	if synced == nil {
		synced = []int{250, 333}
	}
	for _, size := range synced {
		s.write(t, s.batch(size, 1))
	}
	d := &damager{t: t, s: s}
	var frames [][]byte
	at := s.w.End().Position
	for _, size := range c.round {
		frame := s.batch(size, 2)
		frames = append(frames, frame)
		d.positions = append(d.positions, at)
		at += int64(len(frame))
	}
	d.positions = append(d.positions, at)
	if len(frames) > 0 {
		if err := s.w.WriteRound(frames, 1); err != nil { // its index entries are lost
			t.Fatal(err)
		}
	}
	if err := s.w.Close(); err != nil {
		t.Fatal(err)
	}
	c.damage(d)
	want := c.frames
	if want == 0 {
		want = len(synced)
	}
	for round := range 2 {
		class := c.class
		if round == 1 && class != ClassCorrupt {
			class = ClassClean
		}
		c.check(t, s, class, want)
	}
}

// check recovers the segment and compares what was found.
func (c scenario) check(t *testing.T, s *segmentFixture, class Class, want int) {
	t.Helper()
	trace := s.disk.Trace()
	visited := 0
	w, report, err := Recover(s.disk, s.dir, s.header, RecoverOptions{
		From: Place{Index: 1}, SameBoot: c.sameBoot, CleanStop: c.cleanStop,
		Visit: func(Visited) error { visited++; return nil },
	})
	events := trace.Stop()
	var damage *DamageError
	if class == ClassCorrupt {
		if !errors.As(err, &damage) || !strings.Contains(damage.Detail, c.detail) {
			t.Fatalf("error %v, must be damage: %s", err, c.detail)
		}
		for _, e := range events {
			if e.Op == crashfs.OpTruncate || e.Op == crashfs.OpWrite || e.Op == crashfs.OpRemove {
				t.Errorf("%v of %s: nothing may be changed", e.Op, e.Path)
			}
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if report.Class != class || visited != want || class != ClassClean && !strings.Contains(report.Detail, c.detail) {
		t.Fatalf("%+v with %d frames, must be %v with %d: %s", report, visited, class, want, c.detail)
	}
	if torn := s.files(t, TornSuffix); (len(torn) > 0) != (c.class == ClassUncertain) {
		t.Errorf("torn files %v", torn)
	}
	if err := onlyZerosBehind(w); err != nil {
		t.Error(err)
	}
}

func (s *segmentFixture) files(t testing.TB, suffix string) (found []string) {
	t.Helper()
	names, err := s.disk.List(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, suffix) {
			found = append(found, name)
		}
	}
	return found
}

// onlyZerosBehind checks the promise about what follows the last frame.
func onlyZerosBehind(w *Writer) error {
	size, err := w.File().Size()
	if err != nil {
		return err
	}
	filled, err := lastNonZero(w.File(), w.End().Position, size)
	if err == nil && filled != w.End().Position {
		err = fmt.Errorf("byte %d behind the last frame, at %d, is not zero", filled, w.End().Position)
	}
	return err
}

// TestTornIsKept: what an uncertain recovery cut is in the file beside it.
func TestTornIsKept(t *testing.T) {
	s := newSegmentFixture(t, 1)
	s.write(t, s.batch(100, 1))
	frame := s.batch(1000, 1)
	at := s.w.End().Position
	s.write(t, frame)
	_ = s.w.Close()
	(&damager{t: t, s: s}).flip(at + 500)
	w, report, err := Recover(s.disk, s.dir, s.header, RecoverOptions{From: Place{Index: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	file, err := s.disk.OpenReadOnly(s.path(tornName(0, at)))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	kept := make([]byte, report.Cut)
	if _, err := file.ReadAt(kept, 0); err != nil {
		t.Fatal(err)
	}
	frame[500] ^= 1
	if string(kept) != string(frame[:len(frame)-1]) { // it ends with a zero of its own
		t.Error("the torn file does not hold what was cut")
	}
}

// TestShortHole: the first bytes of a frame share a sector with the synced frame
// before it. Few zeros prove nothing, unless the base offset should be there.
func TestShortHole(t *testing.T) {
	for _, c := range []struct {
		base  Offset
		class Class
	}{{base: 0, class: ClassUncertain}, {base: 1 << 40, class: ClassTorn}} {
		s := newSegmentFixture(t, 1)
		s.header.BaseOffset = c.base
		w, err := Create(s.disk, s.dir, s.header)
		if c.base == 0 {
			w, err = s.w, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		s.w, s.next = w, s.header.Start()
		overhead := len(Build([]Record{{Value: make([]byte, 400)}}, BuildOptions{})) - 400
		first := s.batch(sectorSize-overhead-6, 1) // ends 6 bytes before the boundary
		second := s.batch(1000, 1)
		if len(first) != sectorSize-6 {
			t.Fatalf("%d bytes", len(first))
		}
		if c.base == 0 {
			binary.BigEndian.PutUint64(second, 1) // its first 6 bytes are zeros anyway
		}
		s.write(t, first, second)
		d := &damager{t: t, s: s}
		name := s.path(LogName(c.base))
		if err := s.disk.Corrupt(name, int64(len(first)), make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		if c.base == 0 {
			d.flip(int64(len(first)) + 300)
		}
		_ = s.w.Close()
		got, report, err := Recover(s.disk, s.dir, s.header, RecoverOptions{From: Place{Index: 1, Offset: c.base}})
		if err != nil {
			t.Fatal(err)
		}
		_ = got.Close()
		if report.Class != c.class {
			t.Errorf("base %d: %+v, must be %v", c.base, report, c.class)
		}
	}
}
