//lint:file-ignore SA1019 raft reads Leader and Candidate where Addr is empty, so both are filled in.

package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// goldenMessages are one message of each kind, by the name of its file in
// testdata/raft. Frames and configurations come from other formats, held by
// their own golden bytes; here short texts stand for them.
func goldenMessages() map[string][]byte {
	e := envelope{group: testGroup, target: ServerID(2, 0xb2), sender: ServerID(1, 0xa1)}
	request := &raft.AppendEntriesRequest{Term: 0x0102, PrevLogEntry: 0x0304, PrevLogTerm: 0x0101, LeaderCommitIndex: 0x0303}
	table := []entryMeta{{term: 0x0101, kind: raft.LogCommand, size: 5}, {term: 0x0102, kind: raft.LogNoop, size: 0}, {term: 0x0102, kind: raft.LogConfiguration, size: 3}}
	snapshot := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 0x0102, LastLogIndex: 0x0304, LastLogTerm: 0x0101, ConfigurationIndex: 0x0201, Configuration: []byte("config"), Size: 8}
	up := GroupUp{Group: testGroup, Replica: ServerID(1, 0xa1), LastTerm: 0x0101, LastIndex: 0x0304, Term: 0x0102, Probation: 0x0105, Withholds: true, Leader: ServerID(2, 0xb2)}
	suspicions := []Suspicion{{Group: testGroup, Leader: ServerID(2, 0xb2)}, {Leader: ServerID(2, 0xb2)}}
	agreements := []Agreement{{Group: testGroup, Replica: ServerID(1, 0xa1), LastTerm: 0x0101, LastIndex: 0x0304}, {Replica: ServerID(1, 0xa1)}}
	return map[string][]byte{
		"suspect":         EncodeSuspicions(suspicions),
		"suspect-reply":   EncodeAgreements(agreements),
		"append-frames":   append(encodeAppend(e, request, formFrames, table), "12345xyz"...),
		"append-data":     append(encodeAppend(e, request, formData, table), "12345xyz"...),
		"heartbeat":       encodeAppend(e, &raft.AppendEntriesRequest{Term: 0x0102}, formFrames, nil),
		"append-reply":    encodeAppendReply(&raft.AppendEntriesResponse{Term: 0x0102, LastLog: 0x0304, Success: true, NoRetryBackoff: true}),
		"vote":            encodeVote(e, 0x0102, 0x0304, 0x0101, true),
		"vote-reply":      encodeVoteReply(0x0102, true),
		"timeout-now":     encodeTimeoutNow(e, 0x0102),
		"hand-over":       encodeHandOver(e, handOver{term: 0x0102, mark: 0x030405, within: 250*time.Millisecond + time.Microsecond}),
		"hand-over-reply": encodeHandOverReply(0x030405),
		"snapshot":        append(encodeSnapshot(e, snapshot), "snapshot"...),
		"snapshot-reply":  encodeSnapshotReply(&raft.InstallSnapshotResponse{Term: 0x0102, Success: true}),
		"group-up":        encodeGroupUps([]GroupUp{up, {Group: testGroup, Replica: ServerID(1, 0xa1)}}),
		"metadata-append": encodeAppend(envelope{target: ServerID(2, 0xb2), sender: ServerID(1, 0xa1)}, request, formData, nil),
	}
}

