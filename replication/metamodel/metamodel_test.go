package metamodel

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/segment/vfs/crashfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, disk *crashfs.FS) *Stores {
	t.Helper()
	fs := disk.Mount()
	if err := fs.MkdirAll("/m"); err != nil {
		t.Fatal(err)
	}
	if err := fs.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	s, err := Open(fs, "/m")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestOneSyncEachCall: the model may promise no more, and sync no less, than
// raft-boltdb.
func TestOneSyncEachCall(t *testing.T) {
	disk := crashfs.New(1)
	s := open(t, disk)
	calls := map[string]func() error{
		"StoreLogs":   func() error { return s.StoreLogs([]*raft.Log{{Index: 1}, {Index: 2}}) },
		"StoreLog":    func() error { return s.StoreLog(&raft.Log{Index: 3}) },
		"DeleteRange": func() error { return s.DeleteRange(3, 3) },
		"Set":         func() error { return s.Set([]byte("k"), []byte("v")) },
		"SetUint64":   func() error { return s.SetUint64([]byte("n"), 4) },
	}
	for name, call := range calls {
		before := disk.Count(crashfs.OpSync)
		if err := call(); err != nil {
			t.Fatal(err)
		}
		if got := disk.Count(crashfs.OpSync) - before; got != 1 {
			t.Errorf("%s syncs %d times", name, got)
		}
	}
}

// TestPowerCut cuts the power at each change of the disk: what returned is there,
// what did not is there in whole or not at all.
func TestPowerCut(t *testing.T) {
	for nth := 1; ; nth++ {
		disk := crashfs.New(int64(nth))
		s := open(t, disk)
		fault := disk.Inject(crashfs.Fault{Op: crashfs.OpChange, Nth: nth, Do: func() { disk.Crash(crashfs.CrashOptions{}) }})
		done := uint64(0)
		var err error
		for i := uint64(1); i <= 12 && err == nil; i += 2 {
			if err = s.StoreLogs([]*raft.Log{{Index: i, Term: 1, Data: []byte(fmt.Sprint(i))}, {Index: i + 1, Term: 1}}); err == nil {
				done = i + 1
			}
		}
		fault.Remove()
		crashed := err != nil
		_ = s.Close()
		disk.Crash(crashfs.CrashOptions{})
		s = open(t, disk)
		last, _ := s.LastIndex()
		if last < done || last > done+2 || last%2 != 0 {
			t.Fatalf("crash at change %d: last index %d, %d were stored", nth, last, done)
		}
		for i := uint64(1); i <= last; i++ {
			var l raft.Log
			if err := s.GetLog(i, &l); err != nil || i%2 == 1 && string(l.Data) != fmt.Sprint(i) {
				t.Fatalf("crash at change %d: entry %d: %q, %v", nth, i, l.Data, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if !crashed {
			return
		}
	}
}

func TestDamageIsNotCut(t *testing.T) {
	disk := crashfs.New(1)
	s := open(t, disk)
	for i := uint64(1); i <= 3; i++ {
		if err := s.StoreLog(&raft.Log{Index: i}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := disk.FlipBit("/m/raft.model", 8*(headSize+5)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(disk.Mount(), "/m"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("damage in the middle: %v", err)
	}
}
