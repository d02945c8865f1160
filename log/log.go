package log

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/segment"
)

// Defaults of Options.
const (
	defaultSegmentBytes    = 1 << 30
	defaultCheckpointBytes = 64 << 20
	defaultRoundBytes      = 8 << 20
	defaultMaxProducers    = 5000
	// maxSegmentBytes keeps positions within the 32 bits of an index entry.
	maxSegmentBytes = 2 << 30
)

// Log is one replica's log of one partition; see the package comment for who may
// call what, and when.
type Log struct {
	options  Options
	identity Identity
	files    *FileCache
	recovery Recovery
	fatal    atomic.Pointer[FatalError]
	steps    atomic.Uint64 // see Steps

	// append is held while the end of the files changes.
	append sync.Mutex
	tail   tail

	// checkpointing is held while a checkpoint is written.
	checkpointing sync.Mutex

	// reclaiming is held while Reclaim works; stopping asks it to end early.
	reclaiming sync.Mutex
	stopping   atomic.Bool
	// listing is held while the manifest is written, and guards listed.
	listing sync.Mutex
	listed  listed

	// walking remembers where the last lookup on the disk ended.
	walking struct {
		sync.Mutex
		part   *part
		cursor segment.Cursor
	}

	mu     sync.RWMutex
	closed bool
	spare  lists          // memory for the next append
	start  segment.Offset // first offset that consumers see
	// through is the last entry that trims allow to remove.
	through segment.Index
	// parts are the segments in order; the last one counts up to end.
	parts []*part
	// end is behind the last entry.
	end place
	// entries are those from firstEntry on; at least all that are not applied.
	entries    []entry
	firstEntry segment.Index
	// cuts counts the calls of CutFrom that changed something.
	cuts           uint64
	terms          []segment.TermStart
	configurations []configuration
	producers      *producerTable

	applied       segment.Index
	appliedAt     place
	committed     segment.Index // known to be committed, maybe not applied
	highWatermark segment.Offset
	durable       Checkpoint
	// written is what is known of the times in the last segment.
	written times
	// sinceCheckpoint is how many bytes were applied since the last checkpoint.
	sinceCheckpoint int64
	// rolled says that a segment was closed since.
	rolled      bool
	subscribers map[*subscription]struct{}
}

// listed is what the manifest on the disk says.
type listed struct {
	start    segment.Offset
	through  segment.Index
	segments []*part
	// cut are the segments that a cut dropped, trimmed those that a trim did, whose
	// files may still be there.
	cut     []segment.Offset
	trimmed []*part
}

// place is between two entries.
type place struct {
	part     *part // the segment of the entry before, or the first segment
	position int64 // in it, in bytes
	index    segment.Index
	offset   segment.Offset
	term     segment.Term // of the entry before
}

// tail is the end of the files. It is guarded by Log.append.
type tail struct {
	// chain are the segments on the disk, as the manifest lists them.
	chain []*part
	// dropped are segments that a cut took out of the manifest and whose files may
	// still be there.
	dropped []segment.Offset
	// writer writes to the last of the chain. It is nil only while cut is set.
	writer *segment.Writer
	// handle is the writer's use of its open files.
	handle *handle
	// cut says that the files hold more than the log: the next Commit cuts first.
	cut bool
}

