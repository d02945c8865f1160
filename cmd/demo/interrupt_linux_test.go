package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/cmd/internal/testbinary"
)

// interruptLimit bounds how long Ctrl-C may take on a busy machine.
const interruptLimit = 30 * time.Second

// TestCtrlC: at whatever moment the demo is interrupted, it exits with 130 and
// leaves no process and no folder.
func TestCtrlC(t *testing.T) {
	binary, program := testbinary.Build(t), filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build demo: %v\n%s", err, out)
	}
	// A moment is something printed, or a file that is not empty.
	for name, moment := range map[string]struct{ printed, file string }{
		"the folder is made":           {file: "millrace-demo-*"},
		"brokers start":                {file: "millrace-demo-*/cluster/n1.log"},
		"brokers are ready":            {printed: "three brokers are ready"},
		"the load begins":              {printed: "group demo: member-1 ["},
		"a broker is down":             {printed: "SIGKILL to broker"},
		"the group reads what is left": {printed: "is ready again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDemo(t, program, binary)
			if moment.file != "" {
				d.awaitFile(moment.file)
			} else {
				d.awaitOutput(moment.printed)
			}
			d.interrupt()
		})
	}
}

// demoProcess is the demo as its user runs it.
type demoProcess struct {
	t       *testing.T
	dir     string // its temporary files
	command *exec.Cmd
	lines   chan string
	stderr  bytes.Buffer
}

func startDemo(t *testing.T, program, binary string) *demoProcess {
	t.Helper()
	d := &demoProcess{t: t, dir: t.TempDir(), lines: make(chan string, 1000)}
	d.command = exec.Command(program, "-millrace", binary, "-events", events, "-count", "20000")
	d.command.Env = append(os.Environ(), "TMPDIR="+d.dir)
	d.command.Stderr = &d.stderr
	reader, writer := io.Pipe()
	d.command.Stdout = writer
	if err := d.command.Start(); err != nil {
		t.Fatal(err)
	}
	scanned := make(chan struct{})
	go func() {
		defer close(scanned)
		defer close(d.lines)
		for in := bufio.NewScanner(reader); in.Scan(); {
			d.lines <- in.Text()
		}
	}()
	t.Cleanup(func() {
		d.command.Process.Kill()
		d.command.Wait()
		writer.Close()
		<-scanned
	})
	return d
}

// awaitOutput waits for a line.
func (d *demoProcess) awaitOutput(part string) {
	d.t.Helper()
	for deadline := time.After(limit); ; {
		select {
		case line := <-d.lines:
			if strings.Contains(line, part) {
				return
			}
		case <-deadline:
			d.t.Fatalf("it never said %q: %s", part, &d.stderr)
		}
	}
}

// awaitFile waits for a file that is not empty.
func (d *demoProcess) awaitFile(pattern string) {
	d.t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		names, _ := filepath.Glob(filepath.Join(d.dir, pattern))
		for _, name := range names {
			if info, err := os.Stat(name); err == nil && info.Size() > 0 {
				return
			}
		}
		select {
		case <-time.After(time.Millisecond):
		case <-d.t.Context().Done():
		}
	}
	d.t.Fatalf("there never was %s: %s", pattern, &d.stderr)
}

// interrupt is Ctrl-C, and looks at what is left.
func (d *demoProcess) interrupt() {
	d.t.Helper()
	begin := time.Now()
	if err := d.command.Process.Signal(os.Interrupt); err != nil {
		d.t.Fatal(err)
	}
	late := time.AfterFunc(interruptLimit, func() { d.command.Process.Signal(syscall.SIGQUIT) })
	d.command.Wait() // its error is the exit code, which is looked at below
	state := d.command.ProcessState
	if !late.Stop() {
		d.t.Errorf("it took more than %s; its goroutines:\n%s", interruptLimit, &d.stderr)
	}
	if state.ExitCode() != exitInterrupted {
		d.t.Errorf("it ended with %s, want exit code %d", state, exitInterrupted)
	}
	d.t.Logf("took %s", time.Since(begin).Round(time.Millisecond))
	left, err := os.ReadDir(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, l := range left {
		d.t.Errorf("%s was left", l.Name())
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, name := range lines {
		if text, err := os.ReadFile(name); err == nil && bytes.Contains(text, []byte(d.dir)) {
			d.t.Errorf("%s still runs: %s", filepath.Dir(name), bytes.ReplaceAll(text, []byte{0}, []byte{' '}))
		}
	}
}
