package groups

import (
	"context"
	"errors"

	"github.com/millrace/millrace/segment"
)

// Store is the replicated log of the partitions of __consumer_offsets, as this
// package needs it. It is called by one goroutine a partition, never for two
// writes of one partition and term at the same time.
type Store interface {
	// Append writes the records as one batch behind everything appended before.
	// It returns nil once the batch is durable on a majority and a Load of the
	// same term would deliver it. The batch must be refused when the term of the
	// partition is no longer the given one at the moment it takes its place in
	// the log (the guard of DESIGN 4.2).
	//
	// Errors: ErrNotCoordinator and ErrRefused promise that the batch is not in
	// the log and never will be. Every other error, ErrUnknownOutcome among them,
	// is taken as an unknown outcome. Append must return soon after ctx ends, in
	// that case with an unknown outcome.
	Append(ctx context.Context, partition int32, term segment.Term, records []segment.Record) error
	// Load calls each for every record from the start of the log to the high
	// watermark of the ready leader of term, in order. The bytes of a record are
	// not kept after each returned. An error of each ends it and is returned;
	// ErrNotCoordinator says that term is over.
	Load(ctx context.Context, partition int32, term segment.Term, each func(segment.Record) error) error
}

// What a Store reports. Callers wrap them.
var (
	// ErrNotCoordinator says that this node no longer leads the partition in the
	// term of the call; nothing was written.
	ErrNotCoordinator = errors.New("groups: not the coordinator of this partition")
	// ErrRefused says that the batch was not appended and will not be, although
	// this node still leads: no space, or a batch over a limit.
	ErrRefused = errors.New("groups: write refused")
	// ErrUnknownOutcome says that the batch may or may not be in the log, now or
	// later.
	ErrUnknownOutcome = errors.New("groups: outcome of the write is unknown")
)

// Topic is what the coordinator asks the metadata about a topic.
type Topic struct {
	// Created is the metadata index of the record that created the topic. A topic
	// deleted and created again under its name has a larger one.
	Created uint64
	// Partitions is the number of partitions, numbered from 0.
	Partitions int32
}
