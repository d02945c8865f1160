package log

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// machine drives a log and a naive model of it: lists of entries. The oracle after
// every crash: everything that was committed and not cut is there, nothing was
// invented, and what is there is what one of the allowed histories left.
type machine struct {
	disk    *crashfs.FS
	l       *Log
	visible []stored // what the log shows
	old     []stored // what the disk holds while a cut waits; else as visible
	pending bool     // a cut waits
	applied segment.Index
	term    segment.Term
	seed    uint64
	crashed bool
	armed   *crashfs.Injected
}

func newMachine(t *rapid.T) *machine {
	m := &machine{disk: crashfs.New(rapid.Int64().Draw(t, "disk")), term: 1}
	l, err := Create(m.options())
	if err != nil {
		t.Fatal(err)
	}
	m.l = l
	return m
}

func (m *machine) options() Options { return smallOptions(m.disk.Mount()) }

// drafts draws what is appended.
func (m *machine) drafts(t *rapid.T) []draft {
	if rapid.IntRange(0, 4).Draw(t, "newTerm") == 0 {
		m.term++
	}
	var list []draft
	for range rapid.IntRange(1, 6).Draw(t, "entries") {
		m.seed++
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
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
	before := m.onDisk()
	a := m.l.Begin()
	list, err := stage(a, drafts)
	if err != nil {
		t.Fatal(err)
	}
	after := append(m.visible[:len(m.visible):len(m.visible)], list...)
	err = a.Commit()
	if m.crashed {
		m.reopen(t, func(content []stored) bool {
			return len(content) >= len(m.visible) && (isPrefix(content, before) || isPrefix(content, after))
		})
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.visible, m.pending = after, false
}

func (m *machine) onDisk() []stored {
	if m.pending {
		return m.old
	}
	return m.visible
}

// cut takes a suffix off that is not applied.
func (m *machine) cut(t *rapid.T) {
	last := m.l.LastIndex()
	if last == m.applied {
		return
	}
	first := m.applied + segment.Index(rapid.IntRange(1, int(last-m.applied)).Draw(t, "first"))
	m.old, m.pending = m.onDisk(), true
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
	_, err := m.l.Apply(i)
	if m.crashed {
		m.reopen(t, m.unchanged)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.applied = i
}

// unchanged is what a crash leaves when nothing was appended.
func (m *machine) unchanged(content []stored) bool {
	return len(content) == len(m.onDisk()) && isPrefix(content, m.onDisk())
}

// closeAndOpen is a clean stop, or a crash during one.
func (m *machine) closeAndOpen(t *rapid.T) {
	err := m.l.Close()
	if m.crashed {
		m.reopen(t, m.unchanged)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	o := m.options()
	o.CleanStop = true
	m.adopt(t, o, m.unchanged)
	if m.l.Recovery().CutBytes != 0 {
		t.Fatalf("a clean stop was recovered: %+v", m.l.Recovery())
	}
}

func (m *machine) crash(t *rapid.T) {
	m.cutPower(t)
	m.reopen(t, m.unchanged)
}

func (m *machine) cutPower(t *rapid.T) {
	keep := rapid.SampledFrom([]crashfs.Keep{crashfs.KeepRandom, crashfs.KeepNothing}).Draw(t, "keep")
	m.disk.Crash(crashfs.CrashOptions{Keep: keep})
	m.crashed = true
}

// during arms a crash at some change of the disk that comes next.
func (m *machine) during(t *rapid.T, action func(*rapid.T)) {
	keep := rapid.SampledFrom([]crashfs.Keep{crashfs.KeepRandom, crashfs.KeepNothing, crashfs.KeepEverything}).Draw(t, "keep")
	fault := crashfs.Fault{Op: crashfs.OpChange, Nth: rapid.IntRange(1, 14).Draw(t, "nth")}
	power := func() {
		m.disk.Crash(crashfs.CrashOptions{Keep: keep})
		m.crashed = true
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

// reopen opens the log after a crash, with more crashes during the recovery.
func (m *machine) reopen(t *rapid.T, allowed func([]stored) bool) {
	_ = m.l.Close() // frees what it holds in memory
	for range rapid.IntRange(0, 3).Draw(t, "crashes in recovery") {
		m.crashed = false
		m.during(t, func(t *rapid.T) {
			l, err := Open(m.options())
			if err == nil {
				m.disk.Crash(crashfs.CrashOptions{})
				_ = l.Close()
			} else if !errors.Is(err, crashfs.ErrCrashed) {
				t.Fatal(err)
			}
		})
	}
	m.crashed = false
	m.adopt(t, m.options(), allowed)
}

// adopt opens the log and makes the model what it finds, if that is allowed.
func (m *machine) adopt(t *rapid.T, o Options, allowed func([]stored) bool) {
	if m.armed != nil {
		m.armed.Remove()
	}
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
	if !allowed(content) {
		t.Fatalf("after a crash the log has %d entries, which is none of the allowed histories (visible %d, on disk %d)",
			len(content), len(m.visible), len(m.onDisk()))
	}
	if c := l.Checkpoint().Index; c < durable || l.Applied() != c {
		t.Fatalf("checkpoint %d, applied %d, was durable at %d", c, l.Applied(), durable)
	}
	m.visible, m.pending, m.applied = content, false, l.Applied()
	m.term = max(m.term, l.LastTerm())
}

// check compares the log with the model.
func (m *machine) check(t *rapid.T) {
	if err := checkInvariants(m.l, m.visible); err != nil {
		t.Fatal(err)
	}
}

// TestModel runs the machine.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		t.Repeat(map[string]func(*rapid.T){
			"append":           m.append,
			"append2":          m.append,
			"append and crash": func(t *rapid.T) { m.during(t, m.append) },
			"cut":              m.cut,
			"apply":            m.apply,
			"apply and crash":  func(t *rapid.T) { m.during(t, m.apply) },
			"crash":            m.crash,
			"close":            m.closeAndOpen,
			"close and crash":  func(t *rapid.T) { m.during(t, m.closeAndOpen) },
			"":                 m.check,
		})
		_ = m.l.Close()
	})
}
