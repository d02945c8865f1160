package transport

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// memEntry is one frame of a memLog.
type memEntry struct {
	term  segment.Term
	kind  segment.Kind
	frame []byte
}

// memLog is a partition's log in memory: frames only, entries without bytes in
// GetLog, as the real one (DESIGN 4.1).
type memLog struct {
	mu      sync.Mutex
	entries []memEntry
	reads   []int // entries of each ReadEntries
}

// batch is a frame with one record.
func batch(value string) []byte {
	return segment.Build([]segment.Record{{Value: []byte(value)}}, segment.BuildOptions{})
}

// fresh is an entry to propose.
func fresh(value string) raft.Log {
	return raft.Log{Data: batch(value), Extensions: binary.BigEndian.AppendUint64(nil, 1)}
}

func (l *memLog) nextLocked() segment.Offset {
	if len(l.entries) == 0 {
		return 0
	}
	h, err := segment.DecodeHeader(l.entries[len(l.entries)-1].frame)
	if err != nil {
		panic(err)
	}
	return h.NextOffset()
}

// FirstIndex implements raft.LogStore.
func (l *memLog) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(min(len(l.entries), 1)), nil
}

// LastIndex implements raft.LogStore.
func (l *memLog) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.entries)), nil
}

// GetLog implements raft.LogStore.
func (l *memLog) GetLog(index uint64, out *raft.Log) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index == 0 || index > uint64(len(l.entries)) {
		return raft.ErrLogNotFound
	}
	e := l.entries[index-1]
	*out = raft.Log{Index: index, Term: uint64(e.term), Type: RaftType(e.kind)}
	if e.kind == segment.KindConfiguration {
		_, content, err := segment.DecodeInternal(e.frame)
		if err != nil {
			return err
		}
		out.Data = content
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (l *memLog) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (l *memLog) StoreLogs(entries []*raft.Log) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, entry := range entries {
		if entry.Index != uint64(len(l.entries))+1 {
			return fmt.Errorf("entry %d after %d", entry.Index, len(l.entries))
		}
		stored := memEntry{term: segment.Term(entry.Term), frame: entry.Data}
		switch {
		case entry.Type != raft.LogCommand:
			kind, err := SegmentKind(entry.Type)
			if err != nil {
				return err
			}
			stored.kind, stored.frame = kind, internalFrame(kind, l.nextLocked(), stored.term, entry.Data)
		case len(entry.Extensions) > 0:
			entry.Extensions = nil
			segment.Stamp(entry.Data, l.nextLocked(), stored.term)
		}
		h, err := segment.DecodeHeader(stored.frame)
		if err != nil {
			return err
		}
		if h.BaseOffset != l.nextLocked() || h.Term() != stored.term {
			return fmt.Errorf("entry %d: frame at %d of term %d does not fit", entry.Index, h.BaseOffset, h.Term())
		}
		l.entries = append(l.entries, stored)
	}
	return nil
}

// DeleteRange implements raft.LogStore: it cuts the suffix.
func (l *memLog) DeleteRange(first, _ uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = l.entries[:first-1]
	return nil
}

// ReadEntries implements Source.
func (l *memLog) ReadEntries(first segment.Index, count, maxBytes int) (frames []byte, headers []EntryHeader, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := int(first); i < int(first)+count && i <= len(l.entries); i++ {
		e := l.entries[i-1]
		if len(headers) > 0 && len(frames)+len(e.frame) > maxBytes {
			break
		}
		frames = append(frames, e.frame...)
		headers = append(headers, EntryHeader{Index: segment.Index(i), Term: e.term, Kind: e.kind, Size: len(e.frame)})
	}
	l.reads = append(l.reads, len(headers))
	if len(headers) == 0 {
		return nil, nil, fmt.Errorf("no entry %d", first)
	}
	return frames, headers, nil
}

// last is the number of entries.
func (l *memLog) last() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

// frame is the frame of an entry.
func (l *memLog) frame(index uint64) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index == 0 || index > uint64(len(l.entries)) {
		return nil
	}
	return l.entries[index-1].frame
}

// machine is a state machine that keeps what was applied, by index.
type machine struct {
	log   *memLog
	moved func()

	mu      sync.Mutex
	applied map[uint64]string
	last    uint64
	fault   error
}

// Apply implements raft.FSM.
func (m *machine) Apply(entry *raft.Log) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.applied == nil {
		m.applied = map[uint64]string{}
	}
	records, err := segment.Records(m.log.frame(entry.Index), 1<<20)
	if err != nil || len(records) != 1 {
		m.fault = fmt.Errorf("apply %d: %d records, %v", entry.Index, len(records), err)
		return nil
	}
	value := strconv.FormatInt(int64(records[0].Offset), 10) + "=" + string(records[0].Value)
	if before, ok := m.applied[entry.Index]; ok && before != value {
		m.fault = fmt.Errorf("index %d applied as %s and %s", entry.Index, before, value)
	}
	m.applied[entry.Index], m.last = value, max(m.last, entry.Index)
	if m.moved != nil {
		m.moved()
	}
	return nil
}

// count is how many entries were applied.
func (m *machine) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.applied)
}

// has reports whether an index was applied.
func (m *machine) has(index uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.applied[index]
	return ok
}
