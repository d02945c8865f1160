package replication

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// rewriteVotes writes the golden file anew. A change of it is a new format number.
var rewriteVotes = flag.Bool("rewrite-votes", false, "write testdata/votes_v1.golden anew")

// goldenVotes is a file with a settled round and one behind it, of every kind.
func goldenVotes() []byte {
	a := transport.GroupID{Topic: segment.TopicID{0: 0x0a, 15: 0xa0}, Partition: 1}
	b := transport.GroupID{Topic: segment.TopicID{0: 0x0b, 15: 0xb0}, Partition: 0x01020304}
	data, sequence := encodeVotesFile(map[transport.GroupID]groupState{
		a: {incarnation: 0x1111222233334444, term: 7, voteTerm: 6, voteCandidate: "node/00000000000000aa", doubt: true},
		b: {incarnation: 0x5555666677778888},
	})
	var records []byte
	for _, r := range []voteRecord{
		{kind: voteTerm, group: b, value: 0x0102030405060708},
		{kind: voteCast, group: b, value: 0x0102030405060708, text: "node/00000000000000bb"},
		{kind: voteForget, group: a},
	} {
		records = r.append(records)
	}
	return appendVotesRound(data, sequence, records)
}

// dumpBlocks is the blocks of a file as hex, without the zeros that end each.
func dumpBlocks(data []byte) string {
	var out strings.Builder
	for off := 0; off < len(data); off += votesBlock {
		block := bytes.TrimRight(data[off:min(off+votesBlock, len(data))], "\x00")
		if len(block) > 0 {
			fmt.Fprintf(&out, "block at %d\n%s", off, hex.Dump(block))
		}
	}
	return out.String()
}

func TestVotesGolden(t *testing.T) {
	const name = "testdata/votes_v1.golden"
	data := goldenVotes()
	if *rewriteVotes {
		must(t, os.WriteFile(name, []byte(dumpBlocks(data)), 0o644))
	}
	want, err := os.ReadFile(name)
	must(t, err)
	if diff := cmp.Diff(string(want), dumpBlocks(data)); diff != "" {
		t.Errorf("the format changed (-golden +now):\n%s", diff)
	}
	content, err := scanVotes(data)
	must(t, err)
	b := transport.GroupID{Topic: segment.TopicID{0: 0x0b, 15: 0xb0}, Partition: 0x01020304}
	groups := map[transport.GroupID]groupState{b: {incarnation: 0x5555666677778888, term: 0x0102030405060708,
		voteTerm: 0x0102030405060708, voteCandidate: "node/00000000000000bb"}}
	if diff := cmp.Diff(groups, content.groups, cmp.AllowUnexported(groupState{})); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
}

// spoil is a file of three rounds behind the settled part, with room behind them,
// and what is done to it. Round 3 is 3 blocks long.
type spoil struct {
	name  string
	do    func(file []byte, rounds [3]int) []byte
	tail  votesTail
	terms uint64 // rounds that are left
	err   error
}

