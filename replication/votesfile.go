package replication

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment/vfs"
)

// Sizes of the file of votes, in bytes.
const (
	// votesMinCapacity is the least that is preallocated, and as much again for
	// the spare file.
	votesMinCapacity = 1 << 19
	// votesMinRewrite is the least that is written before the file is replaced.
	votesMinRewrite = votesMinCapacity / 2
	// votesRewriteFactor is how many times its live size a file grows to before it
	// is replaced; twice that is preallocated, for the case that a new file has no
	// space.
	votesRewriteFactor = 4
	// votesRetryRewrite is how much is written before a replacement that had no
	// space is tried again.
	votesRetryRewrite = votesMaxRound
)

// Suffixes of files beside the file of votes.
const (
	// votesNewSuffix is the file that is about to replace it. A crash can leave
	// one behind; it never holds anything that was promised.
	votesNewSuffix = ".new"
	// votesSpareSuffix is a file of zeros that replaces it on a full disk. What a
	// stopped process left of it is replaced by the next.
	votesSpareSuffix = ".spare"
	// votesTornSuffix is what was cut off an uncertain end; never removed.
	votesTornSuffix = ".torn"
)

// OpenVotes opens the file, which it makes if absent, recovers it after a crash,
// and replaces it by a fresh one. A file with a bad place that no crash explains
// is a *VotesCorruptionError and is left as it is. The directory must exist, and
// only one Votes at a time may have the file open.
func OpenVotes(fsys vfs.FS, path string) (*Votes, error) {
	data, err := vfs.ReadFile(fsys, path, votesMaxFile)
	content := votesContent{groups: map[transport.GroupID]groupState{}}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("open the file of votes: %w", err)
	default:
		if content, err = scanVotes(data); err != nil {
			var corruption *VotesCorruptionError
			if errors.As(err, &corruption) {
				corruption.Path = path
			}
			return nil, err
		}
	}
	if content.tail == votesUncertain {
		if err := doubtAll(fsys, path, data[content.end:], content.groups); err != nil {
			return nil, fmt.Errorf("keep the uncertain end of the file of votes: %w", err)
		}
	}
	file := &votesFile{fs: fsys, path: path}
	// A crash may have left half a new file in the spare one, and its space may be
	// all there is.
	if err := fsys.Remove(path + votesSpareSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the file of votes: %w", err)
	}
	err = file.rewrite(content.groups)
	if errors.Is(err, vfs.ErrNoSpace) && !errors.Is(err, ErrVotesFailed) && data != nil && content.tail == votesClean {
		err = file.reuse(int64(len(data)), content)
	}
	if err != nil {
		return nil, fmt.Errorf("open the file of votes: %w", errors.Join(err, file.close()))
	}
	v := &Votes{
		path: path, groups: content.groups, file: file,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	go v.write()
	return v, nil
}

// doubtAll keeps what an uncertain end holds in a file of its own, and puts all
// groups in doubt.
func doubtAll(fsys vfs.FS, path string, end []byte, groups map[transport.GroupID]groupState) error {
	name := path + votesTornSuffix
	for i := 1; ; i++ {
		if _, err := fsys.Stat(name); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return err
		}
		name = path + votesTornSuffix + "." + strconv.Itoa(i)
	}
	if err := vfs.WriteFile(fsys, name, end[:min(len(end), votesMaxRound)]); err != nil {
		return err
	}
	for group, state := range groups {
		state.doubt = true
		groups[group] = state
	}
	return nil
}

// write is the goroutine that stores what waits.
func (v *Votes) write() {
	defer close(v.stopped)
	for {
		select {
		case <-v.wake:
			v.flush()
		case <-v.stop: // closed: nothing is added any more
			for v.flush() {
			}
			return
		}
	}
}

// flush stores the batch that waits, and reports whether there was one.
func (v *Votes) flush() bool {
	v.mu.Lock()
	batch := v.next
	v.next, v.writing = nil, batch
	failed := v.failed
	v.mu.Unlock()
	if batch == nil {
		return false
	}
	err := failed
	if err == nil {
		err = v.file.store(batch.records, v.groups)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.writing = nil
	if err == nil {
		for _, r := range batch.records {
			applyVote(v.groups, r)
		}
		close(batch.done)
		return true
	}
	if !errors.Is(err, vfs.ErrNoSpace) || errors.Is(err, ErrVotesFailed) {
		err = finalError("store votes", err)
		v.failed = err
	}
	batch.err = err
	close(batch.done)
	if next := v.next; next != nil { // it was decided on top of what has failed
		v.next = nil
		next.err = err
		close(next.done)
	}
	return true
}

// votesFile is the open file and where it ends. One goroutine uses it.
type votesFile struct {
	fs   vfs.FS
	path string

	file      vfs.File
	end       int64  // where the next round goes
	sequence  uint64 // of the next round
	capacity  int64  // preallocated bytes
	rewriteAt int64  // an end at which the file should be replaced
	spoilt    bool   // a write had no space and may have left half a round at end

	spare         vfs.File // only zeros, as this process made it; nil for none
	spareCapacity int64    // its preallocated bytes
}

// store writes one round and syncs it. An error that is vfs.ErrNoSpace means that
// nothing was stored and later calls may succeed; after any other the file must
// not be used.
func (f *votesFile) store(records []voteRecord, groups map[transport.GroupID]groupState) error {
	var encoded []byte
	for _, r := range records {
		encoded = r.append(encoded)
	}
	round := appendVotesRound(nil, f.sequence, encoded)
	full := f.end+int64(len(round)) > f.capacity
	if full || f.spoilt || f.end >= f.rewriteAt {
		err := f.rewrite(groups)
		switch {
		case err == nil:
			round = appendVotesRound(round[:0], f.sequence, encoded)
		case full || f.spoilt || !errors.Is(err, vfs.ErrNoSpace) || errors.Is(err, ErrVotesFailed):
			return err
		default: // there is room left in the old file
			f.rewriteAt = f.end + votesRetryRewrite
		}
	}
	if _, err := f.file.WriteAt(round, f.end); err != nil {
		f.spoilt = true
		return fmt.Errorf("write votes: %w", err)
	}
	if err := f.file.Sync(); err != nil {
		return finalError("sync votes", err)
	}
	f.end += int64(len(round))
	f.sequence++
	return nil
}

// finalError is ErrVotesFailed, so that a failed sync or rename never counts as a
// mere lack of space: what is durable is not known any more.
func finalError(what string, err error) error {
	if errors.Is(err, ErrVotesFailed) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrVotesFailed, what, err)
}

