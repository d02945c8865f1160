package log

import (
	"errors"
	"io"
	"testing"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestOpenSeed: seeds end at applied ends of sealed segments.
func TestOpenSeed(t *testing.T) {
	empty := create(t, smallOptions(crashfs.New(1).Mount()))
	if _, err := empty.OpenSeed(0); !errors.Is(err, ErrNotFound) {
		t.Errorf("seed of an empty log: %v", err)
	}
	must(t, empty.Close())
	if _, err := empty.OpenSeed(0); !errors.Is(err, ErrClosed) {
		t.Errorf("seed of a closed log: %v", err)
	}

	l := create(t, smallOptions(crashfs.New(1).Mount()))
	defer l.Close()
	for i := range 24 {
		mustAppend(t, l, batchOfRecords(1, 1, 2000, uint64(i), 0))
	}
	ends := map[segment.Index]bool{}
	for _, p := range l.parts[1:] {
		ends[p.index-1] = true
	}
	if len(ends) < 3 {
		t.Fatalf("only %d segments", len(l.parts))
	}
	for applied := segment.Index(1); applied <= 24; applied++ {
		_, err := l.Apply(applied)
		must(t, err)
		newest := segment.Index(0)
		for at := segment.Index(1); at <= 24; at++ {
			source, err := l.OpenSeed(at)
			if ok := ends[at] && at <= applied; ok != (err == nil) || !ok && !errors.Is(err, ErrNotFound) {
				t.Fatalf("applied %d, seed up to %d: %v", applied, at, err)
			}
			if err == nil {
				newest = at
				must(t, source.Seed().Check())
			}
		}
		if source, err := l.OpenSeed(0); newest > 0 && (err != nil || source.Seed().Index != newest) {
			t.Fatalf("applied %d, the newest ends at %d: %v", applied, newest, err)
		}
	}
}

// TestSeedSourceReads: a file is read as it was described, to its end; one that a cut
// has changed is refused.
func TestSeedSourceReads(t *testing.T) {
	l := create(t, smallOptions(crashfs.New(1).Mount()))
	defer l.Close()
	for i := range 9 {
		mustAppend(t, l, batchOfRecords(1, 1, 2000, uint64(i), 0))
	}
	end := l.parts[2].index - 1
	_, err := l.Apply(end)
	must(t, err)
	source := openSeed(t, l, end)
	files := source.Seed().Files
	b := make([]byte, 10)
	for n, f := range files {
		if got, err := source.ReadAt(n, b, f.Size-4); got != 4 || err != io.EOF {
			t.Errorf("file %d: %d bytes at the end, %v", n, got, err)
		}
		if got, err := source.ReadAt(n, b, f.Size-10); got != 10 || err != nil {
			t.Errorf("file %d: %d bytes before the end, %v", n, got, err)
		}
		for _, at := range []int64{f.Size, 1 << 40} {
			if got, err := source.ReadAt(n, b, at); got != 0 || err != io.EOF {
				t.Errorf("file %d: %d bytes at %d, %v", n, got, at, err)
			}
		}
	}
	for _, bad := range []struct {
		file int
		at   int64
	}{{-1, 0}, {len(files), 0}, {0, -1}} {
		if _, err := source.ReadAt(bad.file, b, bad.at); !errors.Is(err, ErrNotFound) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	// What follows is cut, and the last segment of the seed is written to again.
	must(t, l.CutFrom(end+1))
	mustAppend(t, l, batchOfRecords(2, 1, 10, 50, 0))
	if _, err := source.ReadAt(2, b, 0); !errors.Is(err, ErrSeedChanged) {
		t.Errorf("header of a segment that was opened again: %v", err)
	}
	if _, err := source.ReadAt(3, b, 0); err != nil {
		t.Errorf("its frames: %v", err)
	}
	if _, err := l.OpenSeed(end); !errors.Is(err, ErrNotFound) {
		t.Errorf("a seed that ends in an open segment: %v", err)
	}
}

// TestSeedStart: the log start of a seed is the log's, but not behind the seed's end,
// where a later trim may have moved it.
func TestSeedStart(t *testing.T) {
	l, _ := sourceLog(t)
	end := openSeed(t, l, 0).Seed().Files
	last := end[len(end)-1].Base
	for _, start := range []segment.Offset{0, 5, last, last + 1, l.HighWatermark()} {
		l.start = start
		seed := openSeed(t, l, 0).Seed()
		if want := min(start, last); seed.Start != want {
			t.Errorf("log start %d: the seed's is %d", start, seed.Start)
		}
	}
}

// TestSeedOfTrimmedLog: a trim takes files away under a seed that is read, which says
// so; what was copied of the rest counts for the next one, and the replica begins
// where its source does.
func TestSeedOfTrimmedLog(t *testing.T) {
	l := create(t, smallOptions(crashfs.New(1).Mount()))
	defer l.Close()
	var all []stored
	for i := range 24 {
		all = append(all, mustAppend(t, l, batchOfRecords(1, 1, 1900, uint64(i), int64(i)))...)
	}
	_, err := l.Apply(24)
	must(t, err)
	before := openSeed(t, l, 0)
	o := replicaOptions(crashfs.New(2).Mount())
	s, err := OpenStaging(o, *before.Seed())
	must(t, err)
	for file := 0; file < 8; file, _, _, _ = s.Next() {
		_, err := copyNext(s, before, 3000)
		must(t, err)
	}
	must(t, s.Close())

	all = append(all, mustAppend(t, l, trimDraft(1, 10, 24))...)
	_, err = l.Apply(25)
	must(t, err)
	must(t, l.Reclaim())
	for _, file := range []int{0, 1} {
		if _, err := before.ReadAt(file, make([]byte, 10), 0); !errors.Is(err, ErrSeedChanged) {
			t.Errorf("file %d of a trimmed segment: %v", file, err)
		}
	}
	after := openSeed(t, l, 0)
	seed := after.Seed()
	if seed.Start != 10 || seed.Files[0].Base != 8 {
		t.Fatalf("the seed of a trimmed log begins with segment %d, start %d", seed.Files[0].Base, seed.Start)
	}
	s, err = OpenStaging(o, *seed)
	must(t, err)
	if s.Kept() == 0 {
		t.Error("nothing of the seed before the trim was kept")
	}
	must(t, s.Close())
	must(t, copySeed(o, after, 3000))
	r := open(t, o)
	defer r.Close()
	if r.FirstIndex() != l.FirstIndex() || r.StartOffset() != 10 {
		t.Errorf("the replica begins with entry %d, start %d; its source with %d", r.FirstIndex(), r.StartOffset(), l.FirstIndex())
	}
	must(t, checkInvariants(r, all[r.FirstIndex()-1:seed.Index]))
}

// TestSeedOfALogWithoutSealedSegments: where a trim has left the last segment alone, the
// seed is its header: the replica begins there, with the state as of the base.
func TestSeedOfALogWithoutSealedSegments(t *testing.T) {
	l := create(t, smallOptions(crashfs.New(1).Mount()))
	defer l.Close()
	for i := range 24 {
		mustAppend(t, l, batchOfRecords(1, 1, 1900, uint64(i), int64(i)))
	}
	_, err := l.Apply(24)
	must(t, err)
	mustAppend(t, l, trimDraft(1, l.HighWatermark(), 24))
	_, err = l.Apply(25)
	must(t, err)
	must(t, l.Reclaim())
	if len(l.parts) != 1 {
		t.Fatalf("%d segments are left", len(l.parts))
	}
	base := l.FirstIndex() - 1
	source := openSeed(t, l, 0)
	index, term, found := l.SeedEnd()
	if seed := source.Seed(); seed.Index != base || len(seed.Files) != 1 || !found || index != base || term != seed.Term {
		t.Fatalf("base %d, seed %+v, end %d of term %d, %v", base, seed, index, term, found)
	}
	for _, own := range []bool{false, true} {
		o := replicaOptions(crashfs.New(2).Mount())
		if own {
			r, err := Create(o)
			must(t, err)
			mustAppend(t, r, batchOfRecords(1, 1, 1900, 0, 0))
			must(t, r.Close())
		}
		must(t, copySeed(o, source, 3000))
		r := open(t, o)
		c := r.Checkpoint()
		if r.FirstIndex() != base+1 || r.LastIndex() != base || r.LastTerm() != term || c.Index != base || r.HighWatermark() != r.NextOffset() || r.StartOffset() != r.NextOffset() {
			t.Errorf("own log %v: entries %d to %d of term %d, checkpoint %+v, records %d to %d", own, r.FirstIndex(), r.LastIndex(), r.LastTerm(), c, r.StartOffset(), r.NextOffset())
		}
		frames, entries, err := l.ReadEntries(base+1, 100, 1<<20)
		must(t, err)
		for _, e := range entries {
			mustAppend(t, r, draft{term: e.Term, kind: e.Kind, frame: frames[:e.Size]})
			frames = frames[e.Size:]
		}
		if r.NextOffset() != l.NextOffset() || r.LastIndex() != l.LastIndex() {
			t.Errorf("own log %v: it ends with entry %d at offset %d", own, r.LastIndex(), r.NextOffset())
		}
		must(t, r.Close())
	}

	short := create(t, smallOptions(crashfs.New(1).Mount()))
	if _, _, found := short.SeedEnd(); found {
		t.Error("a log that was never trimmed and has nothing sealed gives a seed")
	}
	must(t, short.Close())
	if _, _, found := l.SeedEnd(); !found {
		t.Error("no seed")
	}
}
