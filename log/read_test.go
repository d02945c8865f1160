package log

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestReadSlices: small reads are bytes, larger ones a file range that stays open;
// none holds an internal frame, and a range without room for a batch is empty
// unless one is wanted.
func TestReadSlices(t *testing.T) {
	for _, cached := range []bool{false, true} {
		disk := crashfs.New(1)
		o := smallOptions(disk.Mount())
		o.SegmentBytes = 1 << 20
		o.Files = NewFileCache(1)
		if cached {
			o.Cache = NewTailCache(1 << 20)
		}
		l := create(t, o)
		all := mustAppend(t, l, batchOfRecords(1, 10, 100, 1, 0), batchOfRecords(1, 10, 100, 2, 0),
			internalFrame(1, segment.KindNoop, ""), batchOfRecords(1, 1, 50_000, 3, 0), batchOfRecords(1, 1, 50_000, 4, 0))
		if _, err := l.Apply(5); err != nil {
			t.Fatal(err)
		}
		small := int64(len(all[0].frame) + len(all[1].frame))
		for _, c := range []struct {
			from, limit, first, next segment.Offset
			max, length              int64
			minOne, file             bool
		}{
			{from: 0, limit: 22, max: 1 << 20, minOne: true, first: 0, next: 20, length: small},
			{from: 13, limit: 22, max: 1 << 20, minOne: true, first: 10, next: 20, length: int64(len(all[1].frame))},
			{from: 0, limit: 10, max: 1 << 20, minOne: true, first: 0, next: 10, length: int64(len(all[0].frame))},
			{from: 0, limit: 5, max: 1 << 20, minOne: true, first: 0, next: 0},
			{from: 0, limit: 22, max: 10, minOne: true, first: 0, next: 10, length: int64(len(all[0].frame))},
			{from: 0, limit: 22, max: 10, first: 0, next: 0},
			{from: 20, limit: 22, max: 1 << 20, minOne: true, first: 20, next: 22, length: int64(2 * len(all[3].frame)), file: true},
			{from: 20, limit: 22, max: 60_000, first: 20, next: 21, length: int64(len(all[3].frame)), file: true},
			{from: 22, limit: 22, max: 60_000, first: 22, next: 22},
			{from: 22, limit: 99, max: 60_000, first: 22, next: 22},
		} {
			s, err := l.Read(c.from, c.limit, c.max, c.minOne)
			if err != nil || s.First != c.first || s.Next != c.next || s.Length != c.length || (s.File != nil) != c.file {
				t.Errorf("cached %v, %+v: %+v, %v", cached, c, s, err)
			}
			s.Release()
			s.Release() // once more does nothing
		}
		for _, from := range []segment.Offset{-1, 23} {
			if _, err := l.Read(from, 22, 100, true); !errors.Is(err, ErrOffsetOutOfRange) {
				t.Errorf("offset %d: %v", from, err)
			}
		}
		held, err := l.Read(20, 22, 1<<20, true)
		must(t, err)
		must(t, l.Close())
		b, err := sliceBytes(held)
		if err != nil || string(b) != string(all[3].frame)+string(all[4].frame) {
			t.Errorf("a slice that outlives the log: %v", err)
		}
		if _, err := l.Read(0, 22, 100, true); !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	}
}

// TestReadFindsRot: bad bytes are not returned, small or large, and what is before
// them still is.
func TestReadFindsRot(t *testing.T) {
	disk := crashfs.New(1)
	o := smallOptions(disk.Mount())
	o.SegmentBytes = 1 << 20
	l := create(t, o)
	all := mustAppend(t, l, batchOfRecords(1, 1, 50_000, 1, 0), batchOfRecords(1, 1, 500, 2, 0))
	if _, err := l.Apply(2); err != nil {
		t.Fatal(err)
	}
	must(t, l.Close())
	path := filepath.Join(testDir, segment.LogName(0))
	must(t, disk.FlipBit(path, int64(len(all[0].frame)+200)*8))
	l = open(t, smallOptions(disk.Mount()))
	defer l.Close()
	for _, from := range []segment.Offset{0, 1} {
		s, err := l.Read(from, 2, 1<<20, true)
		var corruption *CorruptionError
		if !errors.As(err, &corruption) || corruption.Position != int64(len(all[0].frame)) {
			t.Errorf("from %d: %+v, %v", from, s, err)
		}
	}
	s, err := l.Read(0, 1, 1<<20, true)
	must(t, err)
	if b, err := sliceBytes(s); err != nil || string(b) != string(all[0].frame) {
		t.Errorf("before the rot: %v", err)
	}
}

