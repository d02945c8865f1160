package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/millrace/millrace/segment/vfs"
)

// Class is what recovery found at the first bad frame of a segment.
type Class uint8

const (
	// ClassClean: no bad frame; after the last frame there are only zeros.
	ClassClean Class = iota
	// ClassTorn: the unfinished last write round; it is cut.
	ClassTorn
	// ClassUncertain: in the last write round, but not visibly unfinished: torn
	// and rotten cannot be told apart. It is cut, and what was cut is kept.
	ClassUncertain
	// ClassCorrupt: damage to what was synced. Never cut.
	ClassCorrupt
)

// classNames are the texts of Class.
var classNames = [...]string{"clean", "torn", "uncertain", "corrupt"}

// String is the class in a word.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// DamageError is a file that contradicts itself, and is not the torn end of a
// last write. Nothing was changed for it.
type DamageError struct {
	// File is the name of the file in its folder.
	File string
	// Position is where, in bytes; -1 for the file as a whole.
	Position int64
	// Detail is what is wrong, for people.
	Detail string
}

// Error names file, position and what is wrong.
func (e *DamageError) Error() string {
	return fmt.Sprintf("segment: %s is damaged at byte %d: %s", e.File, e.Position, e.Detail)
}

// Place is an entry that is known to be on the disk, and where it ends.
type Place struct {
	// Index is the Raft index of the frame after it.
	Index Index
	// Offset is the base offset of the frame after it.
	Offset Offset
	// Position is where the frame after it begins, in bytes.
	Position int64
	// Term is the entry's term.
	Term Term
}

// RecoverOptions say what is known about the folder.
type RecoverOptions struct {
	// From is the checkpoint's place if that is in this segment, else the
	// segment's first frame. Everything before it was synced; Visit begins there.
	From Place
	// SameBoot: the machine has not booted since the segment was written.
	SameBoot bool
	// CleanStop: the segment was released; nothing is incomplete, and nothing has to
	// be written again.
	CleanStop bool
	// Before is called when all was read and can be recovered, before the first
	// change of the frames or the header. An error ends the recovery. May be nil.
	Before func() error
	// Visit gets every frame from From on, in order. An error ends the recovery.
	Visit func(Visited) error
}

// Visited is a frame that recovery passes.
type Visited struct {
	// Header is the frame's header.
	Header Header
	// Kind is what the frame holds.
	Kind Kind
	// Index is its Raft index.
	Index Index
	// Position is where it begins, in bytes.
	Position int64
	// Content is that of an internal frame, valid during the call.
	Content []byte
}

// Report is what a recovery did.
type Report struct {
	// Class is what was at the end of the segment.
	Class Class
	// Cut is how many bytes were dropped.
	Cut int64
	// Position is where they began.
	Position int64
	// Detail says why, for people; empty if nothing was cut.
	Detail string
}

// Recover opens the last segment of a log for writing, after any crash.
//
// What is before From and before the last valid index entry is proven synced:
// there, headers are followed and compared with the index's chain, and anything
// wrong is damage (DamageError, nothing is changed). Behind it, CRCs are checked
// too, and the first bad frame is judged by classify. When it returns, everything
// that was kept is durable, also what an earlier process had not synced, or not
// with success: raft will count it as stored.
//
// For that, a sync is not enough. After one that failed, the kernel takes the pages
// for clean: a process that starts later in the same boot reads frames from them
// that are not on the disk, with right checksums, and its own sync writes nothing
// and succeeds (fsyncgate). So all frames that are not proven synced are written
// again, in place, and then synced; and so is the header, as a new file, since a
// rename whose sync failed can be seen and be lost as well. Only then are index
// entries added for them. (An entry that is found in the page cache is true even
// so: it was written after a sync that succeeded.)
//
// Files are never written in place where a byte may have been sent. Here the bytes
// are those that are there already: whoever still sends them sends the same, and a
// crash in the middle leaves them, or what was not proven before either.
//
// A crash at any point of it leaves something that it can be run on again, with
// the same result: what it cuts, it cuts last, after a copy was made durable
// where one is kept.
func Recover(fsys vfs.FS, dir string, header *FileHeader, o RecoverOptions) (*Writer, Report, error) {
	w, entries, err := openWriter(fsys, dir, header)
	if err != nil {
		return nil, Report{}, err
	}
	r := newRecovery(w.file, header, w.allocated, entries, o)
	report, err := r.run()
	if err == nil && o.Before != nil {
		err = o.Before()
	}
	if err == nil {
		err = w.adopt(r, report)
	}
	if err != nil {
		return nil, report, errors.Join(err, w.Close())
	}
	return w, report, nil
}