// spoilt are the cases of recovery.
var spoilt = []spoil{
	{"nothing", func(f []byte, r [3]int) []byte { return f }, votesClean, 3, nil},
	{"the last round never written", func(f []byte, r [3]int) []byte { clear(f[r[2]:]); return f }, votesClean, 2, nil},
	{"first sector of the last round missing", func(f []byte, r [3]int) []byte { clear(f[r[2] : r[2]+votesSector]); return f }, votesTorn, 2, nil},
	{"a middle sector missing", func(f []byte, r [3]int) []byte { clear(f[r[2]+4*votesSector : r[2]+5*votesSector]); return f }, votesTorn, 2, nil},
	{"only the first sector written", func(f []byte, r [3]int) []byte { clear(f[r[2]+votesSector:]); return f }, votesTorn, 2, nil},
	{"the file ends inside it", func(f []byte, r [3]int) []byte { return f[:r[2]+700] }, votesTorn, 2, nil},
	{"flipped bit in its head", func(f []byte, r [3]int) []byte { f[r[2]+6] ^= 1; return f }, votesUncertain, 2, nil},
	{"flipped bit in its records", func(f []byte, r [3]int) []byte { f[r[2]+100] ^= 1; return f }, votesUncertain, 2, nil},
	{"flipped bit in the padding", func(f []byte, r [3]int) []byte { f[r[2]-1] ^= 1; return f }, votesClean, 3, nil},
	{"flipped bit in the round before", func(f []byte, r [3]int) []byte { f[r[1]+30] ^= 1; return f }, 0, 0, ErrVotesCorrupt},
	{"round before missing", func(f []byte, r [3]int) []byte { clear(f[r[1]:r[2]]); return f }, 0, 0, ErrVotesCorrupt},
	{"head of the round before missing", func(f []byte, r [3]int) []byte { clear(f[r[1] : r[1]+24]); return f }, 0, 0, ErrVotesCorrupt},
	{"rounds swapped", func(f []byte, r [3]int) []byte { copy(f[r[0]:r[1]], slices.Clone(f[r[1]:r[2]])); return f }, 0, 0, ErrVotesCorrupt},
	{"first round behind the settled part twice", func(f []byte, r [3]int) []byte { copy(f[r[1]:r[2]], f[r[0]:r[1]]); return f }, 0, 0, ErrVotesCorrupt},
	{"settled round flipped", func(f []byte, r [3]int) []byte { f[votesBlock+50] ^= 1; return f }, 0, 0, ErrVotesCorrupt},
	{"settled round missing with all behind it", func(f []byte, r [3]int) []byte { clear(f[votesBlock:]); return f }, 0, 0, ErrVotesCorrupt},
	{"garbage far behind the last round", func(f []byte, r [3]int) []byte { f[len(f)-1] = 1; return f }, 0, 0, ErrVotesCorrupt},
	{"header flipped", func(f []byte, r [3]int) []byte { f[9] ^= 1; return f }, 0, 0, ErrVotesCorrupt},
	{"header alone", func(f []byte, r [3]int) []byte { return f[:100] }, 0, 0, ErrVotesCorrupt},
	{"empty", func(f []byte, r [3]int) []byte { return nil }, 0, 0, ErrVotesCorrupt},
	{"newer format", func(f []byte, r [3]int) []byte {
		copy(f, withVersion(f[:votesFileHeader], votesVersion+1))
		return f
	}, 0, 0, ErrVotesVersion},
}

// withVersion is a file header with another format number and the right checksum.
func withVersion(header []byte, version byte) []byte {
	h := slices.Clone(header[:24])
	h[11] = version
	return binary.BigEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
}

// threeRounds is the file that the cases of spoilt begin with.
func threeRounds() (file []byte, rounds [3]int) {
	group := votesGroup(1)
	file, sequence := encodeVotesFile(map[transport.GroupID]groupState{group: {incarnation: 7}})
	for i := range rounds {
		rounds[i] = len(file)
		records := voteRecord{kind: voteTerm, group: group, value: uint64(i) + 1}.append(nil)
		for n := 0; i == 2 && len(records) < 9000; n++ {
			records = voteRecord{kind: voteCast, group: group, value: uint64(n) + 1, text: "node/00000000000000bb"}.append(records)
		}
		file = appendVotesRound(file, sequence+uint64(i), records)
	}
	return append(file, make([]byte, votesMaxRound+votesBlock)...), rounds
}

func TestVotesRecovery(t *testing.T) {
	for _, c := range spoilt {
		t.Run(c.name, func(t *testing.T) {
			file, rounds := threeRounds()
			content, err := scanVotes(c.do(file, rounds))
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if got := content.groups[votesGroup(1)].term; got != c.terms || content.tail != c.tail {
				t.Errorf("%d rounds left and tail %d, want %d and %d", got, content.tail, c.terms, c.tail)
			}
		})
	}
}

