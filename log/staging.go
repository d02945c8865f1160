package log

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

const (
	// stagingName is the folder within a replica's own in which a seed is collected.
	stagingName = "seed"
	// stagingSync is how many bytes of frames are written between two syncs, so that
	// one at the end does not hold up the disk for the others.
	stagingSync = 16 << 20
)

// Staging is a seed on its way in: the folder "seed" in the replica's own, beside the
// files of the log that is there, if any, and never part of it. Files are written in
// the order of Seed.Files; a segment counts once all its frames were read again and
// found good, and they, its index and its header, in this order, are durable. What a
// crash leaves is gone on with by the next OpenStaging, also with another seed of the
// same partition: committed entries do not change.
//
// Switch makes the collected segments the replica's log. A Staging belongs to one
// goroutine at a time. An error that is neither ErrNoSpace nor ErrSeedDamaged, nor
// about the caller's arguments, is a *FatalError: the process has to end.
type Staging struct {
	fsys     vfs.FS
	dir      string // the replica's
	folder   string
	identity Identity
	seed     Seed

	file    int                 // the next one to be written
	at      int64               // and where
	header  []byte              // of file, if that is a header, so far
	current *segment.FileHeader // of the frames under way
	frames  vfs.File            // open while file is one of frames
	synced  int64               // of them
	end     *segment.Seal       // of the last complete segment
	refs    []segmentRef        // the complete segments
	tail    *segment.FileHeader // of the segment after the seed
	kept    int64               // bytes that were there already
	fatal   *FatalError
}

// ErrSeedDamaged is a seed whose files are not what they must be: damaged at the
// source, or on the way, or of another partition. The file that was found bad is
// forgotten, and asked for again.
var ErrSeedDamaged = errors.New("log: the seed is damaged")

// OpenStaging begins to collect a seed for the replica that o.Identity names in full,
// or goes on with it. o.Dir need not exist; if it has a manifest, that must be of the
// same replica. Of o only FS, Dir and Identity are used. The seed was checked with
// Seed.Check.
func OpenStaging(o Options, seed Seed) (*Staging, error) {
	s := &Staging{fsys: o.FS, dir: o.Dir, folder: filepath.Join(o.Dir, stagingName), identity: o.Identity, seed: seed}
	if err := seed.Check(); err != nil {
		return nil, fmt.Errorf("open staging: %w: %w", ErrSeedDamaged, err)
	}
	if seed.TopicID != o.Identity.TopicID || seed.Partition != o.Identity.Partition {
		return nil, fmt.Errorf("open staging: %w: it is of topic %s, partition %d", ErrSeedDamaged, seed.TopicID, seed.Partition)
	}
	m, err := readManifest(o.FS, o.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("open staging: %w", err)
	case m.identity != o.Identity:
		return nil, fmt.Errorf("open staging: %s is of replica %016x of topic %s, partition %d", o.Dir, m.identity.Incarnation, m.identity.TopicID, m.identity.Partition)
	case m.switching:
		return nil, fmt.Errorf("open staging: %s: %w", o.Dir, errSwitching)
	}
	if err := s.makeFolder(); err != nil {
		return nil, s.fail("make staging folder", err)
	}
	if err := s.keep(); err != nil {
		return nil, err
	}
	return s, nil
}

// errSwitching is a replica between the commit of a switch and its end: Open ends it.
var errSwitching = errors.New("a switch to a seed was not finished")

// RemoveStaging throws away what was collected for a replica; nothing is no error.
func RemoveStaging(fsys vfs.FS, dir string) error {
	m, err := readManifest(fsys, dir)
	if err == nil && m.switching {
		return fmt.Errorf("remove staging: %s: %w", dir, errSwitching)
	}
	if err := fsys.RemoveAll(filepath.Join(dir, stagingName)); err != nil {
		return fmt.Errorf("remove staging: %w", err)
	}
	return nil
}

// makeFolder makes the staging folder, and the names on the way to it durable.
func (s *Staging) makeFolder() error {
	if err := makeFolders(s.fsys, s.dir); err != nil {
		return err
	}
	if err := s.fsys.MkdirAll(s.folder); err != nil {
		return err
	}
	return noSyncSpace(s.fsys.SyncDir(s.dir))
}

// keep finds out which segments of the seed are there already, from its first on, and
// removes all others. The frames of the first that is not complete are kept too, to
// be gone on with.
func (s *Staging) keep() error {
	for s.file+1 < len(s.seed.Files) {
		there, err := s.keepSegment()
		if err != nil {
			return err
		}
		if !there {
			break
		}
	}
	wanted := map[segment.Offset]bool{}
	for _, f := range s.seed.Files[:s.file] {
		wanted[f.Base] = true
	}
	names, err := s.fsys.List(s.folder)
	if err != nil {
		return fmt.Errorf("list staging folder: %w", err)
	}
	for _, name := range names {
		base, ours := segment.ParseName(name)
		if ours && (wanted[base] || name == segment.LogName(s.seed.Files[s.file].Base)) {
			continue
		}
		if err := s.fsys.Remove(filepath.Join(s.folder, name)); err != nil {
			return s.fail("tidy staging folder", err)
		}
	}
	return nil
}

