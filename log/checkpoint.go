package log

import (
	"fmt"
	"path/filepath"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// Checkpoint is the part of a checkpoint that raft needs: with it, it starts at
// Index instead of at the log's first entry.
type Checkpoint struct {
	// Index is the last entry that was applied.
	Index segment.Index
	// Term is the term of that entry.
	Term segment.Term
	// Configuration is raft's configuration as of Index, in raft's encoding; empty
	// before there was one.
	Configuration []byte
	// ConfigurationIndex is the index of the entry that made it.
	ConfigurationIndex segment.Index
	// HighWatermark is the offset after the last record up to Index.
	HighWatermark segment.Offset
}

// checkpoint is the applied state on disk. It is replaced as a whole, by rename,
// after everything it names was synced. Body of format segment.FormatCheckpoint1:
//
//	incarnation     8      the replica's; another replica's checkpoint is refused
//	index           8      last applied entry
//	term            8      its term
//	high watermark  8
//	segment         8      base offset of the segment that holds the entry, or of
//	                       the first one
//	position        8      where the entry after it begins there, in bytes
//	configuration   4+n    raft's, as of index
//	its index       8
//	terms           4+n x 24    see segment.EncodeTerms; terms up to index
//	producers       4+n x ...   see segment.ProducerState; as of index
type checkpoint struct {
	Checkpoint
	incarnation uint64
	base        segment.Offset
	position    int64
	terms       []segment.TermStart
	producers   []segment.ProducerState
}

const checkpointName = "checkpoint"

func (c *checkpoint) encode() []byte {
	var e segment.Encoder
	e.Uint64(c.incarnation)
	e.Uint64(uint64(c.Index))
	e.Uint64(uint64(c.Term))
	e.Uint64(uint64(c.HighWatermark))
	e.Uint64(uint64(c.base))
	e.Uint64(uint64(c.position))
	e.Bytes(c.Configuration)
	e.Uint64(uint64(c.ConfigurationIndex))
	segment.EncodeTerms(&e, c.terms)
	segment.EncodeProducers(&e, c.producers)
	return segment.Wrap(segment.FormatCheckpoint1, e.Body())
}

// decodeCheckpoint reads what encode wrote. The error is segment.ErrFormat.
func decodeCheckpoint(data []byte) (*checkpoint, error) {
	body, err := segment.Unwrap(segment.FormatCheckpoint1, data)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	d := segment.NewDecoder(body)
	c := &checkpoint{incarnation: d.Uint64()}
	c.Index, c.Term, c.HighWatermark = segment.Index(d.Uint64()), d.Term(), d.Offset()
	c.base, c.position = d.Offset(), int64(d.Uint64())
	c.Configuration, c.ConfigurationIndex = d.Bytes(), segment.Index(d.Uint64())
	c.terms = segment.DecodeTerms(d)
	c.producers = segment.DecodeProducers(d)
	if c.position < 0 || c.ConfigurationIndex > c.Index || c.base > c.HighWatermark {
		d.Fail("position %d, configuration of entry %d as of %d, segment %d", c.position, c.ConfigurationIndex, c.Index, c.base)
	}
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	return c, nil
}

// readCheckpoint reads a folder's checkpoint. Create wrote the first one, so a
// missing one is damage as well.
func readCheckpoint(fsys vfs.FS, dir string, incarnation uint64) (*checkpoint, error) {
	data, err := vfs.ReadFile(fsys, filepath.Join(dir, checkpointName), segment.MaxMetadataSize)
	var c *checkpoint
	if err == nil {
		c, err = decodeCheckpoint(data)
	}
	if err == nil && c.incarnation != incarnation {
		err = fmt.Errorf("it is of replica incarnation %016x, not %016x", c.incarnation, incarnation)
	}
	if err != nil {
		return nil, &CorruptionError{Dir: dir, File: checkpointName, Position: -1, Class: segment.ClassCorrupt, Detail: err.Error()}
	}
	return c, nil
}

// Checkpoint is the durable one.
func (l *Log) Checkpoint() Checkpoint {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.durable
}

// AppliedState is what a checkpoint of this moment would say. A raft that starts on it,
// in the process that applied it, needs no entry from the disk: what is not applied
// is in memory.
func (l *Log) AppliedState() Checkpoint {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.appliedPlaceLocked()
}

// WriteCheckpoint makes the applied state durable, so that the next start begins
// there. Apply calls it by itself after a roll and each CheckpointBytes. For lack
// of space it fails with ErrNoSpace, and the old checkpoint counts.
func (l *Log) WriteCheckpoint() error {
	l.checkpointing.Lock()
	defer l.checkpointing.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	return l.writeCheckpoint()
}

// writeCheckpoint is WriteCheckpoint under l.checkpointing.
func (l *Log) writeCheckpoint() error {
	l.mu.Lock()
	c, at := l.appliedStateLocked(), l.appliedAt.part
	l.sinceCheckpoint, l.rolled = 0, false
	start, through := l.start, l.through
	unchanged := c.Index == l.durable.Index
	l.mu.Unlock()
	if unchanged {
		return nil
	}
	// A start from this checkpoint does not see the trims before it again.
	if err := l.listTrim(start, through); err != nil {
		return err
	}
	// The frames are synced; their index entries may not be. Those of sealed
	// segments were synced with the seal.
	if !at.sealed.Load() {
		h, err := l.files.acquire(l, at)
		if err != nil {
			return err
		}
		err = h.reader.Sync()
		l.files.release(h)
		if err != nil {
			return l.fail("sync index", err)
		}
	}
	if err := vfs.WriteFile(l.options.FS, filepath.Join(l.options.Dir, checkpointName), c.encode()); err != nil {
		return l.fail("write checkpoint", err)
	}
	l.mu.Lock()
	l.durable = c.Checkpoint
	l.forgetConfigurationsLocked()
	l.mu.Unlock()
	return nil
}

func (l *Log) appliedPlaceLocked() Checkpoint {
	c := Checkpoint{Index: l.applied, Term: l.appliedAt.term, HighWatermark: l.highWatermark}
	if configuration, ok := l.configurationAtLocked(l.applied); ok {
		c.Configuration, c.ConfigurationIndex = configuration.content, configuration.index
	}
	return c
}

// appliedStateLocked is what a checkpoint of this moment holds.
func (l *Log) appliedStateLocked() *checkpoint {
	at := l.appliedAt
	c := &checkpoint{Checkpoint: l.appliedPlaceLocked(), incarnation: l.identity.Incarnation, base: at.part.base, position: at.position}
	for _, t := range l.terms {
		if t.Index <= l.applied {
			c.terms = append(c.terms, t)
		}
	}
	c.producers = l.producers.snapshot()
	return c
}
