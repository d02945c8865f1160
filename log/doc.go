// Package log is one replica's log of one partition: segments in order, and what
// must be known about them in memory. The log of records that Kafka clients read
// and the log of entries that raft replicates are the same files.
//
// # The folder
//
//	manifest                    the replica's identity, its segments, log start
//	00000000000000000000.log    frames (package segment)
//	00000000000000000000.idx    sparse index
//	00000000000000000000.hdr    segment header; sealed when the segment is closed
//	checkpoint                  the applied state: where the next start begins
//	*.torn                      what an uncertain recovery cut
//	*.tmp                       left by a crash, removed at the next start
//	seed/                       a copy of another replica's segments on its way in
//
// # The parts
//
//	options.go     Options, Identity, Base
//	create.go      Create
//	open.go        Open: the order of a start; recovery.go rebuilds the state,
//	               claim.go makes the folder durable as it was read
//	log.go         Log, its locks, Close
//	append.go      Begin, Stage, Commit: the end of the log
//	roll.go        closing a segment and beginning the next
//	truncate.go    CutFrom, and the cut on the disk
//	trim.go        the log start moves: trims applied, and their space freed
//	retention.go   what has expired; when segments were appended to
//	entries.go     Entry, EntryInfo, the list of entries in memory
//	lookup.go      Info and Payload, ReadEntries for replication
//	apply.go       Apply, the high watermark, Subscribe
//	producers.go   idempotent producers: judging and remembering
//	read.go        Read for consumers; offsets.go finds offsets by time and term
//	checkpoint.go  the applied state on disk; manifest.go the list of segments
//	cache.go       TailCache; files.go FileCache and the open segments
//	seed.go        Seed: sealed segments as files; seedsource.go reads them where
//	               they are given, staging.go collects them where they are taken,
//	               switch.go makes them the log
//
// # Who calls what
//
// The end of the log (Begin to Commit or Abort, CutFrom) belongs to one goroutine
// at a time: raft's main goroutine, in StoreLogs and DeleteRange. Apply belongs to
// one goroutine at a time as well: raft's state machine. Everything else may be
// called from anywhere at any time. There are no goroutines of its own: whoever hears
// that a trim was applied calls Reclaim. A Staging is beside the Log, which must be
// closed for Switch only.
//
// Locks, in the order in which they nest: Log.reclaiming, Log.append (the end of the
// files), Log.checkpointing, part.opening, Log.listing (the manifest), Log.mu (what
// readers see; no I/O under it), and the locks of FileCache, TailCache and
// segment.IndexFile inside.
//
// # Crash safety, operation by operation
//
// Append. Frames go behind the end in rounds of at most Options.RoundBytes or one
// larger frame, after the header file's round limit was raised durably where a round
// is larger, and each round is synced before the next begins. Nothing is visible or
// acknowledged before the last sync. A crash leaves a prefix of the frames; of the
// last round, any sectors. Recovery cuts an incomplete end (package segment, Recover).
//
// Roll. Between two frames, and only if the segment holds a record:
//  1. the index and the length of the old segment are made durable, then its
//     header with the seal;
//  2. the files of the new one are created, its header file made durable, then
//     their names;
//  3. the manifest that lists it replaces the old one;
//  4. frames are written to it.
//
// After a crash in 1 or 2 the last listed segment is sealed, and is opened for
// writing again; the files of the new one are not listed and hold nothing, and are
// removed. An unlisted segment that holds data cannot come from a crash: that is
// corruption, and nothing is removed.
//
// Cut. CutFrom only notes it: readers do not see the suffix any more, and the disk
// still has it. The next Commit makes it before it writes: if the cut reaches into
// an earlier segment, first the manifest that ends with that one and names the
// others as dropped, then that segment's header without the seal; then the index
// is cut and synced, then the file. So a crash leaves the old suffix, or a prefix
// of it, or none of it, and then the new suffix or a part of it: never new frames
// behind old ones. A cut suffix was never committed, so no consumer was sent it.
//
// Trim. Applying one moves the log start in memory, wherever in a segment that is, and
// no checkpoint behind it is written before a manifest says so. What goes from the
// disk is whole segments at the front, with all their records below the log start, all
// their entries at or below the trim's Through, and the entry of the durable checkpoint
// in a later one, so that the next start, and raft, read nothing that is gone. Reclaim
// does it:
//  1. a checkpoint, if the last one is too far back;
//  2. the manifest without the segments, which names them as dropped. Only now reads
//     stop finding them; a reader that has their files open keeps them;
//  3. their files are unlinked, and that is made durable;
//  4. the manifest that forgets their names.
//
// After a crash before 2 the segments are all there, and a later Reclaim finds them,
// because the manifest keeps Through; after one behind it Open removes what is left.
// The next segment's header has what was known before it: previous index and term, the
// configuration, the terms and the producers. A trim of all records begins a new
// segment, on every replica, since the one being written cannot be removed.
//
// Checkpoint. It names only what is applied, so committed, so synced here: frames
// first, then the index, then the checkpoint, by rename.
//
// Create. All files first, the manifest last, then the names of the folders. A
// folder without a manifest is not a replica.
//
// Open. First everything is read and judged, and nothing is changed where that finds
// damage. Then, before anything counts:
//  1. the manifest and the checkpoint are replaced by themselves;
//  2. what a crash left over is removed;
//  3. the last segment's header is replaced, its index synced as it is, since it may
//     have been cut, and its frames that are not proven synced are written again in
//     place, with the same bytes;
//  4. what is to be cut is cut, and the frames are synced;
//  5. the index entries that are missing are added.
//
// Only 2, 4 and 5 happen after a clean stop. Why 1 and 3: a process ends at once
// after a sync that failed, and its successor, in the same boot, finds in the page
// cache what the kernel gave up writing and holds for clean. It reads well, and a sync
// of it writes nothing and succeeds. What is written anew is dirty again. The rest
// follows from the order of things: what a manifest, a checkpoint, a seal or an index
// entry names was synced, with success, before it was written, by a process that
// would have ended otherwise; so only what they do not name is in doubt, and their
// own names, which a rename set. A crash in 3 leaves the same bytes, or what was in
// doubt before. Assumption: a change of a length, and the name of a folder, are the
// file system's journal's, and after a sync of those that failed it either goes on
// trying or ends.
//
// Seed. Everything happens in the folder seed, which Open does not look at. Frames
// are written, read again and checked from the first to the last, and synced; then the
// index is made from them, durably, with the names of both; then the header, by
// rename, which so proves its segment. A crash leaves whole segments and the beginning
// of one; that is checked and written anew before it is gone on with, since a sync of
// it may have failed.
//
// Switch. When all is there:
//  1. the segment behind the seed and the checkpoint are made, in the folder seed;
//  2. the new manifest replaces the old one, marked as a switch; it names the old
//     segments as dropped;
//  3. segments and checkpoint are moved to their places, over old ones of their names;
//  4. the manifest without the mark replaces it, and the folder seed is removed.
//
// 2 decides: before it the old log is whole, and behind it, Open goes on with 3 before
// it looks at anything else. It begins with 2 once more, and renames once more what is
// at its place: a rename whose sync failed is lost in a power cut.
//
// No space is met without damage: space is reserved before a round is written, and
// what was written of a failed commit is cut back and synced. Any other write
// error and every sync error is a FatalError, for ever.
package log
