package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// fresh is a batch of an idempotent producer of which raft has been given hold.
func fresh(t *testing.T, s *logStore, epoch int16, sequence int32) *Proposal {
	t.Helper()
	frame := batch(7, epoch, sequence, value(7, sequence))
	header, err := segment.DecodeHeader(frame)
	must(t, err)
	p := newProposal(frame, header, Guard{})
	s.proposals.add(p)
	return p
}

// judged appends a proposal and returns the code of the void that took its place,
// 0 if it was accepted.
func judged(t *testing.T, s *logStore, p *Proposal) segment.VoidCode {
	t.Helper()
	index := s.log.LastIndex() + 1
	must(t, s.StoreLog(&raft.Log{Index: uint64(index), Term: 1, Type: raft.LogCommand, Data: p.frame,
		Extensions: binary.BigEndian.AppendUint64(nil, p.handle)}))
	info, err := s.log.Info(index)
	must(t, err)
	if info.Void == nil {
		return 0
	}
	return info.Void.Code
}

// TestUnknownProducerNeverOvertakesARefusedBatch: the log takes any first sequence
// of a producer it does not know, but not the second batch for the first one.
func TestUnknownProducerNeverOvertakesARefusedBatch(t *testing.T) {
	notLeader := segment.VoidNotLeader
	for _, row := range []struct {
		name    string
		refused func(*testing.T, *logStore)
		want    segment.VoidCode
	}{
		{"nothing was refused", func(*testing.T, *logStore) {}, 0},
		{"raft refused it", func(t *testing.T, s *logStore) { s.proposals.settle(fresh(t, s, 0, 4), ErrNotLeader) }, notLeader},
		{"raft refused it, and nobody was told yet", func(t *testing.T, s *logStore) { fresh(t, s, 0, 4) }, notLeader},
		{"its outcome is unknown", func(t *testing.T, s *logStore) { s.proposals.settle(fresh(t, s, 0, 4), ErrUnknownOutcome) }, notLeader},
		{"it never reached raft", func(t *testing.T, s *logStore) { s.proposals.refuse(fresh(t, s, 0, 4).header) }, notLeader},
		{"it was refused for good", func(t *testing.T, s *logStore) {
			s.proposals.settle(fresh(t, s, 0, 4), &VoidError{segment.Void{Code: segment.VoidFencedEpoch}})
		}, 0},
		{"the refused one itself", func(t *testing.T, s *logStore) { s.proposals.settle(fresh(t, s, 0, 5), ErrNotLeader) }, 0},
		{"a later one was refused", func(t *testing.T, s *logStore) { s.proposals.settle(fresh(t, s, 0, 6), ErrNotLeader) }, 0},
		{"one of an older epoch was refused", func(t *testing.T, s *logStore) { s.proposals.settle(fresh(t, s, -1, 4), ErrNotLeader) }, 0},
		{"long ago", func(t *testing.T, s *logStore) {
			s.proposals.settle(fresh(t, s, 0, 4), ErrNotLeader)
			later := time.Now().Add(2 * refusalMemory)
			s.proposals.refusals.now = func() time.Time { return later }
		}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := storeOf(t, crashfs.New(1))
			row.refused(t, s)
			if code := judged(t, s, fresh(t, s, 0, 5)); code != row.want {
				t.Errorf("void code %v, want %v", code, row.want)
			}
		})
	}
}

// TestRefusedProducerGoesOn: whatever was refused, what the client sends next, in
// order from the first that was not acknowledged, is accepted.
func TestRefusedProducerGoesOn(t *testing.T) {
	s := storeOf(t, crashfs.New(1))
	for _, sequence := range []int32{4, 5, 6} {
		p := fresh(t, s, 0, sequence)
		if sequence > 4 && judged(t, s, p) != segment.VoidNotLeader {
			t.Errorf("sequence %d was accepted", sequence)
		}
		s.proposals.settle(p, ErrNotLeader)
	}
	for _, sequence := range []int32{4, 5, 6} {
		p := fresh(t, s, 0, sequence)
		if code := judged(t, s, p); code != 0 {
			t.Errorf("sequence %d was refused: %v", sequence, code)
		}
		s.proposals.settle(p, nil)
	}
	if len(s.proposals.producers) != 0 || len(s.proposals.open) != 0 {
		t.Errorf("%v and %v are left", s.proposals.producers, s.proposals.open)
	}
}

// TestCallersRefusalCounts: what the broker refused before it proposed anything.
func TestCallersRefusalCounts(t *testing.T) {
	s := storeOf(t, crashfs.New(1))
	p := fresh(t, s, 0, 1)
	p.guard.Refused = &Refusal{Sequence: 0}
	if code := judged(t, s, p); code != segment.VoidNotLeader {
		t.Errorf("void code %v", code)
	}
}

// TestProposalToAFollowerIsARefusal: a partition that begins to lead between two
// batches of a new producer must not take the second for the first.
func TestProposalToAFollowerIsARefusal(t *testing.T) {
	g := newTrio(t)
	p := g.leader().partition
	lead := p.leadership.Load()
	p.leadership.Store(&Leadership{})
	propose := func(sequence int32) error {
		ctx, cancel := context.WithTimeout(t.Context(), testWait)
		defer cancel()
		_, err := await(ctx, p.Propose(ctx, batch(7, 0, sequence, value(7, sequence)), Guard{}))
		return err
	}
	if err := propose(0); !errors.Is(err, ErrNotLeader) {
		t.Fatalf("proposed to a follower: %v", err)
	}
	p.leadership.Store(lead)
	var void *VoidError
	if err := propose(1); !errors.As(err, &void) || void.Void.Code != segment.VoidNotLeader {
		t.Fatalf("the second batch: %v", err)
	}
	must(t, propose(0))
	must(t, propose(1))
}

func TestRefusalOrder(t *testing.T) {
	header := func(epoch int16, sequence int32) segment.Header {
		return segment.Header{ProducerEpoch: epoch, BaseSequence: sequence}
	}
	for _, row := range []struct {
		refused Refusal
		header  segment.Header
		want    bool
	}{
		{Refusal{0, 0}, header(0, 1), true},
		{Refusal{0, 0}, header(0, 0), false},
		{Refusal{0, 5}, header(0, 4), false},
		{Refusal{0, 5}, header(1, 6), false},
		{Refusal{0, math.MaxInt32 - 1}, header(0, 3), true}, // wrapped
		{Refusal{0, 3}, header(0, math.MaxInt32-1), false},
	} {
		if got := row.refused.Precedes(row.header); got != row.want {
			t.Errorf("%+v precedes epoch %d, sequence %d: %v", row.refused, row.header.ProducerEpoch, row.header.BaseSequence, got)
		}
	}
	if got := (Refusal{0, 9}).Earlier(Refusal{0, 7}); got.Sequence != 7 {
		t.Errorf("earlier: %+v", got)
	}
	if got := (Refusal{2, 9}).Earlier(Refusal{1, 7}); got.Epoch != 2 {
		t.Errorf("newer epoch: %+v", got)
	}
}

// TestRefusalsAreBounded: what no longer fits counts as refused.
func TestRefusalsAreBounded(t *testing.T) {
	table := refusalTable{now: time.Now}
	for id := range int64(maxRefusals + 5) {
		table.note(segment.Header{ProducerID: id})
	}
	if n := len(table.young.refused); n != maxRefusals || !table.precedes(segment.Header{ProducerID: -5, BaseSequence: 1}) {
		t.Errorf("%d kept", n)
	}
}
