package log

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// sourceLog is a log of several segments with all kinds of entries, applied up to the
// last but two, and its entries.
func sourceLog(t testing.TB) (*Log, []stored) {
	t.Helper()
	l := create(t, smallOptions(crashfs.New(1).Mount()))
	t.Cleanup(func() { _ = l.Close() })
	var all []stored
	for i := range 22 {
		term := segment.Term(1 + i/6)
		all = append(all, mustAppend(t, l,
			batchOfRecords(term, 2, 900, uint64(i), int64(i)*1000),
			producerBatch(term, 7, 0, int32(i*3), 3),
			internalFrame(term, segment.KindConfiguration, fmt.Sprintf("configuration %d", i)))...)
	}
	if _, err := l.Apply(l.LastIndex() - 2); err != nil {
		t.Fatal(err)
	}
	return l, all
}

// replicaOptions are those of another replica of the same partition.
func replicaOptions(fsys vfs.FS) Options {
	o := smallOptions(fsys)
	o.Identity.Incarnation = 0xbeef
	return o
}

// copyNext writes the next bytes of a seed, at most chunk.
func copyNext(s *Staging, source *SeedSource, chunk int64) (more bool, err error) {
	file, at, lacks, more := s.Next()
	if !more {
		return false, nil
	}
	if lacks <= 0 {
		return true, fmt.Errorf("%d bytes are asked for at byte %d of file %d", lacks, at, file)
	}
	b := make([]byte, min(chunk, lacks))
	if n, err := source.ReadAt(file, b, at); n < len(b) {
		return true, err
	}
	return true, s.Write(b)
}

// copySeed copies a seed, and switches to it.
func copySeed(o Options, source *SeedSource, chunk int64) error {
	s, err := OpenStaging(o, *source.Seed())
	if err != nil {
		return err
	}
	for more := true; more; {
		if more, err = copyNext(s, source, chunk); err != nil {
			return errors.Join(err, s.Close())
		}
	}
	return s.Switch()
}

func openSeed(t testing.TB, l *Log, at segment.Index) *SeedSource {
	t.Helper()
	source, err := l.OpenSeed(at)
	must(t, err)
	return source
}

// ownLog is a replica that has a log of its own: it begins like the source's, goes
// on otherwise, with segments of the same names and others, and is applied to an
// entry of both.
func ownLog(t testing.TB, disk *crashfs.FS, all []stored) []stored {
	t.Helper()
	l := create(t, replicaOptions(disk.Mount()))
	var own []stored
	for _, e := range all[:4] {
		own = append(own, mustAppend(t, l, draft{term: e.term, kind: e.kind, frame: e.frame})...)
	}
	for i := range 30 {
		own = append(own, mustAppend(t, l, batchOfRecords(2, 2, 900, uint64(100+i), 0))...)
	}
	if _, err := l.Apply(3); err != nil {
		t.Fatal(err)
	}
	must(t, l.Close())
	return own
}

// checkSeeded compares a seeded replica with its source.
func checkSeeded(l, source *Log, seed *Seed, all []stored) error {
	if err := checkInvariants(l, all[:seed.Index]); err != nil {
		return err
	}
	if got := l.Identity().Incarnation; got != 0xbeef {
		return fmt.Errorf("incarnation %x", got)
	}
	c := l.Checkpoint()
	want := Checkpoint{Index: seed.Index, Term: seed.Term, HighWatermark: all[seed.Index-1].next}
	for i, e := range all[:seed.Index] {
		if e.kind == segment.KindConfiguration {
			_, content, _ := segment.DecodeInternal(e.frame)
			want.Configuration, want.ConfigurationIndex = content, segment.Index(i+1)
		}
	}
	if diff := cmp.Diff(want, c); diff != "" {
		return fmt.Errorf("checkpoint: %s", diff)
	}
	for term := segment.Term(1); term <= seed.Term; term++ {
		ours, theirs := l.terms[:min(int(term), len(l.terms))], source.terms[:term]
		if diff := cmp.Diff(theirs, ours); diff != "" {
			return fmt.Errorf("terms: %s", diff)
		}
	}
	return nil
}

