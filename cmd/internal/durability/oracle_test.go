package durability

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

const testRun = 7

// Streams of these tests: producer 0 is idempotent, producer 1 is plain.
func ordered(sequence int64) Event { return Event{Producer: 0, Sequence: sequence} }
func plainly(sequence int64) Event { return Event{Producer: 1, Sequence: sequence} }

// frameOf is a batch of one event.
func frameOf(e Event, offset int64) []byte {
	return segment.Build([]segment.Record{{Value: e.encode(testRun, 64)}}, segment.BuildOptions{BaseOffset: segment.Offset(offset), Term: 1})
}

// replicaOf writes frames as the segment of a replica.
func replicaOf(t testing.TB, node int, frames ...[]byte) Replica {
	t.Helper()
	fsys := crashfs.New(int64(node))
	r := Replica{FS: fsys, Dir: "/data/topics/events/0-abc", Node: node}
	if err := fsys.MkdirAll(r.Dir); err != nil {
		t.Fatal(err)
	}
	file, err := fsys.Create(filepath.Join(r.Dir, "00000000000000000000.log"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WritevAt(frames, 0)
	if err := errors.Join(err, file.Preallocate(4096, 4096), file.Close()); err != nil {
		t.Fatal(err)
	}
	return r
}

// logOf writes events at offsets from 0.
func logOf(t testing.TB, node int, events ...Event) Replica {
	t.Helper()
	var frames [][]byte
	for i, e := range events {
		frames = append(frames, frameOf(e, int64(i)))
	}
	return replicaOf(t, node, frames...)
}

func newTestLedger() (*Ledger, *Faults) {
	f := NewFaults()
	l := NewLedger(testRun, f)
	l.open(0, 0, true)
	l.open(1, 0, false)
	return l, f
}

// TestCheck: each broken promise is seen, and nothing else.
func TestCheck(t *testing.T) {
	internal := segment.EncodeInternal(segment.KindNoop, 1, nil)
	segment.Stamp(internal, 1, 1)
	rotten := frameOf(ordered(1), 1)
	rotten[len(rotten)-1] ^= 1
	late := frameOf(ordered(0), 0)
	segment.Stamp(late, 0, 2)
	tests := []struct {
		name   string
		told   func(l *Ledger)
		log    func(t *testing.T) Replica
		limit  int64
		broken map[Mark]int
	}{
		{"all is well", func(l *Ledger) {
			l.Acked(ordered(0), 0)
			l.Acked(ordered(1), 1)
			l.Unknown(plainly(0))
			l.Refused(plainly(1))
			l.Read(0, 0, ordered(0).encode(testRun, 64))
		}, func(t *testing.T) Replica { return logOf(t, 1, ordered(0), ordered(1), plainly(0)) }, 3, nil},
		{"unknown outcomes may be missing", func(l *Ledger) {
			l.Unknown(ordered(0))
			l.Acked(ordered(1), 0)
		}, func(t *testing.T) Replica { return logOf(t, 1, ordered(1)) }, 1, nil},
		{"internal frames are no records", func(l *Ledger) { l.Acked(ordered(1), 1) },
			func(t *testing.T) Replica {
				return replicaOf(t, 1, frameOf(ordered(0), 0), internal, frameOf(ordered(1), 1))
			}, 2, nil},
		{"above the limit nothing is promised", func(l *Ledger) { l.Refused(ordered(1)) },
			func(t *testing.T) Replica { return logOf(t, 1, ordered(0), ordered(1)) }, 1, nil},
		{"lost at the end", func(l *Ledger) { l.Acked(ordered(0), 0); l.Acked(ordered(1), 1) },
			func(t *testing.T) Replica { return logOf(t, 1, ordered(0)) }, 2, map[Mark]int{NL: 2}}, // it is short, too
		{"lost in the middle", func(l *Ledger) { l.Acked(ordered(0), 0) },
			func(t *testing.T) Replica { return logOf(t, 1, ordered(1)) }, 1, map[Mark]int{NL: 1}},
		{"a plain one lost", func(l *Ledger) { l.Acked(plainly(0), 0) },
			func(t *testing.T) Replica { return logOf(t, 1, ordered(0)) }, 1, map[Mark]int{NL: 1}},
		{"at another offset", func(l *Ledger) { l.Acked(ordered(0), 1) },
			func(t *testing.T) Replica { return logOf(t, 1, ordered(0), plainly(0)) }, 2, map[Mark]int{ND: 1}},
		{"refused and there", func(l *Ledger) { l.Refused(plainly(0)) },
			func(t *testing.T) Replica { return logOf(t, 1, plainly(0)) }, 1, map[Mark]int{NP: 1}},
		{"twice", func(*Ledger) {}, func(t *testing.T) Replica { return logOf(t, 1, ordered(0), ordered(0)) }, 2, map[Mark]int{ND: 1}},
		{"a plain one twice", func(*Ledger) {}, func(t *testing.T) Replica { return logOf(t, 1, plainly(0), ordered(0), plainly(0)) }, 3, map[Mark]int{ND: 1}},
		{"out of order", func(*Ledger) {}, func(t *testing.T) Replica { return logOf(t, 1, ordered(1), ordered(0)) }, 2, map[Mark]int{ND: 1}},
		{"a plain one overtaken", func(*Ledger) {}, func(t *testing.T) Replica { return logOf(t, 1, plainly(1), plainly(0)) }, 2, nil},
		{"other than what was read", func(l *Ledger) { l.Read(0, 0, ordered(1).encode(testRun, 64)) },
			func(t *testing.T) Replica { return logOf(t, 1, ordered(0)) }, 1, map[Mark]int{OI: 1}},
		{"of nobody", func(*Ledger) {}, func(t *testing.T) Replica { return logOf(t, 1, Event{Producer: 9}) }, 1, map[Mark]int{OI: 1}},
		{"of another partition", func(*Ledger) {}, func(t *testing.T) Replica { return logOf(t, 1, Event{Partition: 1}) }, 1, map[Mark]int{OI: 1}},
		{"rotten", func(*Ledger) {}, func(t *testing.T) Replica { return replicaOf(t, 1, frameOf(ordered(0), 0), rotten) }, 2, map[Mark]int{OI: 1}},
		{"a gap", func(*Ledger) {}, func(t *testing.T) Replica { return replicaOf(t, 1, frameOf(ordered(0), 0), frameOf(ordered(1), 2)) }, 3, map[Mark]int{OI: 1}},
		{"a term that went back", func(*Ledger) {}, func(t *testing.T) Replica { return replicaOf(t, 1, late, frameOf(ordered(1), 1)) }, 2, map[Mark]int{OI: 1}},
		{"something behind the end", func(*Ledger) {}, func(t *testing.T) Replica { return replicaOf(t, 1, frameOf(ordered(0), 0), []byte("junk")) }, 2, map[Mark]int{OI: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, f := newTestLedger()
			test.told(l)
			l.Check(test.log(t), test.limit)
			got := f.Counts()
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(test.broken, got); diff != "" {
				t.Errorf("broken promises (-want +got):\n%s\n%v", diff, f.Err())
			}
		})
	}
}

// TestTold: what clients are told must not contradict itself.
func TestTold(t *testing.T) {
	tests := []struct {
		name string
		told func(l *Ledger)
		want Mark
	}{
		{"two outcomes", func(l *Ledger) { l.Acked(ordered(0), 0); l.Acked(ordered(0), 1) }, CE},
		{"acknowledged and refused", func(l *Ledger) { l.Acked(ordered(0), 0); l.Refused(ordered(0)) }, CE},
		{"no offset", func(l *Ledger) { l.Acked(ordered(0), -1) }, CE},
		{"acknowledged where another was read", func(l *Ledger) { l.Read(0, 0, ordered(1).encode(testRun, 64)); l.Acked(ordered(0), 0) }, OI},
		{"read where another was read", func(l *Ledger) {
			l.Read(0, 0, ordered(1).encode(testRun, 64))
			l.Read(0, 0, ordered(0).encode(testRun, 64))
		}, OI},
		{"read elsewhere", func(l *Ledger) { l.Acked(ordered(0), 0); l.Read(0, 3, ordered(0).encode(testRun, 64)) }, ND},
		{"refused and read", func(l *Ledger) { l.Refused(plainly(0)); l.Read(0, 3, plainly(0).encode(testRun, 64)) }, NP},
		{"damaged", func(l *Ledger) { l.Read(0, 0, ordered(0).encode(testRun, 64)[:60]) }, OI},
		{"of another run", func(l *Ledger) { l.Read(0, 0, ordered(0).encode(testRun+1, 64)) }, OI},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, f := newTestLedger()
			test.told(l)
			if diff := cmp.Diff(map[Mark]int{test.want: 1}, f.Counts()); diff != "" {
				t.Errorf("broken promises (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCompareReplicas: replicas hold the same frames.
func TestCompareReplicas(t *testing.T) {
	l, f := newTestLedger()
	one, two := logOf(t, 1, ordered(0), ordered(1)), logOf(t, 2, ordered(0), ordered(1), ordered(2))
	l.CheckAll([]Replica{one, two}, 2)
	if err := f.Err(); err != nil {
		t.Errorf("equal below the limit: %v", err)
	}
	l.CheckAll([]Replica{one, logOf(t, 3, ordered(0), ordered(2))}, 2)
	if f.Counts()[OI] == 0 {
		t.Error("two values of one offset were not seen")
	}
}

// TestCheckMajority: an acknowledged event may be missing on a minority of disks.
func TestCheckMajority(t *testing.T) {
	full, short := []Event{ordered(0), ordered(1)}, []Event{ordered(0)}
	for _, test := range []struct {
		logs [3][]Event
		lost int
	}{{[3][]Event{full, full, full}, 0}, {[3][]Event{full, short, full}, 0}, {[3][]Event{short, full, short}, 1}, {[3][]Event{{ordered(1)}, full, short}, 1}} {
		l, f := newTestLedger()
		l.Acked(ordered(0), 0)
		l.Acked(ordered(1), 1)
		var replicas []Replica
		for i, events := range test.logs {
			replicas = append(replicas, logOf(t, i+1, events...))
		}
		l.CheckMajority(0, replicas, 3)
		if got := f.Counts()[NL]; got != test.lost {
			t.Errorf("%v: %d lost, want %d: %v", test.logs, got, test.lost, f.Err())
		}
	}
}

// TestReaderSkips: a reader sees a gap and a step back.
func TestReaderSkips(t *testing.T) {
	for _, test := range []struct {
		name    string
		begin   int64
		offsets []int64
		broken  int
	}{
		{"in order", 0, []int64{0, 1, 2}, 0}, {"a gap", 0, []int64{0, 2, 3}, 1}, {"back", 0, []int64{0, 1, 0, 1, 2}, 1},
		{"not from the start", 0, []int64{3}, 1}, {"from the end", -1, []int64{3, 4}, 0},
	} {
		l, f := newTestLedger()
		r := &Reader{load: &Load{ledger: l, faults: f}, name: test.name, next: []int64{test.begin}}
		var records []*kgo.Record
		for _, offset := range test.offsets {
			records = append(records, &kgo.Record{Offset: offset, Value: ordered(offset).encode(testRun, 64)})
		}
		r.take(kgo.Fetches{{Topics: []kgo.FetchTopic{{Partitions: []kgo.FetchPartition{{Records: records}}}}}})
		if got := f.Counts()[MN]; got != test.broken {
			t.Errorf("%s: %d violations, want %d", test.name, got, test.broken)
		}
	}
}

// TestBitmap holds the set of offsets against a map.
func TestBitmap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b bitmap
		set := map[int64]bool{}
		for _, i := range rapid.SliceOf(rapid.Int64Range(0, 300)).Draw(t, "offsets") {
			b.set(i)
			set[i] = true
		}
		limit := rapid.Int64Range(0, 400).Draw(t, "limit")
		want := int64(-1)
		for i := limit - 1; i >= 0; i-- {
			if !set[i] {
				want = i
			}
		}
		if got := b.firstUnset(limit); got != want {
			t.Fatalf("first unset below %d = %d, want %d", limit, got, want)
		}
	})
}

// TestEvent: values and ids stand for one event each.
func TestEvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := Event{Producer: rapid.IntRange(0, maxProducers-1).Draw(t, "producer"),
			Partition: rapid.Int32Range(0, maxPartitions-1).Draw(t, "partition"), Sequence: rapid.Int64Range(0, maxSequence-1).Draw(t, "sequence")}
		if got := eventOf(e.id()); got != e {
			t.Fatalf("event of id = %+v, want %+v", got, e)
		}
		v := e.encode(testRun, rapid.IntRange(0, 200).Draw(t, "size"))
		if got, err := decode(testRun, v); err != nil || got != e {
			t.Fatalf("decode = %+v, %v, want %+v", got, err, e)
		}
		v[rapid.IntRange(0, len(v)-1).Draw(t, "byte")] ^= 1
		if got, err := decode(testRun, v); err == nil {
			t.Fatalf("a flipped bit went unseen: %+v", got)
		}
	})
}

func ExampleFaults() {
	f := NewFaults()
	f.Add(NL, "node 2 lacks event 7")
	fmt.Println(f.Err())
	// Output:
	// promises broken: NL broken 1 times:
	//   node 2 lacks event 7
}

var _ vfs.FS = bootFS{}
