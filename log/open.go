package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// Open opens a replica's log after any crash, and is idempotent: a crash during it
// changes nothing about what the next one finds. An incomplete last write is cut;
// Recovery says so. A *CorruptionError is damage to what was synced: nothing was
// changed for it. fs.ErrNotExist means that there is no replica.
//
// A switch to a seed that was committed is finished first, see Staging.Switch.
//
// It reads the manifest, the checkpoint and the headers of all segments, follows
// the frames from the checkpoint on, and checks the CRCs of those that are not
// proven synced. What it read, it makes durable, since raft counts all of it as
// stored: after a stop that was not clean by writing it again, as the package
// comment says, since a sync alone may do nothing.
func Open(o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	m, err := readManifest(o.FS, o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if err := matches(o.Identity, m.identity); err != nil {
		return nil, fmt.Errorf("open log: %s: %w", o.Dir, err)
	}
	if m.switching {
		if err := finishSwitch(o.FS, o.Dir, m); err != nil {
			return nil, fmt.Errorf("open log: finish the switch to a seed: %w", err)
		}
	}
	l := &Log{options: o, identity: m.identity, files: o.Files, start: m.start, through: m.through, subscribers: map[*subscription]struct{}{}}
	left, err := l.findLeftovers(m)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", l.corruption(err))
	}
	c, err := readCheckpoint(o.FS, o.Dir, m.identity.Incarnation)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	claim := func() error { return l.claim(m, c, left) }
	if err := l.recover(m, c, claim); err != nil {
		for _, p := range l.parts {
			l.files.drop(p)
		}
		return nil, fmt.Errorf("open log: %w", l.corruption(err))
	}
	return l, nil
}

// matches compares what the caller expects, as far as it does, with the manifest.
func matches(want, got Identity) error {
	if want == (Identity{}) {
		return nil
	}
	if want.TopicID != got.TopicID || want.Partition != got.Partition || want.Incarnation != got.Incarnation {
		return fmt.Errorf("the folder is of topic %s, partition %d, replica %016x, not of topic %s, partition %d, replica %016x",
			got.TopicID, got.Partition, got.Incarnation, want.TopicID, want.Partition, want.Incarnation)
	}
	return nil
}

// recover opens the segments and rebuilds the state from the checkpoint on. It
// calls claim when nothing more can be found wrong, before it changes anything.
func (l *Log) recover(m *manifest, c *checkpoint, claim func() error) error {
	for i, s := range m.segments {
		p, err := l.openPart(s, i == len(m.segments)-1)
		if err != nil {
			return err
		}
		if err := l.addPart(p); err != nil {
			return err
		}
	}
	at, err := l.startState(c)
	if err != nil {
		return err
	}
	last := len(l.parts) - 1
	for ; at.n < last; at = (startPlace{n: at.n + 1}) {
		if err := l.follow(at); err != nil {
			return err
		}
	}
	return l.recoverLast(at, claim)
}

// openPart reads a segment's header. All but the last must be sealed and as long
// as the seal says.
func (l *Log) openPart(s segmentRef, last bool) (*part, error) {
	fsys, dir := l.options.FS, l.options.Dir
	damage := func(name, detail string) error {
		return &segment.DamageError{File: name, Position: -1, Detail: detail}
	}
	h, err := segment.ReadHeader(fsys, dir, s.base)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, segment.ErrFormat) || errors.Is(err, vfs.ErrTooLarge) {
		return nil, damage(segment.HeaderName(s.base), err.Error())
	}
	if err != nil {
		return nil, err
	}
	if h.TopicID != l.identity.TopicID || h.Partition != l.identity.Partition || h.BaseIndex != s.index {
		return nil, damage(segment.HeaderName(s.base), "it is of another partition, or of another base index")
	}
	info, err := fsys.Stat(filepath.Join(dir, segment.LogName(s.base)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damage(segment.LogName(s.base), "it is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", err)
	}
	if !last && h.Seal == nil {
		return nil, damage(segment.HeaderName(s.base), "it is not sealed, and others follow it")
	}
	if h.Seal != nil && info.Size() != h.Seal.Length {
		return nil, damage(segment.LogName(s.base), fmt.Sprintf("it has %d bytes, its seal says %d", info.Size(), h.Seal.Length))
	}
	p := &part{base: s.base, index: s.index, header: h, modified: info.ModTime().UnixMilli()}
	p.sealed.Store(!last)
	if !last {
		p.header = slim(h)
	}
	return p, nil
}

// slim is a header without what only the segment's own end needs: sealed segments
// must not cost memory for each producer.
func slim(h *segment.FileHeader) *segment.FileHeader {
	s := *h
	s.Configuration, s.Terms, s.Producers = nil, nil, nil
	return &s
}

// addPart adds a segment that must go on where the one before ends.
func (l *Log) addPart(p *part) error {
	if n := len(l.parts); n > 0 {
		seal := l.parts[n-1].header.Seal
		if p.base != seal.NextOffset || p.index != seal.LastIndex+1 || p.header.PrevTerm != seal.LastTerm {
			return &segment.DamageError{File: segment.HeaderName(p.base), Position: -1,
				Detail: fmt.Sprintf("it begins at offset %d, index %d, after term %d; the segment before ends at offset %d, index %d, term %d",
					p.base, p.index, p.header.PrevTerm, seal.NextOffset, seal.LastIndex, seal.LastTerm)}
		}
	}
	l.parts = append(l.parts, p)
	return nil
}
