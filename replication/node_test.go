package replication

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// onBoot opens the folder as a process of one boot of the machine would.
func onBoot(t *testing.T, fs *crashfs.FS, boot string) *Node {
	t.Helper()
	n, err := openNode(fs.Mount(), "/var/lib/data", 3, boot)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNodeKeepsItsIdentity(t *testing.T) {
	fs := crashfs.New(1)
	n := onBoot(t, fs, "boot-1")
	first := n.Incarnation()
	if n.ID() != 3 || first == 0 || n.ClusterID() != "" || n.Starts() != 1 || n.SameBoot() || n.CleanStop() || n.MetadataIndex() != 0 {
		t.Fatalf("a new folder: %+v", n.read())
	}
	peers := []peerEntry{{2, 0xabc, "host2:1", 4}}
	for _, err := range []error{n.becomeMember("C1", peers), n.RaiseMetadataIndex(9, nil), n.RaiseMetadataIndex(4, nil), n.RaiseStarts(), n.RecordBoot()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if id := n.Identity(); id.Node != 3 || id.Incarnation != first || id.Cluster != "C1" {
		t.Errorf("identity %+v", id)
	}
	fs.Crash(crashfs.CrashOptions{}) // nothing of it may be lost
	_ = n.Close()
	n = onBoot(t, fs, "boot-1")
	want := nodeFile{Node: 3, Incarnation: first, Cluster: "C1", Member: true, Boot: "boot-1", MetadataIndex: 9, Starts: 3, Peers: peers}
	if diff := cmp.Diff(want, n.read()); diff != "" {
		t.Errorf("after a crash (-want +got):\n%s", diff)
	}
	if !n.SameBoot() || n.CleanStop() {
		t.Errorf("same boot %v, clean %v after a crash of the process", n.SameBoot(), n.CleanStop())
	}
}

// TestBootCountsOnceRecovered: a process that is killed while it recovers what a
// power cut left must not make the next start believe that there was none.
func TestBootCountsOnceRecovered(t *testing.T) {
	fs := crashfs.New(1)
	must(t, onBoot(t, fs, "boot-1").RecordBoot())
	fs.Crash(crashfs.CrashOptions{})
	if n := onBoot(t, fs, "boot-2"); n.SameBoot() {
		t.Fatal("another boot counts as the same")
	}
	fs.Crash(crashfs.CrashOptions{}) // before RecordBoot
	n := onBoot(t, fs, "boot-2")
	if n.SameBoot() {
		t.Error("a boot counts in which nothing was recovered yet")
	}
	must(t, n.RecordBoot())
	fs.Crash(crashfs.CrashOptions{})
	if n = onBoot(t, fs, "boot-2"); !n.SameBoot() {
		t.Error("the boot was not recorded")
	}
}

// TestCleanStopMark: the mark counts once. It is gone, durably, as soon as a
// process uses the folder.
func TestCleanStopMark(t *testing.T) {
	fs := crashfs.New(1)
	n := onBoot(t, fs, "boot-1")
	if err := errors.Join(n.MarkClean(), n.Close()); err != nil {
		t.Fatal(err)
	}
	n = onBoot(t, fs, "boot-2")
	if !n.CleanStop() || n.SameBoot() {
		t.Errorf("clean %v, same boot %v", n.CleanStop(), n.SameBoot())
	}
	fs.Crash(crashfs.CrashOptions{})
	_ = n.Close()
	if n = onBoot(t, fs, "boot-3"); n.CleanStop() {
		t.Error("the mark of an earlier stop survived")
	}
	_ = n.Close()
	if n = onBoot(t, fs, ""); n.SameBoot() {
		t.Error("an unknown boot counts as the same")
	}
	_ = n.Close()
	if n = onBoot(t, fs, ""); n.SameBoot() {
		t.Error("two unknown boots count as the same")
	}
}

func TestReincarnate(t *testing.T) {
	n := onBoot(t, crashfs.New(1), "b")
	before := n.Incarnation()
	if err := errors.Join(n.becomeMember("C1", nil), n.reincarnate()); err != nil {
		t.Fatal(err)
	}
	if n.Incarnation() == before || n.member() || n.ClusterID() != "C1" || n.Starts() != 1 {
		t.Errorf("%+v", n.read())
	}
}

// TestOpenNodeRefuses: each folder that must not be used, and that nothing in it
// was touched.
func TestOpenNodeRefuses(t *testing.T) {
	good, err := nodeFile{Node: 3, Incarnation: 0x1234, Cluster: "C1", Starts: 7}.encode()
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(good)
	flipped[slices.Index(flipped, '3')] = '4'
	rows := []struct {
		name  string
		files map[string]string
		want  error
		text  string
	}{
		{"a newer format", map[string]string{"FORMAT": "millrace 2\n", "node.json": string(good)}, ErrFolderFormat, `says "millrace 2"`},
		{"another program's", map[string]string{"FORMAT": "cafebabe"}, ErrFolderFormat, "FORMAT"},
		{"an endless format", map[string]string{"FORMAT": strings.Repeat("x", 2000)}, vfs.ErrTooLarge, "FORMAT"},
		{"another node's", map[string]string{"FORMAT": "millrace 1\n", "node.json": string(mustEncode(t, nodeFile{Node: 8, Incarnation: 1}))}, ErrFolderOfOther, "belongs to node 8, not to node 3: start with --node-id 8"},
		{"a flipped digit", map[string]string{"FORMAT": "millrace 1\n", "node.json": string(flipped)}, ErrNodeFile, "checksum"},
		{"an empty node.json", map[string]string{"FORMAT": "millrace 1\n", "node.json": ""}, ErrNodeFile, "node.json"},
		{"node.json lost", map[string]string{"FORMAT": "millrace 1\n", "votes.log": "x"}, ErrNodeFile, "has votes.log but no node.json"},
		{"topics without anything", map[string]string{"topics/a": "x"}, ErrNodeFile, "has topics but no node.json"},
	}
	for _, row := range rows {
		fs := crashfs.New(1)
		if err := fs.MkdirAll("/d/topics"); err != nil {
			t.Fatal(err)
		}
		if _, ok := row.files["topics/a"]; !ok {
			_ = fs.Remove("/d/topics")
		}
		for name, text := range row.files {
			if err := vfs.WriteFile(fs, filepath.Join("/d", name), []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := openNode(fs, "/d", 3, "b")
		if !errors.Is(err, row.want) || !strings.Contains(err.Error(), row.text) {
			t.Errorf("%s: %v", row.name, err)
		}
		for name, text := range row.files {
			if data, err := vfs.ReadFile(fs, filepath.Join("/d", name), 1<<20); err != nil || string(data) != text {
				t.Errorf("%s: %s was changed: %v", row.name, name, err)
			}
		}
		if errors.Is(row.want, ErrFolderFormat) {
			if names, _ := fs.List("/d"); len(names) != len(row.files) {
				t.Errorf("%s: the folder was touched: %v", row.name, names)
			}
		}
	}
	if _, err := openNode(crashfs.New(1), "/d", -1, ""); err == nil {
		t.Error("a negative node id was accepted")
	}
}

func mustEncode(t *testing.T, f nodeFile) []byte {
	t.Helper()
	data, err := f.encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestFolderInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	n, err := OpenNode(vfs.OS(), dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = OpenNode(vfs.OS(), dir, 1)
	if !errors.Is(err, ErrFolderInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("opened twice: %v", err)
	}
	if err := errors.Join(n.RecordBoot(), n.Close()); err != nil {
		t.Fatal(err)
	}
	if n, err = OpenNode(vfs.OS(), dir, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bootIDFile); err == nil && !n.SameBoot() {
		t.Error("two starts of one boot count as two boots")
	}
	if err := errors.Join(n.Close(), n.Close()); err != nil {
		t.Fatal(err)
	}
	if n.MarkClean() == nil {
		t.Error("a closed folder was written")
	}
}

// TestCrashWhileOpening cuts the power at each change that opening a folder makes;
// the next opening must find the folder usable, and the start counter above any
// that a caller has seen.
func TestCrashWhileOpening(t *testing.T) {
	for nth := 1; ; nth++ {
		fs := crashfs.New(int64(nth))
		fault := fs.Inject(crashfs.Fault{Op: crashfs.OpChange, Nth: nth, Do: func() { fs.Crash(crashfs.CrashOptions{}) }})
		n, err := openNode(fs.Mount(), "/x/y/data", 1, "b")
		seen := uint64(0)
		var incarnation metadata.Incarnation
		if err == nil {
			seen, incarnation = n.Starts(), n.Incarnation()
			_ = n.Close()
		}
		fault.Remove()
		fs.Crash(crashfs.CrashOptions{})
		again, openErr := openNode(fs.Mount(), "/x/y/data", 1, "b")
		if openErr != nil {
			t.Fatalf("crash at change %d: %v", nth, openErr)
		}
		if again.Starts() <= seen || seen > 0 && again.Incarnation() != incarnation {
			t.Fatalf("crash at change %d: start %d after %d", nth, again.Starts(), seen)
		}
		_ = again.Close()
		if err == nil {
			t.Logf("%d changes", nth-1)
			return
		}
	}
}

func TestNodeFileGolden(t *testing.T) {
	f := nodeFile{Node: 2, Incarnation: 0x9f3c01d2a4b5c6d7, Cluster: "kOq2Fv9sTbW3mZx1LrYhDg", Member: true, Boot: "f0a1", Clean: true, MetadataIndex: 12, Starts: 3,
		Peers: []peerEntry{{1, 0x11, "10.0.0.1:33145", 8}, {3, 0x33, "broker-3:33145", 1}}}
	got := mustEncode(t, f)
	want, err := os.ReadFile("testdata/node.json")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the format changed (-golden +now):\n%s", diff)
	}
	read, err := decodeNodeFile(want)
	if diff := cmp.Diff(f, read); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestUnmadeTopicsAreKept: what may still be made is known after a crash, and another
// disk begins without.
func TestUnmadeTopicsAreKept(t *testing.T) {
	fs := crashfs.New(1)
	n := onBoot(t, fs, "boot-1")
	must(t, n.RaiseMetadataIndex(9, []uint64{3, 7}))
	if n.RaiseMetadataIndex(10, make([]uint64, maxUnmade+1)) == nil {
		t.Error("more unmade topics than the file may hold")
	}
	fs.Crash(crashfs.CrashOptions{})
	_ = n.Close()
	n = onBoot(t, fs, "boot-1")
	for index, want := range map[uint64]bool{1: false, 3: true, 5: false, 7: true, 9: false, 10: true} {
		if got := n.MayMake(index); got != want {
			t.Errorf("topic %d may be made: %v, want %v", index, got, want)
		}
	}
	must(t, n.RaiseMetadataIndex(3, []uint64{7}))
	if n.MayMake(3) || n.MetadataIndex() != 9 {
		t.Errorf("after topic 3 was made: %+v", n.read())
	}
	must(t, n.reincarnate())
	if n.MayMake(7) {
		t.Error("another disk makes what was given to the one before")
	}
	for _, wrong := range [][]uint64{{7, 3}, make([]uint64, maxUnmade+1)} {
		f := n.read()
		f.Unmade = wrong
		if _, err := decodeNodeFile(mustEncode(t, f)); err == nil {
			t.Errorf("%d unmade topics that no node writes were read", len(wrong))
		}
	}
	must(t, n.Close())
}

func FuzzNodeFile(f *testing.F) {
	seed, err := nodeFile{Node: 1, Incarnation: 2, Cluster: "C", Peers: []peerEntry{{2, 3, "a:1", 1}}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	if seed, err = (nodeFile{Node: 1, Incarnation: 2, MetadataIndex: 9, Unmade: []uint64{3, 7}}).encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := decodeNodeFile(data)
		if err != nil {
			return
		}
		again, err := file.encode()
		if err != nil {
			return // larger than a file may be
		}
		second, err := decodeNodeFile(again)
		if diff := cmp.Diff(file, second); err != nil || diff != "" {
			t.Fatalf("%v\n%s", err, diff)
		}
	})
}

func FuzzIntroduction(f *testing.F) {
	f.Add([]byte(`{"address":"a:1","list":["a:1","b:1"],"member":true,"you":{"incarnation":"00000000000000ff","starts":3},"up":{"replica":"1/00000000000000ff","last_term":1,"last_index":2}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = decodeIntroduction(data) })
}

// TestIdentityDoesNotWaitForTheDisk: the transport asks for it between two pings. If it
// waited for a sync that hangs, the whole node would fall silent with its disk.
func TestIdentityDoesNotWaitForTheDisk(t *testing.T) {
	fs := crashfs.New(1)
	n := onBoot(t, fs, "boot-1")
	hangs, release := make(chan struct{}), make(chan struct{})
	fs.Inject(crashfs.Fault{Op: crashfs.OpSync, Do: func() { close(hangs); <-release }})
	changed := make(chan error, 1)
	go func() { changed <- n.becomeMember("C1", nil) }()
	<-hangs
	asked := make(chan string, 1)
	go func() { asked <- n.Identity().Cluster }()
	select {
	case cluster := <-asked:
		if cluster != "" {
			t.Errorf("the cluster is %q before it is durable", cluster)
		}
	case <-time.After(testWait):
		t.Error("the identity waits for the disk")
	}
	close(release)
	must(t, <-changed)
	if n.ClusterID() != "C1" {
		t.Error("the change did not come")
	}
}
