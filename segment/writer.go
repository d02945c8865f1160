package segment

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/millrace/millrace/segment/planted"
	"github.com/millrace/millrace/segment/vfs"
)

// ErrSync is a failed sync. What is on the disk is unknown from then on; a sync
// is never tried again.
var ErrSync = errors.New("segment: sync failed")

// syncError marks the failure of a sync, also one for lack of space, as ErrSync.
func syncError(what string, err error) error {
	return fmt.Errorf("sync %s: %w: %w", what, ErrSync, err)
}

// The names of a segment's files: its base offset in 20 digits.
const (
	logSuffix    = ".log"
	indexSuffix  = ".idx"
	headerSuffix = ".hdr"
	// TornSuffix ends the names of files that keep what an uncertain recovery cut.
	TornSuffix = ".torn"
)

// LogName is the name of the file of frames.
func LogName(base Offset) string { return fmt.Sprintf("%020d%s", base, logSuffix) }

// IndexName is the name of the index file.
func IndexName(base Offset) string { return fmt.Sprintf("%020d%s", base, indexSuffix) }

// HeaderName is the name of the header file.
func HeaderName(base Offset) string { return fmt.Sprintf("%020d%s", base, headerSuffix) }

// tornName is the name of the file that keeps what was cut at position.
func tornName(base Offset, position int64) string {
	return fmt.Sprintf("%020d-%d%s", base, position, TornSuffix)
}

