package durability

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// trimmedLog is a replica whose files begin at an offset.
func trimmedLog(t *testing.T, node int, begin int64, events ...Event) Replica {
	t.Helper()
	var frames [][]byte
	for i, e := range events {
		frames = append(frames, frameOf(e, begin+int64(i)))
	}
	r := replicaOf(t, node, frames...)
	if err := r.FS.Rename(filepath.Join(r.Dir, segmentName(0)), filepath.Join(r.Dir, segmentName(begin))); err != nil {
		t.Fatal(err)
	}
	return r
}

// withLeftover adds a file with one event, which a power cut brought back.
func withLeftover(t *testing.T, r Replica, e Event) Replica {
	t.Helper()
	file, err := r.FS.Create(filepath.Join(r.Dir, segmentName(0)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt(frameOf(e, 0), 0)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCheckTrimmed: what was trimmed may be missing, and nothing else.
func TestCheckTrimmed(t *testing.T) {
	for name, test := range map[string]struct {
		asked  int64
		log    func(t *testing.T) Replica
		broken map[Mark]int
	}{
		"as asked":                    {1, func(t *testing.T) Replica { return trimmedLog(t, 1, 1, ordered(1), plainly(0)) }, nil},
		"not yet":                     {1, func(t *testing.T) Replica { return logOf(t, 1, ordered(0), ordered(1), plainly(0)) }, nil},
		"a removed file came back":    {2, func(t *testing.T) Replica { return withLeftover(t, trimmedLog(t, 1, 2, plainly(0)), ordered(0)) }, nil},
		"a file is missing":           {1, func(t *testing.T) Replica { return withLeftover(t, trimmedLog(t, 1, 2, plainly(0)), ordered(0)) }, map[Mark]int{NL: 1}},
		"more than asked":             {1, func(t *testing.T) Replica { return trimmedLog(t, 1, 2, plainly(0)) }, map[Mark]int{NL: 1}},
		"nobody asked":                {0, func(t *testing.T) Replica { return trimmedLog(t, 1, 1, ordered(1), plainly(0)) }, map[Mark]int{NL: 1}},
		"lost behind it":              {1, func(t *testing.T) Replica { return trimmedLog(t, 1, 1, plainly(1), plainly(0)) }, map[Mark]int{NL: 1}},
		"lost though not yet trimmed": {1, func(t *testing.T) Replica { return logOf(t, 1, plainly(1), ordered(1), plainly(0)) }, map[Mark]int{NL: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			l, f := newTestLedger()
			l.Acked(ordered(0), 0)
			l.Acked(ordered(1), 1)
			l.Acked(plainly(0), 2)
			l.TrimAsked(0, test.asked)
			l.Check(test.log(t), 3)
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

// TestCompareTrimmed: replicas are compared from where both begin.
func TestCompareTrimmed(t *testing.T) {
	whole := []Event{ordered(0), ordered(1), ordered(2)}
	for name, test := range map[string]struct {
		log  func(t *testing.T) Replica
		same bool
	}{
		"equal":             {func(t *testing.T) Replica { return trimmedLog(t, 2, 1, whole[1:]...) }, true},
		"another record":    {func(t *testing.T) Replica { return trimmedLog(t, 2, 1, ordered(1), ordered(3)) }, false},
		"wrongly numbered":  {func(t *testing.T) Replica { return trimmedLog(t, 2, 1, ordered(0), ordered(1)) }, false},
		"another beginning": {func(t *testing.T) Replica { return logOf(t, 2, plainly(0), ordered(1), ordered(2)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, swap := range []bool{false, true} {
				l, f := newTestLedger()
				l.TrimAsked(0, 1)
				replicas := []Replica{logOf(t, 1, whole...), test.log(t)}
				if swap {
					replicas[0], replicas[1] = replicas[1], replicas[0]
				}
				l.CheckAll(replicas, 3)
				if same := f.Counts()[OI] == 0; same != test.same {
					t.Errorf("swapped %v: seen as equal: %v: %v", swap, same, f.Err())
				}
			}
		})
	}
}

// TestMajorityOfTrimmed: a disk that has trimmed an event counts as one that had it,
// if somebody asked for that.
func TestMajorityOfTrimmed(t *testing.T) {
	for asked, lost := range map[int64]int{0: 2, 1: 0} { // both disks begin too late
		l, f := newTestLedger()
		l.Acked(ordered(0), 0)
		l.Acked(ordered(1), 1)
		l.TrimAsked(0, asked)
		l.CheckMajority(0, []Replica{trimmedLog(t, 1, 1, ordered(1)), trimmedLog(t, 2, 1, ordered(1)), logOf(t, 3)}, 3)
		if got := f.Counts()[NL]; got != lost {
			t.Errorf("trim to %d asked for: %d faults, want %d: %v", asked, got, lost, f.Err())
		}
	}
}