// rewrite replaces the file by one that holds only what counts. An error that is
// vfs.ErrNoSpace means that the old file is still in use as it was.
func (f *votesFile) rewrite(groups map[transport.GroupID]groupState) error {
	data, sequence := encodeVotesFile(groups)
	size := int64(len(data))
	name, file, capacity, err := f.replacement(data)
	if err != nil {
		return fmt.Errorf("replace votes: %w", err)
	}
	if err := f.fs.Rename(name, f.path); err != nil {
		return errors.Join(finalError("replace votes", err), file.Close())
	}
	if err := f.fs.SyncDir(filepath.Dir(f.path)); err != nil {
		return errors.Join(finalError("replace votes", err), file.Close())
	}
	old := f.file
	f.file, f.end, f.sequence, f.capacity, f.spoilt = file, size, sequence, capacity, false
	f.rewriteAt = max(votesMinRewrite, votesRewriteFactor*size)
	if old != nil {
		if err := old.Close(); err != nil {
			return finalError("close the replaced votes", err)
		}
	}
	f.makeSpare()
	return nil
}

// replacement is a file with this content, synced, under a name beside the present
// one: a new file, or without space for one the spare.
func (f *votesFile) replacement(data []byte) (name string, file vfs.File, capacity int64, err error) {
	name, capacity = f.path+votesNewSuffix, max(votesMinCapacity, 2*votesRewriteFactor*int64(len(data)))
	file, err = f.create(name, capacity)
	if err == nil {
		err = f.fill(name, file, data)
	}
	if f.spare == nil || !errors.Is(err, vfs.ErrNoSpace) || int64(len(data)+votesMaxRound) > f.spareCapacity {
		return name, file, capacity, err
	}
	name, file = f.path+votesSpareSuffix, f.spare
	f.spare = nil
	return name, file, f.spareCapacity, f.fill(name, file, data)
}

// create makes a file of zeros, or leaves nothing behind.
func (f *votesFile) create(name string, capacity int64) (vfs.File, error) {
	if err := f.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	file, err := f.fs.Create(name)
	if err != nil {
		return nil, err
	}
	if err := file.Preallocate(0, capacity); err != nil {
		return nil, errors.Join(err, file.Close(), f.fs.Remove(name))
	}
	return file, nil
}

// fill writes and syncs a new file's content, or removes the file.
func (f *votesFile) fill(name string, file vfs.File, data []byte) error {
	_, err := file.WriteAt(data, 0)
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		return errors.Join(err, file.Close(), f.fs.Remove(name))
	}
	return nil
}

// makeSpare keeps a spare file as large as the present one. On a full disk its space
// is what the replaced file has just given back, unless somebody else was quicker:
// then the next replacement tries again. Nothing depends on it before it is written
// and synced, so its own failure means nothing.
func (f *votesFile) makeSpare() {
	if f.spare != nil {
		if f.spareCapacity >= f.capacity {
			return
		}
		_ = f.spare.Close()
		f.spare = nil
	}
	if file, err := f.create(f.path+votesSpareSuffix, f.capacity); err == nil {
		f.spare, f.spareCapacity = file, f.capacity
	}
}

// encodeVotesFile is a whole file, all of it settled, and the sequence of the
// round after it.
func encodeVotesFile(groups map[transport.GroupID]groupState) (data []byte, sequence uint64) {
	var rounds, encoded []byte
	sequence = 1
	flush := func() {
		rounds = appendVotesRound(rounds, sequence, encoded)
		encoded = encoded[:0]
		sequence++
	}
	for _, r := range liveRecords(groups) {
		if votesRoundHeader+len(encoded)+r.size() > votesMaxRound {
			flush()
		}
		encoded = r.append(encoded)
	}
	if len(encoded) > 0 {
		flush()
	}
	return append(appendVotesHeader(nil, int64(votesBlock+len(rounds))), rounds...), sequence
}

// reuse goes on with the old file, for lack of space for a new one. The sync
// makes durable what a process left behind that died after writing it.
func (f *votesFile) reuse(size int64, content votesContent) error {
	file, err := f.fs.Open(f.path)
	if err != nil {
		return err
	}
	f.file, f.end, f.sequence = file, content.end, content.next
	f.capacity, f.rewriteAt = size, content.end+votesRetryRewrite
	if err := file.Sync(); err != nil {
		return finalError("sync votes", err)
	}
	return nil
}

// close closes the files that are open.
func (f *votesFile) close() error {
	var errs []error
	for _, file := range []vfs.File{f.file, f.spare} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}
