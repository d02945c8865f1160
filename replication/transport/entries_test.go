package transport

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// TestInternalFramesAreEqual: what raft made is stored by leader and follower as
// the same bytes, though only the content passes through raft: the follower's log
// store makes the frame again.
func TestInternalFramesAreEqual(t *testing.T) {
	leader := &memLog{}
	logs := []*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(testConfiguration(3))},
		{Index: 2, Term: 2, Type: raft.LogNoop},
		{Index: 5, Term: 2, Type: raft.LogBarrier},
		{Index: 6, Term: 3, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(testConfiguration(2))},
		{Index: 7, Term: 3, Type: raft.LogNoop},
	}
	for i := uint64(3); i <= 4; i++ {
		e := fresh("between")
		e.Index, e.Term = i, 2
		logs = append(logs[:i-1], append([]*raft.Log{&e}, logs[i-1:]...)...)
	}
	if err := leader.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
	// The void, trim and horizon of this log's own are commands.
	frame := segment.EncodeVoid(2, segment.Void{Code: segment.VoidDuplicate, Offset: 1})
	segment.Stamp(frame, 2, 3)
	if err := leader.StoreLog(&raft.Log{Index: 8, Term: 3, Type: raft.LogCommand, Data: frame}); err != nil {
		t.Fatal(err)
	}

	received := overTheWire(t, leader)
	if err := checkFrames(received); err != nil {
		t.Fatal(err)
	}
	follower := &memLog{}
	if err := follower.StoreLogs(received); err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= uint64(leader.last()); i++ {
		if diff := cmp.Diff(leader.frame(i), follower.frame(i)); diff != "" {
			t.Errorf("entry %d:\n%s", i, diff)
		}
		if want, got := leader.entries[i-1].kind, received[i-1]; RaftType(want) != got.Type {
			t.Errorf("entry %d of kind %s became %s", i, want, got.Type)
		}
	}
	if diff := cmp.Diff(testConfiguration(2), raft.DecodeConfiguration(received[5].Data)); diff != "" {
		t.Error(diff)
	}
}

