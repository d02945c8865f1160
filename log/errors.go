package log

import (
	"errors"
	"fmt"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// Errors of a log. Test with errors.Is.
var (
	// ErrNotFound is an entry below the base or above the end. It is returned
	// bare.
	ErrNotFound = errors.New("log: no such entry")
	// ErrCommitted is a cut at or below an entry that is known to be committed.
	ErrCommitted = errors.New("log: refused to cut a committed entry")
	// ErrUnknownKind is an entry that this version does not know how to apply:
	// the replica stops.
	ErrUnknownKind = errors.New("log: entry of a kind that this version does not apply")
	// ErrOffsetOutOfRange is a read below the log's start or above its end.
	ErrOffsetOutOfRange = errors.New("log: offset out of range")
	// ErrChanged is a read of entries that were cut while they were read; the
	// caller asks again.
	ErrChanged = errors.New("log: entries were cut during the read")
	// ErrMismatch is an entry that does not fit the end of the log: another
	// history, or a bug. Nothing was stored.
	ErrMismatch = errors.New("log: entry does not fit the end of the log")
	// ErrClosed is a log after Close.
	ErrClosed = errors.New("log: closed")
	// ErrNoSpace is vfs.ErrNoSpace: a commit that did not happen for lack of
	// space. The log can be used on.
	ErrNoSpace = vfs.ErrNoSpace
)

// FatalError is a failed sync, or a write that failed for another reason than a
// lack of space. What is on the disk is unknown from then on, and asking again
// would prove nothing (the kernel may have dropped the pages and forgotten the
// error), so the log takes nothing more and the process has to end.
type FatalError struct {
	// Dir is the replica's folder.
	Dir string
	// Op is what was being done.
	Op string
	// Err is the cause.
	Err error
}

// Error names folder, operation and cause.
func (e *FatalError) Error() string { return fmt.Sprintf("log %s: %s: %v", e.Dir, e.Op, e.Err) }

// Unwrap is the cause.
func (e *FatalError) Unwrap() error { return e.Err }

// CorruptionError is data that contradicts itself and is not the torn end of a
// last write. Nothing was cut or removed for it.
type CorruptionError struct {
	// Dir is the replica's folder.
	Dir string
	// File is the name of the file in it.
	File string
	// Position is where in the file, in bytes; -1 for the file as a whole.
	Position int64
	// Class is that of DESIGN 3: ClassCorrupt, since torn ends are cut.
	Class segment.Class
	// Detail is what is wrong, for people.
	Detail string
}

// Error names file, position and what is wrong.
func (e *CorruptionError) Error() string {
	if e.Position < 0 {
		return fmt.Sprintf("log %s: %s is corrupt: %s", e.Dir, e.File, e.Detail)
	}
	return fmt.Sprintf("log %s: %s is corrupt at byte %d: %s", e.Dir, e.File, e.Position, e.Detail)
}
