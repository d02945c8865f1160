package groups

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/millrace/millrace/segment"
)

// memStore is a Store in memory whose appends can be made to end as those of a
// replicated log do.
type memStore struct {
	mu       sync.Mutex
	log      map[int32][]segment.Record
	late     map[int32][]segment.Record // proposed, unknown to the caller, not in the log yet
	terms    map[int32]segment.Term     // of the leader; an append of another is refused
	outcomes []string                   // of the next appends; ok when empty
	loads    []error                    // of the next loads
	gate     chan struct{}              // closed: open
	appends  int
}

func newMemStore() *memStore {
	s := &memStore{log: map[int32][]segment.Record{}, late: map[int32][]segment.Record{}, terms: map[int32]segment.Term{}, gate: make(chan struct{})}
	close(s.gate)
	return s
}

// elect makes term the term of a partition. What was proposed late in another
// term is lost.
func (s *memStore) elect(partition int32, term segment.Term) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.terms[partition] = term
	delete(s.late, partition)
}

func (s *memStore) block() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = make(chan struct{})
}

func (s *memStore) unblock() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.gate)
}

func (s *memStore) fail(outcomes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcomes = append(s.outcomes, outcomes...)
}

func (s *memStore) failLoad(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads = append(s.loads, err)
}

func (s *memStore) Append(ctx context.Context, partition int32, term segment.Term, records []segment.Record) error {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	select {
	case <-gate:
	case <-ctx.Done():
		return errors.Join(ErrUnknownOutcome, ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.appends++
	if s.terms[partition] != term {
		return ErrNotCoordinator
	}
	outcome := "ok"
	if len(s.outcomes) > 0 {
		outcome, s.outcomes = s.outcomes[0], s.outcomes[1:]
	}
	switch outcome {
	case "refused":
		return ErrRefused
	case "deposed":
		return ErrNotCoordinator
	case "lost":
		return ErrUnknownOutcome
	case "late":
		s.late[partition] = append(s.late[partition], records...)
		return ErrUnknownOutcome
	}
	// What was proposed before comes before.
	s.log[partition] = append(append(s.log[partition], s.late[partition]...), records...)
	delete(s.late, partition)
	if outcome == "landed" {
		return ErrUnknownOutcome
	}
	return nil
}

func (s *memStore) Load(ctx context.Context, partition int32, term segment.Term, each func(segment.Record) error) error {
	s.mu.Lock()
	if len(s.loads) > 0 {
		err := s.loads[0]
		s.loads = s.loads[1:]
		s.mu.Unlock()
		return err
	}
	gate, log, current := s.gate, slices.Clone(s.log[partition]), s.terms[partition]
	s.mu.Unlock()
	select {
	case <-gate:
	case <-ctx.Done():
		return ctx.Err()
	}
	if current != term {
		return ErrNotCoordinator
	}
	for _, r := range log {
		r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
		err := each(r)
		clear(r.Key) // the buffer is used again
		clear(r.Value)
		if err != nil {
			return err
		}
	}
	return nil
}