// TestCutIsSeenAtOnce by everything that reads.
func TestCutIsSeenAtOnce(t *testing.T) {
	o := smallOptions(crashfs.New(1).Mount())
	o.Cache = NewTailCache(1 << 20)
	l := create(t, o)
	defer l.Close()
	all := mustAppend(t, l, internalFrame(1, segment.KindConfiguration, "a"), batchOfRecords(1, 1, 10, 1, 0),
		internalFrame(2, segment.KindConfiguration, "b"), batchOfRecords(2, 1, 10, 2, 0))
	if _, err := l.Apply(2); err != nil {
		t.Fatal(err)
	}
	for _, first := range []segment.Index{1, 2} {
		if err := l.CutFrom(first); !errors.Is(err, ErrCommitted) {
			t.Errorf("cut of applied entry %d: %v", first, err)
		}
	}
	l.NoteCommitted(3)
	if err := l.CutFrom(3); !errors.Is(err, ErrCommitted) {
		t.Errorf("cut of committed entry 3: %v", err)
	}
	must(t, l.CutFrom(5)) // behind the end
	must(t, l.CutFrom(4))
	must(t, checkInvariants(l, all[:3]))
	if _, err := l.Info(4); err != ErrNotFound { //nolint:errorlint // raft compares identity
		t.Errorf("info of a cut entry: %v", err)
	}
	if _, err := l.Payload(4); !errors.Is(err, ErrNotFound) {
		t.Errorf("payload of a cut entry: %v", err)
	}
	if o.Cache.get(cacheKey{log: l, index: 4, term: 2}) != nil {
		t.Error("the tail cache has a cut entry")
	}
	if term, end, ok := l.OffsetForTerm(9); !ok || term != 2 || end != 1 {
		t.Errorf("term %d ends at %d", term, end)
	}
}

// TestReadEntriesWhileCut: a read during which entries were cut fails, also when
// the bytes were right.
func TestReadEntriesWhileCut(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	defer l.Close()
	mustAppend(t, l, batchOfRecords(1, 1, 500, 1, 0), batchOfRecords(1, 1, 500, 2, 0))
	fault := disk.Inject(crashfs.Fault{Op: crashfs.OpRead, PathContains: ".log", Do: func() { must(t, l.CutFrom(2)) }})
	if _, _, err := l.ReadEntries(1, 10, 1<<20); !errors.Is(err, ErrChanged) {
		t.Errorf("error %v", err)
	}
	fault.Remove()
	if _, infos, err := l.ReadEntries(1, 10, 1<<20); err != nil || len(infos) != 1 {
		t.Errorf("%d entries, %v", len(infos), err)
	}
	if _, _, err := l.ReadEntries(0, 10, 1<<20); !errors.Is(err, ErrNotFound) {
		t.Errorf("entry 0: %v", err)
	}
}

// TestOpenFilesAreBounded: a log of many segments keeps few of them open.
func TestOpenFilesAreBounded(t *testing.T) {
	disk := crashfs.New(1)
	o := smallOptions(disk.Mount())
	o.Files = NewFileCache(3)
	l := create(t, o)
	for i := range 40 {
		mustAppend(t, l, batchOfRecords(1, 1, 4000, uint64(i), 0))
	}
	if _, err := l.Apply(40); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		for i := range segment.Offset(40) {
			s, err := l.Read(i, 40, 1, true)
			must(t, err)
			s.Release()
			if o.Files.open > 3 {
				t.Fatalf("round %d: %d segments open", round, o.Files.open)
			}
		}
	}
	must(t, l.Close())
	if o.Files.open != 0 || o.Files.idle.Len() != 0 {
		t.Errorf("%d segments open after Close, %d idle", o.Files.open, o.Files.idle.Len())
	}
}

// TestWritersDoNotCount: what is being written takes no place from sealed segments.
func TestWritersDoNotCount(t *testing.T) {
	files := NewFileCache(2)
	disk := crashfs.New(1)
	for i := range 5 {
		o := smallOptions(disk.Mount())
		o.Dir, o.Files = filepath.Join(testDir, string(rune('a'+i))), files
		l := create(t, o)
		defer func() { must(t, l.Close()) }()
		mustAppend(t, l, batchOfRecords(1, 1, 7000, 1, 0), batchOfRecords(1, 1, 7000, 2, 0))
	}
	if files.open != 2 {
		t.Errorf("%d of 5 sealed segments are open, must be 2", files.open)
	}
}

