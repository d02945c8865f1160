package durability

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestCheckFolders: each partition must have its replicas, and all of them hold what
// was acknowledged.
func TestCheckFolders(t *testing.T) {
	fsys := crashfs.New(1)
	for node, events := range map[int][]Event{1: {ordered(0), ordered(1)}, 2: {ordered(0), ordered(1)}, 3: {ordered(0)}} {
		var frames [][]byte
		for i, e := range events {
			frames = append(frames, frameOf(e, int64(i)))
		}
		dir := filepath.Join("/", string(rune('0'+node)), "topics/events/0-abc")
		if err := fsys.MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
		file, err := fsys.Create(filepath.Join(dir, "00000000000000000000.log"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WritevAt(frames, 0); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	both := map[int]string{1: "/1", 2: "/2"}
	l, f := newTestLedger()
	l.Acked(ordered(0), 0)
	l.Acked(ordered(1), 1)
	if records, bytes, err := l.CheckFolders(fsys, both, "events", 2, []int64{2}); err != nil || records != 4 || bytes == 0 || f.Err() != nil {
		t.Errorf("two equal ones: %d records, %d bytes, %v, %v", records, bytes, err, f.Err())
	}
	if _, _, err := l.CheckFolders(fsys, both, "events", 3, []int64{2}); err == nil || !strings.Contains(err.Error(), "2 replicas on disk, not 3") {
		t.Errorf("one is missing: %v", err)
	}
	if _, _, err := l.CheckFolders(fsys, both, "events", 2, nil); err == nil || !strings.Contains(err.Error(), "never made") {
		t.Errorf("a partition too many: %v", err)
	}
	if _, _, err := l.CheckFolders(fsys, map[int]string{1: "/1", 3: "/3"}, "events", 2, []int64{2}); err != nil || f.Counts()[NL] == 0 {
		t.Errorf("one lacks a record: %v, %v", err, f.Err())
	}
	for _, name := range []string{"1.torn", "2.torn.kept"} {
		l, f := newTestLedger()
		if err := vfs.WriteFile(fsys, "/1/topics/events/0-abc/"+name, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.CheckFolders(fsys, both, "events", 2, []int64{2}); err != nil || f.Counts()[CE] != 1 {
			t.Errorf("an end in doubt, %s: %v, %v", name, err, f.Err())
		}
		if err := fsys.Remove("/1/topics/events/0-abc/" + name); err != nil {
			t.Fatal(err)
		}
	}
}
