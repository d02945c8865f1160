package log

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestReadersDuringAppends reads in every way while entries are appended, cut,
// applied and rolled. The race detector watches; readers may meet a cut, and
// nothing else.
func TestReadersDuringAppends(t *testing.T) {
	o := smallOptions(crashfs.New(1).Mount())
	o.Cache, o.Files = NewTailCache(20<<10), NewFileCache(2)
	l := create(t, o)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	fail := make(chan error, 10)
	for _, read := range []func() error{
		func() error { return readAll(l) },
		func() error { return replicateAll(l) },
		func() error { return askAll(l) },
		func() error { return l.WriteCheckpoint() },
	} {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := read(); err != nil {
					fail <- err
					return
				}
			}
		})
	}
	term := segment.Term(1)
	for i := range 400 {
		switch {
		case i%7 == 3 && l.LastIndex() > l.Applied():
			term++
			must(t, l.CutFrom(l.Applied()+1+(l.LastIndex()-l.Applied())/2))
		case i%5 == 4:
			if _, err := l.Apply(l.Applied() + (l.LastIndex()-l.Applied()+1)/2); err != nil {
				t.Fatal(err)
			}
		}
		mustAppend(t, l, batchOfRecords(term, 2, 300, uint64(i), 0), producerBatch(term, 3, 0, int32(i), 1), internalFrame(term, segment.KindNoop, ""))
	}
	close(stop)
	readers.Wait()
	must(t, l.Close())
	select {
	case err := <-fail:
		t.Error(err)
	default:
	}
}

func readAll(l *Log) error {
	return checkRead(l, nil, 0, true)
}

// replicateAll reads all entries as a leader does.
func replicateAll(l *Log) error {
	for i := l.FirstIndex(); ; {
		_, infos, err := l.ReadEntries(i, 20, 4000)
		switch {
		case errors.Is(err, ErrNotFound):
			return nil
		case errors.Is(err, ErrChanged):
			continue
		case err != nil:
			return fmt.Errorf("entries from %d: %w", i, err)
		}
		i += segment.Index(len(infos))
	}
}

// askAll asks for everything that is answered from memory or the index.
func askAll(l *Log) error {
	for i := l.FirstIndex(); i <= l.Applied(); i += 3 {
		if info, err := l.Info(i); err != nil || info.Index != i {
			return fmt.Errorf("info %d: %+v, %w", i, info, err)
		}
	}
	if _, _, _, err := l.OffsetForTime(100, l.HighWatermark()); err != nil {
		return err
	}
	if _, _, _, err := l.MaxTimestamp(l.HighWatermark()); err != nil {
		return err
	}
	l.OffsetForTerm(5)
	l.Producers()
	_ = l.Size()
	return nil
}

// TestSubscribe: a subscriber hears when the high watermark moves, and of Close,
// and never holds the log up.
func TestSubscribe(t *testing.T) {
	l := create(t, smallOptions(crashfs.New(1).Mount()))
	ch := make(chan struct{}, 1)
	full := make(chan struct{}) // nobody receives
	cancel := l.Subscribe(ch)
	l.Subscribe(full)
	heard := func() bool {
		select {
		case <-ch:
			return true
		default:
			return false
		}
	}
	mustAppend(t, l, internalFrame(1, segment.KindNoop, ""), batchOfRecords(1, 1, 10, 1, 0))
	if heard() {
		t.Error("heard of an append")
	}
	for i, want := range []bool{false, true} {
		if _, err := l.Apply(segment.Index(i + 1)); err != nil || heard() != want {
			t.Errorf("apply %d: %v, heard %v", i+1, err, !want)
		}
	}
	must(t, l.Close())
	if !heard() {
		t.Error("did not hear of Close")
	}
	cancel()
	cancel()
}

// TestApplyIsIdempotent and stops at what it does not know.
func TestApplyIsIdempotent(t *testing.T) {
	l := create(t, smallOptions(crashfs.New(1).Mount()))
	defer l.Close()
	mustAppend(t, l, producerBatch(1, 4, 0, 0, 2), batchOfRecords(1, 2, 10, 1, 0), internalFrame(1, segment.KindHorizon, "12345678"), batchOfRecords(1, 1, 10, 2, 0))
	for range 2 {
		for _, i := range []segment.Index{2, 1, 2} {
			if info, err := l.Apply(i); err != nil || info.Index != i || info.Base != segment.Offset(2*(i-1)) {
				t.Errorf("apply %d: %+v, %v", i, info, err)
			}
		}
	}
	if n := len(l.Producers()); n != 1 || l.HighWatermark() != 4 || l.Applied() != 2 {
		t.Errorf("%d producers, high watermark %d, applied %d", n, l.HighWatermark(), l.Applied())
	}
	for _, i := range []segment.Index{3, 4} {
		if _, err := l.Apply(i); !errors.Is(err, ErrUnknownKind) || l.Applied() != 2 || l.HighWatermark() != 4 {
			t.Errorf("apply %d: %v, applied %d", i, err, l.Applied())
		}
	}
	if _, err := l.Apply(5); !errors.Is(err, ErrNotFound) {
		t.Errorf("apply behind the end: %v", err)
	}
}

// TestStageAllocations: an entry costs no allocation of its own beyond the growth
// of the lists.
func TestStageAllocations(t *testing.T) {
	o := smallOptions(crashfs.New(1).Mount())
	l := create(t, o)
	defer l.Close()
	d := batchOfRecords(1, 1, 10, 1, 0)
	a := l.Begin()
	segment.Stamp(d.frame, 0, 1)
	allocations := testing.AllocsPerRun(1000, func() {
		segment.Stamp(d.frame, a.NextOffset(), 1)
		must(t, a.Stage(Entry{Index: a.NextIndex(), Term: 1, Kind: segment.KindRecords, Frame: d.frame}))
	})
	a.Abort()
	if allocations > 0 { // the average is rounded down: growth does not count
		t.Errorf("%v allocations an entry", allocations)
	}
}