// Follow goes through the frames of a sealed segment from From on, as Recover
// does, and changes nothing.
func (r *Reader) Follow(o RecoverOptions) error {
	near, err := r.index.Find(func(e IndexEntry) bool { return e.Index <= o.From.Index && e.Position <= o.From.Position })
	var entries []IndexEntry
	if err == nil && near.Position > 0 {
		entries = append(entries, near)
	}
	if err != nil && !errors.Is(err, ErrBadIndex) {
		return err
	}
	_, err = newRecovery(r.file, r.header, r.header.Seal.Length, entries, o).run()
	return err
}

// adopt brings the files of the segment in line with what a recovery found.
func (w *Writer) adopt(r *recovery, report Report) error {
	if report.Class == ClassUncertain {
		if err := w.keepTorn(report); err != nil {
			return err
		}
	}
	if err := w.adoptHeader(r.o.CleanStop); err != nil {
		return err
	}
	if !r.o.CleanStop {
		// An index that was cut, and whose sync did not come to pass, would get its
		// old entries back after the frames were cut as well.
		if err := w.index.Sync(); err != nil {
			return err
		}
		if err := w.rewrite(r.doubt, r.cursor); err != nil {
			return err
		}
	}
	w.end = r.cursor
	if report.Cut > 0 {
		return w.finish(r, w.Cut(r.cursor))
	}
	if err := w.file.Sync(); err != nil {
		return syncError("segment", err)
	}
	return w.finish(r, nil)
}

// adoptHeader takes off the seal that a crash during a roll or a cut left on the
// last segment. After a stop that was not clean it replaces the header in any case.
func (w *Writer) adoptHeader(cleanStop bool) error {
	open := *w.header
	if seal := open.Seal; seal != nil {
		w.firstAppend, w.lastAppend = seal.FirstAppend, seal.LastAppend
		open.Seal = nil
	} else if cleanStop {
		return nil
	}
	if err := writeHeader(w.fsys, w.dir, &open); err != nil {
		return err
	}
	w.header = &open
	return nil
}

// finish adds the index entries that a crash lost, now that their data is synced.
func (w *Writer) finish(r *recovery, err error) error {
	if err != nil {
		return err
	}
	w.index.Add(r.due)
	return w.index.Flush(true)
}

// keepTorn copies what is about to be cut into a file of its own.
func (w *Writer) keepTorn(report Report) error {
	content := make([]byte, report.Cut) // at most the round limit
	if _, err := w.file.ReadAt(content, report.Position); err != nil {
		return fmt.Errorf("read torn end: %w", err)
	}
	name := filepath.Join(w.dir, tornName(w.header.BaseOffset, report.Position))
	if err := vfs.WriteFile(w.fsys, name, content); err != nil {
		return fmt.Errorf("keep torn end: %w", err)
	}
	return nil
}

// recovery is one pass over a segment.
type recovery struct {
	file    vfs.File
	name    string
	header  *FileHeader
	o       RecoverOptions
	size    int64
	proven  int64        // everything before it was synced
	entries []IndexEntry // still to be met
	last    int64        // position of the last entry of the index
	cursor  Cursor
	doubt   Cursor // the end of what is proven, once it was passed
	scanner *Scanner
	due     []IndexEntry // entries that the index lacks
}

func newRecovery(file vfs.File, header *FileHeader, size int64, entries []IndexEntry, o RecoverOptions) *recovery {
	r := &recovery{
		file: file, name: LogName(header.BaseOffset), header: header, o: o, size: size,
		proven: o.From.Position, cursor: header.Start(),
	}
	if n := len(entries); n > 0 {
		r.last = entries[n-1].Position
		r.proven = max(r.proven, r.last)
	}
	if header.Seal != nil {
		r.proven = header.Seal.Length
	}
	for len(entries) > 0 && entries[0].Index <= o.From.Index && entries[0].Position <= o.From.Position {
		r.cursor = header.At(entries[0])
		entries = entries[1:]
	}
	r.entries = entries
	r.scanner = NewScanner(file, r.cursor.Position, size, ChunkFar)
	return r
}

func (r *recovery) damage(format string, args ...any) error {
	return &DamageError{File: r.name, Position: r.cursor.Position, Detail: fmt.Sprintf(format, args...)}
}

// run passes all good frames and judges what follows them.
func (r *recovery) run() (Report, error) {
	if err := r.meetPlaces(); err != nil {
		return Report{}, err
	}
	for {
		bad, err := r.step()
		if err != nil {
			return Report{}, err
		}
		if bad != "" {
			return r.conclude(bad)
		}
	}
}

