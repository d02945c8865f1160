package log

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestReadersDuringTrims reads in every way while entries are appended, cut, applied
// and trimmed, and the space is freed. The race detector watches; what a reader meets is
// what was asked for, or, where that was trimmed by then, the error that says so.
func TestReadersDuringTrims(t *testing.T) {
	o := smallOptions(crashfs.New(1).Mount())
	o.Cache, o.Files = NewTailCache(20<<10), NewFileCache(2)
	l := create(t, o)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	fail := make(chan error, 10)
	for _, read := range []func(*Log) error{
		consumeTrimmed, replicateTrimmed, askTrimmed, seedTrimmed, (*Log).Reclaim, (*Log).WriteCheckpoint,
	} {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := read(l); err != nil {
					fail <- err
					return
				}
			}
		})
	}
	term := segment.Term(1)
	for i := range 250 {
		switch {
		case i%7 == 3 && l.LastIndex() > l.Applied():
			term++
			must(t, l.CutFrom(l.Applied()+1+(l.LastIndex()-l.Applied())/2))
		case i%5 == 4:
			if _, err := l.Apply(l.Applied() + (l.LastIndex()-l.Applied()+1)/2); err != nil {
				t.Fatal(err)
			}
		case i%11 == 5:
			mustAppend(t, l, trimDraft(term, max(0, l.HighWatermark()-20), l.Applied()))
		}
		mustAppend(t, l, batchOfRecords(term, 2, 300, uint64(i), int64(i)), internalFrame(term, segment.KindNoop, ""))
	}
	close(stop)
	readers.Wait()
	select {
	case err := <-fail:
		t.Error(err)
	default:
	}
	if l.FirstIndex() == 1 {
		t.Error("nothing was trimmed: the test proved nothing")
	}
	must(t, l.Close())
}

// consumeTrimmed reads as a consumer does, from the log start.
func consumeTrimmed(l *Log) error {
	for at := l.StartOffset(); at < l.HighWatermark(); {
		s, err := l.Read(at, l.HighWatermark(), 5000, true)
		if errors.Is(err, ErrOffsetOutOfRange) && at < l.StartOffset() {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read offset %d of a log that starts at %d: %w", at, l.StartOffset(), err)
		}
		b, err := sliceBytes(s)
		if err != nil {
			return err
		}
		for next := s.First; len(b) > 0; {
			h, err := segment.DecodeHeader(b)
			if err != nil || h.BaseOffset != next || h.NextOffset() <= at || !segment.ChecksumOK(b[:h.FrameSize()]) {
				return fmt.Errorf("read of offset %d: batch %+v, %w", at, h, err)
			}
			next, b = h.NextOffset(), b[h.FrameSize():]
		}
		at = s.Next
	}
	return nil
}

// replicateTrimmed reads entries as a leader does, from the first.
func replicateTrimmed(l *Log) error {
	for i, missed := l.FirstIndex(), 0; i <= l.LastIndex(); {
		_, infos, err := l.ReadEntries(i, 20, 4000)
		switch {
		case errors.Is(err, ErrNotFound) && i < l.FirstIndex(): // trimmed
			return nil
		case errors.Is(err, ErrNotFound) && missed < 1000: // cut, and maybe written again by now
			missed++
			continue
		case errors.Is(err, ErrChanged):
			continue
		case err != nil:
			return fmt.Errorf("entries from %d on of a log that begins with %d: %w", i, l.FirstIndex(), err)
		}
		i += segment.Index(len(infos))
	}
	return nil
}

// askTrimmed asks for everything that is answered from memory or the index.
func askTrimmed(l *Log) error {
	for i := l.FirstIndex() - 1; i <= l.Applied(); i += 3 {
		info, err := l.Info(i)
		if errors.Is(err, ErrNotFound) && i+1 < l.FirstIndex() {
			continue
		}
		if err != nil || info.Index != i {
			return fmt.Errorf("info %d: %+v, %w", i, info, err)
		}
	}
	for ts := int64(0); ts < 400; ts += 20 {
		start := l.StartOffset()
		if at, _, found, err := l.OffsetForTime(ts, l.HighWatermark()); err != nil || found && at < start {
			return fmt.Errorf("time %d: offset %d of a log that starts at %d: %w", ts, at, start, err)
		}
	}
	if _, _, _, err := l.MaxTimestamp(l.HighWatermark()); err != nil {
		return fmt.Errorf("largest timestamp: %w", err)
	}
	start := l.StartOffset()
	if at, _ := l.Expired(Retention{Age: time.Hour, Bytes: 1000}, time.Now(), l.Applied()); at < start {
		return fmt.Errorf("expired to %d, below the start %d", at, start)
	}
	l.Trimmable(l.Applied())
	_ = l.Size()
	return nil
}

// seedTrimmed reads the log as one that gives a seed does.
func seedTrimmed(l *Log) error {
	s, err := l.OpenSeed(0)
	if err != nil {
		return but(err, ErrNotFound, ErrSeedChanged)
	}
	for n, f := range s.Seed().Files {
		b := make([]byte, f.Size)
		if _, err := s.ReadAt(n, b, 0); err != nil && !errors.Is(err, io.EOF) {
			return but(err, ErrSeedChanged)
		}
	}
	return nil
}

// but is an error, unless it is one of those that are expected.
func but(err error, expected ...error) error {
	for _, e := range expected {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}
