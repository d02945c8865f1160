package simulation

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// slowSyncs makes every sync of the segments of one node take so long, until the
// returned function is called. Only of these: a goroutine that waits for a mutex keeps
// the virtual clock from going on, and an index holds one over its syncs, as does the
// model of the metadata store.
func (n *node) slowSyncs(d time.Duration) (remove func()) {
	var faults []*crashfs.Injected
	for digit := range 10 { // the names of segments end so
		faults = append(faults, n.disk.Inject(crashfs.Fault{
			Op: crashfs.OpSync, PathContains: fmt.Sprintf("%d.log", digit), Repeat: true, Do: func() { time.Sleep(d) },
		}))
	}
	return func() {
		for _, f := range faults {
			f.Remove()
		}
	}
}

// slowDisk makes the syncs of one node take long.
func (m *mischief) slowDisk() error {
	n := m.victim()
	d := time.Duration(1+m.rng.IntN(400)) * time.Millisecond
	m.trace.add("syncs of %s take %v", n, d)
	remove := n.slowSyncs(d)
	m.sleep(100, 3000)
	remove()
	m.trace.add("the disk of %s is well again", n)
	return nil
}

// fullDisk leaves one node a little space and takes it back some time later: a process
// that could not go on without is started again, as an operator would.
func (m *mischief) fullDisk() error {
	n := m.victim()
	free := int64(m.rng.IntN(64 << 10))
	m.trace.add("%s has space for %d more bytes", n, free)
	n.full.Store(true)
	n.disk.SetFree(free)
	m.load.burst.Store(true)
	m.sleep(200, 4000)
	if m.rng.IntN(3) == 0 {
		m.end(n)
	}
	n.disk.SetFree(-1)
	n.full.Store(false)
	m.trace.add("%s has space again", n)
	if p := n.current(); p != nil && p.failed.Load() {
		m.end(n)
		return n.start()
	}
	return nil
}
