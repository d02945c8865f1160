package replication

import (
	"log/slog"
	"sync"
	"time"
)

// HungDisk is a folder of this node whose disk does not answer: a write or a sync in
// it has made no progress for 1.5 s and more.
type HungDisk struct {
	// Folder is the path of the folder.
	Folder string
	// Since is when the first of the calls that hang now was begun, or made its last
	// progress.
	Since time.Time
}

// diskState is what the watches over one folder have found. Many groups hang with a
// disk; the log says so once, and once that it is over. The nil pointer keeps
// nothing.
type diskState struct {
	folder string
	logger *slog.Logger

	mu    sync.Mutex
	calls int       // that hang
	since time.Time // of the first of them
}

// hangs counts a call that hangs.
func (d *diskState) hangs(since time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	if d.calls > 1 {
		return
	}
	d.since = since
	d.logger.Warn("the disk hangs: a write does not return, and other brokers are asked to lead what is stored there",
		"folder", d.folder, "since", since.UTC().Format(time.RFC3339Nano))
}

// goesOn ends what hangs has begun.
func (d *diskState) goesOn() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls--
	if d.calls == 0 {
		d.logger.Warn("the disk answers again", "folder", d.folder, "after", time.Since(d.since).Round(time.Millisecond))
	}
}

// hung is what can be told now.
func (d *diskState) hung() (HungDisk, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return HungDisk{Folder: d.folder, Since: d.since}, d.calls > 0
}

// HungDisks are the folders whose disk hangs now, none in general. Only calls that
// store entries are watched: a disk to which nothing is written is not known to hang.
func (h *Host) HungDisks() (hung []HungDisk) {
	for _, d := range []*diskState{h.disk, h.meta.disk} {
		if one, is := d.hung(); is {
			hung = append(hung, one)
		}
	}
	return hung
}
