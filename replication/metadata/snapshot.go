package metadata

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// A snapshot is the whole state:
//
//	0   8  "MRMETA" and two zero bytes
//	8   4  version, 4
//	12  8  length of the body
//	20     body
//	    4  CRC32C of everything before
//
// The body, each list a u32 count and its items in key order:
//
//	u64 index | u32 length, cluster id | version 2: u32 founders | i64 next producer id | brokers | topics
//	(in order of their names) | deletions | last terms (u32 length, name, u64 term)
//	| sessions (i32 node, session) | version 3: u64 incarnations of unregistered brokers
const (
	snapshotMagic   = "MRMETA\x00\x00"
	snapshotVersion = 4
	snapshotHeader  = 20
)

// WriteSnapshot writes the view in full. Equal views have equal bytes.
func (v *View) WriteSnapshot(w io.Writer) error {
	c := coder{buf: make([]byte, snapshotHeader, 4096), version: snapshotVersion}
	p := v.pieces()
	p.code(&c)
	if err := c.finish(); err != nil {
		return fmt.Errorf("encode metadata snapshot: %w", err)
	}
	b := c.buf
	if len(b) > MaxSnapshot-checksumSize {
		return fmt.Errorf("encode metadata snapshot: %d bytes, at most %d", len(b), MaxSnapshot-checksumSize)
	}
	copy(b, snapshotMagic)
	binary.BigEndian.PutUint32(b[8:], snapshotVersion)
	binary.BigEndian.PutUint64(b[12:], uint64(len(b)-snapshotHeader))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write metadata snapshot: %w", err)
	}
	return nil
}

// Restore replaces the state by a snapshot. On an error (ErrCorrupt, a newer
// version as ErrUnknownCommand, or one of the reader) the state is as before.
func (s *State) Restore(r io.Reader) error {
	view, err := ReadSnapshot(r)
	if err != nil {
		return err
	}
	s.view.Store(view)
	return nil
}

// ReadSnapshot reads what WriteSnapshot wrote.
func ReadSnapshot(r io.Reader) (*View, error) {
	// The length in the header is not believed: ReadFrom grows with what comes.
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(io.LimitReader(r, MaxSnapshot+1)); err != nil {
		return nil, fmt.Errorf("read metadata snapshot: %w", err)
	}
	b := buf.Bytes()
	if len(b) < snapshotHeader+checksumSize || len(b) > MaxSnapshot || string(b[:8]) != snapshotMagic {
		return nil, fmt.Errorf("read metadata snapshot: %w: %d bytes that begin with no snapshot header", ErrCorrupt, len(b))
	}
	version := binary.BigEndian.Uint32(b[8:])
	if version < 1 || version > snapshotVersion {
		return nil, fmt.Errorf("read metadata snapshot: %w: snapshot version %d", ErrUnknownCommand, version)
	}
	sum := len(b) - checksumSize
	if crc32.Checksum(b[:sum], castagnoli) != binary.BigEndian.Uint32(b[sum:]) {
		return nil, fmt.Errorf("read metadata snapshot: %w: checksum", ErrCorrupt)
	}
	if n := binary.BigEndian.Uint64(b[12:]); n != uint64(sum-snapshotHeader) {
		return nil, fmt.Errorf("read metadata snapshot: %w: body of %d bytes in %d", ErrCorrupt, n, sum-snapshotHeader)
	}
	var p pieces
	c := coder{buf: b[snapshotHeader:sum], decoding: true, version: uint8(version)}
	p.code(&c)
	if err := c.finish(); err != nil {
		return nil, fmt.Errorf("read metadata snapshot: %w", err)
	}
	return p.view()
}

// nodeSession is a session with its key.
type nodeSession struct {
	node NodeID
	session
}

func codeNodeSession(c *coder, s *nodeSession) {
	code32(c, &s.node)
	codeSession(c, &s.session)
}

// pieces is a view taken apart into lists.
type pieces struct {
	index          uint64
	cluster        string
	founders       uint32
	nextProducerID int64
	brokers        []Broker
	topics         []Topic
	deletions      []Deletion
	terms          []lastTerm
	sessions       []nodeSession
	retired        []Incarnation
}

func (p *pieces) code(c *coder) {
	code64(c, &p.index)
	c.text(&p.cluster)
	if c.version >= 2 {
		code32(c, &p.founders)
	}
	code64(c, &p.nextProducerID)
	list(c, &p.brokers, brokerSize, codeBroker)
	list(c, &p.topics, topicSize, codeTopic)
	list(c, &p.deletions, deletionSize, codeDeletion)
	list(c, &p.terms, termSize, codeTerm)
	list(c, &p.sessions, 4+sessionSize, codeNodeSession)
	if c.version >= 3 {
		list(c, &p.retired, 8, code64[Incarnation])
	}
}

func (v *View) pieces() pieces {
	p := pieces{index: v.index, cluster: v.cluster, founders: v.founders, nextProducerID: v.nextProducerID}
	for b := range v.brokers.values() {
		p.brokers = append(p.brokers, *b)
	}
	for t := range v.names.values() {
		p.topics = append(p.topics, *t)
	}
	for d := range v.deletions.values() {
		p.deletions = append(p.deletions, *d)
	}
	for name, term := range v.terms.all() {
		p.terms = append(p.terms, lastTerm{string(name), term})
	}
	for key, s := range v.sessions.all() {
		p.sessions = append(p.sessions, nodeSession{keyNode(key), *s})
	}
	for i := range v.retired.values() {
		p.retired = append(p.retired, i)
	}
	return p
}

// view puts the lists together. Two items under one key are damage.
func (p *pieces) view() (*View, error) {
	if p.founders > MaxFounders {
		return nil, fmt.Errorf("read metadata snapshot: %w: %d founders, at most %d", ErrCorrupt, p.founders, MaxFounders)
	}
	d := draft{View{index: p.index, cluster: p.cluster, founders: p.founders, nextProducerID: p.nextProducerID}}
	for i := range p.brokers {
		d.brokers = d.brokers.put(nodeKey(p.brokers[i].Node), &p.brokers[i])
	}
	for i := range p.topics {
		for _, partition := range p.topics[i].Partitions {
			if len(partition.Replicas) == 0 {
				return nil, fmt.Errorf("read metadata snapshot: %w: topic %s has a partition without replicas", ErrCorrupt, p.topics[i].Name)
			}
		}
		d.putTopic(&p.topics[i])
	}
	for i := range p.deletions {
		d.deletions = d.deletions.put(p.deletions[i].ID[:], &p.deletions[i])
	}
	for _, t := range p.terms {
		d.terms = d.terms.put([]byte(t.name), t.term)
	}
	for i := range p.sessions {
		d.sessions = d.sessions.put(nodeKey(p.sessions[i].node), &p.sessions[i].session)
	}
	for _, i := range p.retired {
		d.retired = d.retired.put(incarnationKey(i), i)
	}
	if d.brokers.size() != len(p.brokers) || d.names.size() != len(p.topics) || d.topics.size() != len(p.topics) ||
		d.deletions.size() != len(p.deletions) || d.terms.size() != len(p.terms) || d.sessions.size() != len(p.sessions) ||
		d.retired.size() != len(p.retired) {
		return nil, fmt.Errorf("read metadata snapshot: %w: a key twice", ErrCorrupt)
	}
	return &d.View, nil
}
