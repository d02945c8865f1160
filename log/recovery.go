package log

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/millrace/millrace/segment"
)

// startPlace is the segment where following the frames begins, and the place of
// the checkpoint in it; no place means its first frame.
type startPlace struct {
	n     int
	place *segment.Place
}

// options are those to follow the segment with.
func (s startPlace) options(l *Log, visit func(*part, segment.Visited) error) segment.RecoverOptions {
	p := l.parts[s.n]
	from := segment.Place{Index: p.index, Offset: p.base, Term: p.header.PrevTerm}
	if s.place != nil {
		from = *s.place
	}
	return segment.RecoverOptions{
		From: from, SameBoot: l.options.SameBoot, CleanStop: l.options.CleanStop,
		Visit: func(v segment.Visited) error { return visit(p, v) },
	}
}

// startState makes the checkpoint the state, and finds its place.
func (l *Log) startState(c *checkpoint) (startPlace, error) {
	l.durable = c.Checkpoint
	l.applied, l.committed, l.highWatermark = c.Index, c.Index, c.HighWatermark
	l.firstEntry = c.Index + 1
	l.terms = c.terms
	l.producers = newProducerTable(l.options.MaxProducers, c.producers)
	if c.ConfigurationIndex > 0 {
		l.configurations = []configuration{{index: c.ConfigurationIndex, content: c.Configuration}}
	}
	for n, p := range l.parts {
		seal := p.header.Seal
		if p.base != c.base || c.Index+1 < p.index || seal != nil && c.Index > seal.LastIndex {
			continue
		}
		place := segment.Place{Index: c.Index + 1, Offset: c.HighWatermark, Position: c.position, Term: c.Term}
		l.appliedAt = placeAt(p, place)
		return startPlace{n: n, place: &place}, nil
	}
	return startPlace{}, &segment.DamageError{File: checkpointName, Position: -1,
		Detail: fmt.Sprintf("it names entry %d in segment %d, which does not hold it", c.Index, c.base)}
}

func placeAt(p *part, at segment.Place) place {
	return place{part: p, position: at.Position, index: at.Index, offset: at.Offset, term: at.Term}
}

// follow goes through a sealed segment that is not wholly behind the checkpoint.
func (l *Log) follow(at startPlace) error {
	p := l.parts[at.n]
	h, err := l.files.acquire(l, p)
	if err != nil {
		return err
	}
	defer l.files.release(h)
	if err := h.reader.Follow(at.options(l, l.visit)); err != nil {
		return fmt.Errorf("follow segment %d: %w", p.base, err)
	}
	return nil
}

// recoverLast opens the last segment for writing and sets the end of the log.
func (l *Log) recoverLast(at startPlace, claim func() error) error {
	p := l.parts[at.n]
	o := at.options(l, l.visit)
	o.Before = claim
	w, report, err := segment.Recover(l.options.FS, l.options.Dir, p.header, o)
	if err != nil {
		return fmt.Errorf("recover segment %d: %w", p.base, err)
	}
	if report.Cut > 0 {
		l.recovery.Torn = report.Class == segment.ClassTorn
		l.recovery.Uncertain = l.recovery.Uncertain || report.Class == segment.ClassUncertain
		l.recovery.CutBytes = report.Cut
		l.options.Logger.Warn("cut the unfinished end of a log", "topic", l.identity.Topic,
			"partition", l.identity.Partition, "file", segment.LogName(p.base), "position", report.Position,
			"bytes", report.Cut, "class", report.Class.String(), "why", report.Detail)
	}
	p.header = w.Header()
	l.tail = tail{chain: append([]*part(nil), l.parts...), writer: w, handle: l.files.adopt(p, w.Reader())}
	end := w.End()
	l.end = place{part: p, position: end.Position, index: end.Index, offset: end.Offset, term: end.Term}
	l.listed = listed{start: l.start, through: l.through, segments: l.parts[:len(l.parts):len(l.parts)]}
	l.producers.reset(l.entries)
	return l.recoverTimes()
}

// visit adds a frame behind the checkpoint to the state.
func (l *Log) visit(p *part, v segment.Visited) error {
	e, err := newEntry(v.Header, v.Kind, v.Content)
	if err != nil {
		return &segment.DamageError{File: segment.LogName(p.base), Position: v.Position, Detail: err.Error()}
	}
	e.part, e.position = p, v.Position
	l.entries = append(l.entries, e)
	l.terms = startTerm(l.terms, &e, v.Index)
	if v.Kind == segment.KindConfiguration {
		l.configurations = append(l.configurations, configuration{index: v.Index, content: append([]byte(nil), v.Content...)})
	}
	return nil
}

// keptSuffix is added to the names of .torn files when the doubt is over.
const keptSuffix = ".kept"

// SettleEnd says that nothing is missing at the end of the log any more, or that
// nothing can be done about it: later starts find no doubt. What was cut stays, under
// the name NAME.torn.kept. After an error the doubt may or may not be over on the
// disk; the caller tries again, unless the error is a *FatalError.
func (l *Log) SettleEnd() error {
	fsys, dir := l.options.FS, l.options.Dir
	names, err := fsys.List(dir)
	if err != nil {
		return fmt.Errorf("list folder: %w", err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, segment.TornSuffix) {
			continue
		}
		if err := fsys.Rename(filepath.Join(dir, name), filepath.Join(dir, name+keptSuffix)); err != nil {
			return fmt.Errorf("keep what was cut: %w", err)
		}
	}
	// Also when nothing was renamed now: by an earlier try, whose sync failed in
	// another way than for good.
	if err := fsys.SyncDir(dir); err != nil {
		return l.fail("keep what was cut", err)
	}
	return nil
}
