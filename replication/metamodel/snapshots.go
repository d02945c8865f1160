package metamodel

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment/vfs"
)

// suffix ends the name of a whole snapshot.
const suffix = ".snap"

// retain is how many snapshots stay, as with the real stores.
const retain = 2

// snapshots keeps each snapshot in one file, whole or absent (vfs.WriteFile):
//
//	u32 CRC32C of the rest | u32 length of the meta data | meta data (JSON) | state
type snapshots struct {
	fs  vfs.FS
	dir string
}

// sink is a snapshot being written, in memory until Close.
type sink struct {
	bytes.Buffer
	store *snapshots
	meta  raft.SnapshotMeta
	done  bool
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	meta := raft.SnapshotMeta{Version: version, ID: fmt.Sprintf("%020d-%020d", term, index), Index: index, Term: term,
		Configuration: configuration, ConfigurationIndex: configurationIndex}
	return &sink{store: s, meta: meta}, nil
}

// ID implements raft.SnapshotSink.
func (k *sink) ID() string { return k.meta.ID }

// Cancel implements raft.SnapshotSink.
func (k *sink) Cancel() error {
	k.done = true
	return nil
}

// Close implements raft.SnapshotSink: the snapshot is durable on return.
func (k *sink) Close() error {
	if k.done {
		return nil
	}
	k.done = true
	k.meta.Size = int64(k.Len())
	meta, err := json.Marshal(k.meta)
	if err != nil {
		return err
	}
	rest := binary.BigEndian.AppendUint32(nil, uint32(len(meta)))
	rest = append(append(rest, meta...), k.Bytes()...)
	data := append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(rest, castagnoli)), rest...)
	if err := vfs.WriteFile(k.store.fs, filepath.Join(k.store.dir, k.meta.ID+suffix), data); err != nil {
		return err
	}
	return k.store.reap()
}

// reap removes all but the newest.
func (s *snapshots) reap() error {
	ids, err := s.ids()
	if err != nil {
		return err
	}
	for i := retain; i < len(ids); i++ {
		if err := s.fs.Remove(filepath.Join(s.dir, ids[i]+suffix)); err != nil {
			return err
		}
	}
	return nil
}

// ids are the names of the snapshots, newest first.
func (s *snapshots) ids() ([]string, error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, name := range names {
		if id, ok := strings.CutSuffix(name, suffix); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids, nil
}

// List implements raft.SnapshotStore.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	var metas []*raft.SnapshotMeta
	for _, id := range ids {
		meta, _, err := s.read(id)
		if err != nil {
			return nil, err
		}
		metas = append(metas, meta)
	}
	return metas, nil
}

// Open implements raft.SnapshotStore.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, state, err := s.read(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, io.NopCloser(bytes.NewReader(state)), nil
}

func (s *snapshots) read(id string) (*raft.SnapshotMeta, []byte, error) {
	data, err := vfs.ReadFile(s.fs, filepath.Join(s.dir, id+suffix), maxTransaction)
	if err != nil {
		return nil, nil, err
	}
	if len(data) < headSize || crc32.Checksum(data[4:], castagnoli) != binary.BigEndian.Uint32(data) {
		return nil, nil, fmt.Errorf("%w: snapshot %s", ErrCorrupt, id)
	}
	n := binary.BigEndian.Uint32(data[4:])
	if int64(n) > int64(len(data)-headSize) {
		return nil, nil, fmt.Errorf("%w: snapshot %s", ErrCorrupt, id)
	}
	var meta raft.SnapshotMeta
	if err := json.Unmarshal(data[headSize:headSize+n], &meta); err != nil {
		return nil, nil, errors.Join(ErrCorrupt, err)
	}
	return &meta, data[headSize+n:], nil
}
