package segment

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/millrace/millrace/segment/vfs"
)

// Reader finds frames in one segment. All methods but Close may be called
// concurrently, also while a Writer appends: each call says how far it may look.
type Reader struct {
	file   vfs.File
	index  *IndexFile
	header *FileHeader
}

// Reader is a reader of the segment being written. It shares the writer's files;
// one of the two closes them.
func (w *Writer) Reader() *Reader {
	return &Reader{file: w.file, index: w.index, header: w.header}
}

// OpenReader opens a sealed segment. A missing or bad index is made anew, which
// reads the headers of all frames.
func OpenReader(fsys vfs.FS, dir string, header *FileHeader) (*Reader, error) {
	file, err := fsys.OpenReadOnly(filepath.Join(dir, LogName(header.BaseOffset)))
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", err)
	}
	r := &Reader{file: file, header: header}
	name := filepath.Join(dir, IndexName(header.BaseOffset))
	r.index, err = OpenIndex(fsys, name, header.Start(), header.Seal.IndexEntries)
	if errors.Is(err, ErrBadIndex) {
		if err = rebuildIndex(fsys, name, file, header); err == nil {
			r.index, err = OpenIndex(fsys, name, header.Start(), header.Seal.IndexEntries)
		}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

// rebuildIndex makes the index of a sealed segment anew from its frames. Their
// chain must be that of the seal.
func rebuildIndex(fsys vfs.FS, name string, file vfs.File, header *FileHeader) error {
	start := header.Start()
	r := newRecovery(file, header, header.Seal.Length, nil, RecoverOptions{
		From: Place{Index: start.Index, Offset: start.Offset, Term: start.Term},
	})
	if _, err := r.run(); err != nil {
		return fmt.Errorf("make index anew: %w", err)
	}
	data := encodeIndexPreamble(start)
	sum := newIndexFile(nil, name, start, 0).sum
	for _, e := range r.due {
		data = appendIndexEntry(data, start, sum, e)
	}
	if err := vfs.WriteFile(fsys, name, data); err != nil {
		return fmt.Errorf("make index anew: %w", err)
	}
	return nil
}

// File is the file of frames.
func (r *Reader) File() vfs.File { return r.file }

// Sync makes the index durable.
func (r *Reader) Sync() error { return r.index.Sync() }

// Close closes the files.
func (r *Reader) Close() error { return errors.Join(r.file.Close(), r.index.Close()) }

// Locate follows the frames, from the last index entry for which before is true
// (see IndexFile.Find), to the first one for which stop is true. It looks at
// frames that begin before end only; io.EOF if none of them will do. The term of
// the cursor is not known.
func (r *Reader) Locate(end int64, before func(IndexEntry) bool, stop func(Cursor, Header) bool) (Cursor, Header, error) {
	entry, err := r.index.Find(func(e IndexEntry) bool { return e.Position <= end && before(e) })
	if err != nil && !errors.Is(err, ErrBadIndex) {
		return Cursor{}, Header{}, err
	}
	c := r.header.Start()
	if err == nil && entry.Position > 0 {
		c = r.header.At(entry)
	}
	return r.LocateFrom(c, end, stop)
}

// LocateFrom is Locate from a known place.
func (r *Reader) LocateFrom(c Cursor, end int64, stop func(Cursor, Header) bool) (Cursor, Header, error) {
	scanner := NewScanner(r.file, c.Position, end, ChunkNear)
	for {
		h, raw, err := scanner.Header()
		if err == nil && h.BaseOffset != c.Offset {
			err = batchErrorf(Corrupt, "base offset %d, must be %d", h.BaseOffset, c.Offset)
		}
		if errors.Is(err, io.EOF) {
			return c, Header{}, io.EOF
		}
		if err != nil {
			return Cursor{}, Header{}, r.damage(c.Position, err)
		}
		if stop(c, h) {
			return c, h, nil
		}
		c.Step(raw, h, nil)
		scanner.Pass(h)
	}
}

// damage makes what is wrong with the bytes a DamageError; a read error stays.
func (r *Reader) damage(position int64, err error) error {
	bad, other := badFrame(err)
	if other != nil {
		return fmt.Errorf("read segment %d: %w", r.header.BaseOffset, err)
	}
	return &DamageError{File: LogName(r.header.BaseOffset), Position: position, Detail: bad}
}

// ReadFrame reads and checks the whole frame at position.
func (r *Reader) ReadFrame(position, end int64) ([]byte, Header, error) {
	scanner := NewScanner(r.file, position, end, HeaderSize)
	h, _, err := scanner.Header()
	var frame []byte
	if err == nil {
		frame, err = scanner.Frame(h)
	}
	if err == nil && !ChecksumOK(frame) {
		err = errChecksum
	}
	if err != nil {
		return nil, Header{}, r.damage(position, err)
	}
	return frame, h, nil
}

// ReadChecked reads the frames of a small range and checks their CRCs. internal is
// the first internal frame among them; its position is -1 without one.
func (r *Reader) ReadChecked(from, to int64) (frames []byte, internal Internal, err error) {
	internal.Position = -1
	scanner := NewScanner(r.file, from, to, int(to-from))
	for scanner.Position() < to {
		h, _, err := scanner.Header()
		var frame []byte
		if err == nil {
			frame, err = scanner.Frame(h)
		}
		if err == nil && !ChecksumOK(frame) {
			err = errChecksum
		}
		if err != nil {
			return nil, internal, r.damage(scanner.Position(), err)
		}
		if internal.Position < 0 && h.Kind() != KindRecords {
			internal = Internal{Position: scanner.Position(), Offset: h.BaseOffset}
		}
		scanner.Pass(h)
	}
	return scanner.buf, internal, nil // read as one chunk
}

// errChecksum is a frame whose CRC is wrong.
var errChecksum = batchErrorf(Corrupt, "checksum is wrong")
