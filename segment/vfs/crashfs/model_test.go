package crashfs_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// fileModel is a file done naively: every content it had since the last sync.
type fileModel struct {
	versions [][]byte // the first is durable, the last volatile
	cut      bool     // a cut is not synced
}

func (m *fileModel) now() []byte { return m.versions[len(m.versions)-1] }

func (m *fileModel) resize(data []byte, size int) []byte {
	out := make([]byte, size)
	copy(out, data)
	return out
}

// allows says what is impossible about a content after a crash, or "".
func (m *fileModel) allows(got []byte) string {
	if !slices.ContainsFunc(m.versions, func(v []byte) bool { return len(v) == len(got) }) {
		return fmt.Sprintf("never was %d bytes long", len(got))
	}
	unit := 512
	if m.cut { // a cut and a lost write may meet within a sector
		unit = 1
	}
	padded := make([][]byte, len(m.versions))
	for i, v := range m.versions {
		padded[i] = m.resize(v, max(len(v), len(got)))
	}
	for at := 0; at < len(got); at += unit {
		end := min(at+unit, len(got))
		if !slices.ContainsFunc(padded, func(v []byte) bool { return bytes.Equal(v[at:end], got[at:end]) }) {
			return fmt.Sprintf("bytes %d to %d are of no version", at, end)
		}
	}
	return ""
}

// TestFileModel compares a file under random writes, cuts, syncs and crashes
// with the naive model.
func TestFileModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := crashfs.New(rapid.Int64().Draw(t, "seed"))
		if err := vfs.WriteFile(disk, "a", nil); err != nil {
			t.Fatal(err)
		}
		file, err := disk.Open("a")
		if err != nil {
			t.Fatal(err)
		}
		model := &fileModel{versions: [][]byte{{}}}
		fill := byte(0)
		step := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		offset, length := rapid.IntRange(0, 12_000), rapid.IntRange(1, 10_000) // around a page
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				off, n := offset.Draw(t, "off"), length.Draw(t, "n")
				fill++
				data := bytes.Repeat([]byte{fill}, n)
				_, err := file.WriteAt(data, int64(off))
				step(err)
				next := model.resize(model.now(), max(len(model.now()), off+n))
				copy(next[off:], data)
				model.versions = append(model.versions, next)
			},
			"truncate": func(t *rapid.T) {
				size := offset.Draw(t, "size")
				step(file.Truncate(int64(size)))
				model.cut = model.cut || size < len(model.now())
				model.versions = append(model.versions, model.resize(model.now(), size))
			},
			"preallocate": func(t *rapid.T) {
				off, n := offset.Draw(t, "off"), length.Draw(t, "n")
				step(file.Preallocate(int64(off), int64(n)))
				model.versions = append(model.versions, model.resize(model.now(), max(len(model.now()), off+n)))
			},
			"sync": func(*rapid.T) {
				step(file.Sync())
				*model = fileModel{versions: [][]byte{model.now()}}
			},
			"crash": func(t *rapid.T) {
				keep := rapid.SampledFrom([]crashfs.Keep{crashfs.KeepRandom, crashfs.KeepRandom, crashfs.KeepNothing, crashfs.KeepEverything}).Draw(t, "keep")
				disk.Crash(crashfs.CrashOptions{Keep: keep})
				got, err := vfs.ReadFile(disk, "a", 1<<20)
				step(err)
				if problem := model.allows(got); problem != "" {
					t.Fatal(problem)
				}
				if keep == crashfs.KeepNothing && !bytes.Equal(got, model.versions[0]) || keep == crashfs.KeepEverything && !bytes.Equal(got, model.now()) {
					t.Fatalf("keep %d was not obeyed", keep)
				}
				*model = fileModel{versions: [][]byte{got}}
				file, err = disk.Open("a")
				step(err)
			},
			"": func(t *rapid.T) {
				got, err := vfs.ReadFile(disk, "a", 1<<20)
				step(err)
				if !bytes.Equal(got, model.now()) {
					t.Fatal("the volatile content differs")
				}
			},
		})
	})
}

// nameModel is a directory done naively: for each name, all it stood for since
// the last sync, the content of a file or "" for nothing.
type nameModel map[string][]string

func (m nameModel) now(name string) string {
	if states := m[name]; len(states) > 0 {
		return states[len(states)-1]
	}
	return ""
}

func (m nameModel) set(name, content string) {
	if len(m[name]) == 0 {
		m[name] = []string{""}
	}
	m[name] = append(m[name], content)
}

// TestNameModel compares a directory under random creations, renames, removals,
// syncs and crashes with the naive model.
func TestNameModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := crashfs.New(rapid.Int64().Draw(t, "seed"))
		model, serial := nameModel{}, 0
		name := rapid.SampledFrom([]string{"a", "b", "c"})
		step := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				n := name.Draw(t, "name")
				if model.now(n) != "" {
					return
				}
				serial++
				content := fmt.Sprint(serial)
				file, err := disk.Create(n)
				step(err)
				_, err = file.WriteAt([]byte(content), 0)
				step(err)
				step(file.Sync())
				step(file.Close())
				model.set(n, content)
			},
			"rename": func(t *rapid.T) {
				from, to := name.Draw(t, "from"), name.Draw(t, "to")
				content := model.now(from)
				if content == "" || from == to {
					return
				}
				step(disk.Rename(from, to))
				model.set(to, content)
				model.set(from, "")
			},
			"remove": func(t *rapid.T) {
				n := name.Draw(t, "name")
				if model.now(n) != "" {
					step(disk.Remove(n))
					model.set(n, "")
				}
			},
			"sync": func(*rapid.T) {
				step(disk.SyncDir("/"))
				for n := range model {
					model[n] = []string{model.now(n)}
				}
			},
			"crash": func(*rapid.T) {
				disk.Crash(crashfs.CrashOptions{})
				for _, n := range []string{"a", "b", "c"} {
					got := read(t, disk, n)
					if len(model[n]) == 0 && got != "" || len(model[n]) > 0 && !slices.Contains(model[n], got) {
						t.Fatalf("%s is %q after the crash, was %q", n, got, model[n])
					}
					model[n] = []string{got}
				}
			},
			"": func(t *rapid.T) {
				for _, n := range []string{"a", "b", "c"} {
					if got := read(t, disk, n); got != model.now(n) {
						t.Fatalf("%s is %q, must be %q", n, got, model.now(n))
					}
				}
			},
		})
	})
}

func read(t *rapid.T, fsys vfs.FS, name string) string {
	if _, err := fsys.Stat(name); err != nil {
		return ""
	}
	data, err := vfs.ReadFile(fsys, name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// BenchmarkAppendSync is a log under load: it must not be what tests wait for.
func BenchmarkAppendSync(b *testing.B) {
	disk := crashfs.New(1)
	file, err := disk.Create("log")
	if err != nil {
		b.Fatal(err)
	}
	frame := make([]byte, 4000)
	b.ReportAllocs()
	for i := range b.N {
		file.WriteAt(frame, int64(i%100_000)*int64(len(frame)))
		file.Sync()
	}
}
