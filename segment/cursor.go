package segment

import (
	"encoding/binary"
	"hash/crc32"
)

// indexInterval is how many bytes of frames an index entry covers at most, unless
// a single frame is larger.
const indexInterval = 4096

// Cursor is a place between two frames of a segment, and what is known there. It
// is moved frame by frame by everything that follows a segment (the writer,
// recovery, the rebuilding of an index), so that all of them see the same
// indexes, chain and index entries.
//
// The chain is a CRC32C over the segment's identity (topic id, partition, base
// index, base offset, previous term) and then the 61 bytes of each frame's
// header. A header holds the frame's own CRC, so the chain covers every byte: a
// frame that is at the wrong place, of another age, or has a flipped bit in the
// fields that Kafka's CRC leaves out does not fit it.
type Cursor struct {
	// Position is where the next frame begins, in bytes.
	Position int64
	// Index is the Raft index of the next frame.
	Index Index
	// Offset is the base offset of the next frame.
	Offset Offset
	// Term is the term of the frame before.
	Term Term
	// MaxTimestamp is the largest record timestamp so far, -1 without records.
	MaxTimestamp int64
	// Chain is the checksum over everything before.
	Chain uint32
	// Indexed is the position of the last index entry, 0 without one.
	Indexed int64
}

// Start is the cursor before the segment's first frame.
func (h *FileHeader) Start() Cursor {
	var seed []byte
	seed = append(seed, h.TopicID[:]...)
	seed = binary.BigEndian.AppendUint32(seed, uint32(h.Partition))
	seed = binary.BigEndian.AppendUint64(seed, uint64(h.BaseIndex))
	seed = binary.BigEndian.AppendUint64(seed, uint64(h.BaseOffset))
	seed = binary.BigEndian.AppendUint64(seed, uint64(h.PrevTerm))
	return Cursor{
		Index: h.BaseIndex, Offset: h.BaseOffset, Term: h.PrevTerm, MaxTimestamp: -1,
		Chain: crc32.Checksum(seed, castagnoli),
	}
}

// Fits says why a frame with this header cannot come next, nil if it can: base
// offsets are dense and terms never fall.
func (c *Cursor) Fits(h Header) error {
	if h.BaseOffset != c.Offset {
		return batchErrorf(Corrupt, "base offset %d, must be %d", h.BaseOffset, c.Offset)
	}
	if h.Term() < c.Term || h.Term() > MaxTerm {
		return batchErrorf(Corrupt, "term %d after %d", h.Term(), c.Term)
	}
	return nil
}

// Step moves the cursor over a frame that fits, whose first HeaderSize bytes are
// raw, and appends the index entries that become due to entries.
func (c *Cursor) Step(raw []byte, h Header, entries []IndexEntry) []IndexEntry {
	size := int64(h.FrameSize())
	if c.Position > c.Indexed && c.Position+size-c.Indexed > indexInterval {
		entries = append(entries, c.entry())
	}
	c.Position += size
	c.Index++
	c.Offset = h.NextOffset()
	c.Term = h.Term()
	if h.Kind() == KindRecords {
		c.MaxTimestamp = max(c.MaxTimestamp, h.MaxTimestamp)
	}
	c.Chain = crc32.Update(c.Chain, castagnoli, raw[:HeaderSize])
	if c.Position-c.Indexed >= indexInterval {
		entries = append(entries, c.entry())
	}
	return entries
}

// entry is the index entry of this place.
func (c *Cursor) entry() IndexEntry {
	c.Indexed = c.Position
	return IndexEntry{Index: c.Index, Offset: c.Offset, Position: c.Position, MaxTimestamp: c.MaxTimestamp, Chain: c.Chain}
}

// At is the cursor at the place of an index entry; the term before it, which an
// entry does not hold, is taken to be the segment's previous one, which is never
// above it.
func (h *FileHeader) At(e IndexEntry) Cursor {
	return Cursor{
		Position: e.Position, Index: e.Index, Offset: e.Offset, Term: h.PrevTerm, MaxTimestamp: e.MaxTimestamp,
		Chain: e.Chain, Indexed: e.Position,
	}
}
