package log

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestSeedGoesOnWithAnother: what was copied of one seed counts for a later one.
func TestSeedGoesOnWithAnother(t *testing.T) {
	l, all := sourceLog(t)
	first := openSeed(t, l, l.parts[2].index-1)
	disk := crashfs.New(6)
	o := replicaOptions(disk.Mount())
	s, err := OpenStaging(o, *first.Seed())
	must(t, err)
	for more := true; more; {
		more, err = copyNext(s, first, 3000)
		must(t, err)
	}
	must(t, s.Close())
	second := openSeed(t, l, 0)
	s, err = OpenStaging(o, *second.Seed())
	must(t, err)
	if want := first.Seed().Bytes() - first.Seed().Files[4].Size; s.Kept() != want {
		t.Errorf("%d bytes kept of %d", s.Kept(), want)
	}
	must(t, s.Close())
	must(t, copySeed(o, second, 3000))
	r := open(t, o)
	must(t, checkSeeded(r, l, second.Seed(), all))
	must(t, r.Close())
}

// otherSource is the log of another history of the same partition, whose segments have
// the same first offsets and sizes.
func otherSource(t *testing.T, first uint64, sizes ...int) (*Log, []stored) {
	t.Helper()
	l := create(t, smallOptions(crashfs.New(1).Mount()))
	t.Cleanup(func() { _ = l.Close() })
	var all []stored
	for i, size := range sizes {
		all = append(all, mustAppend(t, l, batchOfRecords(1, 1, size, first+uint64(i), 0))...)
	}
	if _, err := l.Apply(l.LastIndex()); err != nil {
		t.Fatal(err)
	}
	return l, all
}

// TestSeedOfAnotherHistory: what was staged counts only for a seed with the same
// checksums, whole segments and the beginning of one.
func TestSeedOfAnotherHistory(t *testing.T) {
	sizes := []int{2000, 2000, 2000, 2000, 2000, 2000, 2000, 2000, 2000, 2000}
	first, _ := otherSource(t, 1, sizes...)
	second, all := otherSource(t, 100, sizes...)
	a, b := openSeed(t, first, 0), openSeed(t, second, 0)
	for writes := range 14 { // into the third segment
		o := replicaOptions(crashfs.New(7).Mount())
		s, err := OpenStaging(o, *a.Seed())
		must(t, err)
		for range writes {
			_, err := copyNext(s, a, 2500)
			must(t, err)
		}
		must(t, s.Close())
		err = copySeed(o, b, 2500)
		if errors.Is(err, ErrSeedDamaged) { // of a segment whose beginning was there
			err = copySeed(o, b, 2500)
		}
		must(t, err)
		r := open(t, o)
		must(t, checkInvariants(r, all[:b.Seed().Index]))
		must(t, r.Close())
	}
}

