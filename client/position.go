package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Position is a place in every partition of a topic. The zero value is the start.
type Position struct {
	origin origin
	delta  int64 // for atOffset the offset itself, for atTime milliseconds
}

type origin uint8

const (
	atStart origin = iota
	atEnd
	atOffset
	atTime
)

// Start is the oldest record that is still there.
func Start() Position { return Position{} }

// End is behind the newest record there is now.
func End() Position { return Position{origin: atEnd} }

// At is the record with this offset, or the nearest end of the log where there
// is none.
func At(offset int64) Position { return Position{origin: atOffset, delta: offset} }

// Time is the first record with this time stamp or a later one, the end of the
// log if there is none.
func Time(t time.Time) Position { return Position{origin: atTime, delta: t.UnixMilli()} }

// AfterStart is n records after the start.
func AfterStart(n int64) Position { return Position{delta: n} }

// BeforeEnd is n records before the end: the last n of each partition.
func BeforeEnd(n int64) Position { return Position{origin: atEnd, delta: -n} }

// topicPartition names a partition.
type topicPartition struct {
	topic     string
	partition int32
}

// bounds are the ends of a partition's log as they were when asked for.
type bounds struct{ start, end int64 }

// listBounds asks for the bounds of every partition of the topics.
func listBounds(ctx context.Context, adm *kadm.Client, topics []string) (map[topicPartition]bounds, error) {
	starts, err := retry(ctx, func(ctx context.Context) (map[topicPartition]int64, error) {
		return listed(adm.ListStartOffsets(fresh(ctx), topics...))
	})
	if err != nil {
		return nil, err
	}
	ends, err := retry(ctx, func(ctx context.Context) (map[topicPartition]int64, error) {
		return listed(adm.ListEndOffsets(fresh(ctx), topics...))
	})
	if err != nil {
		return nil, err
	}
	all := make(map[topicPartition]bounds, len(ends))
	for tp, end := range ends {
		if start, ok := starts[tp]; ok {
			all[tp] = bounds{start: start, end: end}
		}
	}
	return all, nil
}

// resolve turns a position into an offset of each partition in within.
func resolve(ctx context.Context, adm *kadm.Client, p Position, within map[topicPartition]bounds, topics []string) (map[topicPartition]int64, error) {
	var times map[topicPartition]int64
	if p.origin == atTime {
		var err error
		times, err = retry(ctx, func(ctx context.Context) (map[topicPartition]int64, error) {
			return listed(adm.ListOffsetsAfterMilli(fresh(ctx), p.delta, topics...))
		})
		if err != nil {
			return nil, err
		}
	}
	offsets := make(map[topicPartition]int64, len(within))
	for tp, b := range within {
		var offset int64
		switch p.origin {
		case atStart:
			offset = b.start + min(p.delta, b.end-b.start) // never over the largest number
		case atEnd:
			offset = b.end + p.delta
		case atOffset:
			offset = p.delta
		case atTime:
			offset = b.end
			if found, ok := times[tp]; ok && found >= 0 {
				offset = found
			}
		}
		offsets[tp] = min(max(offset, b.start), b.end)
	}
	return offsets, nil
}

// listed flattens an answer to ListOffsets; any partition's error fails it.
func listed(answer kadm.ListedOffsets, err error) (map[topicPartition]int64, error) {
	if err != nil {
		return nil, convert(err, "", -1)
	}
	offsets := map[topicPartition]int64{}
	for topic, partitions := range answer {
		for partition, l := range partitions {
			if l.Err != nil {
				return nil, convert(l.Err, topic, listedPartition(l))
			}
			offsets[topicPartition{topic, partition}] = l.Offset
		}
	}
	return offsets, nil
}

// listedPartition is the partition that an error is about: -1 when the topic as a
// whole could not be asked for.
func listedPartition(l kadm.ListedOffset) int32 {
	if errors.Is(l.Err, kerr.UnknownTopicOrPartition) {
		return -1
	}
	return l.Partition
}

// Offsets resolves a position to an offset of each partition of a topic as it is
// now. A topic that does not exist is an error that matches [ErrUnknownTopic].
func (c *Client) Offsets(ctx context.Context, topic string, p Position) (map[int32]int64, error) {
	if c.isClosed() {
		return nil, fmt.Errorf("list offsets: %w", ErrClosed)
	}
	adm := kadm.NewClient(c.kgo)
	within, err := listBounds(ctx, adm, []string{topic})
	if err != nil {
		return nil, fmt.Errorf("list offsets: %w", err)
	}
	resolved, err := resolve(ctx, adm, p, within, []string{topic})
	if err != nil {
		return nil, fmt.Errorf("list offsets: %w", err)
	}
	offsets := make(map[int32]int64, len(resolved))
	for tp, offset := range resolved {
		offsets[tp.partition] = offset
	}
	return offsets, nil
}
