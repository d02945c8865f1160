package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// errPoisoned answers everything that an instance asks after one of its
// StoreLogs failed: raft's idea of its last entry may be wrong from then on
// (raft.go:1564), so nothing it says may count until it was started anew.
var errPoisoned = errors.New("the raft instance stopped after a failed append")

// logStore is a partition's log as raft sees it (DESIGN 4.1). StoreLogs and
// DeleteRange are called by raft's main goroutine only; the rest from anywhere.
type logStore struct {
	log       *log.Log
	proposals *proposalTable
	disk      *diskCalls  // counts the calls that may wait for the disk; may be nil
	watch     *storeWatch // notices a StoreLogs that hangs; may be nil
	// appended is told about each fresh entry once it is durable or refused.
	appended func(*Proposal)
	// failed is told once about the error that poisoned the instance; it must
	// not wait for raft, whose main goroutine is the caller.
	failed func(error)

	poisoned atomic.Bool
}

var _ raft.LogStore = (*logStore)(nil)

// FirstIndex implements raft.LogStore.
func (s *logStore) FirstIndex() (uint64, error) {
	if s.log.LastIndex() < s.log.FirstIndex() {
		return 0, nil
	}
	return uint64(s.log.FirstIndex()), nil
}

// LastIndex implements raft.LogStore: the base of an emptied log, not zero, or
// raft would believe that it holds nothing and start from index 1 again.
func (s *logStore) LastIndex() (uint64, error) { return uint64(s.log.LastIndex()), nil }

// GetLog implements raft.LogStore. Entries that carry records come without their
// bytes: the transport reads those itself, and the state machine needs only the
// index. Absent is raft.ErrLogNotFound itself, because raft compares identity
// (replication.go:223); a wrapped one would leave a follower behind for ever.
func (s *logStore) GetLog(index uint64, entry *raft.Log) error {
	info, err := s.log.Info(segment.Index(index))
	if errors.Is(err, log.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return fmt.Errorf("read entry %d: %w", index, err)
	}
	*entry = raft.Log{Index: index, Term: uint64(info.Term), Type: transport.RaftType(info.Kind)}
	if entry.Type != raft.LogConfiguration {
		return nil
	}
	if entry.Data, err = s.log.Payload(segment.Index(index)); err != nil {
		return fmt.Errorf("read configuration %d: %w", index, err)
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (s *logStore) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore: it judges and stamps fresh entries, checks
// those of a leader, writes once, syncs once, and is atomic. On return the
// entries are durable here. After log.ErrNoSpace none of them is there or ever was
// visible. After a *log.FatalError nothing is known: the index is written behind
// the sync, so all of them may be durable and visible already. That ends the
// process; what raft is told here, that they failed, then no longer matters.
func (s *logStore) StoreLogs(entries []*raft.Log) error {
	if s.poisoned.Load() {
		return errPoisoned
	}
	defer s.disk.begin()()
	s.watch.begin()
	defer s.watch.end()
	fresh, err := s.append(entries)
	for _, p := range fresh {
		s.appended(p)
	}
	if err != nil {
		s.poison(err)
	}
	return err
}

func (s *logStore) append(entries []*raft.Log) (fresh []*Proposal, err error) {
	batch := s.log.Begin()
	for _, entry := range entries {
		p, err := s.stage(batch, entry)
		if p != nil {
			fresh = append(fresh, p)
		}
		if err != nil {
			batch.Abort()
			return fresh, fmt.Errorf("append entry %d of term %d: %w", entry.Index, entry.Term, err)
		}
	}
	return fresh, batch.Commit()
}

func (s *logStore) stage(batch *log.Append, entry *raft.Log) (*Proposal, error) {
	staged := log.Entry{Index: segment.Index(entry.Index), Term: segment.Term(entry.Term)}
	var p *Proposal
	switch {
	case entry.Type != raft.LogCommand:
		kind, err := transport.SegmentKind(entry.Type)
		if err != nil {
			return nil, err
		}
		staged.Kind = kind
		staged.Frame = segment.EncodeInternal(kind, batch.NextOffset(), entry.Data)
		segment.Stamp(staged.Frame, batch.NextOffset(), staged.Term)
	case len(entry.Extensions) == 8:
		p = s.proposals.take(binary.BigEndian.Uint64(entry.Extensions))
		if p == nil {
			return nil, errors.New("a fresh entry has no proposal")
		}
		// In place: raft keeps this very entry for the state machine, and the
		// transport reads what the log holds.
		entry.Extensions = nil
		entry.Data = judge(batch, s.proposals, p, staged.Term)
		staged.Frame, staged.Kind = entry.Data, kindOf(entry.Data)
	default:
		header, err := segment.DecodeHeader(entry.Data)
		if err != nil {
			return nil, err
		}
		if segment.Term(header.LeaderEpoch) != staged.Term {
			return nil, fmt.Errorf("its frame was stamped in term %d", header.LeaderEpoch)
		}
		staged.Frame, staged.Kind = entry.Data, header.Kind()
		if staged.Kind != segment.KindRecords {
			staged.Kind = kindOf(entry.Data)
		}
	}
	return p, batch.Stage(staged)
}

// kindOf is the kind of a whole frame that was checked before.
func kindOf(frame []byte) segment.Kind {
	header, err := segment.DecodeHeader(frame)
	if err != nil || header.Kind() == segment.KindRecords {
		return segment.KindRecords
	}
	kind, _, err := segment.DecodeInternal(frame)
	if err != nil {
		return header.Kind()
	}
	return kind
}

// DeleteRange implements raft.LogStore. It always means "cut the suffix from
// min": raft also calls it to trim old entries, which the snapshot settings of
// this package rule out. The log refuses to cut what is known to be committed.
func (s *logStore) DeleteRange(first, last uint64) error {
	if s.poisoned.Load() {
		return errPoisoned
	}
	if end := uint64(s.log.LastIndex()); last < end {
		return fmt.Errorf("refused to delete entries %d to %d: only a suffix may be cut, and the log ends at %d", first, last, end)
	}
	if err := s.log.CutFrom(segment.Index(first)); err != nil {
		err = fmt.Errorf("cut the log from entry %d: %w", first, err)
		s.poison(err)
		return err
	}
	return nil
}

func (s *logStore) poison(err error) {
	if s.poisoned.CompareAndSwap(false, true) {
		s.failed(err)
	}
}