// TestOldPayload: the content of a configuration that is no longer in memory.
func TestOldPayload(t *testing.T) {
	l := create(t, smallOptions(crashfs.New(1).Mount()))
	defer l.Close()
	for i := range 1500 {
		mustAppend(t, l, internalFrame(1, segment.KindConfiguration, string(rune('a'+i%20))), batchOfRecords(1, 1, 1, uint64(i), 0))
	}
	if _, err := l.Apply(l.LastIndex()); err != nil {
		t.Fatal(err)
	}
	must(t, l.WriteCheckpoint())
	if n := len(l.configurations); n != 1 {
		t.Errorf("%d configurations in memory", n)
	}
	if n := len(l.entries); n > 2*recentEntries {
		t.Errorf("%d entries in memory", n)
	}
	for i := 1; i < 3000; i += 202 {
		content, err := l.Payload(segment.Index(i))
		if want := string(rune('a' + (i-1)/2%20)); err != nil || string(content) != want {
			t.Errorf("entry %d: %q, %v; must be %q", i, content, err, want)
		}
		if _, err := l.Payload(segment.Index(i + 1)); err == nil {
			t.Errorf("entry %d, records, has a payload", i+1)
		}
	}
}

// TestOffsets compares searches by time and by term with a walk over the records.
func TestOffsets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := crashfs.New(1)
		l, err := Create(smallOptions(disk.Mount()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		var all []stored
		term := segment.Term(1)
		for i := range rapid.IntRange(1, 30).Draw(t, "entries") {
			term += segment.Term(rapid.IntRange(0, 1).Draw(t, "term"))
			d := batchOfRecords(term, rapid.IntRange(1, 4).Draw(t, "records"), rapid.IntRange(1, 900).Draw(t, "size"), uint64(i),
				rapid.Int64Range(0, 50).Draw(t, "timestamp"))
			if rapid.IntRange(0, 5).Draw(t, "internal") == 0 {
				d = internalFrame(term, segment.KindNoop, "")
			}
			list, err := appendTo(l, d)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, list...)
		}
		if _, err := l.Apply(segment.Index(rapid.IntRange(1, len(all)).Draw(t, "applied"))); err != nil {
			t.Fatal(err)
		}
		limit := l.HighWatermark()
		checkTimes(t, l, all, limit)
		for ask := segment.Term(0); ask <= term+1; ask++ {
			want, end, ok := segment.Term(0), limit, false
			for i := len(all) - 1; i >= 0; i-- {
				if all[i].term <= ask {
					want, ok = all[i].term, true
					break
				}
				end = min(all[i].base, limit)
			}
			got, gotEnd, gotOK := l.OffsetForTerm(ask)
			if gotOK != ok || ok && (got != want || gotEnd != end) {
				t.Fatalf("term %d: %d ends at %d, %v; must be %d, %d, %v", ask, got, gotEnd, gotOK, want, end, ok)
			}
		}
	})
}

// checkTimes compares OffsetForTime and MaxTimestamp with a walk.
func checkTimes(t *rapid.T, l *Log, all []stored, limit segment.Offset) {
	var records []segment.Record
	for _, s := range all {
		if s.kind == segment.KindRecords && s.next <= limit {
			list, err := segment.Records(s.frame, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, list...)
		}
	}
	newest := int64(-1)
	for _, r := range records {
		newest = max(newest, r.Timestamp)
	}
	find := func(ts int64) (segment.Offset, int64, bool) {
		for _, r := range records {
			if r.Timestamp >= ts {
				return r.Offset, r.Timestamp, true
			}
		}
		return 0, 0, false
	}
	for ts := int64(-1); ts <= 56; ts++ {
		want, wantTime, ok := find(ts)
		got, gotTime, gotOK, err := l.OffsetForTime(ts, limit)
		if err != nil || got != want || gotTime != wantTime || gotOK != ok {
			t.Fatalf("time %d: %d, %d, %v, %v; must be %d, %d, %v", ts, got, gotTime, gotOK, err, want, wantTime, ok)
		}
	}
	got, gotTime, gotOK, err := l.MaxTimestamp(limit)
	want, wantTime, ok := find(newest)
	if newest < 0 {
		ok = false
	}
	if err != nil || gotOK != ok || ok && (got != want || gotTime != wantTime) {
		t.Fatalf("largest: %d, %d, %v, %v; must be %d, %d, %v", got, gotTime, gotOK, err, want, wantTime, ok)
	}
}

