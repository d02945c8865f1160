package replication

import (
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// storeOf is a log store on an empty log that holds one configuration entry.
func storeOf(t *testing.T, fs *crashfs.FS) *logStore {
	t.Helper()
	must(t, fs.MkdirAll("/data"))
	l, err := log.Create(log.Options{FS: fs, Dir: "/data/0", Identity: log.Identity{Topic: "t", TopicID: segment.NewTopicID(), Incarnation: 1}})
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	s := &logStore{log: l, proposals: newProposalTable(), failed: func(error) {}, appended: func(*Proposal) {}}
	must(t, s.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{
		Servers: []raft.Server{{ID: "1/0000000000000001", Address: "1/0000000000000001"}}})}))
	return s
}

// command is an entry as a leader would send it.
func command(index, term uint64, base segment.Offset, v uint64) *raft.Log {
	frame := batch(-1, -1, -1, v)
	segment.Stamp(frame, base, segment.Term(term))
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: frame}
}

func TestLogStoreSpeaksAsRaftExpects(t *testing.T) {
	s := storeOf(t, crashfs.New(1))
	must(t, s.StoreLogs([]*raft.Log{command(2, 1, 0, 10), command(3, 1, 1, 11), {Index: 4, Term: 2, Type: raft.LogNoop}}))

	var entry raft.Log
	if err := s.GetLog(5, &entry); err != raft.ErrLogNotFound { //nolint:errorlint // raft compares identity
		t.Errorf("GetLog beyond the end: %v, want raft.ErrLogNotFound itself", err)
	}
	must(t, s.GetLog(1, &entry))
	if entry.Type != raft.LogConfiguration || len(raft.DecodeConfiguration(entry.Data).Servers) != 1 {
		t.Errorf("configuration entry came back as %v with %d bytes", entry.Type, len(entry.Data))
	}
	must(t, s.GetLog(2, &entry))
	if entry.Index != 2 || entry.Term != 1 || entry.Type != raft.LogCommand || entry.Data != nil {
		t.Errorf("record entry: %+v, want index, term and type without bytes", entry)
	}
	must(t, s.GetLog(4, &entry))
	if entry.Type != raft.LogNoop || entry.Term != 2 {
		t.Errorf("no-op: %+v", entry)
	}
}

func TestDeleteRangeCutsOnlySuffixes(t *testing.T) {
	s := storeOf(t, crashfs.New(1))
	must(t, s.StoreLogs([]*raft.Log{command(2, 1, 0, 10), command(3, 1, 1, 11), command(4, 1, 2, 12)}))
	if _, err := s.log.Apply(2); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(1, 2); err == nil {
		t.Error("a prefix was deleted")
	}
	must(t, s.DeleteRange(3, 4))
	if last, _ := s.LastIndex(); last != 2 {
		t.Errorf("the log ends at %d after a cut from 3", last)
	}
	must(t, s.StoreLogs([]*raft.Log{command(3, 2, 1, 21)}))
	info, err := s.log.Info(3)
	must(t, err)
	if info.Term != 2 || info.Base != 1 {
		t.Errorf("entry 3 after cut and append: %+v", info)
	}
	if err := s.DeleteRange(2, 3); !errors.Is(err, log.ErrCommitted) {
		t.Errorf("cutting an applied entry: %v, want log.ErrCommitted", err)
	}
}

func TestCutOfEverythingKeepsTheBase(t *testing.T) {
	s := storeOf(t, crashfs.New(1))
	must(t, s.DeleteRange(1, 1))
	must(t, s.StoreLogs([]*raft.Log{command(1, 2, 0, 10)}))
	if last, _ := s.LastIndex(); last != 1 {
		t.Errorf("last index %d", last)
	}
}

func TestStoreLogsIsAtomic(t *testing.T) {
	fs := crashfs.New(1)
	s := storeOf(t, fs)
	before := s.log.LastIndex()
	fs.Inject(crashfs.Fault{Op: crashfs.OpWrite, PathContains: ".log", Nth: 1, Err: vfs.ErrNoSpace})
	var poison error
	s.failed = func(err error) { poison = err }
	if err := s.StoreLogs([]*raft.Log{command(2, 1, 0, 10), command(3, 1, 1, 11)}); !errors.Is(err, vfs.ErrNoSpace) {
		t.Fatalf("StoreLogs on a full disk: %v", err)
	}
	if s.log.LastIndex() != before || poison == nil {
		t.Errorf("after a failed append the log ends at %d (before: %d), poisoned with %v", s.log.LastIndex(), before, poison)
	}
	if err := s.StoreLogs([]*raft.Log{command(2, 1, 0, 10)}); !errors.Is(err, errPoisoned) {
		t.Errorf("a poisoned instance stored entries: %v", err)
	}
	// The next instance works on the log as it is.
	next := &logStore{log: s.log, proposals: newProposalTable(), failed: func(error) {}, appended: func(*Proposal) {}}
	must(t, next.StoreLogs([]*raft.Log{command(2, 1, 0, 10)}))
}

