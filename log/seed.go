package log

import (
	"errors"
	"fmt"

	"github.com/millrace/millrace/segment"
)

// ErrSeedChanged is a seed that its source does not have any more as it was
// described: the segment at its end was opened again by a cut, or is gone. What was
// copied stays good; the source is asked for a new description.
var ErrSeedChanged = errors.New("log: the seed has changed at its source")

// SeedKind is what a file of a seed is. It travels between brokers: never change.
type SeedKind uint8

const (
	// SeedHeader is a segment's header file (.hdr), sealed but for the last one.
	SeedHeader SeedKind = 1
	// SeedFrames is a segment's file of frames (.log).
	SeedFrames SeedKind = 2
)

// SeedFile is one file of a seed.
type SeedFile struct {
	// Base is the base offset of its segment, which names it.
	Base segment.Offset
	// Kind says which of the segment's files it is.
	Kind SeedKind
	// Size is its length in bytes.
	Size int64
	// Sum is the CRC32C of a header file, and the chained checksum of frames (see
	// segment.Cursor), which the header's seal has as well.
	Sum uint32
}

// Seed describes the committed beginning of a partition's log as files: all sealed
// segments up to a checkpoint S, the end of one of them. A replica that has them,
// and the header of the segment after S, has everything up to S: that header holds
// raft's configuration, the terms and the producers as of S. Indexes are not among
// the files; they are made from the frames, as the first time.
//
// Where a trim has removed every sealed segment, S is the base of the log and the
// header is all there is: the replica begins where its source does.
type Seed struct {
	// TopicID is the topic's identity.
	TopicID segment.TopicID
	// Partition is the partition's number.
	Partition int32
	// Start is the log start, the first offset that consumers see.
	Start segment.Offset
	// Index is S.
	Index segment.Index
	// Term is the term of entry S.
	Term segment.Term
	// Files are, in the order in which they are to be copied: header and frames of
	// each segment, then the header of the segment after S.
	Files []SeedFile
}

// MaxSeedFiles bounds the files of one seed: more segments than a terabyte in the
// smallest segments that Kafka allows to be configured sensibly, 16 MiB.
const MaxSeedFiles = 1<<17 + 1

// Bytes is the size of all files, in bytes.
func (s *Seed) Bytes() int64 {
	total := int64(0)
	for _, f := range s.Files {
		total += f.Size
	}
	return total
}

// Check says why this cannot be a seed, nil if it can. Only then its sizes and their
// sum may be relied upon.
func (s *Seed) Check() error {
	n := len(s.Files)
	if n%2 == 0 || n > MaxSeedFiles {
		return fmt.Errorf("a seed of %d files", n)
	}
	if s.Partition < 0 || s.Index == 0 || s.Term > segment.MaxTerm {
		return fmt.Errorf("a seed of partition %d up to entry %d of term %d", s.Partition, s.Index, s.Term)
	}
	if last := s.Files[n-1].Base; s.Start < s.Files[0].Base || s.Start > last {
		return fmt.Errorf("a seed of offsets %d to %d with log start %d", s.Files[0].Base, last, s.Start)
	}
	for i, f := range s.Files {
		kind, limit := SeedHeader, int64(segment.MaxMetadataSize)
		if i%2 == 1 {
			kind, limit = SeedFrames, maxSeedFrames
		}
		if f.Kind != kind || f.Size <= 0 || f.Size > limit {
			return fmt.Errorf("file %d of a seed is of kind %d and has %d bytes", i, f.Kind, f.Size)
		}
		first := i%2 == 0
		if f.Base < 0 || i > 0 && (first && f.Base <= s.Files[i-1].Base || !first && f.Base != s.Files[i-1].Base) {
			return fmt.Errorf("file %d of a seed has base offset %d", i, f.Base)
		}
	}
	return nil
}

// maxSeedFrames is the most bytes a segment can have: what an index entry's position
// can hold (a segment without a record takes every frame).
const maxSeedFrames = 1<<32 - 1
