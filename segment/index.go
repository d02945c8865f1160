package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"sync"

	"github.com/millrace/millrace/segment/vfs"
)

// A segment's index file (.idx) is a preamble and entries of 32 bytes. Lost or
// damaged, it is made anew from the frames.
//
// Preamble, 32 bytes:
//
//	 0        4        8            16            24       28       32
//	+--------+--------+------------+-------------+--------+--------+
//	| "MLRC" | format | base       | base        | first  | CRC32C |
//	| (4)    | (4)    | index (8)  | offset (8)  | chain  | (4)    |
//	+--------+--------+------------+-------------+--------+--------+
//
// Entry, 32 bytes:
//
//	 0        4          8            16            24      28       32
//	+--------+----------+------------+-------------+-------+--------+
//	| frames | position | offset of  | largest     | chain | CRC32C |
//	| before | in .log  | next frame | timestamp   | (4)   | (4)    |
//	| (4)    | (4)      | (8)        | so far (8)  |       |        |
//	+--------+----------+------------+-------------+-------+--------+
//
// An entry describes a place between two frames. The raft index of the next frame
// is the base index plus "frames before". The chain covers all frames before the
// place, see Cursor. The CRC begins with the preamble's CRC, so that an entry of
// another segment's index is not valid here. Frames, positions, offsets and
// timestamps never fall from one entry to the next, and position rises.
//
// There is an entry for every 4 KiB of frames, or for every frame that is larger.
// It is written after the sync of everything before its position, and not synced
// itself: a valid entry proves that its data is on the disk.
//
// On disk: never change; a new layout is a new Format.
const (
	indexPreamble  = 32
	indexEntrySize = 32
)

// ErrBadIndex is an index file or entry that is not valid. It says nothing about
// the frames; RebuildIndex makes the file anew.
var ErrBadIndex = errors.New("segment: bad index")

// IndexEntry is one entry of a segment's index.
type IndexEntry struct {
	// Index is the Raft index of the frame at Position.
	Index Index
	// Offset is its base offset.
	Offset Offset
	// Position is where it begins in the .log, in bytes.
	Position int64
	// MaxTimestamp is the largest record timestamp before it, in milliseconds.
	MaxTimestamp int64
	// Chain is the chained checksum of all frames before it.
	Chain uint32
}

// IndexFile is the index of one segment. Find may be called concurrently with
// everything but Close; the other methods belong to one goroutine at a time,
// except Sync.
type IndexFile struct {
	file  vfs.File
	name  string
	start Cursor
	sum   uint32 // the preamble's CRC

	// io orders writes to the file and its sync, which the vfs wants from one
	// goroutine at a time. It is taken before mu.
	io sync.Mutex
	// mu guards what follows.
	mu      sync.RWMutex
	written int          // entries in the file
	pending []IndexEntry // valid, not yet in the file
}

// encodeIndexPreamble is the first 32 bytes of an index that begins at start.
func encodeIndexPreamble(start Cursor) []byte {
	b := make([]byte, 0, indexPreamble)
	b = append(b, envelopeMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(FormatIndex1))
	b = binary.BigEndian.AppendUint64(b, uint64(start.Index))
	b = binary.BigEndian.AppendUint64(b, uint64(start.Offset))
	b = binary.BigEndian.AppendUint32(b, start.Chain)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// appendIndexEntry appends the 32 bytes of an entry to b.
func appendIndexEntry(b []byte, start Cursor, sum uint32, e IndexEntry) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(e.Index-start.Index))
	b = binary.BigEndian.AppendUint32(b, uint32(e.Position))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Offset))
	b = binary.BigEndian.AppendUint64(b, uint64(e.MaxTimestamp))
	b = binary.BigEndian.AppendUint32(b, e.Chain)
	return binary.BigEndian.AppendUint32(b, crc32.Update(sum, castagnoli, b[at:]))
}

// decodeIndexEntry reads an entry; false when its checksum is wrong or it cannot
// be one of this segment.
func decodeIndexEntry(b []byte, start Cursor, sum uint32) (IndexEntry, bool) {
	if len(b) < indexEntrySize || crc32.Update(sum, castagnoli, b[:28]) != binary.BigEndian.Uint32(b[28:]) {
		return IndexEntry{}, false
	}
	e := IndexEntry{
		Index:        start.Index + Index(binary.BigEndian.Uint32(b)),
		Position:     int64(binary.BigEndian.Uint32(b[4:])),
		Offset:       Offset(binary.BigEndian.Uint64(b[8:])),
		MaxTimestamp: int64(binary.BigEndian.Uint64(b[16:])),
		Chain:        binary.BigEndian.Uint32(b[24:]),
	}
	return e, e.Position > 0 && e.Index > start.Index && e.Offset >= start.Offset
}