// TestFranzDecodesLog: the decoder of a Kafka client library reads a .log file from
// byte 0 to its end: batches with the records that went in, and internal frames as
// batches without records.
func TestFranzDecodesLog(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	all := mustAppend(t, l, internalFrame(1, segment.KindConfiguration, "voters"), batchOfRecords(1, 3, 100, 1, 5),
		internalFrame(2, segment.KindNoop, ""), producerBatch(2, 8, 1, 0, 4), batchOfRecords(2, 2, 2500, 2, 9))
	must(t, l.Close())
	data, err := vfs.ReadFile(disk, filepath.Join(testDir, segment.LogName(0)), 1<<20)
	must(t, err)
	for i, s := range all {
		length := 12 + int(binary.BigEndian.Uint32(data[8:]))
		var b kmsg.RecordBatch
		if err := b.ReadFrom(data[:length]); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		want := int32(s.next - s.base)
		if b.FirstOffset != int64(s.base) || b.PartitionLeaderEpoch != int32(s.term) || b.NumRecords != want || b.Magic != 2 {
			t.Errorf("frame %d: %+v", i, b)
		}
		records := b.Records
		for range b.NumRecords {
			var r kmsg.Record
			size, n := binary.Varint(records)
			if err := r.ReadFrom(records[:n+int(size)]); err != nil {
				t.Errorf("frame %d: %v", i, err)
			}
			records = records[n+int(size):]
		}
		data = data[length:]
	}
	if len(data) != 0 {
		t.Errorf("%d bytes behind the last frame", len(data))
	}
}

// TestSmallFilesStaySmall: a loaded folder holds less than 2% of its bytes outside
// the .log files, also of small batches of many producers.
func TestSmallFilesStaySmall(t *testing.T) {
	for _, size := range []int{60, 1000, 20_000} {
		disk := crashfs.New(1)
		o := smallOptions(disk.Mount())
		o.SegmentBytes, o.CheckpointBytes, o.RoundBytes = 8<<20, 2<<20, 1<<20
		l := create(t, o)
		for seed := uint64(0); l.Size() < 20<<20; {
			var drafts []draft
			for range 200_000 / size {
				seed++
				d := batchOfRecords(1, 1, size, seed, int64(seed))
				drafts = append(drafts, d)
			}
			mustAppend(t, l, drafts...)
			if _, err := l.Apply(l.LastIndex()); err != nil {
				t.Fatal(err)
			}
		}
		frames, others := int64(0), int64(0)
		for _, name := range names(t, disk, "") {
			info, err := disk.Stat(filepath.Join(testDir, name))
			must(t, err)
			if filepath.Ext(name) == ".log" {
				frames += info.Size()
			} else {
				others += info.Size()
			}
		}
		if others*50 > frames {
			t.Errorf("batches of %d bytes: %d bytes beside %d of frames", size, others, frames)
		}
		must(t, l.Close())
	}
}

// TestReadersStopAtWhatIsApplied: what lies behind it may be cut, and be written again
// while somebody reads, as on a leader that was deposed a moment ago. Half of a frame
// there is no damage.
func TestReadersStopAtWhatIsApplied(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	mustAppend(t, l, batchOfRecords(1, 1, 300, 1, 10), batchOfRecords(1, 1, 300, 2, 20), internalFrame(1, segment.KindNoop, ""))
	if _, err := l.Apply(3); err != nil {
		t.Fatal(err)
	}
	must(t, l.Close()) // the next start has nothing of it in memory
	l = open(t, smallOptions(disk.Mount()))
	defer l.Close()
	committed := l.Size()
	mustAppend(t, l, batchOfRecords(1, 1, 300, 3, 30))
	must(t, disk.Corrupt(testDir+"/"+segment.LogName(0), committed, make([]byte, 200)))
	for _, max := range []int64{1, 5000} {
		s, err := l.Read(0, 9, max, true)
		if err != nil || s.Next != min(2, segment.Offset(max)) {
			t.Errorf("read of %d bytes: up to offset %d, %v", max, s.Next, err)
		}
		s.Release()
	}
	for ts, want := range map[int64]segment.Offset{15: 1, 25: -1} {
		at, _, found, err := l.OffsetForTime(ts, 9)
		if err != nil || found != (want >= 0) || found && at != want {
			t.Errorf("time %d: offset %d, %v, %v", ts, at, found, err)
		}
	}
	if at, ts, found, err := l.MaxTimestamp(9); at != 1 || ts != 20 || !found || err != nil {
		t.Errorf("largest timestamp %d at %d, %v, %v", ts, at, found, err)
	}
}