// withDefaults checks options and fills in what was left out.
func (o Options) withDefaults() (Options, error) {
	if o.FS == nil || o.Dir == "" {
		return o, errors.New("log: a file system and a folder are needed")
	}
	o.SegmentBytes = orDefault(o.SegmentBytes, defaultSegmentBytes)
	o.CheckpointBytes = orDefault(o.CheckpointBytes, defaultCheckpointBytes)
	o.RoundBytes = orDefault(o.RoundBytes, defaultRoundBytes)
	o.MaxFrame = orDefault(o.MaxFrame, segment.MaxFrameSize)
	o.MaxProducers = orDefault(o.MaxProducers, defaultMaxProducers)
	if o.SegmentBytes < 0 || o.SegmentBytes > maxSegmentBytes || o.CheckpointBytes < 0 || o.RoundBytes < 0 ||
		o.MaxFrame < segment.HeaderSize || o.MaxFrame > segment.MaxFrameSize || o.MaxProducers < 0 {
		return o, errors.New("log: a size in the options is out of range")
	}
	if o.Files == nil {
		o.Files = NewFileCache(defaultFiles)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.SegmentAge < 0 {
		return o, errors.New("log: a negative age of segments")
	}
	if o.Clock == nil {
		o.Clock = func() int64 { return time.Now().UnixMilli() }
	}
	return o, nil
}

func orDefault[T int | int64](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// Steps counts what Commit has done on the disk: one for each round that was written
// and synced, and for each part of beginning a segment. Whoever waits for a Commit
// that takes long can tell by it a slow disk from one that hangs. It takes no lock.
func (l *Log) Steps() uint64 { return l.steps.Load() }

// usable says why the log takes nothing more, nil if it does.
func (l *Log) usable() error {
	if err := l.fatal.Load(); err != nil {
		return err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	return nil
}

// fail turns an error of a change into what the caller gets: one for lack of space
// stays; any other poisons the log.
func (l *Log) fail(op string, err error) error {
	if errors.Is(err, ErrNoSpace) && !errors.Is(err, segment.ErrSync) {
		return err
	}
	if errors.Is(err, ErrNoSpace) { // of a sync: nobody may take it for harmless
		err = errors.New(err.Error())
	}
	l.fatal.CompareAndSwap(nil, &FatalError{Dir: l.options.Dir, Op: op, Err: err})
	return l.fatal.Load()
}

// corruption turns damage to a segment into the error of this package.
func (l *Log) corruption(err error) error { return corruptionIn(l.options.Dir, err) }

func corruptionIn(dir string, err error) error {
	var damage *segment.DamageError
	if !errors.As(err, &damage) {
		return err
	}
	return &CorruptionError{
		Dir: dir, File: damage.File, Position: damage.Position, Class: segment.ClassCorrupt, Detail: damage.Detail,
	}
}

// Close writes a checkpoint, gives preallocated space back and closes the files;
// those that a Slice holds are closed by its Release. It waits for a Commit under
// way. A second call does nothing. After a FatalError nothing is written, and that
// error is returned.
func (l *Log) Close() error {
	l.stopping.Store(true)
	l.reclaiming.Lock()
	defer l.reclaiming.Unlock()
	l.append.Lock()
	defer l.append.Unlock()
	l.checkpointing.Lock()
	defer l.checkpointing.Unlock()
	l.mu.RLock()
	closed := l.closed
	l.mu.RUnlock()
	if closed {
		return nil
	}
	err := l.settle()
	l.mu.Lock()
	l.closed = true
	parts := l.parts
	l.mu.Unlock()
	l.notify()
	l.options.Cache.forget(l)
	if l.tail.handle != nil {
		l.files.release(l.tail.handle)
	}
	for _, p := range append(parts[:len(parts):len(parts)], l.tail.chain...) {
		l.files.drop(p)
	}
	return err
}

// settle makes everything durable that a next start would have to find out.
func (l *Log) settle() error {
	if err := l.fatal.Load(); err != nil {
		return err
	}
	if l.tail.writer != nil {
		if err := l.tail.writer.Settle(); err != nil {
			return l.fail("close segment", err)
		}
	}
	if err := l.writeCheckpoint(); err != nil {
		return err
	}
	return l.dropTrimmed() // the next start removes the files
}

// Recovery is what Open had to do to the end of the log.
type Recovery struct {
	// Torn says that an incomplete last write was cut, which was never acknowledged.
	Torn bool
	// Uncertain says that the end was cut, now or at an earlier Open, where torn and
	// rotten cannot be told apart: what was acknowledged may be missing. What was cut
	// is kept in a .torn file, which makes this last until SettleEnd.
	Uncertain bool
	// CutBytes is how many bytes this Open cut.
	CutBytes int64
}

// Recovery is what Open had to do.
func (l *Log) Recovery() Recovery { return l.recovery }

// Identity is the replica's, from the manifest.
func (l *Log) Identity() Identity { return l.identity }

// Dir is the replica's folder.
func (l *Log) Dir() string { return l.options.Dir }

// FirstIndex is the index of the first entry, the base + 1, also of an empty log.
func (l *Log) FirstIndex() segment.Index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.parts[0].index
}

// LastIndex is the index of the last entry; the base where there is none.
func (l *Log) LastIndex() segment.Index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.end.index - 1
}

// LastTerm is the term of the last entry, or of the base.
func (l *Log) LastTerm() segment.Term {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.end.term
}

// NextOffset is the log end offset: that of the next record.
func (l *Log) NextOffset() segment.Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.end.offset
}

// StartOffset is the first offset that consumers see.
func (l *Log) StartOffset() segment.Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.start
}

// Size is the size of all frames in bytes.
func (l *Log) Size() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	size := l.end.position
	for _, p := range l.parts[:len(l.parts)-1] {
		size += p.header.Seal.Length
	}
	return size
}

// lengthLocked is how much of a segment is part of the log, in bytes.
func (l *Log) lengthLocked(p *part) int64 {
	if p == l.parts[len(l.parts)-1] {
		return l.end.position
	}
	return p.header.Seal.Length
}

// appliedLocked is how much of a segment is applied, in bytes. Behind that, a cut may
// be followed by other frames at any time, so that whoever reads the files without the
// lock must stop there: what it finds may be half of the old ones.
func (l *Log) appliedLocked(p *part) int64 {
	switch at := &l.appliedAt; {
	case p == at.part:
		return at.position
	case p.index > l.applied:
		return 0
	}
	return l.lengthLocked(p)
}