// step passes one frame. bad says why there is no good one.
func (r *recovery) step() (bad string, err error) {
	if r.cursor.Position <= r.proven {
		r.doubt = r.cursor
	}
	h, raw, err := r.scanner.Header()
	if err == nil {
		err = r.cursor.Fits(h)
	}
	visited := Visited{Header: h, Index: r.cursor.Index, Position: r.cursor.Position}
	if err == nil && (r.cursor.Position >= r.proven || h.Kind() != KindRecords) {
		raw, err = r.scanner.Frame(h)
		if err == nil && !ChecksumOK(raw) {
			err = errChecksum
		}
		if err == nil && h.Kind() != KindRecords {
			visited.Kind, visited.Content, err = DecodeInternal(raw)
		}
	}
	if err != nil {
		return badFrame(err)
	}
	if r.cursor.Index >= r.o.From.Index && r.o.Visit != nil {
		if err := r.o.Visit(visited); err != nil {
			return "", err
		}
	}
	r.due = r.cursor.Step(raw, h, r.due)
	for len(r.due) > 0 && r.due[0].Position <= r.last {
		r.due = r.due[1:]
	}
	r.scanner.Pass(h)
	return "", r.meetPlaces()
}

// badFrame tells what is wrong with the bytes from what is wrong with the disk.
func badFrame(err error) (bad string, other error) {
	var batch *BatchError
	switch {
	case errors.Is(err, io.EOF):
		return "end of file", nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "frame reaches beyond the end of the file", nil
	case errors.As(err, &batch):
		return batch.Error(), nil
	}
	return "", err
}

// meetPlaces compares the cursor with the index entries and the checkpoint that
// name this place.
func (r *recovery) meetPlaces() error {
	for len(r.entries) > 0 && r.entries[0].Position <= r.cursor.Position {
		e := r.entries[0]
		if e.Position != r.cursor.Position || e.Index != r.cursor.Index || e.Offset != r.cursor.Offset || e.Chain != r.cursor.Chain {
			return r.damage("index entry %+v does not fit the frames, which have index %d, offset %d, chain %08x here",
				e, r.cursor.Index, r.cursor.Offset, r.cursor.Chain)
		}
		r.entries = r.entries[1:]
	}
	if from := r.o.From; r.cursor.Index == from.Index {
		if from.Position != r.cursor.Position || from.Offset != r.cursor.Offset || from.Term < r.cursor.Term {
			return r.damage("checkpoint %+v does not fit the frames, which have offset %d, term %d here",
				from, r.cursor.Offset, r.cursor.Term)
		}
		r.cursor.Term = from.Term
	}
	return nil
}

// conclude judges the first bad frame, which may be the zeros behind the last.
func (r *recovery) conclude(bad string) (Report, error) {
	at := r.cursor.Position
	if r.cursor.Index < r.o.From.Index || at < r.proven {
		return Report{}, r.damage("%s, but everything up to byte %d and entry %d was synced", bad, r.proven, r.o.From.Index-1)
	}
	if seal := r.header.Seal; seal != nil {
		if at != seal.Length || r.cursor.Index != seal.LastIndex+1 || r.cursor.Offset != seal.NextOffset || r.cursor.Chain != seal.Chain {
			return Report{}, r.damage("the sealed segment must end at byte %d, index %d, offset %d, chain %08x; it has index %d, offset %d, chain %08x",
				seal.Length, seal.LastIndex, seal.NextOffset, seal.Chain, r.cursor.Index-1, r.cursor.Offset, r.cursor.Chain)
		}
	}
	filled, err := lastNonZero(r.file, at, r.size)
	if err != nil || filled == at {
		return Report{Class: ClassClean}, err
	}
	class, err := r.classify(at, filled)
	if err != nil {
		return Report{}, err
	}
	if class == ClassCorrupt {
		return Report{}, r.damage("%s, and %d bytes that are not an unfinished write follow", bad, filled-at)
	}
	return Report{Class: class, Cut: filled - at, Position: at, Detail: bad}, nil
}

// removeIfThere unlinks a file; absent is no error.
func removeIfThere(fsys vfs.FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Empty reports whether a segment's file of frames is missing or holds nothing but
// zeros, as one that was created and never written to does.
func Empty(fsys vfs.FS, dir string, base Offset) (bool, error) {
	file, err := fsys.OpenReadOnly(filepath.Join(dir, LogName(base)))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("open segment: %w", err)
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return false, fmt.Errorf("open segment: %w", err)
	}
	filled, err := lastNonZero(file, 0, size)
	return filled == 0, err
}
