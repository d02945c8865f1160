package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/millrace/millrace/segment/vfs"
)

const (
	// sectorSize is what a disk writes at once at most; larger sectors are
	// multiples of it.
	sectorSize = 512
	// minHole is how many bytes of a frame a sector must hold for its zeros to
	// mean that it was not written: the first 8 bytes of a frame may be zeros.
	minHole = 12
)

// classify judges the bytes from at, where no good frame begins, to filled, behind
// which there are only zeros (DESIGN 3, Recovery). At is behind everything that is
// proven synced.
//
// Assumption: a disk does not turn synced sectors into zeros. It may write the
// sectors of a round in any order, and so a round without some of its sectors, or
// of its length, is what a power cut leaves. Such a hole in the first bad frame
// means that the round was never synced and never acknowledged.
//
// A frame may hold zeros of its own, though, and its length may be what has rotted:
// of a synced frame that goes bad before its index entry is on the disk, this rule
// can take such for a hole, and cut it with what follows. That is why the round limit
// is kept near the rounds that were really written (FileHeader.RoundLimit): what can
// be lost so is less than four of the largest, and only by a bad disk and a power cut
// together, on one replica. It is not nothing. To know it all, every round would need
// a second sync; a copy of what was cut, or a replica that does not vote after it,
// would be the answer to every ordinary power cut as well, on all replicas at once.
func (r *recovery) classify(at, filled int64) (Class, error) {
	if r.o.CleanStop || filled-at > r.header.RoundLimit {
		return ClassCorrupt, nil
	}
	extent, err := r.frameExtent(at)
	if err != nil {
		return ClassCorrupt, err
	}
	if r.o.SameBoot {
		return r.classifyKilled(filled, at+extent), nil
	}
	if at+extent > r.size {
		return ClassTorn, nil // the length of the file was not synced either
	}
	hole, err := r.hasHole(at, at+extent)
	if err != nil {
		return ClassCorrupt, err
	}
	if hole {
		return ClassTorn, nil
	}
	return ClassUncertain, nil
}

// classifyKilled judges after the crash of a process: the kernel kept what it was
// given, so only the last write can be incomplete, and it is so at its end, behind
// which there is nothing. Writes stop at the boundary of a page, which is one of a
// sector; one that seems to stop elsewhere may be rotten as well, and so may a
// complete frame, whose last bytes may be zeros of its own.
func (r *recovery) classifyKilled(filled, end int64) Class {
	boundary := (filled + sectorSize - 1) / sectorSize * sectorSize
	switch {
	case filled >= end: // something follows it: this was no unfinished write
		return ClassCorrupt
	case end > r.size, end-boundary >= minHole:
		return ClassTorn
	}
	return ClassUncertain
}

// frameExtent is how many bytes the frame at a position has by its length field;
// HeaderSize if that cannot be one.
func (r *recovery) frameExtent(at int64) (int64, error) {
	var b [lengthEnd]byte
	n, err := r.file.ReadAt(b[:], at)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("read frame at byte %d: %w", at, err)
	}
	length := int64(int32(binary.BigEndian.Uint32(b[atLength:])))
	if n < lengthEnd || length < minLength || length > MaxFrameSize-lengthEnd {
		return HeaderSize, nil
	}
	return lengthEnd + length, nil
}

// hasHole reports whether some sector's part of the frame [from, to) is all zeros
// and cannot be meant to be: it has at least minHole bytes, or it is the frame's
// beginning and lacks its base offset, which is known.
func (r *recovery) hasHole(from, to int64) (bool, error) {
	buf := make([]byte, ChunkFar)
	for at := from; at < to; {
		// Chunks end at sector boundaries, so that each part is seen whole.
		n := min(to, (at/sectorSize)*sectorSize+ChunkFar) - at
		part := buf[:n]
		if _, err := r.file.ReadAt(part, at); err != nil {
			return false, fmt.Errorf("read frame at byte %d: %w", at, err)
		}
		for len(part) > 0 {
			size := min(int64(len(part)), sectorSize-at%sectorSize)
			if allZero(part[:size]) && (size >= minHole || at == from && r.offsetMissing(size)) {
				return true, nil
			}
			part, at = part[size:], at+size
		}
	}
	return false, nil
}

// offsetMissing reports whether the first n bytes of the frame at the cursor
// cannot be zeros, since the base offset there is not.
func (r *recovery) offsetMissing(n int64) bool {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(r.cursor.Offset))
	return !allZero(b[:min(n, 8)])
}

func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// lastNonZero is the position behind the last byte of [from, size) that is not
// zero; from without one.
func lastNonZero(file vfs.File, from, size int64) (int64, error) {
	buf := make([]byte, min(ChunkFar, max(size-from, 0)))
	for end := size; end > from; {
		start := max(from, end-int64(len(buf)))
		part := buf[:end-start]
		if _, err := file.ReadAt(part, start); err != nil {
			return 0, fmt.Errorf("read end of segment: %w", err)
		}
		for i := len(part) - 1; i >= 0; i-- {
			if part[i] != 0 {
				return start + int64(i) + 1, nil
			}
		}
		end = start
	}
	return from, nil
}