func TestFollowersCheckWhatTheyAreSent(t *testing.T) {
	for name, entry := range map[string]*raft.Log{
		"wrong offset":         command(2, 1, 7, 10),
		"wrong index":          command(9, 1, 0, 10),
		"stamped in a term":    {Index: 2, Term: 3, Type: raft.LogCommand, Data: command(2, 1, 0, 10).Data},
		"not a frame":          {Index: 2, Term: 1, Type: raft.LogCommand, Data: []byte("hello")},
		"unknown type of raft": {Index: 2, Term: 1, Type: raft.LogAddPeerDeprecated},
	} {
		t.Run(name, func(t *testing.T) {
			s := storeOf(t, crashfs.New(1))
			if err := s.StoreLog(entry); err == nil {
				t.Error("stored")
			}
			if s.log.LastIndex() != 1 {
				t.Errorf("the log ends at %d", s.log.LastIndex())
			}
		})
	}
}

// TestPoisonedInstanceNeitherCutsNorVotes: raft's idea of its last entry is wrong
// after a failed append, and with it whom it would vote for and what it would cut.
func TestPoisonedInstanceNeitherCutsNorVotes(t *testing.T) {
	fs := crashfs.New(1)
	s := storeOf(t, fs)
	must(t, s.StoreLogs([]*raft.Log{command(2, 1, 0, 10)}))
	votes, err := OpenVotes(fs, "/data/votes.log")
	must(t, err)
	t.Cleanup(func() { must(t, votes.Close()) })
	group := transport.GroupID{Topic: segment.NewTopicID()}
	must(t, votes.Register(group, 1))
	var started atomic.Bool
	started.Store(true)
	stable := stableStore{votes.Group(group), nil, &s.poisoned, &started, func(err error) { t.Errorf("a term was not stored: %v", err) }}
	must(t, stable.SetUint64([]byte("CurrentTerm"), 3))
	s.poison(vfs.ErrNoSpace)
	if err := s.DeleteRange(2, 2); !errors.Is(err, errPoisoned) {
		t.Errorf("DeleteRange: %v", err)
	}
	if last, _ := s.LastIndex(); last != 2 {
		t.Errorf("the log ends at %d", last)
	}
	must(t, stable.SetUint64([]byte("LastVoteTerm"), 3))
	if err := stable.Set([]byte("LastVoteCand"), []byte("2/b")); !errors.Is(err, errPoisoned) {
		t.Errorf("vote: %v", err)
	}
	if cand, err := votes.Group(group).Get([]byte("LastVoteCand")); err == nil {
		t.Errorf("a vote for %s is in the file", cand)
	}
}

// TestCheckpointIsASnapshotOnlyAtStart: listed later, raft would send it to a
// follower that lacks what is before it. Then only the end of a sealed segment is, of
// the log as it is, without content.
func TestCheckpointIsASnapshotOnlyAtStart(t *testing.T) {
	configuration := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "1/a", Address: "1/a"}}})
	l, err := log.Create(log.Options{FS: crashfs.New(1).Mount(), Dir: "/replica", Identity: log.Identity{Cluster: "c", Incarnation: 1}, SegmentBytes: 1 << 10})
	must(t, err)
	defer l.Close()
	s := &snapshotStore{log: l, checkpoint: log.Checkpoint{Index: 7, Term: 3, Configuration: configuration, ConfigurationIndex: 1}}
	listed, err := s.List()
	must(t, err)
	if len(listed) != 1 || listed[0].Index != 7 || listed[0].Term != 3 || listed[0].ConfigurationIndex != 1 || len(listed[0].Configuration.Servers) != 1 {
		t.Errorf("at the start: %+v", listed)
	}
	s.started.Store(true)
	if listed, err = s.List(); err != nil || len(listed) != 0 {
		t.Errorf("with nothing sealed: %+v, %v", listed, err)
	}
	for range 40 {
		a := l.Begin()
		frame := batch(-1, -1, -1, 1)
		segment.Stamp(frame, a.NextOffset(), 5)
		must(t, a.Stage(log.Entry{Index: a.NextIndex(), Term: 5, Kind: segment.KindRecords, Frame: frame}))
		must(t, a.Commit())
	}
	if listed, err = s.List(); err != nil || len(listed) != 0 {
		t.Errorf("with nothing applied: %+v, %v", listed, err)
	}
	_, err = l.Apply(30)
	must(t, err)
	if listed, err = s.List(); err != nil || len(listed) != 1 || listed[0].Index == 0 || listed[0].Index > 30 || listed[0].Term != 5 || listed[0].Size != 0 {
		t.Fatalf("afterwards: %+v, %v", listed, err)
	}
	meta, content, err := s.Open(listed[0].ID)
	must(t, err)
	if b, err := io.ReadAll(content); meta.Index != listed[0].Index || len(b) != 0 || err != nil {
		t.Errorf("opened %+v with %d bytes, %v", meta, len(b), err)
	}
	_, err = l.Apply(40)
	must(t, err)
	for _, id := range []string{listed[0].ID, "checkpoint"} {
		if _, _, err := s.Open(id); err == nil {
			t.Errorf("%s was opened, which is not the newest", id)
		}
	}
	if _, err := s.Create(1, 1, 1, raft.Configuration{}, 1, nil); !errors.Is(err, errNoSnapshots) {
		t.Errorf("Create: %v", err)
	}
}
