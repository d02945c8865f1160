package log

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// machine drives a log and a naive model of it: lists of entries, from the first that
// ever was. The oracle after every crash: everything that was committed and neither
// cut nor trimmed is there, nothing was invented, and what is there is what one of the
// allowed histories left.
type machine struct {
	disk    *crashfs.FS
	l       *Log
	visible []stored // what the log shows
	// longer are what the disk may hold while a cut waits: a crash brings a prefix of
	// one of them back, not shorter than what is visible.
	longer  [][]stored
	applied segment.Index
	start   segment.Offset // the log start
	trying  segment.Index  // what an Apply under way may have applied
	term    segment.Term
	seed    uint64
	crashed bool
	full    bool
	killed  bool // the process died, the machine did not
	armed   *crashfs.Injected
}

func newMachine(t *rapid.T) *machine {
	m := &machine{disk: crashfs.New(rapid.Int64().Draw(t, "disk")), term: 1}
	l, err := Create(m.options())
	if err != nil {
		t.Fatal(err)
	}
	m.l = l
	m.armed = m.disk.Inject(crashfs.Fault{Nth: 1 << 30})
	m.armed.Remove()
	return m
}

func (m *machine) options() Options {
	o := smallOptions(m.disk.Mount())
	o.SameBoot = m.killed
	return o
}

// drafts draws what is appended.
func (m *machine) drafts(t *rapid.T) []draft {
	if rapid.IntRange(0, 4).Draw(t, "newTerm") == 0 {
		m.term++
	}
	var list []draft
	for range rapid.IntRange(1, 6).Draw(t, "entries") {
		m.seed++
		switch rapid.IntRange(0, 10).Draw(t, "kind") {
		case 10:
			start := rapid.IntRange(0, int(m.l.NextOffset())+1).Draw(t, "start")
			through := rapid.IntRange(0, int(m.l.LastIndex())+2).Draw(t, "through")
			list = append(list, trimDraft(m.term, segment.Offset(start), segment.Index(through)))
		case 0:
			list = append(list, internalFrame(m.term, segment.KindNoop, ""))
		case 1:
			list = append(list, internalFrame(m.term, segment.KindConfiguration, string(rune('a'+m.seed%26))))
		case 2:
			list = append(list, batchOfRecords(m.term, 1, 3000, m.seed, int64(m.seed)))
		case 3:
			list = append(list, producerBatch(m.term, int64(m.seed%3), 0, int32(m.seed), 1+int(m.seed%4)))
		default:
			list = append(list, batchOfRecords(m.term, 1+int(m.seed%3), rapid.IntRange(1, 600).Draw(t, "size"), m.seed, int64(m.seed)))
		}
	}
	return list
}

// append commits entries, or crashes in the middle of it.
func (m *machine) append(t *rapid.T) { m.commit(t, m.drafts(t)) }

func (m *machine) commit(t *rapid.T, drafts []draft) {
	a := m.l.Begin()
	list, err := stage(a, drafts)
	if err != nil {
		t.Fatal(err)
	}
	after := append(m.visible[:len(m.visible):len(m.visible)], list...)
	err = a.Commit()
	switch {
	case m.crashed:
		m.longer = append(m.longer, after)
		m.reopen(t)
	case m.full && errors.Is(err, ErrNoSpace):
		m.longer = append(m.longer, after)
	case err != nil:
		t.Fatal(err)
	default:
		m.visible, m.longer = after, nil
	}
}

// appendWithoutSpace commits entries on a disk that is nearly full.
func (m *machine) appendWithoutSpace(t *rapid.T) {
	m.disk.SetFree(int64(rapid.IntRange(0, 4).Draw(t, "free")) * 8 << 10)
	m.full = true
	m.append(t)
	m.disk.SetFree(-1)
	m.full = false
}

// allowed reports whether a crash may leave this.
func (m *machine) allowed(content []stored) bool {
	gone := int(m.l.FirstIndex() - 1)
	if gone+len(content) < len(m.visible) {
		return false
	}
	for _, list := range append(m.longer, m.visible) {
		if gone <= len(list) && isPrefix(content, list[gone:]) {
			return true
		}
	}
	return false
}

// cut takes a suffix off that is not applied.
func (m *machine) cut(t *rapid.T) {
	last := m.l.LastIndex()
	if last == m.applied {
		return
	}
	first := m.applied + segment.Index(rapid.IntRange(1, int(last-m.applied)).Draw(t, "first"))
	m.longer = append(m.longer, m.visible)
	if err := m.l.CutFrom(first); err != nil {
		t.Fatal(err)
	}
	m.visible = m.visible[:first-1]
	m.term++
}

