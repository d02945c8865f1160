package transport

import (
	"bytes"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// checkTerms refuses an AppendEntries that no leader can have sent: terms of a
// log never fall, and no entry is of a later term than the leader's own. Raft
// takes such a request at its word, and the replica's log would contradict
// itself from then on.
func checkTerms(a *raft.AppendEntriesRequest) error {
	before := a.PrevLogTerm
	for _, entry := range a.Entries {
		if entry.Term < before || entry.Term > a.Term {
			return fmt.Errorf("entry %d of term %d after term %d in an AppendEntries of term %d", entry.Index, entry.Term, before, a.Term)
		}
		before = entry.Term
	}
	return nil
}

// checkData prepares entries that carry raft's own data (formData). Raft panics
// on a configuration that does not decode and on a type it does not know.
func checkData(entries []*raft.Log) error {
	for _, entry := range entries {
		switch entry.Type {
		case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
		case raft.LogConfiguration:
			if err := checkConfiguration(entry.Data); err != nil {
				return fmt.Errorf("entry %d: %w", entry.Index, err)
			}
		default:
			return fmt.Errorf("entry %d is of the unknown type %d", entry.Index, entry.Type)
		}
	}
	return nil
}

// checkFrames verifies entries that carry the frames of a log (formFrames) and
// puts the data that raft needs in their place. Anything wrong fails the request
// and not the replica: the bytes may have been damaged on the sender's disk or on
// the way, and the next attempt may bring good ones; once stored, they would be
// this replica's own damage.
func checkFrames(entries []*raft.Log) error {
	next := segment.Offset(-1)
	for _, entry := range entries {
		h, err := checkFrame(entry)
		if err != nil {
			return fmt.Errorf("entry %d: %w", entry.Index, err)
		}
		if next >= 0 && h.BaseOffset != next {
			return fmt.Errorf("entry %d has base offset %d after %d", entry.Index, h.BaseOffset, next)
		}
		next = h.NextOffset()
	}
	return nil
}

// checkFrame verifies one frame: its size, checksum, term and type, and that an
// entry that raft made will be stored here as the same bytes.
func checkFrame(entry *raft.Log) (segment.Header, error) {
	frame := entry.Data
	h, err := segment.DecodeHeader(frame)
	if err != nil {
		return h, fmt.Errorf("read frame: %w", err)
	}
	switch {
	case h.FrameSize() != len(frame):
		return h, fmt.Errorf("frame of %d bytes says %d", len(frame), h.FrameSize())
	case !segment.ChecksumOK(frame):
		return h, fmt.Errorf("frame with a wrong checksum")
	case uint64(h.Term()) != entry.Term:
		return h, fmt.Errorf("frame of term %d in an entry of term %d", h.Term(), entry.Term)
	}
	t, data, err := raftEntry(h, frame)
	if err != nil {
		return h, fmt.Errorf("read frame: %w", err)
	}
	if t != entry.Type {
		return h, fmt.Errorf("frame of type %s in an entry of type %s", t, entry.Type)
	}
	entry.Data = data
	if t == raft.LogCommand {
		return h, nil
	}
	// The log store makes this frame again from raft's data. A newer leader may
	// make it otherwise; better to refuse than to hold other bytes than it does.
	kind, err := SegmentKind(t)
	if err != nil {
		return h, err
	}
	if !bytes.Equal(internalFrame(kind, h.BaseOffset, h.Term(), data), frame) {
		return h, fmt.Errorf("a frame of kind %s that this version would write otherwise", kind)
	}
	if t == raft.LogConfiguration {
		return h, checkConfiguration(data)
	}
	return h, nil
}

// checkConfiguration decodes a configuration as raft will. Raft panics on bytes
// that do not decode, in its main goroutine, which would end the process.
func checkConfiguration(encoded []byte) (err error) {
	if len(encoded) > maxConfiguration {
		return fmt.Errorf("configuration of %d bytes", len(encoded))
	}
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("read configuration: %v", cause)
		}
	}()
	raft.DecodeConfiguration(encoded)
	return nil
}
