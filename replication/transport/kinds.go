package transport

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// RaftType is the raft entry type under which raft sees a frame of the log.
// Raft's own three kinds keep their meaning; everything else, kinds unknown to
// this version included, is a command, so that the state machine decides about
// it and raft does not panic on it.
func RaftType(kind segment.Kind) raft.LogType {
	switch kind {
	case segment.KindNoop:
		return raft.LogNoop
	case segment.KindBarrier:
		return raft.LogBarrier
	case segment.KindConfiguration:
		return raft.LogConfiguration
	default:
		return raft.LogCommand
	}
}

// SegmentKind is the kind of internal frame in which the log keeps an entry that
// raft itself made. A command has no kind of its own, its data is a whole frame
// that says it; for that and for raft's deprecated types there is an error.
func SegmentKind(t raft.LogType) (segment.Kind, error) {
	switch t {
	case raft.LogNoop:
		return segment.KindNoop, nil
	case raft.LogBarrier:
		return segment.KindBarrier, nil
	case raft.LogConfiguration:
		return segment.KindConfiguration, nil
	default:
		return 0, fmt.Errorf("raft entries of type %s have no kind of frame", t)
	}
}

// internalFrame is the frame of an entry that raft made: a function of kind, next
// offset, content and term alone, so that every replica stores equal bytes though
// raft carries only the content.
func internalFrame(kind segment.Kind, next segment.Offset, term segment.Term, content []byte) []byte {
	frame := segment.EncodeInternal(kind, next, content)
	segment.Stamp(frame, next, term)
	return frame
}

// raftEntry reads a whole frame, whose header was read and whose checksum was
// verified, as the entry that raft is given: the frame itself for a command, its
// content for what raft made. Both alias frame.
func raftEntry(h segment.Header, frame []byte) (raft.LogType, []byte, error) {
	if h.Kind() == segment.KindRecords {
		return raft.LogCommand, frame, nil
	}
	kind, content, err := segment.DecodeInternal(frame)
	if err != nil {
		return 0, nil, err
	}
	t := RaftType(kind)
	switch {
	case t == raft.LogCommand:
		return t, frame, nil
	case len(content) == 0:
		return t, nil, nil
	default:
		return t, content, nil
	}
}