// TestVotesOpenAfterDamage: what is corrupt is refused and left alone, what is
// torn is cut, what is uncertain is kept beside and puts the groups in doubt for
// ever.
func TestVotesOpenAfterDamage(t *testing.T) {
	for _, c := range spoilt {
		t.Run(c.name, func(t *testing.T) {
			disk := votesDisk(t, 1)
			file, rounds := threeRounds()
			file = c.do(file, rounds)
			must(t, vfs.WriteFile(disk, votesPath, file))
			v, err := OpenVotes(disk, votesPath)
			if c.err != nil {
				left, readErr := vfs.ReadFile(disk, votesPath, votesMaxFile)
				if !errors.Is(err, c.err) || readErr != nil || !bytes.Equal(left, file) {
					t.Errorf("error %v, want %v with the file left alone (%v)", err, c.err, readErr)
				}
				return
			}
			must(t, err)
			checkDamage(t, v, c)
			must(t, v.Close())
			again, err := OpenVotes(disk, votesPath)
			must(t, err)
			checkDamage(t, again, c)
			must(t, again.Close())
			names, err := disk.List("data")
			must(t, err)
			if kept := slices.Contains(names, "votes.log.torn"); kept != (c.tail == votesUncertain) {
				t.Errorf("files %v", names)
			}
		})
	}
}

// checkDamage checks one opened file of spoilt.
func checkDamage(t *testing.T, v *Votes, c spoil) {
	t.Helper()
	_, known := v.Incarnation(votesGroup(1))
	doubt := c.tail == votesUncertain
	if known == doubt || v.InDoubt(votesGroup(1)) != doubt {
		t.Errorf("incarnation known %v, in doubt %v, want doubt %v", known, v.InDoubt(votesGroup(1)), doubt)
	}
	err := v.Group(votesGroup(1)).SetUint64(keyCurrentTerm, 10)
	if (err != nil) != doubt {
		t.Errorf("a term was stored with %v, in doubt %v", err, doubt)
	}
}

// TestVotesDoubtEndsWithANewIncarnation.
func TestVotesDoubtEndsWithANewIncarnation(t *testing.T) {
	disk := votesDisk(t, 1)
	file, rounds := threeRounds()
	file[rounds[2]+100] ^= 1
	must(t, vfs.WriteFile(disk, votesPath, file))
	v := openVotes(t, disk)
	must(t, v.Register(votesGroup(1), 7)) // the same one: no way out
	if !v.InDoubt(votesGroup(1)) {
		t.Error("registering the same incarnation ended the doubt")
	}
	must(t, v.Register(votesGroup(1), 8))
	if incarnation, ok := v.Incarnation(votesGroup(1)); !ok || incarnation != 8 {
		t.Errorf("incarnation %d, %v", incarnation, ok)
	}
}

// votesModel is what the file of votes must say: for every group the last state
// that was promised, and for the one operation that a crash cut off either.
type votesModel struct {
	disk   *crashfs.FS
	votes  *Votes
	groups map[transport.GroupID]groupState
}

// apply makes a change in the model and in the file. If the file fails, a crash
// must be the reason, and the change may have happened or not.
func (m *votesModel) apply(t *rapid.T, group transport.GroupID, record voteRecord, do func() error) {
	record.group = group
	after := map[transport.GroupID]groupState{}
	for k, s := range m.groups {
		after[k] = s
	}
	applyVote(after, record)
	if err := do(); err == nil {
		m.groups = after
		return
	} else if !errors.Is(err, crashfs.ErrCrashed) {
		t.Fatalf("failed without a crash: %v", err)
	}
	m.reopen(t, after)
}

// reopen opens the file after a crash, which must say what the model says, or
// what it would say had the last change happened.
func (m *votesModel) reopen(t *rapid.T, after map[transport.GroupID]groupState) {
	m.votes.Close()
	for {
		v, err := OpenVotes(m.disk, votesPath)
		if errors.Is(err, crashfs.ErrCrashed) {
			continue // the next fault hit recovery itself
		}
		if err != nil {
			t.Fatalf("recovery: %v", err)
		}
		m.votes = v
		break
	}
	options := cmp.AllowUnexported(groupState{})
	if cmp.Equal(m.votes.groups, after, options) {
		m.groups = after
		return
	}
	if diff := cmp.Diff(m.groups, m.votes.groups, options); diff != "" {
		t.Fatalf("after a crash (-promised +found):\n%s", diff)
	}
}