// readGolden reads a file of hexadecimal digits, spaces and lines.
func readGolden(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "raft", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGoldenMessages: what travels between brokers of different versions does not
// change.
func TestGoldenMessages(t *testing.T) {
	messages := goldenMessages()
	files, err := filepath.Glob(filepath.Join("testdata", "raft", "*.hex"))
	if err != nil || len(files) != len(messages) {
		t.Fatalf("%d files for %d messages, %v", len(files), len(messages), err)
	}
	for name, message := range messages {
		if diff := cmp.Diff(hex.Dump(readGolden(t, name)), hex.Dump(message)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

// TestDecodeGolden: the golden bytes mean what was written.
func TestDecodeGolden(t *testing.T) {
	sender := ServerID(1, 0xa1)
	envelopeOf := func(name string) *wireReader {
		r := &wireReader{rest: readGolden(t, name)}
		want := envelope{group: testGroup, target: ServerID(2, 0xb2), sender: sender}
		if got := readEnvelope(r); got != want {
			t.Errorf("%s: envelope %+v", name, got)
		}
		return r
	}
	check := func(name string, want, got any, err error) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
	header := rpcHeader(sender)
	request, form, err := decodeAppend(envelopeOf("append-frames"), sender)
	check("append-frames", &raft.AppendEntriesRequest{
		RPCHeader: header, Leader: []byte(sender), Term: 0x0102, PrevLogEntry: 0x0304, PrevLogTerm: 0x0101, LeaderCommitIndex: 0x0303,
		Entries: []*raft.Log{
			{Index: 0x0305, Term: 0x0101, Type: raft.LogCommand, Data: []byte("12345")},
			{Index: 0x0306, Term: 0x0102, Type: raft.LogNoop, Data: []byte{}},
			{Index: 0x0307, Term: 0x0102, Type: raft.LogConfiguration, Data: []byte("xyz")},
		},
	}, request, err)
	if form != formFrames {
		t.Errorf("form %d", form)
	}
	request, _, err = decodeAppend(envelopeOf("heartbeat"), sender)
	check("heartbeat", &raft.AppendEntriesRequest{RPCHeader: header, Leader: []byte(sender), Term: 0x0102}, request, err)
	if !isHeartbeat(request) {
		t.Error("a heartbeat is not recognised")
	}
	vote, err := decodeVote(envelopeOf("vote"), sender)
	check("vote", &raft.RequestVoteRequest{RPCHeader: header, Candidate: []byte(sender), Term: 0x0102, LastLogIndex: 0x0304, LastLogTerm: 0x0101, LeadershipTransfer: true}, vote, err)
	term, err := decodeTimeoutNow(envelopeOf("timeout-now"))
	check("timeout-now", uint64(0x0102), term, err)
	campaign, err := decodeHandOver(envelopeOf("hand-over"))
	check("hand-over", true, campaign == handOver{term: 0x0102, mark: 0x030405, within: 250 * time.Millisecond}, err)
	mark, err := decodeHandOverReply(readGolden(t, "hand-over-reply"))
	check("hand-over-reply", uint64(0x030405), mark, err)
	snapshot, data, err := decodeSnapshot(envelopeOf("snapshot"), sender)
	check("snapshot", &raft.InstallSnapshotRequest{
		RPCHeader: header, Leader: []byte(sender), SnapshotVersion: 1, Term: 0x0102, LastLogIndex: 0x0304, LastLogTerm: 0x0101,
		ConfigurationIndex: 0x0201, Configuration: []byte("config"), Size: 8,
	}, snapshot, err)
	check("snapshot", "snapshot", string(data), err)

	var reply raft.AppendEntriesResponse
	err = decodeAppendReply(readGolden(t, "append-reply"), sender, &reply)
	check("append-reply", raft.AppendEntriesResponse{RPCHeader: header, Term: 0x0102, LastLog: 0x0304, Success: true, NoRetryBackoff: true}, reply, err)
	term, granted, err := decodeVoteReply(readGolden(t, "vote-reply"))
	check("vote-reply", uint64(0x0102), term, err)
	check("vote-reply", true, granted, err)
	var installed raft.InstallSnapshotResponse
	err = decodeSnapshotReply(readGolden(t, "snapshot-reply"), sender, &installed)
	check("snapshot-reply", raft.InstallSnapshotResponse{RPCHeader: header, Term: 0x0102, Success: true}, installed, err)
	ups, err := decodeGroupUps(readGolden(t, "group-up"))
	check("group-up", []GroupUp{
		{Group: testGroup, Replica: sender, LastTerm: 0x0101, LastIndex: 0x0304, Term: 0x0102, Probation: 0x0105, Withholds: true, Leader: ServerID(2, 0xb2)},
		{Group: testGroup, Replica: sender},
	}, ups, err)
	suspicions, err := DecodeSuspicions(readGolden(t, "suspect"))
	check("suspect", []Suspicion{{Group: testGroup, Leader: ServerID(2, 0xb2)}, {Leader: ServerID(2, 0xb2)}}, suspicions, err)
	agreements, err := DecodeAgreements(readGolden(t, "suspect-reply"))
	check("suspect-reply", []Agreement{{Group: testGroup, Replica: sender, LastTerm: 0x0101, LastIndex: 0x0304}, {Replica: sender}}, agreements, err)
}

// decodeAny decodes a message by the name of its golden file.
func decodeAny(name string, b []byte) error {
	r := &wireReader{rest: b}
	switch name {
	case "append-reply":
		return decodeAppendReply(b, "", &raft.AppendEntriesResponse{})
	case "vote-reply":
		_, _, err := decodeVoteReply(b)
		return err
	case "snapshot-reply":
		return decodeSnapshotReply(b, "", &raft.InstallSnapshotResponse{})
	case "hand-over-reply":
		_, err := decodeHandOverReply(b)
		return err
	case "group-up":
		_, err := decodeGroupUps(b)
		return err
	case "suspect":
		_, err := DecodeSuspicions(b)
		return err
	case "suspect-reply":
		_, err := DecodeAgreements(b)
		return err
	}
	e := readEnvelope(r)
	var err error
	switch name {
	case "vote":
		_, err = decodeVote(r, e.sender)
	case "timeout-now":
		_, err = decodeTimeoutNow(r)
	case "hand-over":
		_, err = decodeHandOver(r)
	case "snapshot":
		_, _, err = decodeSnapshot(r, e.sender)
	default:
		_, _, err = decodeAppend(r, e.sender)
	}
	return err
}

// TestTruncatedMessages: every message that is cut short or has something behind
// it is refused, with the one error that callers know.
func TestTruncatedMessages(t *testing.T) {
	for name, message := range goldenMessages() {
		if err := decodeAny(name, message); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := range message {
			if err := decodeAny(name, message[:n:n]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s cut to %d bytes: %v", name, n, err)
			}
		}
		if err := decodeAny(name, append(bytes.Clone(message), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s with a byte behind it: %v", name, err)
		}
		message[0] = wireVersion + 1
		if err := decodeAny(name, message); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s of another version: %v", name, err)
		}
	}
}

// TestAbsurdMessages: numbers that no peer of ours sends are refused before
// anything is allocated for them, or handed to raft.
func TestAbsurdMessages(t *testing.T) {
	e := envelope{group: testGroup, target: ServerID(2, 0xb2), sender: ServerID(1, 0xa1)}
	head := len(e.append(0))
	base := func() []byte {
		table := []entryMeta{{term: 5, size: 4}, {term: 5, size: 4}}
		return append(encodeAppend(e, &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 9, PrevLogTerm: 5}, formData, table), "12345678"...)
	}
	if err := decodeAny("append", base()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(b []byte){
		"group with a negative partition": func(b []byte) { b[17] = 0x80 },
		"server id of 255 bytes":          func(b []byte) { b[21] = 255 },
		"term beyond a frame's":           func(b []byte) { b[head+3] = 1 },
		"previous index near the end":     func(b []byte) { b[head+8] = 0x7f },
		"previous term beyond a frame's":  func(b []byte) { b[head+16] = 0xff },
		"commit index near the end":       func(b []byte) { b[head+24] = 0xff },
		"unknown form":                    func(b []byte) { b[head+32] = 7 },
		"four billion entries":            func(b []byte) { copy(b[head+33:], "\xff\xff\xff\xff") },
		"more entries than bytes":         func(b []byte) { b[head+36] = 200 },
		"entry of four gigabytes":         func(b []byte) { copy(b[head+37+9:], "\xff\xff\xff\xff") },
		"entry of a later term":           func(b []byte) { b[head+37+7] = 6 },
		"entry of an earlier term":        func(b []byte) { b[head+37+7] = 4 },
	} {
		b := base()
		spoil(b)
		if err := decodeAny("append", b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDecodeAllocations: the entries of a request are one allocation, their data
// is none.
func TestDecodeAllocations(t *testing.T) {
	table := make([]entryMeta, 256)
	for i := range table {
		table[i] = entryMeta{term: 5, size: 100}
	}
	e := envelope{group: testGroup, target: ServerID(2, 0xb2), sender: ServerID(1, 0xa1)}
	message := append(encodeAppend(e, &raft.AppendEntriesRequest{Term: 5}, formData, table), make([]byte, 256*100)...)
	allocations := testing.AllocsPerRun(10, func() {
		r := &wireReader{rest: message}
		if _, _, err := decodeAppend(r, readEnvelope(r).sender); err != nil {
			t.Fatal(err)
		}
	})
	if allocations > 10 {
		t.Errorf("%v allocations for 256 entries", allocations)
	}
	r := &wireReader{rest: message}
	a, _, err := decodeAppend(r, readEnvelope(r).sender)
	if err != nil {
		t.Fatal(err)
	}
	a.Entries[255].Data[99] = 0xee
	if message[len(message)-1] != 0xee {
		t.Error("the data was copied")
	}
}

// encodeAgain decodes a message of many groups and encodes it.
func encodeAgain(name string, message []byte) []byte {
	switch name {
	case "suspect":
		suspicions, _ := DecodeSuspicions(message)
		return EncodeSuspicions(suspicions)
	case "suspect-reply":
		agreements, _ := DecodeAgreements(message)
		return EncodeAgreements(agreements)
	}
	return message
}

// FuzzRaftMessage: no bytes from a peer make a decoder or the checks behind it
// panic, and what decodes encodes to the same bytes.
func FuzzRaftMessage(f *testing.F) {
	names := []string{"append-frames", "append-reply", "vote", "vote-reply", "timeout-now", "snapshot", "snapshot-reply", "group-up", "suspect", "suspect-reply", "hand-over", "hand-over-reply"}
	messages := goldenMessages()
	for i, name := range names {
		f.Add(uint8(i), messages[name])
	}
	for _, frames := range [][]byte{batch("value"), segment.EncodeInternal(segment.KindConfiguration, 3, raft.EncodeConfiguration(testConfiguration(3)))} {
		e := envelope{group: testGroup, target: ServerID(2, 0xb2), sender: ServerID(1, 0xa1)}
		f.Add(uint8(0), append(encodeAppend(e, &raft.AppendEntriesRequest{Term: 5}, formFrames, []entryMeta{{size: len(frames)}}), frames...))
	}
	f.Fuzz(func(t *testing.T, kind uint8, message []byte) {
		name := names[int(kind)%len(names)]
		err := decodeAny(name, message)
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("error %v", err)
		}
		if err == nil && !bytes.Equal(encodeAgain(name, message), message) {
			t.Fatalf("%s %x became %x", name, message, encodeAgain(name, message))
		}
		if err != nil || name != "append-frames" {
			return
		}
		r := &wireReader{rest: message}
		e := readEnvelope(r)
		a, form, err := decodeAppend(r, e.sender)
		if err != nil {
			t.Fatal(err)
		}
		again, table := []byte(nil), []entryMeta(nil)
		for _, entry := range a.Entries {
			table = append(table, entryMeta{term: entry.Term, kind: entry.Type, size: len(entry.Data)})
			again = append(again, entry.Data...)
		}
		if again = append(encodeAppend(e, a, form, table), again...); !bytes.Equal(again, message) {
			t.Fatalf("%x became %x", message, again)
		}
		if form == formFrames {
			err = checkFrames(a.Entries)
		} else {
			err = checkData(a.Entries)
		}
		if err == nil {
			clampCommit(a)
		}
	})
}
