package log

import (
	"errors"
	"testing"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestNoSpaceForTheNameOfAManifest: the manifest was replaced, and only the sync of
// its name failed, for lack of space. Taken for a write that did not happen, the log
// would open the segment again that the manifest on the disk lists as closed, and
// the next start would find corruption.
func TestNoSpaceForTheNameOfAManifest(t *testing.T) {
	for nth := 1; nth <= 8; nth++ {
		disk := crashfs.New(int64(nth))
		must(t, disk.MkdirAll("/data/topics/events"))
		for _, dir := range []string{"/", "/data", "/data/topics"} {
			must(t, disk.SyncDir(dir))
		}
		l := create(t, smallOptions(disk.Mount()))
		disk.Inject(crashfs.Fault{Op: crashfs.OpSyncDir, Nth: nth, Err: vfs.ErrNoSpace})
		var err error
		last := l.LastIndex()
		for i := uint64(0); err == nil && i < 40; i++ {
			if _, err = appendTo(l, batchOfRecords(1, 1, 1500, i, 1)); err == nil {
				last = l.LastIndex()
			}
		}
		if err == nil {
			t.Fatalf("sync %d: no append failed", nth)
		}
		disk.Crash(crashfs.CrashOptions{})
		_ = l.Close() // of a dead disk
		again, openErr := Open(smallOptions(disk.Mount()))
		if openErr != nil {
			t.Errorf("sync %d failed (%v): %v", nth, errors.Unwrap(err), openErr)
			continue
		}
		if again.LastIndex() < last {
			t.Errorf("sync %d failed: the log ends at %d, acknowledged was %d", nth, again.LastIndex(), last)
		}
		must(t, again.Close())
	}
}
