// Package segment holds what one segment of a partition's log is made of: the
// record batches, the frames of Millrace's own between them, and the files.
//
// # Frames
//
// A frame is a Kafka record batch of version 2, exactly as producers send it and
// consumers receive it (batch.go), or an internal frame with the same header
// (internal.go). One frame is one Raft entry. The Raft term is in the leader
// epoch and the offset in the base offset, which the CRC does not cover, so that
// the leader stamps both (Stamp) into bytes that are otherwise never touched.
//
// A batch comes in through Check, which is the whole of what is ever verified
// about its content: behind it, only headers are looked at and only CRCs are
// compared. Compress may then make it smaller for disk and network; Inflate is
// for clients that cannot decompress. Records and Build are for the internal
// topics, whose content the broker itself reads and writes.
//
//	batch.go     header, attributes, stamps, checksum, BatchError
//	check.go     Check and its Limits
//	walk.go      the grammar of records, from memory or as a stream
//	records.go   Record, Records, Build
//	codec.go     Codec, Compress, Inflate
//	inflate.go   decompression as a bounded stream; lz4.go and snappy.go
//	compress.go  the encoders
//	internal.go  Kind, internal frames, voids
//	ids.go       Offset, Index, Term, TopicID
//
// # What decoders promise
//
// Bytes from disk or network never make this package panic, and never make it
// allocate more than their own size, the bytes they inflate to within a limit
// that the caller names, and a constant. Errors about bytes are *BatchError.
//
// A stored batch must be readable by every Kafka client, so codecs are read as
// strictly as the strictest of them does: LZ4 frames of dependent blocks, S2's
// extensions of snappy, varints that are longer than they need to be, and bytes
// behind the end are refused, though our own decoders could go on.
//
// All functions may be called concurrently; those that change a frame in place
// (Stamp, SetAppendTime, Check) need it to themselves.
package segment
