package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// The manifest says which replica a folder is and which segments make its log. It
// is replaced as a whole, by rename. Body of format segment.FormatManifest1, or
// FormatManifest2 once a trim has allowed to remove segments:
//
//	incarnation   8
//	cluster       4+n        text
//	topic         4+n        text
//	topic id      16
//	partition     4
//	log start     8          first offset that consumers see
//	through       8          FormatManifest2 only, not 0: the last entry that a trim
//	                         may remove, see segment.Trim
//	segments      4+n x 16   base offset, base index; in order
//	dropped       4+n x 8    base offsets of segments that a cut or a trim removed,
//	                         whose files may still be there
type manifest struct {
	identity Identity
	start    segment.Offset
	through  segment.Index
	segments []segmentRef
	dropped  []segment.Offset

	// switching: segments and checkpoint are on their way from the staging folder, see
	// finishSwitch.
	switching bool
}

// segmentRef names a segment.
type segmentRef struct {
	base  segment.Offset
	index segment.Index
}

const (
	manifestName     = "manifest"
	segmentRefSize   = 16
	droppedEntrySize = 8
)

func (m *manifest) encode() []byte {
	var e segment.Encoder
	e.Uint64(m.identity.Incarnation)
	e.String(m.identity.Cluster)
	e.String(m.identity.Topic)
	e.Raw(m.identity.TopicID[:])
	e.Uint32(uint32(m.identity.Partition))
	e.Uint64(uint64(m.start))
	format := segment.FormatManifest1
	if m.through > 0 {
		format = segment.FormatManifest2
		e.Uint64(uint64(m.through))
	}
	e.Uint32(uint32(len(m.segments)))
	for _, s := range m.segments {
		e.Uint64(uint64(s.base))
		e.Uint64(uint64(s.index))
	}
	e.Uint32(uint32(len(m.dropped)))
	for _, base := range m.dropped {
		e.Uint64(uint64(base))
	}
	return segment.Wrap(format, e.Body())
}

// decodeManifest reads what encode wrote. The error is segment.ErrFormat.
func decodeManifest(data []byte) (*manifest, error) {
	format := segment.FormatManifest1
	body, err := segment.Unwrap(format, data)
	if err != nil {
		format = segment.FormatManifest2
		body, err = segment.Unwrap(format, data)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	d := segment.NewDecoder(body)
	m := &manifest{}
	m.identity.Incarnation = d.Uint64()
	m.identity.Cluster = d.String()
	m.identity.Topic = d.String()
	d.Raw(m.identity.TopicID[:])
	m.identity.Partition = int32(d.Uint32())
	m.start = d.Offset()
	if format == segment.FormatManifest2 {
		if m.through = segment.Index(d.Uint64()); m.through == 0 {
			d.Fail("trimmed through entry 0")
		}
	}
	for range d.Count(segmentRefSize) {
		m.segments = append(m.segments, segmentRef{base: d.Offset(), index: segment.Index(d.Uint64())})
	}
	for range d.Count(droppedEntrySize) {
		m.dropped = append(m.dropped, d.Offset())
	}
	if len(m.segments) == 0 || m.identity.Partition < 0 {
		d.Fail("%d segments, partition %d", len(m.segments), m.identity.Partition)
	}
	for i, s := range m.segments {
		if s.index == 0 || i > 0 && (s.base <= m.segments[i-1].base || s.index <= m.segments[i-1].index) {
			d.Fail("segment %d of base index %d is out of order", s.base, s.index)
		}
	}
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

// readManifest reads a folder's manifest. A damaged one is a CorruptionError.
func readManifest(fsys vfs.FS, dir string) (*manifest, error) {
	data, err := vfs.ReadFile(fsys, filepath.Join(dir, manifestName), segment.MaxMetadataSize)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	m, err := unwrapSwitch(data)
	if err != nil {
		return nil, &CorruptionError{Dir: dir, File: manifestName, Position: -1, Class: segment.ClassCorrupt, Detail: err.Error()}
	}
	return m, nil
}

// ReadIdentity is the identity of the replica in a folder: fs.ErrNotExist where
// there is none, a *CorruptionError where it cannot be read.
func ReadIdentity(fsys vfs.FS, dir string) (Identity, error) {
	m, err := readManifest(fsys, dir)
	if err != nil {
		return Identity{}, err
	}
	return m.identity, nil
}

// writeManifest replaces the manifest, durably.
func writeManifest(fsys vfs.FS, dir string, m *manifest) error {
	if err := vfs.WriteFile(fsys, filepath.Join(dir, manifestName), wrapSwitch(m)); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return nil
}

// exists reports whether there is a file.
func exists(fsys vfs.FS, name string) (bool, error) {
	_, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
