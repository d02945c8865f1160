package durability

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// maxInflated bounds a batch of the load in bytes.
const maxInflated = 64 << 20

// Replica is a partition's folder on one node.
type Replica struct {
	// FS is the file system that it lies on.
	FS vfs.FS
	// Dir is the folder.
	Dir string
	// Node is the broker's id.
	Node int
	// Partition is the partition's number.
	Partition int32
}

// String names the replica in messages.
func (r Replica) String() string { return fmt.Sprintf("node %d partition %d", r.Node, r.Partition) }

// FindReplicas finds the folders of a topic's partitions in a data folder.
func FindReplicas(fsys vfs.FS, dataDir string, node int, topic string) ([]Replica, error) {
	dir := filepath.Join(dataDir, "topics", topic)
	names, err := fsys.List(dir)
	if err != nil {
		return nil, fmt.Errorf("find replicas of node %d: %w", node, err)
	}
	var found []Replica
	for _, name := range names {
		number, _, ok := strings.Cut(name, "-")
		partition, err := strconv.ParseInt(number, 10, 32)
		if !ok || err != nil {
			continue // set aside, or being made
		}
		found = append(found, Replica{FS: fsys, Dir: filepath.Join(dir, name), Node: node, Partition: int32(partition)})
	}
	return found, nil
}

// Doubtful reports whether recovery met an end of which it could not tell whether
// it was torn or rotten, and no leader has brought the replica up since: it is on
// probation, and may lack what was acknowledged.
func (r Replica) Doubtful() bool { return r.has(".torn") }

// WasDoubtful reports whether recovery ever met such an end.
func (r Replica) WasDoubtful() bool { return r.has(".torn") || r.has(".torn.kept") }

// has reports whether a file of the folder has a name that ends so.
func (r Replica) has(suffix string) bool {
	names, err := r.FS.List(r.Dir)
	return err == nil && slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(name, suffix) })
}

// errPastLimit ends a walk.
var errPastLimit = errors.New("past the limit")

// walk passes the frames of all segments from one to an offset, internal ones included,
// and checks what holds for every replica: segments and frames follow one another
// without a gap, CRCs are right, terms never go back, and behind the last frame
// there are only zeros. end is the offset after the last record passed.
func (r Replica) walk(begin, limit int64, visit func(h segment.Header, frame []byte) error) (end int64, err error) {
	bases, err := r.segments()
	if err != nil {
		return 0, err
	}
	var term segment.Term
	end = begin
	for _, base := range bases {
		if base < begin {
			continue // what a trim has left
		}
		name := segmentName(base)
		if base != end {
			return end, fmt.Errorf("%s: segment %s follows offset %d", r, name, end)
		}
		err := r.walkFile(name, func(h segment.Header, frame []byte) error {
			switch {
			case int64(h.BaseOffset) >= limit:
				return errPastLimit
			case int64(h.BaseOffset) != end:
				return fmt.Errorf("a frame at offset %d follows offset %d", h.BaseOffset, end)
			case h.Term() < term:
				return fmt.Errorf("offset %d has term %d after term %d", h.BaseOffset, h.Term(), term)
			case !segment.ChecksumOK(frame):
				return fmt.Errorf("offset %d has a wrong CRC", h.BaseOffset)
			}
			if err := visit(h, frame); err != nil {
				return err
			}
			if end, term = int64(h.NextOffset()), h.Term(); end >= limit {
				return errPastLimit // what follows may be half written
			}
			return nil
		})
		if errors.Is(err, errPastLimit) {
			return end, nil
		}
		if err != nil {
			return end, fmt.Errorf("%s: %s: %w", r, name, err)
		}
	}
	return end, nil
}

