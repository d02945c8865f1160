package crashfs

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// Op is a kind of call.
type Op uint8

const (
	// OpAny matches every call.
	OpAny Op = iota
	// OpChange matches every call that alters the disk or makes it durable.
	OpChange
	// OpCreate is Create.
	OpCreate
	// OpOpen is Open and OpenReadOnly.
	OpOpen
	// OpRename is Rename; its path is the new name.
	OpRename
	// OpRemove is Remove and RemoveAll.
	OpRemove
	// OpMkdir is MkdirAll.
	OpMkdir
	// OpList is List.
	OpList
	// OpStat is Stat and Size.
	OpStat
	// OpSyncDir is SyncDir.
	OpSyncDir
	// OpLock is Lock.
	OpLock
	// OpRead is ReadAt.
	OpRead
	// OpWrite is WriteAt and WritevAt.
	OpWrite
	// OpTruncate is Truncate.
	OpTruncate
	// OpPreallocate is Preallocate.
	OpPreallocate
	// OpSync is Sync of a file.
	OpSync
	// OpClose is Close.
	OpClose

	opCount
)

// opNames are the texts of Op.
var opNames = [opCount]string{
	"any", "change", "create", "open", "rename", "remove", "mkdir", "list", "stat", "syncdir", "lock",
	"read", "write", "truncate", "preallocate", "sync", "close",
}

// String is the call in a word.
func (o Op) String() string {
	if o < opCount {
		return opNames[o]
	}
	return fmt.Sprintf("op %d", uint8(o))
}

// changes reports the calls of OpChange.
func (o Op) changes() bool {
	switch o {
	case OpCreate, OpRename, OpRemove, OpMkdir, OpSyncDir, OpLock, OpWrite, OpTruncate, OpPreallocate, OpSync:
		return true
	}
	return false
}

// Fault is something that happens at the nth call of a kind.
type Fault struct {
	// Op is the kind of call; OpAny and OpChange match several.
	Op Op
	// PathContains is a part of the path as it was passed to Open or the FS; ""
	// matches all.
	PathContains string
	// Nth is which of the matching calls from now on, counted from 1; 0 is the
	// first.
	Nth int
	// Repeat makes all calls from the nth on fail, until Remove.
	Repeat bool
	// Err is what the call returns instead of being carried out. nil is
	// ErrInjected, unless Stall or Do say that the fault is another one.
	Err error
	// Short makes a write store its first half before it fails.
	Short bool
	// Stall holds the call until the channel is closed or the power is cut; then
	// it goes on, or fails with Err.
	Stall <-chan struct{}
	// Do runs before the call, without locks: for example Crash, after which the
	// call fails with ErrCrashed.
	Do func()
	// After runs once the call was carried out, before it returns; if it crashes
	// the disk, the call fails with ErrCrashed though it had its effect.
	After func()
}

// armed is an injected fault.
type armed struct {
	Fault
	seen  int
	fired atomic.Int64
}

// Injected is a handle on a fault.
type Injected struct {
	disk  *FS
	fault *armed
}

// Inject arms a fault. Several match independently; the first that fires at a
// call is the one that counts.
func (d *FS) Inject(f Fault) *Injected {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := &armed{Fault: f}
	d.faults = append(d.faults, a)
	d.watched.Store(true)
	return &Injected{disk: d, fault: a}
}

// Fired is how often the fault happened. A call that is stalled counts.
func (i *Injected) Fired() int { return int(i.fault.fired.Load()) }

// Remove disarms the fault; calls that it holds stay held.
func (i *Injected) Remove() {
	i.disk.mu.Lock()
	defer i.disk.mu.Unlock()
	for k, a := range i.disk.faults {
		if a == i.fault {
			i.disk.faults = append(i.disk.faults[:k:k], i.disk.faults[k+1:]...)
			break
		}
	}
	i.disk.watched.Store(len(i.disk.faults)+len(i.disk.traces) > 0)
}