// TestStagingHoldsAnything: files in the staging folder that no seeding leaves there do
// no harm.
func TestStagingHoldsAnything(t *testing.T) {
	l, all := sourceLog(t)
	source := openSeed(t, l, 0)
	base := source.Seed().Files[2].Base
	for name, harm := range map[string]func(d *crashfs.FS, folder string) error{
		"garbage frames": func(d *crashfs.FS, folder string) error {
			return errors.Join(d.Remove(folder+segment.HeaderName(base)), vfs.WriteFile(d, folder+segment.LogName(base), make([]byte, 20_000)))
		},
		"frames missing": func(d *crashfs.FS, folder string) error { return d.Remove(folder + segment.LogName(base)) },
		"index missing":  func(d *crashfs.FS, folder string) error { return d.Remove(folder + segment.IndexName(base)) },
		"header rotten":  func(d *crashfs.FS, folder string) error { return d.FlipBit(folder+segment.HeaderName(base), 300) },
		"others": func(d *crashfs.FS, folder string) error {
			return vfs.WriteFile(d, folder+segment.LogName(7777), []byte("x"))
		},
		"a checkpoint": func(d *crashfs.FS, folder string) error { return vfs.WriteFile(d, folder+checkpointName, []byte("x")) },
	} {
		disk := crashfs.New(8)
		o := replicaOptions(disk.Mount())
		s, err := OpenStaging(o, *source.Seed())
		must(t, err)
		for more := true; more; {
			more, err = copyNext(s, source, 3000)
			must(t, err)
		}
		must(t, s.Close())
		must(t, harm(disk, testDir+"/"+stagingName+"/"))
		if err := copySeed(o, source, 3000); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r, err := Open(o)
		if err == nil {
			err = errors.Join(checkSeeded(r, l, source.Seed(), all), r.Close())
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// TestSeedWithHoles: a description that leaves a segment out, in the middle or at its
// end, is refused, though all its files are good.
func TestSeedWithHoles(t *testing.T) {
	l, _ := sourceLog(t)
	source := openSeed(t, l, 0)
	whole := source.Seed()
	n := len(whole.Files)
	for name, keep := range map[string][]int{
		"middle": append([]int{0, 1}, numbers(4, n)...), "end": append(numbers(0, n-3), n-1),
	} {
		seed := *whole
		seed.Files = nil
		for _, i := range keep {
			seed.Files = append(seed.Files, whole.Files[i])
		}
		if name == "end" {
			end := l.parts[(n-3)/2].index - 1
			info, err := l.Info(end)
			must(t, err)
			seed.Index, seed.Term = end, info.Term
		}
		s, err := OpenStaging(replicaOptions(crashfs.New(1).Mount()), seed)
		must(t, err)
		for more := true; more && err == nil; {
			file, at, lacks, more := s.Next()
			if !more {
				break
			}
			b := make([]byte, lacks)
			_, err = source.ReadAt(keep[file], b, at)
			must(t, err)
			err = s.Write(b)
		}
		if !errors.Is(err, ErrSeedDamaged) {
			t.Errorf("a seed without its %s: %v", name, err)
		}
		must(t, s.Close())
	}
}

func numbers(from, to int) []int {
	var list []int
	for i := from; i < to; i++ {
		list = append(list, i)
	}
	return list
}

// TestSeedEndsWithSmallRounds: the segment behind the seed begins with the least round
// limit, however large the rounds of its source are, so that a recovery takes as few
// bytes as can be for unfinished.
func TestSeedEndsWithSmallRounds(t *testing.T) {
	l, _ := otherSource(t, 1, 7000, 7000, 7000)
	source := openSeed(t, l, 0)
	if h, err := segment.ReadHeader(l.options.FS, testDir, 2); err != nil || h.RoundLimit <= segment.MinRoundLimit {
		t.Fatalf("round limit of the source: %+v, %v", h, err)
	}
	o := replicaOptions(crashfs.New(1).Mount())
	must(t, copySeed(o, source, 3000))
	h, err := segment.ReadHeader(o.FS, testDir, 2)
	if err != nil || h.RoundLimit != segment.MinRoundLimit || h.Seal != nil {
		t.Errorf("header behind the seed: %+v, %v", h, err)
	}
}

// TestStagingRefuses: other partitions, other replicas, seeds that cannot be.
func TestStagingRefuses(t *testing.T) {
	l, all := sourceLog(t)
	seed := *openSeed(t, l, 0).Seed()
	for name, change := range map[string]func(*Seed){
		"topic":       func(s *Seed) { s.TopicID[0]++ },
		"partition":   func(s *Seed) { s.Partition++ },
		"no files":    func(s *Seed) { s.Files = nil },
		"even files":  func(s *Seed) { s.Files = s.Files[1:] },
		"kinds":       func(s *Seed) { s.Files[1].Kind = SeedHeader },
		"empty":       func(s *Seed) { s.Files[1].Size = 0 },
		"large":       func(s *Seed) { s.Files[0].Size = segment.MaxMetadataSize + 1 },
		"bases":       func(s *Seed) { s.Files[2].Base = s.Files[0].Base },
		"other bases": func(s *Seed) { s.Files[1].Base++ },
		"start":       func(s *Seed) { s.Start = 1 << 40 },
		"index":       func(s *Seed) { s.Index = 0 },
		"term":        func(s *Seed) { s.Term = segment.MaxTerm + 1 },
	} {
		bad := seed
		bad.Files = append([]SeedFile(nil), seed.Files...)
		change(&bad)
		if _, err := OpenStaging(replicaOptions(crashfs.New(1).Mount()), bad); !errors.Is(err, ErrSeedDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	disk := crashfs.New(1)
	ownLog(t, disk, all)
	o := replicaOptions(disk.Mount())
	o.Identity.Incarnation++
	if _, err := OpenStaging(o, seed); err == nil {
		t.Error("a seed for another replica than the folder's")
	}
	for name, change := range map[string]func(*Seed){
		"index": func(s *Seed) { s.Index++ }, "term": func(s *Seed) { s.Term++ },
		"header's checksum": func(s *Seed) { s.Files[2].Sum++ }, "frames' checksum": func(s *Seed) { s.Files[3].Sum++ },
	} {
		bad := seed
		bad.Files = append([]SeedFile(nil), seed.Files...)
		change(&bad)
		if err := copyAs(l, bad); !errors.Is(err, ErrSeedDamaged) {
			t.Errorf("a seed with another %s: %v", name, err)
		}
	}
	s, err := OpenStaging(replicaOptions(disk.Mount()), seed)
	must(t, err)
	if err := s.Write(make([]byte, seed.Files[0].Size+1)); !errors.Is(err, ErrSeedDamaged) {
		t.Errorf("more bytes than the file has: %v", err)
	}
	if err := s.Switch(); err == nil {
		t.Error("switched to an incomplete seed")
	}
	must(t, s.Close())
}

// copyAs copies a log's newest seed under another description.
func copyAs(l *Log, seed Seed) error {
	source, err := l.OpenSeed(0)
	if err != nil {
		return err
	}
	s, err := OpenStaging(replicaOptions(crashfs.New(1).Mount()), seed)
	if err != nil {
		return err
	}
	defer s.Close()
	for more := true; more && err == nil; {
		more, err = copyNext(s, source, 3000)
	}
	return err
}

func goldenSwitch() *manifest {
	m := goldenManifest()
	m.switching = true
	return m
}

func TestGoldenSwitch(t *testing.T) {
	data := golden(t, "manifest-switching", wrapSwitch(goldenSwitch()))
	got, err := unwrapSwitch(data)
	must(t, err)
	if diff := cmp.Diff(goldenSwitch(), got, cmp.AllowUnexported(manifest{}, segmentRef{})); diff != "" {
		t.Error(diff)
	}
	damaged(t, data, func(b []byte) error { _, err := unwrapSwitch(b); return err })
	if _, err := decodeManifest(data); err == nil {
		t.Error("taken for a manifest whose files are at their places")
	}
}

// FuzzSwitch: no manifest of a switch makes the decoder panic, and what it accepts is
// what is written.
func FuzzSwitch(f *testing.F) {
	f.Add(wrapSwitch(goldenSwitch()))
	f.Add(goldenManifest().encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, b := range [][]byte{data, segment.Wrap(segment.FormatSwitch1, data)} {
			m, err := unwrapSwitch(b)
			if err == nil && !bytes.Equal(wrapSwitch(m), b) {
				t.Errorf("%x is read as %+v", b, m)
			}
		}
	})
}
