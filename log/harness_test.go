package log

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// testDir is where the tests have their replica.
const testDir = "/data/topics/events/0-11111111111141118111111111111111"

var testIdentity = Identity{
	Cluster: "test-cluster", Topic: "events", TopicID: segment.TopicID{0x11, 0x41, 0x81, 1}, Partition: 0, Incarnation: 0xfeed,
}

// smallOptions make segments, rounds and checkpoints small, so that a few entries
// meet all of them.
func smallOptions(fsys vfs.FS) Options {
	return Options{
		FS: fsys, Dir: testDir, Identity: testIdentity, SegmentBytes: 8 << 10, RoundBytes: 2 << 10,
		CheckpointBytes: 6 << 10, MaxProducers: 100, Clock: func() int64 { return 1_700_000_000_000 },
	}
}

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Create(o)
	must(t, err)
	return l
}

func open(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	must(t, err)
	return l
}

// stored is an entry as a test knows it.
type stored struct {
	term  segment.Term
	kind  segment.Kind
	base  segment.Offset
	next  segment.Offset
	frame []byte
}

// draft is an entry that was not stamped.
type draft struct {
	term  segment.Term
	kind  segment.Kind
	frame []byte
}

// batchOfRecords is a draft of n records of some bytes each that do not compress.
func batchOfRecords(term segment.Term, n, size int, seed uint64, timestamp int64) draft {
	random := rand.New(rand.NewPCG(seed, 1))
	records := make([]segment.Record, n)
	for i := range records {
		value := make([]byte, size)
		for j := range value {
			value[j] = byte(random.Uint32()) | 1
		}
		records[i] = segment.Record{Timestamp: timestamp + int64(i), Value: value}
	}
	return draft{term: term, kind: segment.KindRecords, frame: segment.Build(records, segment.BuildOptions{})}
}

// producerBatch is a draft of an idempotent producer.
func producerBatch(term segment.Term, id int64, epoch int16, sequence int32, n int) draft {
	records := make([]segment.Record, n)
	for i := range records {
		records[i] = segment.Record{Timestamp: 1000, Value: []byte(fmt.Sprintf("%d/%d/%d", id, epoch, int(sequence)+i))}
	}
	return draft{term: term, kind: segment.KindRecords, frame: segment.Build(records, segment.BuildOptions{
		Producer: &segment.Producer{ID: id, Epoch: epoch, Sequence: sequence},
	})}
}

// internalFrame is a draft of an internal frame.
func internalFrame(term segment.Term, kind segment.Kind, content string) draft {
	return draft{term: term, kind: kind, frame: segment.EncodeInternal(kind, 0, []byte(content))}
}

// stage stamps and stages drafts and returns them as stored.
func stage(a *Append, drafts []draft) ([]stored, error) {
	var list []stored
	for _, d := range drafts {
		base := a.NextOffset()
		segment.Stamp(d.frame, base, d.term)
		if err := a.Stage(Entry{Index: a.NextIndex(), Term: d.term, Kind: d.kind, Frame: d.frame}); err != nil {
			return nil, err
		}
		list = append(list, stored{term: d.term, kind: d.kind, base: base, next: a.NextOffset(), frame: d.frame})
	}
	return list, nil
}

// appendTo stages and commits drafts.
func appendTo(l *Log, drafts ...draft) ([]stored, error) {
	a := l.Begin()
	list, err := stage(a, drafts)
	if err != nil {
		a.Abort()
		return nil, err
	}
	return list, a.Commit()
}

func mustAppend(t testing.TB, l *Log, drafts ...draft) []stored {
	t.Helper()
	list, err := appendTo(l, drafts...)
	must(t, err)
	return list
}

