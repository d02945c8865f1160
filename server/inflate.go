package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

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

// inflate replaces the result's records by inflated ones where the client needs
// that. What does not fit into the node's memory budget is left for the next
// fetch; a batch above the topic's limit is sent as stored, so that the client
// names the codec it lacks.
func (f *fetching) inflate(ctx context.Context, result *fetchResult, s *topicSettings) *failure {
	if result.size == 0 || s.inflate == "auto" && f.body.Version >= zstdVersion && decodesAll(f.client.software) ||
		s.inflate == "never" && f.body.Version >= zstdVersion {
		return nil
	}
	stored, err := sliceBytes(&result.slice)
	if err != nil {
		return readFailure(err)
	}
	var out []byte
	changed := false
	for rest := stored; len(rest) > 0; {
		h, err := segment.DecodeHeader(rest)
		if err != nil || h.FrameSize() > len(rest) {
			break // the reader checked whole frames; what is left is no frame
		}
		frame := rest[:h.FrameSize()]
		rest = rest[len(frame):]
		want, failure := f.inflates(h.Attributes.Codec(), s.inflate)
		if failure != nil {
			return failure
		}
		if want {
			plain, ok := f.inflateFrame(ctx, frame, s, len(out) > 0 || f.bytes > 0)
			if !ok {
				break
			}
			changed = true
			frame = plain
		}
		out = append(out, frame...)
	}
	if changed || len(out) < len(stored) {
		result.bytes, result.size = out, int64(len(out))
	}
	return nil
}

// inflateFrame inflates one batch and charges the budget. With something in the
// answer already it does not wait for memory; false ends the answer there.
func (f *fetching) inflateFrame(ctx context.Context, frame []byte, s *topicSettings, started bool) ([]byte, bool) {
	// Never so much that the memory which this very fetch and other long polls hold
	// would have to come back first: it would wait for ever, and all behind it.
	limit := min(s.inflatedBytes, f.node.settings.requestMemory/2)
	plain, err := segment.Inflate(frame, limit)
	if errors.Is(err, segment.ErrInflatedTooLarge) {
		return frame, true
	}
	if err != nil {
		return frame, true // it was checked when it came in; the client will say what it finds
	}
	size := int64(len(plain))
	if started || f.held > 0 {
		if !f.node.budget.tryTake(size) {
			return nil, false
		}
		f.held += size
		return plain, true
	}
	taken, err := f.node.budget.take(ctx, size)
	f.held += taken
	return plain, err == nil
}

// sliceBytes is the content of a slice in memory.
func sliceBytes(s *log.Slice) ([]byte, error) {
	if s.File == nil {
		return s.Bytes, nil
	}
	b := make([]byte, s.Length)
	if _, err := s.File.ReadAt(b, s.Position); err != nil {
		return nil, fmt.Errorf("read segment: %w", err)
	}
	return b, nil
}