// TestSeededReplica: a replica that is new, or has a log of its own, has the source's
// entries up to S after the switch, its state as of S, and takes the entries behind
// S; and so after power cuts.
func TestSeededReplica(t *testing.T) {
	l, all := sourceLog(t)
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("own log %v", own), func(t *testing.T) {
			disk := crashfs.New(2)
			if own {
				ownLog(t, disk, all)
			}
			source := openSeed(t, l, 0)
			must(t, copySeed(replicaOptions(disk.Mount()), source, 1000))
			for range 2 {
				disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
				r := open(t, replicaOptions(disk.Mount()))
				must(t, checkSeeded(r, l, source.Seed(), all))
				must(t, r.Close())
			}
			if found := names(t, disk.Mount(), stagingName); len(found) != 0 {
				t.Errorf("left over: %v", found)
			}
			r := open(t, replicaOptions(disk.Mount()))
			defer r.Close()
			a := r.Begin()
			last := segment.BatchSpan{}
			for _, e := range all[:source.Seed().Index] {
				if h, err := segment.DecodeHeader(e.frame); err == nil && h.ProducerID == 7 {
					last = segment.BatchSpan{First: h.BaseSequence, Base: e.base}
				}
			}
			again := producerBatch(4, 7, 0, last.First, 3)
			h, err := segment.DecodeHeader(again.frame)
			must(t, err)
			if v := a.Judge(h); v.Outcome != Duplicate || v.Offset != last.Base {
				t.Errorf("the last batch of a producer is judged %+v, its first copy is at %d", v, last.Base)
			}
			a.Abort()
			var rest []draft
			for _, e := range all[source.Seed().Index:] {
				rest = append(rest, draft{term: e.term, kind: e.kind, frame: e.frame})
			}
			mustAppend(t, r, rest...)
			must(t, checkInvariants(r, all))
		})
	}
}

// TestSeedResumes: a copy that is given up and begun again after each write goes on
// where it was: behind the last whole frame.
func TestSeedResumes(t *testing.T) {
	l, all := sourceLog(t)
	source := openSeed(t, l, 0)
	total := source.Seed().Bytes()
	for _, chunk := range []int64{1, 700, 4096, 5000} {
		disk := crashfs.New(3)
		o := replicaOptions(disk.Mount())
		read, stuck := int64(0), int64(chunk)
		for kept := int64(-1); ; {
			s, err := OpenStaging(o, *source.Seed())
			must(t, err)
			// Headers are read again each time; enough for one and a frame.
			for n, more := int64(0), true; n < 4000+stuck && more; n += chunk {
				before := s.at
				if more, err = copyNext(s, source, chunk); err != nil {
					t.Fatal(err)
				}
				if more && s.at > before {
					read += s.at - before
				}
			}
			if _, _, _, more := s.Next(); !more {
				must(t, s.Switch())
				break
			}
			must(t, s.Close())
			if s.Kept() <= kept {
				t.Fatalf("chunk %d: %d bytes kept, and %d before", chunk, s.Kept(), kept)
			}
			kept = s.Kept()
			if chunk == 700 { // the power goes as well
				disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepEverything})
				o = replicaOptions(disk.Mount())
			}
		}
		if read > 6*total {
			t.Errorf("chunk %d: %d bytes read of %d", chunk, read, total)
		}
		r := open(t, o)
		must(t, checkSeeded(r, l, source.Seed(), all))
		must(t, r.Close())
	}
}

// TestSeedCrashes crashes at each change of the disk, before or after it is made, of a
// copy and its switch. The replica then has its old log (or none), or the new one,
// and the copy can be gone on with, or thrown away.
func TestSeedCrashes(t *testing.T) {
	l, all := sourceLog(t)
	source := openSeed(t, l, l.parts[2].index-1)
	for _, own := range []bool{false, true} {
		for nth := 1; ; nth++ {
			fired := false
			for seed := range int64(6) {
				fired = crashInSeed(t, l, source, all, own, nth, seed) || fired
			}
			if !fired {
				if nth < 40 {
					t.Errorf("only %d changes", nth)
				}
				break
			}
		}
	}
}