// contents reads a log back, entry by entry, through ReadEntries and Info.
func contents(l *Log) ([]stored, error) {
	var list []stored
	for i := l.FirstIndex(); i <= l.LastIndex(); {
		frames, infos, err := l.ReadEntries(i, 7, 3000)
		if err != nil {
			return nil, fmt.Errorf("read entry %d: %w", i, err)
		}
		for _, info := range infos {
			frame := frames[:info.Size]
			frames = frames[info.Size:]
			if !segment.ChecksumOK(frame) {
				return nil, fmt.Errorf("entry %d has a wrong checksum", i)
			}
			again, err := l.Info(i)
			if err != nil {
				return nil, fmt.Errorf("info %d: %w", i, err)
			}
			if diff := cmp.Diff(info, again); diff != "" {
				return nil, fmt.Errorf("entry %d: ReadEntries and Info differ: %s", i, diff)
			}
			if info.Index != i {
				return nil, fmt.Errorf("entry %d says it is %d", i, info.Index)
			}
			list = append(list, stored{term: info.Term, kind: info.Kind, base: info.Base, next: info.Next, frame: frame})
			i++
		}
	}
	return list, nil
}

// isPrefix reports whether a log's content is the first part of a list.
func isPrefix(content, list []stored) bool {
	if len(content) > len(list) {
		return false
	}
	for i := range content {
		if string(content[i].frame) != string(list[i].frame) || content[i].term != list[i].term ||
			content[i].kind != list[i].kind || content[i].base != list[i].base || content[i].next != list[i].next {
			return false
		}
	}
	return true
}

// checkInvariants compares everything that can be asked of a log with what its
// entries say, those that were not trimmed.
func checkInvariants(l *Log, list []stored) error {
	content, err := contents(l)
	if err != nil {
		return err
	}
	if len(content) != len(list) || !isPrefix(content, list) {
		return fmt.Errorf("the log has %d entries, the model %d, or they differ", len(content), len(list))
	}
	base, err := l.Info(l.FirstIndex() - 1)
	if err != nil {
		return fmt.Errorf("base: %w", err)
	}
	next, term := base.Next, base.Term
	for i, s := range list {
		if s.base != next || s.term < term {
			return fmt.Errorf("entry %d has base %d after %d, term %d after %d", i, s.base, next, s.term, term)
		}
		next, term = s.next, s.term
	}
	if got := l.NextOffset(); got != next {
		return fmt.Errorf("next offset %d, must be %d", got, next)
	}
	if got := l.LastTerm(); got != term {
		return fmt.Errorf("last term %d, must be %d", got, term)
	}
	for _, i := range []segment.Index{l.FirstIndex() - 2, l.LastIndex() + 1} {
		if _, err := l.Info(i); i != ^segment.Index(0) && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("info %d: %v", i, err)
		}
	}
	return checkRead(l, list, max(base.Next, l.StartOffset()), false)
}

// checkRead reads everything from an offset up to the high watermark as a consumer
// does, and compares it unless the list moves on meanwhile.
func checkRead(l *Log, list []stored, at segment.Offset, moving bool) error {
	hw := l.HighWatermark()
	var want, got []byte
	for _, s := range list {
		if s.kind == segment.KindRecords && s.next > at && s.next <= hw {
			want = append(want, s.frame...)
		}
	}
	for at < hw {
		s, err := l.Read(at, hw, 5000, true)
		if err != nil {
			return fmt.Errorf("read offset %d: %w", at, err)
		}
		b, err := sliceBytes(s)
		if err != nil {
			return err
		}
		if s.First > at || s.Next <= at {
			return fmt.Errorf("read of %d returned %d to %d", at, s.First, s.Next)
		}
		got = append(got, b...)
		at = s.Next
	}
	if !moving && string(got) != string(want) {
		return fmt.Errorf("a consumer read %d bytes, must be %d", len(got), len(want))
	}
	return nil
}

// sliceBytes are the bytes of a slice, released.
func sliceBytes(s Slice) ([]byte, error) {
	defer s.Release()
	if s.File == nil {
		return s.Bytes, nil
	}
	b := make([]byte, s.Length)
	_, err := s.File.ReadAt(b, s.Position)
	return b, err
}

// names are the files of the replica that end in a suffix.
func names(t testing.TB, fsys vfs.FS, suffix string) []string {
	t.Helper()
	all, err := fsys.List(testDir)
	must(t, err)
	var found []string
	for _, name := range all {
		if strings.HasSuffix(name, suffix) {
			found = append(found, name)
		}
	}
	return found
}
