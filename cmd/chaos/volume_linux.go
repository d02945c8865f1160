package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// volumeBytes is the size of a broker's disk.
const volumeBytes = 512 << 20

// ballast is the file that fills a disk.
const ballast = "ballast"

// volume is a small disk in a file, mounted where a broker's data folder is.
type volume struct {
	image, dir string

	// folder is open on the mounted disk, so that thawing it needs no look-up on a
	// disk that hangs.
	folder *os.File

	mu      sync.Mutex
	frozen  bool
	mounted bool
}

// FIFREEZE and FITHAW of linux/fs.h, which package unix does not have.
const (
	fifreeze = 0xC0045877
	fithaw   = 0xC0045878
)

// newVolume makes and mounts a disk at dir, which it makes, too.
func newVolume(dir string) (*volume, error) {
	v := &volume{image: dir + ".image", dir: dir}
	f, err := os.Create(v.image)
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	if err := errors.Join(f.Truncate(volumeBytes), f.Close(), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	if err := command("", "mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0", v.image); err != nil {
		return nil, err
	}
	if err := command("", "mount", "-o", "loop", v.image, dir); err != nil {
		return nil, err
	}
	v.mounted = true
	if v.folder, err = os.Open(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("disk: %w", err), command("", "umount", dir))
	}
	// A disk of a broker holds nothing that is not its own.
	return v, os.Remove(filepath.Join(dir, "lost+found"))
}

// fill leaves no byte free.
func (v *volume) fill() error {
	f, err := os.Create(filepath.Join(v.dir, ballast))
	if err != nil {
		return fmt.Errorf("fill disk: %w", err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for len(block) > 0 {
		_, err := f.Write(block)
		switch {
		case errors.Is(err, unix.ENOSPC):
			block = block[:len(block)/2]
		case err != nil:
			return fmt.Errorf("fill disk: %w", err)
		}
	}
	return nil
}

// empty takes the ballast away.
func (v *volume) empty() error {
	if err := os.Remove(filepath.Join(v.dir, ballast)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("empty disk: %w", err)
	}
	return nil
}

// freeze makes every write and sync hang until thaw.
func (v *volume) freeze() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.frozen {
		return nil
	}
	if err := unix.IoctlSetInt(int(v.folder.Fd()), fifreeze, 0); err != nil {
		return fmt.Errorf("freeze disk %s: %w", v.dir, err)
	}
	v.frozen = true
	return nil
}

func (v *volume) thaw() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.frozen {
		return nil
	}
	v.frozen = false
	if err := unix.IoctlSetInt(int(v.folder.Fd()), fithaw, 0); err != nil {
		return fmt.Errorf("thaw disk %s: %w", v.dir, err)
	}
	return nil
}

// slow freezes the disk again and again for a while, until ctx ends: a sync takes as
// long as what is left of one.
func (v *volume) slow(ctx context.Context, frozen, thawed time.Duration) error {
	for rest(ctx, thawed) {
		if err := v.freeze(); err != nil {
			return err
		}
		rest(ctx, frozen)
		if err := v.thaw(); err != nil {
			return err
		}
	}
	return nil
}

// close unmounts the disk; keep moves what is on it to where it was mounted first.
func (v *volume) close(keep bool) error {
	if !v.mounted {
		return nil
	}
	if err := v.thaw(); err != nil {
		return err
	}
	kept := v.dir + ".kept"
	if keep {
		if err := errors.Join(v.empty(), os.CopyFS(kept, os.DirFS(v.dir))); err != nil {
			return fmt.Errorf("keep disk: %w", err)
		}
	}
	if err := errors.Join(v.folder.Close(), command("", "umount", v.dir)); err != nil {
		return err
	}
	v.mounted = false
	if keep {
		return errors.Join(os.Remove(v.image), os.Remove(v.dir), os.Rename(kept, v.dir))
	}
	return os.Remove(v.image)
}

// removeLeftoverVolumes thaws and unmounts the disks of processes that are gone: a
// frozen one would hang whoever lists it.
func removeLeftoverVolumes() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	var faults []error
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.Contains(fields[1], stagePrefix) {
			continue
		}
		_, rest, _ := strings.Cut(fields[1], stagePrefix)
		number, _, _ := strings.Cut(rest, "-")
		if pid, err := strconv.Atoi(number); err != nil || alive(pid) {
			continue
		}
		if folder, err := os.Open(fields[1]); err == nil {
			unix.IoctlSetInt(int(folder.Fd()), fithaw, 0) // EINVAL if it was not frozen
			folder.Close()
		}
		faults = append(faults, command("", "umount", fields[1]))
	}
	return errors.Join(faults...)
}

// alive reports whether there is such a process.
func alive(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return !errors.Is(err, os.ErrNotExist)
}
