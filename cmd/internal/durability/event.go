package durability

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Event is what a record holds. A value is, big-endian:
//
//	u32 run | u32 producer | u32 partition | u64 sequence | padding | u32 CRC32C of all before
//
// The padding is drawn from the sequence, half of it random, so that it
// compresses as real events do and a byte of another event is noticed.
type Event struct {
	// Producer is who sent it, counted from 0.
	Producer int
	// Partition is where it was sent.
	Partition int32
	// Sequence counts the events of this producer and partition from 0.
	Sequence int64
}

const (
	eventHead = 4 + 4 + 4 + 8
	eventTail = 4
	// MinValue is the size in bytes of the smallest value.
	MinValue = eventHead + eventTail

	maxProducers  = 1 << 12
	maxPartitions = 1 << 10
	maxSequence   = 1 << 40
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errForeign is a value that no producer of this run made.
var errForeign = errors.New("no event of this run")

// String names the event in messages.
func (e Event) String() string {
	return fmt.Sprintf("event %d of producer %d in partition %d", e.Sequence, e.Producer, e.Partition)
}

// id is the event in one number that is not 0.
func (e Event) id() uint64 {
	return uint64(e.Producer+1)<<50 | uint64(e.Partition)<<40 | uint64(e.Sequence)
}

// eventOf is the event of an id.
func eventOf(id uint64) Event {
	return Event{Producer: int(id>>50) - 1, Partition: int32(id >> 40 & (maxPartitions - 1)), Sequence: int64(id & (maxSequence - 1))}
}

// encode makes the value of an event, size bytes long.
func (e Event) encode(run uint32, size int) []byte {
	v := make([]byte, max(size, MinValue))
	binary.BigEndian.PutUint32(v, run)
	binary.BigEndian.PutUint32(v[4:], uint32(e.Producer))
	binary.BigEndian.PutUint32(v[8:], uint32(e.Partition))
	binary.BigEndian.PutUint64(v[12:], uint64(e.Sequence))
	padding := v[eventHead : len(v)-eventTail]
	x := e.id()
	for i := range padding {
		if i%8 == 0 { // SplitMix64
			x += 0x9e3779b97f4a7c15
		}
		if i%8 < 4 {
			z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
			padding[i] = byte(z >> (8 * (i % 8)) >> 24)
		}
	}
	binary.BigEndian.PutUint32(v[len(v)-eventTail:], crc32.Checksum(v[:len(v)-eventTail], castagnoli))
	return v
}

// decode reads a value; an error is a value of somebody else, or a damaged one.
func decode(run uint32, v []byte) (Event, error) {
	if len(v) < MinValue || binary.BigEndian.Uint32(v) != run {
		return Event{}, errForeign
	}
	if crc32.Checksum(v[:len(v)-eventTail], castagnoli) != binary.BigEndian.Uint32(v[len(v)-eventTail:]) {
		return Event{}, errors.New("damaged event")
	}
	producer, partition := binary.BigEndian.Uint32(v[4:]), binary.BigEndian.Uint32(v[8:])
	sequence := binary.BigEndian.Uint64(v[12:])
	if producer >= maxProducers || partition >= maxPartitions || sequence >= maxSequence {
		return Event{}, errForeign
	}
	return Event{Producer: int(producer), Partition: int32(partition), Sequence: int64(sequence)}, nil
}
