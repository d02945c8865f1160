package segment

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/millrace/millrace/segment/vfs"
)

// Received is how far the frames of a sealed segment have come that is copied from
// another replica (DESIGN 4.5): the frames before End were read, and are good.
type Received struct {
	// End is the place behind the last good frame.
	End Cursor
	// Bad says why no good frame follows; "end of file" where nothing follows.
	Bad string

	entries []IndexEntry
}

// CheckReceived reads the first size bytes of a file that is to become the frames of
// the sealed segment with this header. Unlike recovery it takes nothing for proven:
// every frame must fit the one before, and its checksum must be right. An error is
// one of the disk.
func CheckReceived(file io.ReaderAt, size int64, header *FileHeader) (Received, error) {
	got := Received{End: header.Start()}
	scanner := NewScanner(file, 0, size, ChunkFar)
	for {
		h, raw, err := scanner.Header()
		if err == nil {
			err = got.End.Fits(h)
		}
		if err == nil {
			raw, err = scanner.Frame(h)
		}
		if err == nil && !ChecksumOK(raw) {
			err = errChecksum
		}
		if err == nil && h.Kind() != KindRecords {
			_, _, err = DecodeInternal(raw)
		}
		if err != nil {
			var other error
			got.Bad, other = badFrame(err)
			return got, other
		}
		got.entries = got.End.Step(raw, h, got.entries)
		scanner.Pass(h)
	}
}

// Complete compares what was received with the seal of the header, which has the
// chained checksum of all frames. The error is a *DamageError.
func (g *Received) Complete(header *FileHeader) error {
	s := header.Seal
	want := Cursor{
		Position: s.Length, Index: s.LastIndex + 1, Offset: s.NextOffset, Term: s.LastTerm,
		MaxTimestamp: s.MaxTimestamp, Chain: s.Chain, Indexed: g.End.Indexed,
	}
	if g.End == want && uint32(len(g.entries)) == s.IndexEntries {
		return nil
	}
	return &DamageError{File: LogName(header.BaseOffset), Position: g.End.Position,
		Detail: fmt.Sprintf("%s; good frames end at %+v with %d index entries, the seal is %+v", g.Bad, g.End, len(g.entries), *s)}
}

// Install makes the index and the header of a segment whose frames are complete and
// synced, durably, the header last. Before the header is there, the names of the
// other two are durable: a header that can be read proves its segment, also to a
// process that comes after one that ended in the middle of this.
func (g *Received) Install(fsys vfs.FS, dir string, header *FileHeader) error {
	start := header.Start()
	data := encodeIndexPreamble(start)
	sum := newIndexFile(nil, "", start, 0).sum
	for _, e := range g.entries {
		data = appendIndexEntry(data, start, sum, e)
	}
	if err := vfs.WriteFile(fsys, filepath.Join(dir, IndexName(header.BaseOffset)), data); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return writeHeader(fsys, dir, header) // its first step is behind the SyncDir of the index's
}

// ReinstallHeader replaces the header file of a segment that an earlier process
// installed, by itself: the rename that put it there may be in memory alone.
func ReinstallHeader(fsys vfs.FS, dir string, header *FileHeader) error {
	return writeHeader(fsys, dir, header)
}