// overTheWire is a whole log as a follower decodes it.
func overTheWire(t *testing.T, l *memLog) []*raft.Log {
	t.Helper()
	frames, headers, err := l.ReadEntries(1, l.last(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var table []entryMeta
	for _, h := range headers {
		table = append(table, entryMeta{term: uint64(h.Term), kind: RaftType(h.Kind), size: h.Size})
	}
	e := envelope{group: testGroup, target: testID(2), sender: testID(1)}
	r := &wireReader{rest: append(encodeAppend(e, &raft.AppendEntriesRequest{Term: segmentMaxTerm}, formFrames, table), frames...)}
	readEnvelope(r)
	a, _, err := decodeAppend(r, testID(1))
	if err != nil {
		t.Fatal(err)
	}
	return a.Entries
}

// segmentMaxTerm is the latest term there is.
const segmentMaxTerm = uint64(segment.MaxTerm)

// TestKinds: each kind of frame has a raft type, and raft's own have one kind.
func TestKinds(t *testing.T) {
	for kind := segment.KindRecords; kind <= segment.KindVoid+1; kind++ {
		logType := RaftType(kind)
		back, err := SegmentKind(logType)
		switch {
		case logType == raft.LogCommand && err == nil:
			t.Errorf("%s: a command has kind %s", kind, back)
		case logType != raft.LogCommand && (err != nil || back != kind):
			t.Errorf("%s became %s and %s (%v)", kind, logType, back, err)
		}
	}
	if _, err := SegmentKind(raft.LogAddPeerDeprecated); err == nil {
		t.Error("a deprecated type has a kind")
	}
}

// TestDamagedFrames: every damage between two disks fails the request; raft and
// the log see nothing of it.
func TestDamagedFrames(t *testing.T) {
	for name, spoil := range map[string]func(e []*raft.Log){
		"bit of a record":          func(e []*raft.Log) { e[1].Data[segment.HeaderSize+3] ^= 1 },
		"bit of the header":        func(e []*raft.Log) { e[1].Data[23] ^= 1 },
		"base offset":              func(e []*raft.Log) { e[1].Data[7] ^= 1 },
		"length":                   func(e []*raft.Log) { e[1].Data[11] ^= 1 }, // no checksum covers it
		"term":                     func(e []*raft.Log) { segment.Stamp(e[1].Data, 0, 4) },
		"shorter than it says":     func(e []*raft.Log) { e[1].Data = e[1].Data[:len(e[1].Data)-1] },
		"longer than it says":      func(e []*raft.Log) { e[1].Data = append(e[1].Data, 0) },
		"no bytes":                 func(e []*raft.Log) { e[1].Data = nil },
		"records as configuration": func(e []*raft.Log) { e[1].Type = raft.LogConfiguration },
		"configuration as no-op":   func(e []*raft.Log) { e[0].Type = raft.LogNoop },
		"gap of offsets":           func(e []*raft.Log) { segment.Stamp(e[2].Data, 7, 5) },
		"configuration that is none": func(e []*raft.Log) {
			e[0] = internal(segment.KindConfiguration, "\xff\xff\xff")
		},
		"internal frame of another version": func(e []*raft.Log) {
			e[0].Data[segment.HeaderSize] = 9
			segment.SetAppendTime(e[0].Data, 0)
		},
	} {
		entries := overTheWire(t, filled(t, 5, 3))
		entries[0].Term = 1
		spoil(entries)
		if err := checkFrames(entries); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// internal is an entry with an internal frame of term 1.
func internal(kind segment.Kind, content string) *raft.Log {
	return &raft.Log{Index: 1, Term: 1, Type: RaftType(kind), Data: internalFrame(kind, 0, 1, []byte(content))}
}

// TestOtherEncoding: an internal frame that this version would write otherwise is
// refused, because the replicas would not hold equal bytes.
func TestOtherEncoding(t *testing.T) {
	e := internal(segment.KindNoop, "")
	binary.BigEndian.PutUint64(e.Data[35:], 12345) // another max timestamp
	binary.BigEndian.PutUint32(e.Data[17:], crc32.Checksum(e.Data[21:], crc32.MakeTable(crc32.Castagnoli)))
	if kind, _, err := segment.DecodeInternal(e.Data); kind != segment.KindNoop || err != nil || !segment.ChecksumOK(e.Data) {
		t.Fatalf("not a valid frame: %v", err)
	}
	if err := checkFrames([]*raft.Log{e}); err == nil {
		t.Fatal("accepted")
	}
}

// TestUnknownKindIsACommand: the state machine decides about a kind of a later
// version; raft would panic.
func TestUnknownKindIsACommand(t *testing.T) {
	e := internal(99, "from the future")
	frame := bytes.Clone(e.Data)
	if err := checkFrames([]*raft.Log{e}); err != nil {
		t.Fatal(err)
	}
	if e.Type != raft.LogCommand || !bytes.Equal(e.Data, frame) {
		t.Fatalf("%s %x", e.Type, e.Data)
	}
}

// TestRaftDataIsChecked: raft panics on configurations and types that it does not
// know, in its main goroutine.
func TestRaftDataIsChecked(t *testing.T) {
	good := &raft.Log{Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(testConfiguration(3))}
	if err := checkData([]*raft.Log{{Type: raft.LogCommand, Data: []byte("any")}, {Type: raft.LogNoop}, {Type: raft.LogBarrier}, good}); err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]*raft.Log{
		"empty configuration":   {Type: raft.LogConfiguration},
		"damaged configuration": {Type: raft.LogConfiguration, Data: []byte(strings.Repeat("\xdf\xff\xff\xff\xff", 3))},
		"deprecated type":       {Type: raft.LogAddPeerDeprecated},
		"unknown type":          {Type: 77},
	} {
		if err := checkData([]*raft.Log{e}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