// match finds the fault that fires at a call.
func (d *FS) match(op Op, path string, after bool) *armed {
	d.mu.Lock()
	defer d.mu.Unlock()
	var hit *armed
	for _, a := range d.faults {
		if (a.After != nil) != after || !strings.Contains(path, a.PathContains) {
			continue
		}
		if a.Op != op && a.Op != OpAny && (a.Op != OpChange || !op.changes()) {
			continue
		}
		a.seen++
		n := max(a.Nth, 1)
		if hit == nil && (a.seen == n || a.seen > n && a.Repeat) {
			hit = a
			a.fired.Add(1)
		}
	}
	return hit
}

// fire carries out the fault, if any, that is due before a call.
func (d *FS) fire(b *boot, op Op, path string) (short bool, err error) {
	if !d.watched.Load() {
		return false, nil
	}
	a := d.match(op, path, false)
	if a == nil {
		return false, nil
	}
	if a.Do != nil {
		a.Do()
	}
	if a.Stall != nil {
		select {
		case <-a.Stall:
		case <-b.dead:
			return false, ErrCrashed
		}
	}
	switch {
	case a.Err != nil:
		err = a.Err
	case a.Do == nil && a.Stall == nil || a.Short:
		err = ErrInjected
	}
	return a.Short && op == OpWrite, err
}

// done counts and records a call, carries out a fault that is due after it, and
// returns the error of the call.
func (d *FS) done(b *boot, e Event) error {
	d.counts[e.Op].Add(1)
	if e.Op.changes() {
		d.counts[OpChange].Add(1)
	}
	d.counts[OpAny].Add(1)
	if !d.watched.Load() {
		return e.Err
	}
	d.mu.Lock()
	traces := d.traces
	d.mu.Unlock()
	for _, t := range traces {
		t.add(e)
	}
	if a := d.match(e.Op, e.Path, true); a != nil {
		a.After()
		select {
		case <-b.dead:
			return ErrCrashed
		default:
		}
	}
	return e.Err
}

// Count is how often a kind of call was made since New, failed ones included.
func (d *FS) Count(op Op) int64 { return d.counts[op].Load() }

// Event is a call as a Trace records it.
type Event struct {
	// Op is the kind of call.
	Op Op
	// Path is the name as it was passed in.
	Path string
	// Offset is where a file was read or written, or its new length.
	Offset int64
	// Length is the number of bytes asked for.
	Length int64
	// Err is what the call returned, without its path.
	Err error
}

// Trace records calls. All methods may be called concurrently.
type Trace struct {
	disk *FS

	mu     sync.Mutex
	events []Event
}

// Trace begins to record all calls, in the order in which they ended.
func (d *FS) Trace() *Trace {
	t := &Trace{disk: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.traces = append(d.traces[:len(d.traces):len(d.traces)], t)
	d.watched.Store(true)
	return t
}

// Stop ends the recording and returns what there is.
func (t *Trace) Stop() []Event {
	t.disk.mu.Lock()
	for i, other := range t.disk.traces {
		if other == t {
			t.disk.traces = append(t.disk.traces[:i:i], t.disk.traces[i+1:]...)
			break
		}
	}
	t.disk.watched.Store(len(t.disk.faults)+len(t.disk.traces) > 0)
	t.disk.mu.Unlock()
	return t.Events()
}

// Events are the calls recorded so far.
func (t *Trace) Events() []Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Event(nil), t.events...)
}

// Count is how many of the recorded calls are of a kind and on a path that
// contains a text.
func (t *Trace) Count(op Op, pathContains string) int {
	n := 0
	for _, e := range t.Events() {
		if (e.Op == op || op == OpAny || op == OpChange && e.Op.changes()) && strings.Contains(e.Path, pathContains) {
			n++
		}
	}
	return n
}

func (t *Trace) add(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, e)
}