func crashInSeed(t *testing.T, l *Log, source *SeedSource, all []stored, own bool, nth int, seed int64) (fired bool) {
	t.Helper()
	disk := crashfs.New(seed)
	var old []stored
	if own {
		old = ownLog(t, disk, all)
	}
	crash := func() {
		disk.Crash(crashfs.CrashOptions{Keep: []crashfs.Keep{crashfs.KeepRandom, crashfs.KeepNothing, crashfs.KeepEverything}[seed%3]})
	}
	fault := crashfs.Fault{Op: crashfs.OpChange, Nth: nth, Do: crash}
	if seed >= 3 {
		fault.Do, fault.After = nil, crash
	}
	injected := disk.Inject(fault)
	err := copySeed(replicaOptions(disk.Mount()), source, 3000)
	fired = injected.Fired() > 0
	injected.Remove()
	where := fmt.Sprintf("own %v, change %d, seed %d", own, nth, seed)
	if !fired {
		must(t, err)
	}
	if fired != errors.Is(err, crashfs.ErrCrashed) {
		t.Fatalf("%s: %v", where, err)
	}
	r, err := Open(replicaOptions(disk.Mount()))
	switch {
	case err == nil && r.Checkpoint().Index == source.Seed().Index:
		err = errors.Join(checkSeeded(r, l, source.Seed(), all), r.Close())
	case err == nil:
		if err = checkInvariants(r, old); !fired || !own {
			err = errors.New("it has an old log")
		}
		err = errors.Join(err, r.Close())
	case errors.Is(err, fs.ErrNotExist) && !own && fired:
		err = nil
	}
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	if seed%2 == 0 {
		must(t, RemoveStaging(disk.Mount(), testDir))
	}
	if err := copySeed(replicaOptions(disk.Mount()), source, 3000); err != nil {
		t.Fatalf("%s: again: %v", where, err)
	}
	disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
	r, err = Open(replicaOptions(disk.Mount()))
	if err == nil {
		err = errors.Join(checkSeeded(r, l, source.Seed(), all), r.Close())
	}
	if err != nil {
		t.Fatalf("%s: after the second copy: %v", where, err)
	}
	return fired
}

// TestSeedAfterFailedSync fails each sync in turn. The process ends, another one goes
// on in the same boot, finds in the page cache what is not on the disk, and ends its
// copy; then the power goes.
func TestSeedAfterFailedSync(t *testing.T) {
	l, all := sourceLog(t)
	source := openSeed(t, l, l.parts[2].index-1)
	for _, op := range []crashfs.Op{crashfs.OpSync, crashfs.OpSyncDir} {
		for _, own := range []bool{false, true} {
			for nth := 1; ; nth++ {
				disk := crashfs.New(int64(nth))
				if own {
					ownLog(t, disk, all)
				}
				must(t, makeFolders(disk, testDir+"/"+stagingName)) // names of folders are the journal's
				fault := disk.Inject(crashfs.Fault{Op: op, Nth: nth})
				err := copySeed(replicaOptions(disk.Mount()), source, 3000)
				if fault.Fired() == 0 {
					must(t, err)
					break
				}
				where := fmt.Sprintf("%v %d, own %v", op, nth, own)
				var fatal *FatalError
				if !errors.As(err, &fatal) {
					t.Fatalf("%s: %v", where, err)
				}
				fault.Remove()
				o := replicaOptions(disk.Mount())
				o.SameBoot = true
				r, err := Open(o)
				if err == nil {
					must(t, r.Close())
				} else if !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("%s: %v", where, err)
				}
				if err != nil || r.Checkpoint().Index != source.Seed().Index {
					must(t, copySeed(o, source, 3000))
				}
				disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
				if r, err = Open(replicaOptions(disk.Mount())); err == nil {
					err = errors.Join(checkSeeded(r, l, source.Seed(), all), r.Close())
				}
				if err != nil {
					t.Fatalf("%s: %v", where, err)
				}
			}
		}
	}
}

