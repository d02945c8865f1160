package log

import (
	"log/slog"
	"time"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// Identity says which replica a folder belongs to. It is written in the manifest
// and never changes.
type Identity struct {
	// Cluster is the cluster id, empty before there is one.
	Cluster string
	// Topic is the topic's name.
	Topic string
	// TopicID is the topic's identity; names are used again, ids are not.
	TopicID segment.TopicID
	// Partition is the partition's number in its topic.
	Partition int32
	// Incarnation is the replica's own identity, 64 random bits: a replica that
	// lost its disk comes back under another one.
	Incarnation uint64
}

// Base is where the log of a replica begins that was not made with its topic.
// The zero value is the start of a new topic.
type Base struct {
	// Index is that of the entry before the first.
	Index segment.Index
	// Term is the term of that entry.
	Term segment.Term
	// Offset is the offset that the first record gets.
	Offset segment.Offset
	// Configuration is raft's configuration as of Index, in raft's encoding.
	Configuration []byte
	// ConfigurationIndex is the index of the entry that made it.
	ConfigurationIndex segment.Index
}

// Options say where a log is and how it works. They are copied; zero values
// stand for the defaults named here.
type Options struct {
	// FS is the file system, needed.
	FS vfs.FS
	// Dir is the replica's folder, needed.
	Dir string
	// Identity is what Create writes. Open takes the one in the manifest and
	// refuses another topic id, partition or incarnation if these are given.
	Identity Identity
	// Base is where Create begins the log.
	Base Base
	// SegmentBytes is the size at which a segment is closed and another begun;
	// 1 GiB.
	SegmentBytes int64
	// SegmentAge is the age, from its first append, at which a segment is closed
	// before the next append; 0: at no age.
	SegmentAge time.Duration
	// CheckpointBytes is how much is applied before a checkpoint is written;
	// 64 MiB. It bounds what is read at start.
	CheckpointBytes int64
	// RoundBytes is the most that is written before a sync, except a single
	// larger frame; 8 MiB.
	RoundBytes int64
	// MaxFrame is the size in bytes of the largest frame that Stage takes;
	// segment.MaxFrameSize, which it cannot exceed.
	MaxFrame int
	// MaxProducers is how many idempotent producers are remembered, those that
	// wrote last; 5,000.
	MaxProducers int
	// SameBoot says that the machine has not booted since an Open of this folder
	// returned without an error: what the kernel was given is still there, and only
	// the last write of a process that was killed can be incomplete. It must not be
	// said of a folder whose first Open after a boot was itself interrupted.
	SameBoot bool
	// CleanStop says that the log was closed with Close, without an error: nothing is
	// incomplete, and nothing that can be read is missing on the disk.
	CleanStop bool
	// Cache is the tail cache that the node's logs share; without one, frames
	// are read from the files.
	Cache *TailCache
	// Files bounds the open sealed segments of the node; without one, the log
	// has its own of 16.
	Files *FileCache
	// Logger is told what recovery did and what went wrong; discards without.
	Logger *slog.Logger
	// Clock is the time in milliseconds since 1970, for append times and for
	// SegmentAge; the machine's clock without. It decides nothing else.
	Clock func() int64
}