// walkFile passes the frames of one segment file.
func (r Replica) walkFile(name string, visit func(h segment.Header, frame []byte) error) (err error) {
	file, err := r.FS.OpenReadOnly(filepath.Join(r.Dir, name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	size, err := file.Size()
	if err != nil {
		return err
	}
	s := segment.NewScanner(file, 0, size, segment.ChunkFar)
	for {
		h, _, err := s.Header()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if zerosFrom(file, s.Position(), size) {
				return nil
			}
			return fmt.Errorf("byte %d: %w", s.Position(), err)
		}
		frame, err := s.Frame(h)
		if err != nil {
			return fmt.Errorf("byte %d: %w", s.Position(), err)
		}
		if err := visit(h, frame); err != nil {
			return err
		}
		s.Pass(h)
	}
}

// zerosFrom reports whether a file holds only zeros from a position on.
func zerosFrom(file io.ReaderAt, from, size int64) bool {
	buf := make([]byte, 64<<10)
	for from < size {
		n, err := file.ReadAt(buf[:min(int64(len(buf)), size-from)], from)
		for _, b := range buf[:n] {
			if b != 0 {
				return false
			}
		}
		if n == 0 && err != nil {
			return errors.Is(err, io.EOF)
		}
		from += int64(n)
	}
	return true
}

// Reaches reports whether a replica holds everything below an offset. It may be
// written to meanwhile.
func (r Replica) Reaches(limit int64) bool {
	end, err := r.walk(0, limit, func(segment.Header, []byte) error { return nil })
	return err == nil && end >= limit
}

// events passes every event of a replica from one to an offset.
func (r Replica) events(run uint32, begin, limit int64, visit func(offset int64, e Event)) (end int64, err error) {
	return r.walk(begin, limit, func(_ segment.Header, frame []byte) error {
		return frameEvents(run, frame, visit)
	})
}

// frameEvents passes the events of a frame; internal frames have none.
func frameEvents(run uint32, frame []byte, visit func(offset int64, e Event)) error {
	records, err := segment.Records(frame, maxInflated)
	if err != nil {
		return err
	}
	for _, record := range records {
		e, err := decode(run, record.Value)
		if err != nil {
			return fmt.Errorf("offset %d: %w", record.Offset, err)
		}
		visit(int64(record.Offset), e)
	}
	return nil
}

// frameSum stands for a frame's bytes and place.
type frameSum struct {
	base int64
	size int64
	sum  uint64
}

// Content is what a replica holds below an offset; that of two replicas must be
// equal from where both begin.
type Content struct {
	replica Replica
	frames  []frameSum
	// Records counts records.
	Records int64
	// Bytes counts the bytes of frames.
	Bytes int64
	// Begin is the offset at which its files begin.
	Begin int64
	// End is the offset after the last record.
	End int64
}

// Differs says where two replicas begin to differ, empty if they do not. Both must
// have been checked by one ledger.
func (c *Content) Differs(other *Content) string {
	mine, theirs := c.frames, other.frames
	switch { // what one has trimmed and the other has not is not compared
	case c.Begin < other.Begin:
		mine = mine[max(len(mine)-len(theirs), 0):]
	case c.Begin > other.Begin:
		theirs = theirs[max(len(theirs)-len(mine), 0):]
	}
	for i := range min(len(mine), len(theirs)) {
		if mine[i] != theirs[i] {
			return fmt.Sprintf("%s and %s differ from frame %d on: offset %d (%d bytes), offset %d (%d bytes)", c.replica, other.replica,
				i, mine[i].base, mine[i].size, theirs[i].base, theirs[i].size)
		}
	}
	if len(mine) != len(theirs) {
		return fmt.Sprintf("%s has %d frames, %s has %d", c.replica, len(mine), other.replica, len(theirs))
	}
	return ""
}

// add notes a frame.
func (c *Content) add(seed maphash.Seed, h segment.Header, frame []byte) {
	c.frames = append(c.frames, frameSum{base: int64(h.BaseOffset), size: int64(len(frame)), sum: maphash.Bytes(seed, frame)})
	c.Bytes += int64(len(frame))
}