func (m *machine) apply(t *rapid.T) {
	last := m.l.LastIndex()
	if last == m.applied {
		return
	}
	i := m.applied + segment.Index(rapid.IntRange(1, int(last-m.applied)).Draw(t, "apply"))
	m.trying = i
	_, err := m.l.Apply(i)
	if m.crashed {
		m.reopen(t)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.applied, m.start = i, max(m.start, startAsOf(m.visible, i))
	if m.l.StartOffset() != m.start {
		t.Fatalf("log start %d, must be %d", m.l.StartOffset(), m.start)
	}
}

// startAsOf is the log start once an entry is applied.
func startAsOf(list []stored, i segment.Index) (start segment.Offset) {
	for _, s := range list[:i] {
		if s.kind == segment.KindTrim {
			_, content, _ := segment.DecodeInternal(s.frame)
			trim, _ := segment.DecodeTrim(content)
			start = max(start, min(trim.Start, s.base))
		}
	}
	return start
}

// reclaim frees what was trimmed, all of it, and nothing else.
func (m *machine) reclaim(t *rapid.T) {
	err := m.l.Reclaim()
	if m.crashed {
		m.reopen(t)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.l.mu.RLock()
	left := m.l.trimmableLocked(m.l.applied)
	m.l.mu.RUnlock()
	files, err := m.disk.List(testDir)
	if err != nil || left > 0 {
		t.Fatalf("%d segments were left, %v", left, err)
	}
	for _, name := range files {
		if base, ours := segment.ParseName(name); ours && base < m.l.parts[0].base {
			t.Fatalf("%s is left of a trimmed segment, the first is %d", name, m.l.parts[0].base)
		}
	}
}

// checkTrimmed says which entries may be gone, given what trims were applied at most:
// those of segments that are wholly below the start and acknowledged.
func (m *machine) checkTrimmed(t *rapid.T) {
	gone := m.l.FirstIndex() - 1
	if gone == 0 {
		return
	}
	if last := m.visible[gone-1]; last.next > m.l.StartOffset() || gone > m.l.through || gone > m.l.Checkpoint().Index {
		t.Fatalf("entry %d, which ends at offset %d, is gone: log start %d, through %d, checkpoint %d",
			gone, last.next, m.l.StartOffset(), m.l.through, m.l.Checkpoint().Index)
	}
}

// closeAndOpen is a clean stop, or a crash during one.
func (m *machine) closeAndOpen(t *rapid.T) {
	err := m.l.Close()
	if m.crashed {
		m.reopen(t)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	o := m.options()
	o.CleanStop = true
	m.adopt(t, o)
	if m.l.Recovery().CutBytes != 0 {
		t.Fatalf("a clean stop was recovered: %+v", m.l.Recovery())
	}
}

func (m *machine) crash(t *rapid.T) {
	m.cutPower(t)
	m.reopen(t)
}

func (m *machine) cutPower(t *rapid.T) {
	keep := rapid.SampledFrom([]crashfs.Keep{crashfs.KeepRandom, crashfs.KeepNothing}).Draw(t, "keep")
	m.disk.Crash(crashfs.CrashOptions{Keep: keep})
	m.crashed, m.killed = true, false
}

// during arms a crash at some change of the disk that comes next: of the machine,
// or of the process, or of the process because of a sync that fails.
func (m *machine) during(t *rapid.T, action func(*rapid.T)) {
	switch rapid.IntRange(0, 3).Draw(t, "kill") {
	case 0, 1:
		m.duringKill(t, action)
		return
	case 2:
		m.duringFailedSync(t, action)
		return
	}
	keep := rapid.SampledFrom([]crashfs.Keep{crashfs.KeepRandom, crashfs.KeepNothing, crashfs.KeepEverything}).Draw(t, "keep")
	fault := crashfs.Fault{Op: crashfs.OpChange, Nth: rapid.IntRange(1, 14).Draw(t, "nth")}
	power := func() {
		m.disk.Crash(crashfs.CrashOptions{Keep: keep})
		m.crashed, m.killed = true, false
	}
	if rapid.Bool().Draw(t, "after") {
		fault.After = power
	} else {
		fault.Do = power
	}
	m.armed = m.disk.Inject(fault)
	action(t)
	m.armed.Remove()
}

// duringKill arms the death of the process: from some change on, maybe in the
// middle of a write, nothing reaches the kernel, which keeps what it was given.
func (m *machine) duringKill(t *rapid.T, action func(*rapid.T)) {
	m.armed = m.disk.Inject(crashfs.Fault{
		Op: crashfs.OpChange, Nth: rapid.IntRange(1, 14).Draw(t, "nth"), Repeat: true, Err: crashfs.ErrCrashed,
		Short: rapid.Bool().Draw(t, "short"), Do: func() {
			if !m.crashed {
				m.killed = true
			}
			m.crashed = true
		},
	})
	action(t)
	m.armed.Remove()
}

// duringFailedSync arms a sync that fails, of a file or of the folder. The process
// ends for it, and the next one finds in memory what is not on the disk.
func (m *machine) duringFailedSync(t *rapid.T, action func(*rapid.T)) {
	m.armed = m.disk.Inject(crashfs.Fault{
		Op:  rapid.SampledFrom([]crashfs.Op{crashfs.OpSync, crashfs.OpSyncDir}).Draw(t, "sync"),
		Nth: rapid.IntRange(1, 5).Draw(t, "nth"), Err: crashfs.ErrInjected, Do: func() {
			if !m.crashed {
				m.killed = true
			}
			m.crashed = true
		},
	})
	action(t)
	m.armed.Remove()
}

// reopen opens the log after a crash, with more crashes during the recovery.
func (m *machine) reopen(t *rapid.T) {
	_ = m.l.Close() // frees what it holds in memory
	m.armed.Remove()
	for range rapid.IntRange(0, 3).Draw(t, "crashes in recovery") {
		m.during(t, func(t *rapid.T) {
			l, err := Open(m.options())
			if err == nil {
				m.disk.Crash(crashfs.CrashOptions{})
				m.killed = false
				_ = l.Close()
			} else if !errors.Is(err, crashfs.ErrCrashed) && !errors.Is(err, crashfs.ErrInjected) {
				t.Fatal(err)
			}
		})
	}
	m.adopt(t, m.options())
	m.crashed, m.killed = false, false
}

// adopt opens the log and makes the model what it finds, if that is allowed.
func (m *machine) adopt(t *rapid.T, o Options) {
	m.armed.Remove()
	durable := m.l.Checkpoint().Index
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m.l = l
	content, err := contents(l)
	if err != nil {
		t.Fatal(err)
	}
	if !m.allowed(content) {
		t.Fatalf("after a crash the log has %d entries, which is none of the allowed histories (visible %d)", len(content), len(m.visible))
	}
	if c := l.Checkpoint().Index; c < durable || l.Applied() != c {
		t.Fatalf("checkpoint %d, applied %d, was durable at %d", c, l.Applied(), durable)
	}
	gone := int(l.FirstIndex() - 1)
	m.visible, m.longer, m.applied = append(m.visible[:gone:gone], content...), nil, l.Applied()
	m.term = max(m.term, l.LastTerm())
	least, most := startAsOf(m.visible, m.applied), max(m.start, startAsOf(m.visible, max(m.applied, m.trying)))
	if m.start = l.StartOffset(); m.start < least || m.start > most {
		t.Fatalf("log start %d after a start, must be %d to %d", m.start, least, most)
	}
	m.trying = 0
	m.checkTrimmed(t)
}

// check compares the log with the model.
func (m *machine) check(t *rapid.T) {
	if err := checkInvariants(m.l, m.visible[m.l.FirstIndex()-1:]); err != nil {
		t.Fatal(err)
	}
	m.checkTrimmed(t)
}

// TestModel runs the machine.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		t.Repeat(map[string]func(*rapid.T){
			"append":            m.append,
			"append2":           m.append,
			"append, no space":  m.appendWithoutSpace,
			"append and crash":  func(t *rapid.T) { m.during(t, m.append) },
			"cut":               m.cut,
			"apply":             m.apply,
			"apply and crash":   func(t *rapid.T) { m.during(t, m.apply) },
			"reclaim":           m.reclaim,
			"reclaim and crash": func(t *rapid.T) { m.during(t, m.reclaim) },
			"crash":             m.crash,
			"close":             m.closeAndOpen,
			"close and crash":   func(t *rapid.T) { m.during(t, m.closeAndOpen) },
			"":                  m.check,
		})
		_ = m.l.Close()
	})
}
