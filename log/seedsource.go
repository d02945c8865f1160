package log

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// SeedSource reads the files of a seed at the replica that gives it. All methods may
// be called concurrently, also while the log is used; after the log's Close reads
// fail.
type SeedSource struct {
	log   *Log
	seed  Seed
	parts []*part
	tail  []byte // the header file of the segment after the seed
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenSeed describes the log up to the end of a sealed segment as a seed, and opens
// it for reading: at is the last index of that segment, or 0 for the last sealed
// segment that is applied, or the base where trims have left none. ErrNotFound says
// that no applied segment ends there (also when nothing is sealed yet and nothing was
// trimmed: such a log is short, and raft sends all of it).
func (l *Log) OpenSeed(at segment.Index) (*SeedSource, error) {
	if err := l.usable(); err != nil {
		return nil, err
	}
	l.mu.RLock()
	n, found := l.seedEndLocked(at)
	parts, next, start := l.parts[:n:n], l.parts[n], l.start
	l.mu.RUnlock()
	if !found {
		return nil, fmt.Errorf("%w: no applied segment ends at entry %d", ErrNotFound, at)
	}
	s := &SeedSource{log: l, parts: parts, seed: Seed{
		TopicID: l.identity.TopicID, Partition: l.identity.Partition, Index: next.index - 1,
		Start: min(start, next.base), // it may have moved on behind the seed's end
	}}
	if err := s.describe(next); err != nil {
		return nil, err
	}
	return s, nil
}

// seedEndLocked is how many segments a seed that ends at an index has. The segment
// after it must be there: its header holds the state as of the seed's end. What is
// applied is committed, and is never cut; a base is applied, since a trim removes
// nothing else.
func (l *Log) seedEndLocked(at segment.Index) (n int, found bool) {
	for n := len(l.parts) - 1; n >= 0; n-- {
		end := l.parts[n].index - 1
		if end > 0 && end <= l.applied && (at == 0 || at == end) {
			return n, true
		}
	}
	return 0, false
}

// SeedEnd is the newest S at which OpenSeed opens a seed, and the term of that entry;
// false where there is none.
func (l *Log) SeedEnd() (index segment.Index, term segment.Term, found bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n, found := l.seedEndLocked(0)
	if !found || l.closed {
		return 0, 0, false
	}
	h := l.parts[n].header
	return h.PrevIndex(), h.PrevTerm, true
}

// describe reads the headers.
func (s *SeedSource) describe(next *part) error {
	for _, p := range s.parts {
		data, h, err := s.readHeader(p)
		if err != nil {
			return err
		}
		if h.Seal == nil {
			return fmt.Errorf("%w: segment %d is not sealed", ErrSeedChanged, p.base)
		}
		s.seed.Files = append(s.seed.Files,
			SeedFile{Base: p.base, Kind: SeedHeader, Size: int64(len(data)), Sum: crc32.Checksum(data, castagnoli)},
			SeedFile{Base: p.base, Kind: SeedFrames, Size: h.Seal.Length, Sum: h.Seal.Chain})
		s.seed.Term = h.Seal.LastTerm
	}
	data, h, err := s.readHeader(next)
	if err != nil {
		return err
	}
	if len(s.parts) == 0 {
		s.seed.Term = h.PrevTerm
	}
	if h.PrevTerm != s.seed.Term || h.PrevIndex() != s.seed.Index {
		return fmt.Errorf("%w: segment %d does not follow any more", ErrSeedChanged, next.base)
	}
	s.tail = data
	s.seed.Files = append(s.seed.Files,
		SeedFile{Base: next.base, Kind: SeedHeader, Size: int64(len(data)), Sum: crc32.Checksum(data, castagnoli)})
	return s.seed.Check()
}

// has reports whether a segment is part of the log.
func (l *Log) has(p *part) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Contains(l.parts, p)
}

// readHeader reads a header file, which is replaced as a whole.
func (s *SeedSource) readHeader(p *part) ([]byte, *segment.FileHeader, error) {
	o := s.log.options
	data, err := vfs.ReadFile(o.FS, filepath.Join(o.Dir, segment.HeaderName(p.base)), segment.MaxMetadataSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: segment %d is gone", ErrSeedChanged, p.base)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read segment header: %w", err)
	}
	h, err := segment.DecodeFileHeader(data)
	if err != nil {
		return nil, nil, s.log.corruption(&segment.DamageError{File: segment.HeaderName(p.base), Position: -1, Detail: err.Error()})
	}
	return data, h, nil
}

// Seed is the description.
func (s *SeedSource) Seed() *Seed { return &s.seed }

// ReadAt reads from a file of the seed, by its number in Seed.Files. It reads len(p)
// bytes, or fewer with io.EOF at the end of the file. ErrSeedChanged says that the
// file is not what was described. The bytes are as the disk gave them: whoever
// copies them checks them.
func (s *SeedSource) ReadAt(file int, p []byte, at int64) (int, error) {
	if err := s.log.usable(); err != nil {
		return 0, err
	}
	if file < 0 || file >= len(s.seed.Files) || at < 0 {
		return 0, fmt.Errorf("%w: byte %d of file %d of a seed", ErrNotFound, at, file)
	}
	f := s.seed.Files[file]
	if at >= f.Size {
		return 0, io.EOF
	}
	whole := int64(len(p)) <= f.Size-at
	p = p[:min(int64(len(p)), f.Size-at)]
	n, err := s.read(file, p, at)
	if err == nil && !whole {
		err = io.EOF
	}
	return n, err
}

func (s *SeedSource) read(file int, p []byte, at int64) (int, error) {
	f := s.seed.Files[file]
	if file == len(s.seed.Files)-1 {
		return copy(p, s.tail[at:]), nil
	}
	part := s.parts[file/2]
	if f.Kind == SeedHeader {
		data, _, err := s.readHeader(part)
		if err == nil && (int64(len(data)) != f.Size || crc32.Checksum(data, castagnoli) != f.Sum) {
			err = fmt.Errorf("%w: the header of segment %d", ErrSeedChanged, f.Base)
		}
		if err != nil {
			return 0, err
		}
		return copy(p, data[at:]), nil
	}
	h, err := s.log.files.acquire(s.log, part)
	if err != nil {
		if !s.log.has(part) {
			err = fmt.Errorf("%w: segment %d is gone", ErrSeedChanged, f.Base)
		}
		return 0, err
	}
	defer s.log.files.release(h)
	// If a cut has opened the segment again, it goes on behind the seed's end.
	n, err := h.reader.File().ReadAt(p, at)
	if n == len(p) {
		return n, nil
	}
	return n, fmt.Errorf("read segment %d at byte %d: %w", f.Base, at, err)
}