// TestVotesModel runs random writes with power cuts in the middle of anything,
// recovery included.
func TestVotesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := crashfs.New(rapid.Int64().Draw(t, "seed"))
		if err := errors.Join(disk.MkdirAll("data"), disk.SyncDir("/")); err != nil {
			t.Fatal(err)
		}
		v, err := OpenVotes(disk, votesPath)
		if err != nil {
			t.Fatal(err)
		}
		m := &votesModel{disk: disk, votes: v, groups: map[transport.GroupID]groupState{}}
		defer func() { m.votes.Close() }()
		group := rapid.Custom(func(t *rapid.T) transport.GroupID { return votesGroup(rapid.IntRange(0, 3).Draw(t, "n")) })
		t.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				id, incarnation := group.Draw(t, "group"), rapid.Uint64Range(1, 3).Draw(t, "incarnation")
				if s, ok := m.groups[id]; ok && s.incarnation == incarnation {
					t.Skip("registered already")
				}
				m.apply(t, id, voteRecord{kind: voteRegister, value: incarnation}, func() error { return m.votes.Register(id, incarnation) })
			},
			"forget": func(t *rapid.T) {
				id := group.Draw(t, "group")
				m.apply(t, id, voteRecord{kind: voteForget}, func() error { return m.votes.Forget(id) })
			},
			"term": func(t *rapid.T) {
				id := group.Draw(t, "group")
				s, ok := m.groups[id]
				if !ok {
					t.Skip("not registered")
				}
				term := s.term + rapid.Uint64Range(0, 3).Draw(t, "step")
				if term == 0 {
					t.Skip("no term")
				}
				m.apply(t, id, voteRecord{kind: voteTerm, value: term}, func() error { return m.votes.Group(id).SetUint64(keyCurrentTerm, term) })
			},
			"vote": func(t *rapid.T) {
				id := group.Draw(t, "group")
				if _, ok := m.groups[id]; !ok {
					t.Skip("not registered")
				}
				term, candidate := rapid.Uint64Range(1, 9).Draw(t, "term"), rapid.StringN(0, 40, votesMaxText).Draw(t, "candidate")
				m.apply(t, id, voteRecord{kind: voteCast, value: term, text: candidate}, func() error { return vote(m.votes.Group(id), term, candidate) })
			},
			"crash later": func(t *rapid.T) {
				options := crashfs.CrashOptions{Keep: crashfs.Keep(rapid.IntRange(0, 2).Draw(t, "keep"))}
				m.disk.Inject(crashfs.Fault{Op: crashfs.OpChange, Nth: rapid.IntRange(1, 12).Draw(t, "nth"), Do: func() { m.disk.Crash(options) }})
			},
			"crash now": func(t *rapid.T) {
				m.disk.Crash(crashfs.CrashOptions{})
				m.reopen(t, m.groups)
			},
			"restart": func(t *rapid.T) {
				m.votes.Close()
				m.reopen(t, m.groups)
			},
		})
	})
}

func FuzzVotesScan(f *testing.F) {
	f.Add(goldenVotes())
	file, rounds := threeRounds()
	for _, c := range spoilt {
		spoilt := c.do(slices.Clone(file), rounds)
		f.Add(spoilt[:min(len(spoilt), rounds[2]+2*votesBlock)]) // short, or the engine crawls
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		content, err := scanVotes(data)
		if err != nil {
			return
		}
		again, _ := encodeVotesFile(content.groups)
		copied, err := scanVotes(again)
		if err != nil || copied.tail != votesClean {
			t.Fatalf("written anew it is not valid: %v", err)
		}
		if diff := cmp.Diff(content.groups, copied.groups, cmp.AllowUnexported(groupState{})); diff != "" {
			t.Errorf("written anew (-read +again):\n%s", diff)
		}
	})
}