// TestSeedCrashesAfterFailedSync: the process ended at a sync of names, at each in
// turn. The next one finds names in the page cache that are not on the disk, goes on
// with the copy, or with the switch if that seems to be committed, and the power goes
// at each change that it makes.
func TestSeedCrashesAfterFailedSync(t *testing.T) {
	l, all := sourceLog(t)
	source := openSeed(t, l, l.parts[1].index-1)
	for nth := 1; ; nth++ {
		disk := crashfs.New(int64(nth))
		old := ownLog(t, disk, all)
		must(t, makeFolders(disk, testDir+"/"+stagingName)) // names of folders are the journal's
		fault := disk.Inject(crashfs.Fault{Op: crashfs.OpSyncDir, Nth: nth})
		if err := copySeed(replicaOptions(disk.Mount()), source, 3000); fault.Fired() == 0 {
			must(t, err)
			if nth < 10 {
				t.Errorf("only %d syncs", nth)
			}
			return
		}
		fired := true
		for change := 1; fired; change++ {
			again := disk.Clone(int64(change))
			crash := again.Inject(crashfs.Fault{Op: crashfs.OpChange, Nth: change, After: func() {
				again.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
			}})
			goOnWithSeed(replicaOptions(again.Mount()), source)
			fired = crash.Fired() > 0
			crash.Remove()
			r, err := Open(replicaOptions(again.Mount()))
			if err == nil && r.Checkpoint().Index != source.Seed().Index {
				err = errors.Join(checkInvariants(r, old), r.Close())
			} else if err == nil {
				err = errors.Join(checkSeeded(r, l, source.Seed(), all), r.Close())
			}
			if err != nil {
				t.Fatalf("syncdir %d failed, crash at change %d: %v", nth, change, err)
			}
		}
	}
}

// goOnWithSeed is what a process does after its start, as far as it comes.
func goOnWithSeed(o Options, source *SeedSource) {
	o.SameBoot = true
	r, err := Open(o)
	if err == nil {
		at := r.Checkpoint().Index
		_ = r.Close()
		if at == source.Seed().Index {
			return
		}
	}
	_ = copySeed(o, source, 3000)
}

// TestSeedDamaged flips a bit of each file on its way, at several places: it is found
// at the end of its segment at the latest, nothing of it counts, and the copy goes on
// with good bytes.
func TestSeedDamaged(t *testing.T) {
	l, all := sourceLog(t)
	source := openSeed(t, l, l.parts[2].index-1)
	for file, f := range source.Seed().Files {
		for at := int64(0); at < f.Size; at += 1 + f.Size/9 {
			disk := crashfs.New(4)
			s, err := OpenStaging(replicaOptions(disk.Mount()), *source.Seed())
			must(t, err)
			flipped, found := false, false
			for more := true; more; {
				var n int
				var from, lacks int64
				if n, from, lacks, more = s.Next(); !more {
					break
				}
				b := make([]byte, min(2000, lacks))
				_, err := source.ReadAt(n, b, from)
				must(t, err)
				if n == file && from <= at && at < from+int64(len(b)) && !flipped {
					b[at-from] ^= 1 << (at % 8)
					flipped = true
				}
				if err := s.Write(b); errors.Is(err, ErrSeedDamaged) {
					found = true
				} else {
					must(t, err)
				}
			}
			if !found {
				t.Errorf("a flipped bit at byte %d of file %d was not found", at, file)
			}
			must(t, s.Switch())
			r := open(t, replicaOptions(disk.Mount()))
			must(t, checkSeeded(r, l, source.Seed(), all))
			must(t, r.Close())
		}
	}
}

// TestSeedNoSpace: each lack of space ends nothing, and the copy goes on when there is
// space again.
func TestSeedNoSpace(t *testing.T) {
	l, all := sourceLog(t)
	source := openSeed(t, l, l.parts[2].index-1)
	for _, op := range []crashfs.Op{crashfs.OpWrite, crashfs.OpCreate} {
		for nth := 1; ; nth++ {
			disk := crashfs.New(5)
			o := replicaOptions(disk.Mount())
			s, err := OpenStaging(o, *source.Seed())
			must(t, err)
			fault := disk.Inject(crashfs.Fault{Op: op, Nth: nth, PathContains: stagingName, Err: vfs.ErrNoSpace})
			for more := true; more; {
				if more, err = copyNext(s, source, 3000); err != nil && !errors.Is(err, ErrNoSpace) {
					t.Fatalf("%v %d: %v", op, nth, err)
				}
			}
			if err := s.Switch(); errors.Is(err, ErrNoSpace) {
				must(t, s.Switch())
			} else {
				must(t, err)
			}
			r := open(t, o)
			must(t, checkSeeded(r, l, source.Seed(), all))
			must(t, r.Close())
			if fault.Fired() == 0 {
				break
			}
		}
	}
}
