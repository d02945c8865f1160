package crashfs_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestFaults checks which call a fault hits and what it leaves.
func TestFaults(t *testing.T) {
	own := errors.New("own error")
	tests := []struct {
		name  string
		fault crashfs.Fault
		want  []error // of four writes to b.log
		left  string
	}{
		{"first", crashfs.Fault{Op: crashfs.OpWrite}, []error{crashfs.ErrInjected, nil, nil, nil}, "\x00234"},
		{"third", crashfs.Fault{Op: crashfs.OpWrite, Nth: 3, Err: own}, []error{nil, nil, own, nil}, "12\x004"},
		{"from second on", crashfs.Fault{Op: crashfs.OpWrite, Nth: 2, Repeat: true, Err: vfs.ErrNoSpace},
			[]error{nil, vfs.ErrNoSpace, vfs.ErrNoSpace, vfs.ErrNoSpace}, "1"},
		{"path", crashfs.Fault{Op: crashfs.OpWrite, PathContains: "b.log"}, []error{crashfs.ErrInjected, nil, nil, nil}, "\x00234"},
		{"other path", crashfs.Fault{Op: crashfs.OpWrite, PathContains: ".idx"}, make([]error, 4), "1234"},
		{"other op", crashfs.Fault{Op: crashfs.OpSync}, make([]error, 4), "1234"},
		{"any change", crashfs.Fault{Op: crashfs.OpChange, Nth: 3}, []error{nil, crashfs.ErrInjected, nil, nil}, "1\x0034"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			disk := crashfs.New(1)
			fault := disk.Inject(tt.fault)
			file := must(disk.Create("b.log"))(t)
			var got []error
			for i, text := range []string{"1", "2", "3", "4"} {
				_, err := file.WriteAt([]byte(text), int64(i))
				got = append(got, err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateErrors()); diff != "" {
				t.Error(diff)
			}
			fault.Remove()
			wantRead(t, file, 0, tt.left)
		})
	}
}

// TestShortWrite checks that half of the write is there, and the error says so.
func TestShortWrite(t *testing.T) {
	disk := crashfs.New(1)
	file := must(disk.Create("a"))(t)
	disk.Inject(crashfs.Fault{Op: crashfs.OpWrite, Short: true})
	n, err := file.WritevAt([][]byte{[]byte("123"), []byte("456")}, 0)
	if n != 3 || !errors.Is(err, crashfs.ErrInjected) {
		t.Errorf("WritevAt = %d, %v", n, err)
	}
	wantRead(t, file, 0, "123")
}

// TestStall checks that a stalled call goes on when released, and ends with
// ErrCrashed when the power is cut.
func TestStall(t *testing.T) {
	for _, crash := range []bool{false, true} {
		disk := crashfs.New(1)
		file := must(disk.Create("a"))(t)
		release, begun := make(chan struct{}), make(chan struct{})
		disk.Inject(crashfs.Fault{Op: crashfs.OpSync, Stall: release, Do: func() { close(begun) }})
		var wg sync.WaitGroup
		var err error
		wg.Go(func() { err = file.Sync() })
		<-begun
		write(t, file, "others go on", 0)
		if crash {
			disk.Crash(crashfs.CrashOptions{})
		} else {
			close(release)
		}
		wg.Wait()
		if want := crash; want != errors.Is(err, crashfs.ErrCrashed) || !want && err != nil {
			t.Errorf("crash %v: %v", crash, err)
		}
	}
}

// TestCrashAtCall checks both crash points of a call: before it has an effect,
// and after it, before its caller knows.
func TestCrashAtCall(t *testing.T) {
	for _, after := range []bool{false, true} {
		disk := crashfs.New(1)
		check(t, vfs.WriteFile(disk, "a", []byte("old")))
		file := must(disk.Open("a"))(t)
		write(t, file, "new", 0)
		cut := func() { disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing}) }
		fault := crashfs.Fault{Op: crashfs.OpSync, Do: cut}
		want := "old"
		if after {
			fault, want = crashfs.Fault{Op: crashfs.OpSync, After: cut}, "new"
		}
		disk.Inject(fault)
		wantError(t, file.Sync(), crashfs.ErrCrashed)
		wantFile(t, disk, "a", want)
	}
}

// TestTrace checks the record of calls, by which tests count syncs.
func TestTrace(t *testing.T) {
	disk := crashfs.New(1)
	check(t, disk.MkdirAll("d"))
	syncs := disk.Count(crashfs.OpSync)
	trace := disk.Trace()
	check(t, vfs.WriteFile(disk, "d/m", []byte("data")))
	want := []crashfs.Event{
		{Op: crashfs.OpRemove, Path: "d/m.tmp"}, {Op: crashfs.OpCreate, Path: "d/m.tmp"},
		{Op: crashfs.OpWrite, Path: "d/m.tmp", Length: 4}, {Op: crashfs.OpSync, Path: "d/m.tmp"},
		{Op: crashfs.OpClose, Path: "d/m.tmp"}, {Op: crashfs.OpRename, Path: "d/m"}, {Op: crashfs.OpSyncDir, Path: "d"},
	}
	if diff := cmp.Diff(want, trace.Stop(), cmpopts.IgnoreFields(crashfs.Event{}, "Err")); diff != "" {
		t.Error(diff)
	}
	if n := trace.Count(crashfs.OpSync, "d/"); n != 1 || disk.Count(crashfs.OpSync) != syncs+1 {
		t.Errorf("%d syncs traced, %d counted", n, disk.Count(crashfs.OpSync)-syncs)
	}
	if n := trace.Count(crashfs.OpChange, ""); n != 6 {
		t.Errorf("%d changes", n)
	}
}

// TestConcurrentUse runs everything at once, crashes included, for the race
// detector.
func TestConcurrentUse(t *testing.T) {
	disk := crashfs.New(1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				mount := disk.Mount()
				file, err := mount.Create("a")
				if err != nil {
					file, err = mount.Open("a")
				}
				if err != nil {
					continue
				}
				file.WriteAt([]byte("data"), 0)
				file.Sync()
				file.ReadAt(make([]byte, 4), 0)
				mount.Rename("a", "b")
				mount.SyncDir("/")
				mount.Remove("b")
				mount.List("/")
				file.Close()
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			disk.Crash(crashfs.CrashOptions{})
		}
	})
	wg.Wait()
}