// decodeIndex reads a whole index file up to the first entry that is not valid or
// does not follow its predecessor. A wrong preamble is ErrBadIndex.
func decodeIndex(data []byte, start Cursor) ([]IndexEntry, error) {
	preamble := encodeIndexPreamble(start)
	if len(data) < indexPreamble || string(data[:indexPreamble]) != string(preamble) {
		return nil, fmt.Errorf("%w: wrong preamble", ErrBadIndex)
	}
	sum := binary.BigEndian.Uint32(preamble[28:])
	last := IndexEntry{Index: start.Index, Offset: start.Offset, MaxTimestamp: math.MinInt64}
	var entries []IndexEntry
	for rest := data[indexPreamble:]; len(rest) >= indexEntrySize; rest = rest[indexEntrySize:] {
		e, ok := decodeIndexEntry(rest, start, sum)
		if !ok || e.Index <= last.Index || e.Position <= last.Position || e.Offset < last.Offset || e.MaxTimestamp < last.MaxTimestamp {
			break
		}
		entries = append(entries, e)
		last = e
	}
	return entries, nil
}

// CreateIndex makes an empty index for a segment that begins at start. Nothing is
// synced: a crash can lose it, and then it is made anew.
func CreateIndex(fsys vfs.FS, name string, start Cursor) (*IndexFile, error) {
	file, err := fsys.Create(name)
	if err != nil {
		return nil, fmt.Errorf("create index: %w", err)
	}
	preamble := encodeIndexPreamble(start)
	if _, err := file.WriteAt(preamble, 0); err != nil {
		file.Close()
		return nil, fmt.Errorf("create index: %w", err)
	}
	return newIndexFile(file, name, start, 0), nil
}

func newIndexFile(file vfs.File, name string, start Cursor, written int) *IndexFile {
	sum := binary.BigEndian.Uint32(encodeIndexPreamble(start)[28:])
	return &IndexFile{file: file, name: name, start: start, sum: sum, written: written}
}

// OpenIndex opens the index of a sealed segment, which must have the given number
// of entries. Entries are checked when they are looked at.
func OpenIndex(fsys vfs.FS, name string, start Cursor, entries uint32) (*IndexFile, error) {
	file, err := fsys.OpenReadOnly(name)
	if err != nil {
		return nil, fmt.Errorf("%w: open: %w", ErrBadIndex, err)
	}
	size, err := file.Size()
	var preamble [indexPreamble]byte
	if err == nil && size == indexPreamble+int64(entries)*indexEntrySize {
		_, err = file.ReadAt(preamble[:], 0)
		if err == nil && string(preamble[:]) == string(encodeIndexPreamble(start)) {
			return newIndexFile(file, name, start, int(entries)), nil
		}
	}
	file.Close()
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	return nil, fmt.Errorf("%w: %s has %d bytes or another preamble, must have %d entries", ErrBadIndex, name, size, entries)
}

// maxIndexSize bounds what is read of an index: positions have 32 bits, and
// entries are at least one frame apart.
const maxIndexSize = indexPreamble + indexEntrySize*(math.MaxUint32/indexInterval+1)*2

// recoverIndex opens the index of a segment that was not sealed, for writing. It
// returns the valid entries and cuts off what follows them, durably: a stale
// entry behind them would prove data that is not there. A missing or bad file is
// made anew, empty.
func recoverIndex(fsys vfs.FS, name string, start Cursor) (*IndexFile, []IndexEntry, error) {
	data, err := vfs.ReadFile(fsys, name, maxIndexSize)
	var entries []IndexEntry
	if err == nil {
		entries, err = decodeIndex(data, start)
	}
	if err != nil {
		index, err := recreateIndex(fsys, name, start)
		return index, nil, err
	}
	file, err := fsys.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("open index: %w", err)
	}
	x := newIndexFile(file, name, start, len(entries))
	if len(data) > indexPreamble+len(entries)*indexEntrySize {
		if err := x.shorten(len(entries)); err != nil {
			file.Close()
			return nil, nil, err
		}
	}
	return x, entries, nil
}

// recreateIndex replaces an index by an empty one.
func recreateIndex(fsys vfs.FS, name string, start Cursor) (*IndexFile, error) {
	if err := vfs.WriteFile(fsys, name, encodeIndexPreamble(start)); err != nil {
		return nil, fmt.Errorf("make index anew: %w", err)
	}
	file, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	return newIndexFile(file, name, start, 0), nil
}

// Add makes entries visible to Find; they reach the file with Flush. Everything
// before their positions must be synced.
func (x *IndexFile) Add(entries []IndexEntry) {
	if len(entries) == 0 {
		return
	}
	x.mu.Lock()
	x.pending = append(x.pending, entries...)
	x.mu.Unlock()
}