// keepSegment takes the next segment of the seed as copied if its header is there and
// is the one of these frames. The header proves the rest, see segment.Received.
func (s *Staging) keepSegment() (bool, error) {
	frames := s.seed.Files[s.file+1]
	h, err := segment.ReadHeader(s.fsys, s.folder, frames.Base)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, segment.ErrFormat) || errors.Is(err, vfs.ErrTooLarge) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read staged segment: %w", err)
	}
	if s.fits(h, frames) != nil {
		return false, nil
	}
	for _, name := range []string{segment.LogName(h.BaseOffset), segment.IndexName(h.BaseOffset)} {
		if there, err := exists(s.fsys, filepath.Join(s.folder, name)); err != nil || !there {
			return false, err
		}
	}
	if err := segment.ReinstallHeader(s.fsys, s.folder, h); err != nil {
		return false, s.fail("keep staged segment", err)
	}
	s.kept += s.seed.Files[s.file].Size + frames.Size
	s.count(h)
	s.file += 2
	return true, nil
}

// count adds a complete segment.
func (s *Staging) count(h *segment.FileHeader) {
	s.end = h.Seal
	s.refs = append(s.refs, segmentRef{base: h.BaseOffset, index: h.BaseIndex})
}

// fits says why a header is not that of these frames behind the last segment, nil if
// it is.
func (s *Staging) fits(h *segment.FileHeader, frames SeedFile) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: header of segment %d: %s", ErrSeedDamaged, frames.Base, fmt.Sprintf(format, args...))
	}
	if err := s.follows(h, frames.Base); err != nil {
		return bad("%v", err)
	}
	seal := h.Seal
	if seal == nil || seal.Length != frames.Size || seal.Chain != frames.Sum {
		return bad("its seal is %+v, the frames have %d bytes and chain %08x", seal, frames.Size, frames.Sum)
	}
	if s.file+3 == len(s.seed.Files) && (seal.LastIndex != s.seed.Index || seal.LastTerm != s.seed.Term) {
		return bad("it ends with entry %d of term %d, the seed with %d of %d", seal.LastIndex, seal.LastTerm, s.seed.Index, s.seed.Term)
	}
	return nil
}

// follows says why a header is not that of the segment behind the last one.
func (s *Staging) follows(h *segment.FileHeader, base segment.Offset) error {
	if h.TopicID != s.identity.TopicID || h.Partition != s.identity.Partition || h.BaseOffset != base {
		return fmt.Errorf("it is of topic %s, partition %d, base offset %d", h.TopicID, h.Partition, h.BaseOffset)
	}
	if h.ConfigurationIndex >= h.BaseIndex {
		return fmt.Errorf("it has the configuration of entry %d, and begins with entry %d", h.ConfigurationIndex, h.BaseIndex)
	}
	if n := len(h.Terms); n > 0 && (h.Terms[n-1].Index >= h.BaseIndex || h.Terms[n-1].Term > h.PrevTerm) {
		return fmt.Errorf("it has term %+v, and begins with entry %d after term %d", h.Terms[n-1], h.BaseIndex, h.PrevTerm)
	}
	if e := s.end; e != nil && (h.BaseIndex != e.LastIndex+1 || h.BaseOffset != e.NextOffset || h.PrevTerm != e.LastTerm) {
		return fmt.Errorf("it begins with entry %d after term %d, the segment before ends with entry %d of term %d at offset %d",
			h.BaseIndex, h.PrevTerm, e.LastIndex, e.LastTerm, e.NextOffset)
	}
	return nil
}

// Next is the place that is to be written next: a file's number in Seed.Files, a
// position in it, and how many bytes it lacks; false when all is there.
func (s *Staging) Next() (file int, at, lacks int64, more bool) {
	if s.file == len(s.seed.Files) {
		return 0, 0, 0, false
	}
	return s.file, s.at, s.seed.Files[s.file].Size - s.at, true
}

// Kept is how many bytes were there already at OpenStaging, and are not copied again.
func (s *Staging) Kept() int64 { return s.kept }

// Write adds bytes at the place that Next says, at most what the file lacks. After
// ErrNoSpace or ErrSeedDamaged Next says where to go on, which may be further back.
func (s *Staging) Write(data []byte) error {
	if s.fatal != nil {
		return s.fatal
	}
	if s.file == len(s.seed.Files) || int64(len(data)) > s.seed.Files[s.file].Size-s.at {
		return fmt.Errorf("%w: %d bytes too many", ErrSeedDamaged, len(data))
	}
	if s.seed.Files[s.file].Kind == SeedHeader {
		return s.writeHeader(data)
	}
	return s.writeFrames(data)
}

// writeHeader collects a header file, which is put on the disk with its frames' end.
func (s *Staging) writeHeader(data []byte) error {
	f := s.seed.Files[s.file]
	s.header = append(s.header, data...)
	s.at += int64(len(data))
	if s.at < f.Size {
		return nil
	}
	content := s.header
	s.header, s.at = nil, 0
	h, err := segment.DecodeFileHeader(content)
	if err == nil && crc32.Checksum(content, castagnoli) != f.Sum {
		err = errors.New("another checksum")
	}
	if err != nil {
		return fmt.Errorf("%w: header of segment %d: %w", ErrSeedDamaged, f.Base, err)
	}
	if s.file+1 == len(s.seed.Files) {
		return s.takeTail(h)
	}
	if err := s.fits(h, s.seed.Files[s.file+1]); err != nil {
		return err
	}
	return s.openFrames(h)
}

