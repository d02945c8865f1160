package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/segment"
)

// codecClients are the names, as sent in ApiVersions, of client libraries that
// decode every codec. They get the stored bytes; all others, and those that send
// no name, get batches inflated, because a client without zstd fails on records
// that its own producers never compressed.
var codecClients = []string{
	"apache-kafka-java",
	"kgo",
	"librdkafka",
	"confluent-kafka-go",
	"confluent-kafka-python",
	"confluent-kafka-dotnet",
	"confluent-kafka-javascript",
	"rdkafka",
	"sarama",
	"millrace-go", // package client, which the command line uses too
}

// decodesAll reports whether a client of that name decodes every codec.
func decodesAll(software string) bool {
	name := strings.ToLower(software)
	for _, known := range codecClients {
		if name == known {
			return true
		}
	}
	return false
}

// zstdVersion is the first Fetch version whose clients know zstd (KIP-110).
const zstdVersion = 10

// inflates reports whether a batch of that codec is inflated on its way to the
// client, and whether it may be sent at all.
func (f *fetching) inflates(codec segment.Codec, mode string) (inflate bool, failure *failure) {
	old := codec == segment.CodecZstd && f.body.Version < zstdVersion
	switch {
	case codec == segment.CodecNone:
		return false, nil
	case mode == "never":
		if old {
			return false, fail(kerr.UnsupportedCompressionType, "")
		}
		return false, nil
	default:
		return mode == "always" || old || !decodesAll(f.client.software), nil
	}
}

const (
	// inflateRatio is what a batch is expected to grow by at most. One that grows
	// more is inflated again with as much more room: that costs little, and a batch
	// never takes memory before the budget gave it.
	inflateRatio = 8
	// minInflateRoom is the least room for an inflated batch.
	minInflateRoom = 64 << 10
	// inflateWait is how long a fetch waits for memory before its answer is empty;
	// once, however many partitions it names and however often it looks at them.
	inflateWait = time.Second
)

// inflate replaces the result's records by inflated ones where the client needs
// that. What does not fit into the node's memory budget is left for the next
// fetch; a batch above the topic's limit is sent as stored, so that the client
// names the codec it lacks.
func (f *fetching) inflate(ctx context.Context, result *fetchResult, s *topicSettings) *failure {
	if result.size == 0 || s.inflate == "auto" && f.body.Version >= zstdVersion && decodesAll(f.client.software) ||
		s.inflate == "never" && f.body.Version >= zstdVersion {
		return nil
	}
	// The headers first: records that need no inflating stay in their file.
	needed := false
	for at := int64(0); !needed && at < result.size; {
		b, failure := f.batchAt(result, at, s)
		if failure != nil {
			return failure
		}
		at += b.size
		needed = b.inflate
	}
	if !needed {
		return nil
	}
	var out []byte
	for at := int64(0); at < result.size; {
		b, failure := f.batchAt(result, at, s)
		if failure != nil {
			return failure
		}
		more, err := f.addBatch(ctx, result, s, b, out)
		if err != nil {
			return readFailure(err)
		}
		if more == nil {
			break
		}
		out = more
		at += b.size
	}
	result.bytes, result.size = out, int64(len(out))
	return nil
}

// storedBatch is a batch in a slice.
type storedBatch struct {
	position int64 // in the slice
	size     int64 // in bytes
	inflate  bool
}

// batchAt looks at the header of the batch at a position of a result.
func (f *fetching) batchAt(result *fetchResult, at int64, s *topicSettings) (storedBatch, *failure) {
	var room [segment.HeaderSize]byte
	head, err := sliceBytes(&result.slice, at, room[:min(int64(len(room)), result.size-at)])
	if err != nil {
		return storedBatch{}, readFailure(err)
	}
	h, err := segment.DecodeHeader(head)
	if err != nil || int64(h.FrameSize()) > result.size-at {
		f.node.logger.Error("a slice of the log is not made of whole batches", "position", result.slice.Position+at, "err", err)
		return storedBatch{}, fail(kerr.KafkaStorageError, "")
	}
	want, failure := f.inflates(h.Attributes.Codec(), s.inflate)
	return storedBatch{at, int64(h.FrameSize()), want}, failure
}

// addBatch appends a batch to out, inflated or as it is. Memory is taken before it
// is used: for what is read from the file, and for what may come out; the answer
// keeps only what did come out. nil ends the answer, for lack of memory.
func (f *fetching) addBatch(ctx context.Context, result *fetchResult, s *topicSettings, b storedBatch, out []byte) ([]byte, error) {
	read := int64(0)
	if result.slice.File != nil {
		read = b.size
	}
	// Never so much that the memory which this very fetch and other long polls hold
	// would have to come back first: it would wait for ever, and all behind it.
	limit := min(s.inflatedBytes, f.node.settings.requestMemory/2-read-segment.HeaderSize)
	room := min(max(inflateRatio*b.size, minInflateRoom), limit)
	for {
		if !b.inflate || limit <= 0 {
			room = b.size
		}
		taken, ok := f.reserve(ctx, read+segment.HeaderSize+room, len(out) > 0 || f.bytes > 0)
		if !ok {
			return nil, nil
		}
		frame, err := sliceBytes(&result.slice, b.position, make([]byte, read))
		if err != nil {
			f.node.budget.give(taken)
			return nil, err
		}
		frame = frame[:b.size]
		if b.inflate && limit > 0 {
			plain, err := segment.Inflate(frame, room)
			if errors.Is(err, segment.ErrInflatedTooLarge) {
				f.node.budget.give(taken)
				if b.inflate = room < limit; b.inflate {
					room = min(inflateRatio*room, limit)
				}
				continue // with more room, or as stored
			}
			if err == nil { // else: it was checked when it came in; the client will say what it finds
				frame = plain
			}
		}
		keep := min(int64(len(frame)), taken)
		f.held += keep
		f.node.budget.give(taken - keep)
		return append(out, frame...), nil
	}
}

// reserve takes memory for a batch. With something in the answer already, or held,
// it does not wait for it, nor after it has waited in vain; nor for ever otherwise,
// because requests that came after this one on its connection may hold the memory
// until this one is answered.
func (f *fetching) reserve(ctx context.Context, size int64, started bool) (int64, bool) {
	if started || f.held > 0 || f.short {
		return size, f.node.budget.tryTake(size)
	}
	ctx, cancel := context.WithTimeout(ctx, inflateWait)
	defer cancel()
	taken, err := f.node.budget.take(ctx, size)
	f.short = err != nil
	return taken, err == nil
}

// sliceBytes is a slice's content from a position on: that of len(into) bytes read
// from its file, or what there is in memory.
func sliceBytes(s *log.Slice, position int64, into []byte) ([]byte, error) {
	if s.File == nil {
		return s.Bytes[position:], nil
	}
	if _, err := s.File.ReadAt(into, s.Position+position); err != nil {
		return nil, fmt.Errorf("read segment: %w", err)
	}
	return into, nil
}