// Flush writes the entries that are not in the file yet. Without wait it does
// nothing while a Sync is under way, so that an append never waits for it.
func (x *IndexFile) Flush(wait bool) error {
	if wait {
		x.io.Lock()
	} else if !x.io.TryLock() {
		return nil
	}
	defer x.io.Unlock()
	x.mu.RLock()
	pending, written := x.pending, x.written
	x.mu.RUnlock()
	if len(pending) == 0 {
		return nil
	}
	b := make([]byte, 0, len(pending)*indexEntrySize)
	for _, e := range pending {
		b = appendIndexEntry(b, x.start, x.sum, e)
	}
	if _, err := x.file.WriteAt(b, indexPreamble+int64(written)*indexEntrySize); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	x.mu.Lock()
	x.written += len(pending)
	x.pending = x.pending[:copy(x.pending, x.pending[len(pending):])]
	x.mu.Unlock()
	return nil
}

// Sync makes the entries in the file durable. It may be called concurrently with
// everything but Close.
func (x *IndexFile) Sync() error {
	x.io.Lock()
	defer x.io.Unlock()
	if err := x.file.Sync(); err != nil {
		return syncError("index", err)
	}
	return nil
}

// Truncate drops, durably, every entry for a place after position. It must return
// before anything is written behind position: an old entry would prove it.
func (x *IndexFile) Truncate(position int64) error {
	after, err := x.count(func(e IndexEntry) bool { return e.Position <= position })
	if err != nil {
		return err
	}
	x.mu.Lock()
	written := x.written
	if after >= written {
		x.pending = x.pending[:after-written]
		x.mu.Unlock()
		return nil
	}
	x.pending = nil
	x.mu.Unlock()
	x.io.Lock()
	defer x.io.Unlock()
	return x.shorten(after)
}

// shorten cuts the file to n entries and syncs it. Until that has succeeded, the
// entries behind are still counted: who tries again must find that they are to be
// cut. (They fit the frames in the file, which are cut after this.)
func (x *IndexFile) shorten(n int) error {
	if err := x.file.Truncate(indexPreamble + int64(n)*indexEntrySize); err != nil {
		return fmt.Errorf("cut index: %w", err)
	}
	if err := x.file.Sync(); err != nil {
		return syncError("index", err)
	}
	x.mu.Lock()
	x.written = n
	x.mu.Unlock()
	return nil
}

// Len is the number of entries.
func (x *IndexFile) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.written + len(x.pending)
}

// Find returns the last entry for which before is true; before must be true for
// the entries up to some place and false from there on. Without one it returns
// the start of the segment. The error is ErrBadIndex or one of the file system.
func (x *IndexFile) Find(before func(IndexEntry) bool) (IndexEntry, error) {
	n, err := x.count(before)
	if err != nil || n == 0 {
		return IndexEntry{Index: x.start.Index, Offset: x.start.Offset, MaxTimestamp: -1, Chain: x.start.Chain}, err
	}
	return x.at(n - 1)
}

// count is how many entries there are from the start for which before is true.
func (x *IndexFile) count(before func(IndexEntry) bool) (int, error) {
	low, high := 0, x.Len()
	for low < high {
		middle := int(uint(low+high) / 2)
		e, err := x.at(middle)
		if err != nil {
			return 0, err
		}
		if before(e) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

// at reads entry i.
func (x *IndexFile) at(i int) (IndexEntry, error) {
	x.mu.RLock()
	written := x.written
	if i >= written && i-written < len(x.pending) {
		e := x.pending[i-written]
		x.mu.RUnlock()
		return e, nil
	}
	x.mu.RUnlock()
	if i >= written { // cut meanwhile
		return IndexEntry{}, fmt.Errorf("%w: entry %d of %d", ErrBadIndex, i, written)
	}
	var b [indexEntrySize]byte
	if _, err := x.file.ReadAt(b[:], indexPreamble+int64(i)*indexEntrySize); err != nil {
		if errors.Is(err, io.EOF) {
			return IndexEntry{}, fmt.Errorf("%w: %s ends before entry %d", ErrBadIndex, x.name, i)
		}
		return IndexEntry{}, fmt.Errorf("read index: %w", err)
	}
	e, ok := decodeIndexEntry(b[:], x.start, x.sum)
	if !ok {
		return IndexEntry{}, fmt.Errorf("%w: %s entry %d", ErrBadIndex, x.name, i)
	}
	return e, nil
}

// Close closes the file. What was not flushed is lost, which costs a rebuild.
func (x *IndexFile) Close() error { return x.file.Close() }
