package log

import (
	"errors"
	"slices"

	"github.com/millrace/millrace/segment"
)

// roll closes the segment being written and begins the next with entry n of an
// append. The package comment has the order and what a crash leaves. After an
// error the last segment may be closed and no other begun; makeCut opens it again.
func (l *Log) roll(a *Append, n int) error {
	header := l.nextHeader(a, n)
	w := l.tail.writer
	if err := w.Seal(); err != nil {
		return l.fail("close segment", err)
	}
	l.steps.Add(1)
	old := l.tail.chain[len(l.tail.chain)-1]
	l.mu.Lock()
	old.header = slim(w.Header())
	l.mu.Unlock()
	old.sealed.Store(true)
	l.files.release(l.tail.handle) // from now on it is closed when others are needed more
	l.tail.writer, l.tail.handle = nil, nil

	// A roll that failed before may have left files of this name; they are not listed.
	if err := segment.Remove(l.options.FS, l.options.Dir, header.BaseOffset); err != nil {
		return l.fail("begin segment", err)
	}
	next, err := segment.Create(l.options.FS, l.options.Dir, header)
	if err != nil {
		return l.fail("begin segment", err)
	}
	l.steps.Add(1)
	p := &part{base: header.BaseOffset, index: header.BaseIndex, header: header}
	chain := append(l.tail.chain[:len(l.tail.chain):len(l.tail.chain)], p)
	if err := l.list(chain, nil); err != nil {
		return errors.Join(err, next.Close())
	}
	l.tail.chain, l.tail.dropped = l.kept(chain), nil
	l.tail.writer, l.tail.handle = next, l.files.adopt(p, next.Reader())
	return nil
}

// list writes the manifest for a chain of segments, of which those that were
// trimmed meanwhile are left out.
func (l *Log) list(chain []*part, cut []segment.Offset) error {
	l.listing.Lock()
	defer l.listing.Unlock()
	next := l.listed
	for len(chain) > 0 && chain[0].index < next.segments[0].index {
		chain = chain[1:]
	}
	next.segments, next.cut = chain, cut
	return l.listLocked(next)
}

// listLocked replaces the manifest, under Log.listing. What trims that are applied
// say goes with it.
func (l *Log) listLocked(next listed) error {
	l.mu.RLock()
	next.start, next.through = l.start, l.through
	l.mu.RUnlock()
	m := &manifest{identity: l.identity, start: next.start, through: next.through}
	for _, p := range next.segments {
		m.segments = append(m.segments, segmentRef{base: p.base, index: p.index})
	}
	m.dropped = append(m.dropped, next.cut...)
	for _, p := range next.trimmed {
		m.dropped = append(m.dropped, p.base)
	}
	if err := writeManifest(l.options.FS, l.options.Dir, m); err != nil {
		return l.fail("list segments", err)
	}
	l.steps.Add(1)
	l.listed = next
	return nil
}

// kept is a chain without the segments that were trimmed.
func (l *Log) kept(chain []*part) []*part {
	first := l.FirstIndex()
	for chain[0].index < first {
		chain = chain[1:]
	}
	return slices.Clone(chain)
}

// nextHeader is the header of a segment that begins with entry n of an append: the
// state as of the entry before, applied or not.
func (l *Log) nextHeader(a *Append, n int) *segment.FileHeader {
	end := l.tail.writer.End()
	l.mu.RLock()
	defer l.mu.RUnlock()
	h := &segment.FileHeader{
		Cluster: l.identity.Cluster, TopicID: l.identity.TopicID, Partition: l.identity.Partition,
		BaseIndex: end.Index, BaseOffset: end.Offset, PrevTerm: end.Term,
		RoundLimit: max(segment.MinRoundLimit, l.tail.writer.Header().RoundLimit/2),
		Terms:      append([]segment.TermStart(nil), l.terms...),
		Producers:  l.producers.after(l.unappliedLocked(), a.entries[:n]),
	}
	for i := range a.entries[:n] {
		h.Terms = startTerm(h.Terms, &a.entries[i], a.begun+segment.Index(i))
	}
	last, ok := l.configurationAtLocked(end.Index - 1)
	for _, c := range a.configurations {
		if c.index < end.Index {
			last, ok = c, true
		}
	}
	if ok {
		h.Configuration, h.ConfigurationIndex = last.content, last.index
	}
	return h
}
