// Package metamodel is a model of the metadata group's storage on the
// file-system seam, for tests that cut the power under whole brokers: raft-boltdb
// maps its file and cannot be put on a crashing file system.
//
// It promises what raft-boltdb promises, no more: every call that writes is one
// atomic transaction, synced before it returns, one sync a call (a test counts
// them). It keeps everything in memory and appends each transaction to a file:
//
//	u32 length of the body | u32 CRC32C of the body | body (JSON)
//
// A crash can only tear the last transaction, which had not returned; Open cuts
// it off. A damaged one with another behind it is an error.
package metamodel

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment/vfs"
)

// maxTransaction bounds one transaction in bytes.
const maxTransaction = 64 << 20

const headSize = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errNotFound is compared by its text in raft.
var errNotFound = errors.New("not found")

// ErrCorrupt is a transaction that was damaged after its sync.
var ErrCorrupt = errors.New("metamodel: damaged transaction")

// transaction is one atomic change.
type transaction struct {
	Store  []*raft.Log       `json:",omitempty"`
	Delete []uint64          `json:",omitempty"` // first and last index
	Set    map[string][]byte `json:",omitempty"`
}

// Stores are log, stable store and snapshots in one folder. All methods may be
// called concurrently.
type Stores struct {
	snapshots *snapshots

	writing sync.Mutex // of a transaction; readers do not wait for it, as with bbolt
	file    vfs.File
	size    int64 // guarded by writing

	mu   sync.Mutex // guards what follows
	logs map[uint64]*raft.Log
	conf map[string][]byte
}

// Open opens or makes the stores in a folder that exists.
func Open(fsys vfs.FS, dir string) (*Stores, error) {
	name := filepath.Join(dir, "raft.model")
	file, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		file, err = fsys.Create(name)
	}
	if err != nil {
		return nil, fmt.Errorf("open metamodel: %w", err)
	}
	s := &Stores{file: file, logs: map[uint64]*raft.Log{}, conf: map[string][]byte{}, snapshots: &snapshots{fs: fsys, dir: filepath.Join(dir, "snapshots")}}
	if err := s.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("open metamodel: %w", err), file.Close())
	}
	if err := fsys.MkdirAll(s.snapshots.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open metamodel: %w", err), file.Close())
	}
	if err := fsys.SyncDir(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open metamodel: %w", err), file.Close())
	}
	return s, nil
}

// recover reads all transactions and cuts a torn last one.
func (s *Stores) recover() error {
	length, err := s.file.Size()
	if err != nil {
		return err
	}
	for s.size < length {
		t, size, err := s.readAt(s.size, length)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		s.play(t)
		s.size += size
	}
	if s.size == length {
		return nil
	}
	if err := s.file.Truncate(s.size); err != nil {
		return err
	}
	return s.file.Sync()
}

// readAt reads one transaction; size 0 is a torn one at the end.
func (s *Stores) readAt(at, length int64) (t transaction, size int64, err error) {
	var head [headSize]byte
	if length-at < headSize {
		return t, 0, nil
	}
	if _, err := s.file.ReadAt(head[:], at); err != nil {
		return t, 0, err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n > maxTransaction || at+headSize+n > length {
		return t, 0, nil
	}
	body := make([]byte, n)
	if _, err := s.file.ReadAt(body, at+headSize); err != nil && n > 0 {
		return t, 0, err
	}
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		if at+headSize+n < length {
			return t, 0, fmt.Errorf("%w at byte %d", ErrCorrupt, at)
		}
		return t, 0, nil
	}
	if n == 0 || json.Unmarshal(body, &t) != nil {
		return t, 0, nil
	}
	return t, headSize + n, nil
}

// play applies a transaction to memory.
func (s *Stores) play(t transaction) {
	for _, l := range t.Store {
		s.logs[l.Index] = l
	}
	if len(t.Delete) == 2 {
		for i := range s.logs {
			if i >= t.Delete[0] && i <= t.Delete[1] {
				delete(s.logs, i)
			}
		}
	}
	for k, v := range t.Set {
		s.conf[k] = v
	}
}

// commit makes a transaction durable, then visible.
func (s *Stores) commit(t transaction) error {
	body, err := json.Marshal(t)
	if err != nil {
		return err
	}
	var copied transaction // what the caller passed may change later
	if err := json.Unmarshal(body, &copied); err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	head = binary.BigEndian.AppendUint32(head, crc32.Checksum(body, castagnoli))
	n, err := s.file.WritevAt([][]byte{head, body}, s.size)
	if err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.size += int64(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.play(copied)
	return nil
}

// Snapshots are the snapshots of the folder.
func (s *Stores) Snapshots() raft.SnapshotStore { return s.snapshots }

// Close closes the file.
func (s *Stores) Close() error { return s.file.Close() }

// FirstIndex implements raft.LogStore.
func (s *Stores) FirstIndex() (uint64, error) {
	first, _ := s.bounds()
	return first, nil
}

// LastIndex implements raft.LogStore.
func (s *Stores) LastIndex() (uint64, error) {
	_, last := s.bounds()
	return last, nil
}

func (s *Stores) bounds() (first, last uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.logs {
		if first == 0 || i < first {
			first = i
		}
		last = max(last, i)
	}
	return first, last
}

// GetLog implements raft.LogStore.
func (s *Stores) GetLog(index uint64, into *raft.Log) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.logs[index]
	if !ok {
		return raft.ErrLogNotFound
	}
	*into = *l
	return nil
}

// StoreLog implements raft.LogStore.
func (s *Stores) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (s *Stores) StoreLogs(logs []*raft.Log) error { return s.commit(transaction{Store: logs}) }

// DeleteRange implements raft.LogStore.
func (s *Stores) DeleteRange(first, last uint64) error {
	return s.commit(transaction{Delete: []uint64{first, last}})
}

// Set implements raft.StableStore.
func (s *Stores) Set(key, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	return s.commit(transaction{Set: map[string][]byte{string(key): value}})
}

// Get implements raft.StableStore.
func (s *Stores) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.conf[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return append([]byte{}, v...), nil
}

// SetUint64 implements raft.StableStore.
func (s *Stores) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 implements raft.StableStore.
func (s *Stores) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%w: a number of %d bytes", ErrCorrupt, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}
