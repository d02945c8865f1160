// Package crashfs is a file system in memory that can lose power. It implements
// vfs.FS for tests: whole brokers run on it, are cut off in the middle of
// anything, and start again on what a disk could hold at that moment.
//
// An FS is a disk. Mount gives a vfs.FS of its present boot; Crash ends the boot
// (every call on its mounts and files, begun or later, fails with ErrCrashed) and
// leaves what survives for the next mount. Several FS values live side by side,
// one for each broker of a cluster.
//
// # What a crash leaves
//
// A file has a durable image, a volatile one, and the ordered list of changes
// that lead from one to the other; Sync makes the volatile one durable. At a
// crash, drawn from the seed:
//
//   - Each 512-byte sector holds what it held after some number of the unsynced
//     writes to it, from none to all, independently of all other sectors: a write
//     may be dropped, kept, or torn, and a later one may survive an earlier one.
//   - The length is what it was after some number of the unsynced changes,
//     independently of the data: bytes may be there without the length, or zeros
//     with it. A cut (a truncation to less) is there or not as a whole; if not,
//     nothing done to the file after it is there either.
//   - A name that was created, renamed or removed since the last SyncDir of its
//     directory is in its old or its new state, each change independently of the
//     others. A rename within a directory is one change. A rename between two is
//     durable in part after SyncDir of the new one, wholly after both.
//
// Per file and per directory the odds are drawn as well, so that all-lost and
// all-kept are frequent and mixtures occur.
//
// # Assumptions
//
// Synced sectors do not change by themselves, unless a test says so with FlipBit
// or Corrupt. A file with very much unsynced data (16 MiB, or 16,384 changes) is
// partly written back on its own, as kernels do; no promise is made by that.
//
// # A sync that failed
//
// It is what Linux makes of it (fsyncgate). The sectors that were to be written are
// lost: they stay in memory, clean, so that everybody reads them, also a program
// that starts later in the same boot, and later Syncs return nil without writing
// them. A crash may find some of them on the disk. Whoever writes them again makes
// them dirty again, and the Sync after that durable; it writes no other of the lost
// ones. Changes of a length are in the file system's journal, and stay to be synced.
//
// The names that a failed SyncDir was to make durable are lost in the same way,
// until they are set or removed again. (A journal that cannot be written ends the
// file system, on Linux, and so loses less.)
//
// Locks: FS.mu guards names, faults and the space count; each inode has a lock for
// its data. FS.mu is never taken under an inode's lock.
package crashfs