// ParseName is the base offset in the name of one of a segment's three files.
func ParseName(name string) (base Offset, ok bool) {
	digits, suffix := name, ""
	if dot := strings.IndexByte(name, '.'); dot >= 0 {
		digits, suffix = name[:dot], name[dot:]
	}
	if len(digits) != 20 || suffix != logSuffix && suffix != indexSuffix && suffix != headerSuffix {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	return Offset(n), err == nil
}

// ReadHeader reads a segment's header file.
func ReadHeader(fsys vfs.FS, dir string, base Offset) (*FileHeader, error) {
	data, err := vfs.ReadFile(fsys, filepath.Join(dir, HeaderName(base)), MaxMetadataSize)
	if err != nil {
		return nil, fmt.Errorf("read segment header: %w", err)
	}
	h, err := DecodeFileHeader(data)
	if err != nil {
		return nil, err
	}
	if h.BaseOffset != base {
		return nil, fmt.Errorf("%w: segment header of base offset %d", ErrFormat, h.BaseOffset)
	}
	return h, nil
}

// writeHeader replaces a segment's header file, durably.
func writeHeader(fsys vfs.FS, dir string, h *FileHeader) error {
	if err := vfs.WriteFile(fsys, filepath.Join(dir, HeaderName(h.BaseOffset)), h.Encode()); err != nil {
		return fmt.Errorf("write segment header: %w", err)
	}
	return nil
}

// Writer is the end of a log: the segment that is not sealed. Its methods belong
// to one goroutine at a time; File and Index may be read by others meanwhile.
//
// Crash safety: a round is written behind the synced end and then synced, and
// only a round at the end can be incomplete. Index entries follow the sync of
// what they cover. A cut first takes the index entries behind it off the disk,
// then shortens the file, and returns when both are durable. After an error that
// is ErrNoSpace, Cut(End()) makes the writer usable again; after any
// other it is not used any more.
type Writer struct {
	fsys   vfs.FS
	dir    string
	file   vfs.File
	index  *IndexFile
	header *FileHeader

	end         Cursor
	allocated   int64 // length of the file
	firstAppend int64
	lastAppend  int64
	due         []IndexEntry // reused
}

// maxPosition is the greatest position that an index entry holds.
const maxPosition = math.MaxUint32

// Create makes the files of an empty segment and their names durable. Files of
// that name left by a crash must have been removed.
func Create(fsys vfs.FS, dir string, header *FileHeader) (*Writer, error) {
	w := &Writer{fsys: fsys, dir: dir, header: header, end: header.Start()}
	file, err := fsys.Create(filepath.Join(dir, LogName(header.BaseOffset)))
	if err != nil {
		return nil, fmt.Errorf("create segment: %w", err)
	}
	w.file = file
	w.index, err = CreateIndex(fsys, filepath.Join(dir, IndexName(header.BaseOffset)), w.end)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if err := writeHeader(fsys, dir, header); err != nil { // its SyncDir covers all three names
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Remove unlinks the files of a segment; absent ones are no error. The caller
// syncs the folder.
func Remove(fsys vfs.FS, dir string, base Offset) error {
	for _, name := range []string{HeaderName(base), IndexName(base), LogName(base)} {
		if err := removeIfThere(fsys, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("remove segment: %w", err)
		}
	}
	return nil
}

// Header is the segment's header; not to be changed.
func (w *Writer) Header() *FileHeader { return w.header }

// File is the file of frames.
func (w *Writer) File() vfs.File { return w.file }

// Index is the segment's index.
func (w *Writer) Index() *IndexFile { return w.index }

// End is the place behind the last synced frame.
func (w *Writer) End() Cursor { return w.end }

// Fits reports whether n more bytes can be addressed in this segment.
func (w *Writer) Fits(n int64) bool { return w.end.Position+n <= maxPosition }

// WriteRound writes frames, which follow each other and the end, and syncs them,
// once. now is the wall clock in milliseconds. Their index entries can be found
// when it returns, and reach the file with FlushIndex. On an error none of them
// counts.
func (w *Writer) WriteRound(frames [][]byte, now int64) error {
	total := int64(0)
	for _, frame := range frames {
		total += int64(len(frame))
	}
	if err := w.reserve(total); err != nil {
		return err
	}
	if _, err := w.file.WritevAt(frames, w.end.Position); err != nil {
		return fmt.Errorf("write frames: %w", err)
	}
	if !planted.NoSync {
		if err := w.file.Sync(); err != nil {
			return syncError("segment", err)
		}
	}
	w.due = w.due[:0]
	records := w.end.Offset
	for _, frame := range frames {
		h, err := DecodeHeader(frame)
		if err != nil {
			return fmt.Errorf("written frame: %w", err)
		}
		w.due = w.end.Step(frame, h, w.due)
	}
	if w.end.Offset > records {
		if w.firstAppend == 0 {
			w.firstAppend = now
		}
		w.lastAppend = now
	}
	w.index.Add(w.due)
	return nil
}

const (
	allocationUnit = 4 << 10
	allocationStep = 4 << 20
)

// reserve makes room for a round of total bytes: the round limit first, then
// zeroed space. It grows by half of what the segment has, between 4 KiB and
// 4 MiB, so that an idle partition costs kilobytes and a busy one seldom grows
// (each growth is a journal commit in the next sync).
func (w *Writer) reserve(total int64) error {
	if !w.Fits(total) {
		return fmt.Errorf("round of %d bytes at byte %d of a segment", total, w.end.Position)
	}
	if total > w.header.RoundLimit {
		raised := *w.header
		for raised.RoundLimit < 2*total { // in few steps, each of which costs syncs
			raised.RoundLimit *= 2
		}
		if err := writeHeader(w.fsys, w.dir, &raised); err != nil {
			return err
		}
		w.header = &raised
	}
	need := w.end.Position + total
	if need <= w.allocated {
		return nil
	}
	goal := need + min(max(need/2, allocationUnit), allocationStep)
	goal = (goal + allocationUnit - 1) / allocationUnit * allocationUnit
	if err := w.file.Preallocate(w.allocated, goal-w.allocated); err != nil {
		return fmt.Errorf("preallocate segment: %w", err)
	}
	w.allocated = goal
	return nil
}

// Appended is the wall clock, in milliseconds, at the first and at the last append of
// a record to the segment; 0 without one, and where that is not known, as after
// recovery. Raft's own entries do not count: an election makes no record younger.
func (w *Writer) Appended() (first, last int64) { return w.firstAppend, w.lastAppend }

// SetAppended says what the caller knows of a recovered segment, which keeps append
// times only in its seal.
func (w *Writer) SetAppended(first, last int64) { w.firstAppend, w.lastAppend = first, last }

// FlushIndex writes the index entries that became due, unsynced. While a
// checkpoint syncs the index they wait for the next call.
func (w *Writer) FlushIndex() error { return w.index.Flush(false) }

// CursorAt is the cursor at position, which must be the end of a frame of this
// term at or before End: it follows the frames from the index entry before.
func (w *Writer) CursorAt(position int64, term Term) (Cursor, error) {
	entry, err := w.index.Find(func(e IndexEntry) bool { return e.Position <= position })
	if err != nil && !errors.Is(err, ErrBadIndex) {
		return Cursor{}, err
	}
	c := w.header.Start()
	if err == nil && entry.Position > 0 {
		c = w.header.At(entry)
	}
	scanner := NewScanner(w.file, c.Position, position, ChunkNear)
	for c.Position < position {
		h, raw, err := scanner.Header()
		if err == nil {
			err = c.Fits(h)
		}
		if err != nil {
			return Cursor{}, w.Reader().damage(c.Position, err)
		}
		c.Step(raw, h, nil)
		scanner.Pass(h)
	}
	c.Term = term // an index entry does not hold it
	return c, nil
}

// Cut drops everything from position on, durably: to must be End or CursorAt of
// an earlier place.
func (w *Writer) Cut(to Cursor) error {
	if err := w.index.Truncate(to.Position); err != nil {
		return err
	}
	if err := w.file.Truncate(to.Position); err != nil {
		return fmt.Errorf("cut segment: %w", err)
	}
	if err := w.file.Sync(); err != nil {
		return syncError("segment", err)
	}
	w.allocated = to.Position
	w.end = to
	return nil
}

// Settle makes index and length durable and gives preallocated space back, so
// that the next start has less to read. Writing may go on.
func (w *Writer) Settle() error {
	if err := w.index.Flush(true); err != nil {
		return err
	}
	if err := w.index.Sync(); err != nil {
		return err
	}
	if w.allocated == w.end.Position {
		return nil
	}
	if err := w.file.Truncate(w.end.Position); err != nil {
		return fmt.Errorf("give space back: %w", err)
	}
	if err := w.file.Sync(); err != nil {
		return syncError("segment", err)
	}
	w.allocated = w.end.Position
	return nil
}

// Seal closes the segment for writing: index and length are made durable, then
// the header with its seal. The files stay open. A segment without a record is
// never sealed.
func (w *Writer) Seal() error {
	if w.end.Offset == w.header.BaseOffset {
		return fmt.Errorf("seal segment %d: it holds no record", w.header.BaseOffset)
	}
	if err := w.Settle(); err != nil {
		return err
	}
	sealed := *w.header
	sealed.Seal = &Seal{
		Length: w.end.Position, LastIndex: w.end.Index - 1, LastTerm: w.end.Term, NextOffset: w.end.Offset,
		MaxTimestamp: w.end.MaxTimestamp, FirstAppend: w.firstAppend, LastAppend: w.lastAppend,
		IndexEntries: uint32(w.index.Len()), Chain: w.end.Chain,
	}
	if err := writeHeader(w.fsys, w.dir, &sealed); err != nil {
		return err
	}
	w.header = &sealed
	return nil
}

// Close closes the files and changes nothing.
func (w *Writer) Close() error {
	if w.index == nil {
		return w.file.Close()
	}
	return errors.Join(w.file.Close(), w.index.Close())
}

// Reopen makes a sealed segment the end of the log again, cut at position, the
// end of one of its frames, which has this term. The seal is taken off the disk first: a crash then
// finds a segment that is not sealed, with all its frames or those before the cut.
func Reopen(fsys vfs.FS, dir string, header *FileHeader, position int64, term Term) (*Writer, error) {
	open := *header
	open.Seal = nil
	if err := writeHeader(fsys, dir, &open); err != nil {
		return nil, err
	}
	w, _, err := openWriter(fsys, dir, &open)
	if err != nil {
		return nil, err
	}
	if header.Seal != nil {
		w.firstAppend, w.lastAppend = header.Seal.FirstAppend, header.Seal.LastAppend
	}
	to, err := w.CursorAt(position, term)
	if err == nil {
		err = w.Cut(to)
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// openWriter opens the files of a segment for writing, without a position, and
// returns the index entries that are valid.
func openWriter(fsys vfs.FS, dir string, header *FileHeader) (*Writer, []IndexEntry, error) {
	file, err := fsys.Open(filepath.Join(dir, LogName(header.BaseOffset)))
	if err != nil {
		return nil, nil, fmt.Errorf("open segment: %w", err)
	}
	w := &Writer{fsys: fsys, dir: dir, file: file, header: header, end: header.Start()}
	var entries []IndexEntry
	w.index, entries, err = recoverIndex(fsys, filepath.Join(dir, IndexName(header.BaseOffset)), w.end)
	if err == nil {
		w.allocated, err = file.Size()
	}
	if err != nil {
		return nil, nil, errors.Join(err, w.Close())
	}
	return w, entries, nil
}
