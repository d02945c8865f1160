package log

import (
	"errors"
	"fmt"

	"github.com/millrace/millrace/segment"
)

// applies reports a kind that this version knows how to apply. Horizons are not among
// them: a version that proposes them is newer.
func applies(kind segment.Kind) bool {
	switch kind {
	case segment.KindRecords, segment.KindNoop, segment.KindConfiguration, segment.KindBarrier, segment.KindVoid,
		segment.KindTrim:
		return true
	}
	return false
}

// entryCost is what an entry counts besides its bytes toward the next checkpoint:
// many tiny ones cost a start more than their bytes.
const entryCost = 200

// Apply marks everything up to an entry as applied: committed, readable, its
// producers' state in force. An entry that was applied already changes nothing. It
// returns the entry. ErrUnknownKind stops before the entry it is about. Written
// checkpoints are part of it; that one fails for lack of space is only logged.
func (l *Log) Apply(i segment.Index) (EntryInfo, error) {
	if err := l.usable(); err != nil {
		return EntryInfo{}, err
	}
	l.mu.Lock()
	if i >= l.end.index {
		l.mu.Unlock()
		return EntryInfo{}, ErrNotFound
	}
	if i <= l.applied {
		l.mu.Unlock()
		return l.Info(i)
	}
	before := l.highWatermark
	err := l.applyLocked(i)
	info := l.entryLocked(i).info(i)
	l.forgetEntriesLocked()
	moved := l.highWatermark != before
	due := l.rolled || l.sinceCheckpoint >= l.options.CheckpointBytes
	l.mu.Unlock()
	if moved {
		l.notify()
	}
	if err != nil {
		return EntryInfo{}, err
	}
	if due {
		err = l.checkpointIfPossible()
	}
	return info, err
}

// applyLocked applies the entries up to i.
func (l *Log) applyLocked(i segment.Index) error {
	for l.applied < i {
		e := l.entryLocked(l.applied + 1)
		if !applies(e.kind) {
			return fmt.Errorf("apply entry %d: %w: %v", l.applied+1, ErrUnknownKind, e.kind)
		}
		l.applied++
		l.highWatermark = e.next
		l.producers.apply(e.batch)
		if e.trim != nil {
			l.trimLocked(*e.trim)
		}
		l.sinceCheckpoint += int64(e.size) + entryCost
		l.appliedAt = place{
			part: e.part, position: e.position + int64(e.size), index: l.applied + 1, offset: e.next, term: e.term,
		}
	}
	l.committed = max(l.committed, l.applied)
	return nil
}

// checkpointIfPossible writes a checkpoint and waits for space with the next one.
func (l *Log) checkpointIfPossible() error {
	err := l.WriteCheckpoint()
	if errors.Is(err, ErrNoSpace) {
		l.options.Logger.Warn("no space for a checkpoint", "topic", l.identity.Topic, "partition", l.identity.Partition, "err", err)
		return nil
	}
	return err
}

// Applied is the last entry that was applied.
func (l *Log) Applied() segment.Index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.applied
}

// HighWatermark is the offset after the last record that was applied. After Open
// it is the checkpoint's, until a leader's first commit.
func (l *Log) HighWatermark() segment.Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.highWatermark
}

// subscription is a channel that wants to know.
type subscription struct{ ch chan<- struct{} }

// Subscribe sends to ch, without waiting, whenever the high watermark moves, and
// on Close. A channel with room for one misses nothing: it says "look again".
func (l *Log) Subscribe(ch chan<- struct{}) (cancel func()) {
	s := &subscription{ch: ch}
	l.mu.Lock()
	l.subscribers[s] = struct{}{}
	l.mu.Unlock()
	return func() {
		l.mu.Lock()
		delete(l.subscribers, s)
		l.mu.Unlock()
	}
}

// notify tells the subscribers.
func (l *Log) notify() {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for s := range l.subscribers {
		select {
		case s.ch <- struct{}{}:
		default:
		}
	}
}