// takeTail keeps the header of the segment after the seed for Switch.
func (s *Staging) takeTail(h *segment.FileHeader) error {
	err := s.follows(h, s.seed.Files[s.file].Base)
	if err == nil && (h.PrevIndex() != s.seed.Index || h.PrevTerm != s.seed.Term) {
		err = fmt.Errorf("it begins after entry %d of term %d, the seed ends with %d of %d", h.PrevIndex(), h.PrevTerm, s.seed.Index, s.seed.Term)
	}
	if err != nil {
		return fmt.Errorf("%w: header of segment %d: %w", ErrSeedDamaged, h.BaseOffset, err)
	}
	h.Seal, h.RoundLimit = nil, segment.MinRoundLimit
	s.tail = h
	s.file++
	return nil
}

// openFrames goes on to the frames of a header. What an earlier process has written
// of them is kept as far as it is good, and written once more, under a name that was
// set once more: a sync of it may have failed, and then another would do nothing
// (fsyncgate).
func (s *Staging) openFrames(h *segment.FileHeader) error {
	name := filepath.Join(s.folder, segment.LogName(h.BaseOffset))
	file, err := s.fsys.Create(name)
	if errors.Is(err, fs.ErrExist) {
		err = errors.Join(s.fsys.Rename(name, name+vfs.TempSuffix), s.fsys.Rename(name+vfs.TempSuffix, name))
		if err == nil {
			file, err = s.fsys.Open(name)
		}
	}
	if err != nil {
		return s.fail("stage segment", err)
	}
	size, err := file.Size()
	var got segment.Received
	if err == nil && size > 0 {
		got, err = segment.CheckReceived(file, min(size, h.Seal.Length), h)
	}
	if err == nil && size > 0 {
		err = errors.Join(file.Truncate(got.End.Position), vfs.Rewrite(s.fsys, name))
	}
	if err != nil {
		return s.fail("go on with staged segment", noSyncSpace(errors.Join(err, file.Close())))
	}
	s.current, s.frames = h, file
	s.file, s.at, s.synced = s.file+1, got.End.Position, got.End.Position
	s.kept += s.at
	if s.at == h.Seal.Length {
		return s.complete()
	}
	return nil
}

// writeFrames adds frames.
func (s *Staging) writeFrames(data []byte) error {
	if _, err := s.frames.WriteAt(data, s.at); err != nil {
		return s.fail("write staged segment", err)
	}
	s.at += int64(len(data))
	if s.at == s.current.Seal.Length {
		return s.complete()
	}
	if s.at-s.synced < stagingSync {
		return nil
	}
	s.synced = s.at
	return s.fail("sync staged segment", noSyncSpace(s.frames.Sync()))
}

// complete checks the frames of a segment from the first to the last, and makes it
// count.
func (s *Staging) complete() error {
	h := s.current
	got, err := segment.CheckReceived(s.frames, h.Seal.Length, h)
	if err != nil {
		return s.fail("read staged segment", err)
	}
	if err := got.Complete(h); err != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrSeedDamaged, err), s.startAgain())
	}
	if err := s.frames.Sync(); err != nil {
		return s.fail("sync staged segment", noSyncSpace(err))
	}
	if err := got.Install(s.fsys, s.folder, h); err != nil {
		s.at-- // so that the last byte is written again, and this done again
		return s.fail("stage segment", err)
	}
	err = s.frames.Close()
	s.frames, s.current = nil, nil
	s.count(h)
	s.file, s.at = s.file+1, 0
	return s.fail("stage segment", err)
}

// startAgain forgets the segment under way, whose bytes are bad, whoever made them so.
func (s *Staging) startAgain() error {
	err := errors.Join(s.frames.Truncate(0), s.frames.Close())
	s.frames, s.current = nil, nil
	s.file, s.at = s.file-1, 0
	return s.fail("throw a bad segment away", err)
}

// noSyncSpace hides a lack of space in the error of a sync: that is no harmless one.
func noSyncSpace(err error) error {
	if err != nil && errors.Is(err, ErrNoSpace) {
		return errors.New(err.Error())
	}
	return err
}

// fail turns an error of a change into what the caller gets, nil into nil.
func (s *Staging) fail(op string, err error) error {
	if err == nil || errors.Is(err, ErrNoSpace) && !errors.Is(err, segment.ErrSync) {
		return err
	}
	if s.fatal == nil {
		s.fatal = &FatalError{Dir: s.dir, Op: op, Err: noSyncSpace(err)}
	}
	return s.fatal
}

// Close ends the use of the folder, which stays as it is.
func (s *Staging) Close() error {
	if s.frames == nil {
		return nil
	}
	err := s.frames.Close()
	s.frames = nil
	return err
}
