package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// binaryDir makes a folder with an executable millrace in it: this test binary,
// which plays it when MILLRACE_TEST_MAIN is set.
func binaryDir(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "millrace")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestScripts runs testdata/script/*.txtar: whole processes, real brokers. Besides
// testscript's own there are these commands:
//
//	exits N cmd args...       run it and demand this exit code
//	serve [flags]             start `millrace server` on free ports, data in
//	                          $WORK/data, and wait for its ready line
//	stop [SIGNAL]             end it and demand exit code 0 (137 after KILL)
func TestScripts(t *testing.T) {
	bin := binaryDir(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("MILLRACE_TEST_MAIN", "1")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "serve": serve, "stop": stopServer,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits N cmd args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// served is the broker process of a script.
type served struct {
	command *exec.Cmd
	log     *safeBuffer
	ended   chan error
}

// safeBuffer may be written and read concurrently.
type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// running are the brokers of scripts, by their work folder.
var running sync.Map

var readyLine = regexp.MustCompile(`(?m)^ready node=\d+ cluster=\S+ kafka=(\S+) rpc=\S+ http=(\S+) took=(\S+)$`)

func serve(ts *testscript.TestScript, neg bool, args []string) {
	work := ts.Getenv("WORK")
	flags := append([]string{"server", "--data-dir", filepath.Join(work, "data"),
		"--kafka-addr", "127.0.0.1:0", "--rpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"}, args...)
	s := &served{command: exec.Command("millrace", flags...), log: &safeBuffer{}, ended: make(chan error, 1)}
	s.command.Path = filepath.Join(strings.SplitN(ts.Getenv("PATH"), string(os.PathListSeparator), 2)[0], "millrace")
	s.command.Err = nil
	s.command.Env = append(os.Environ(), "MILLRACE_TEST_MAIN=1")
	s.command.Stderr = s.log
	ts.Check(s.command.Start())
	running.Store(work, s)
	go func() { s.ended <- s.command.Wait() }()
	ts.Defer(func() {
		if _, still := running.LoadAndDelete(work); still {
			s.command.Process.Kill()
			<-s.ended
		}
	})
	deadline := time.After(time.Minute)
	for {
		if m := readyLine.FindStringSubmatch(s.log.String()); m != nil {
			if _, err := time.ParseDuration(m[3]); err != nil {
				ts.Fatalf("took= is no duration: %v", err)
			}
			ts.Setenv("MILLRACE_BROKERS", m[1])
			ts.Setenv("HTTP", m[2])
			return
		}
		select {
		case err := <-s.ended:
			running.Delete(work)
			ts.Fatalf("the server ended: %v\n%s", err, s.log.String())
		case <-deadline:
			ts.Fatalf("the server is not ready:\n%s", s.log.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func stopServer(ts *testscript.TestScript, neg bool, args []string) {
	found, ok := running.LoadAndDelete(ts.Getenv("WORK"))
	if !ok {
		ts.Fatalf("no server runs")
	}
	s := found.(*served)
	signal, want := syscall.SIGTERM, 0
	switch {
	case len(args) == 1 && args[0] == "KILL":
		signal, want = syscall.SIGKILL, -1
	case len(args) == 1 && args[0] == "INT":
		signal = syscall.SIGINT
	}
	ts.Check(s.command.Process.Signal(signal))
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		s.command.Process.Kill()
		ts.Fatalf("the server did not stop:\n%s", s.log.String())
	}
	if got := s.command.ProcessState.ExitCode(); got != want {
		ts.Fatalf("the server exited with %d, want %d:\n%s", got, want, s.log.String())
	}
	ready := 0
	for line := range strings.Lines(s.log.String()) {
		if strings.HasPrefix(line, "ready") {
			ready++
		}
	}
	if ready != 1 {
		ts.Fatalf("%d lines begin with ready, want 1:\n%s", ready, s.log.String())
	}
}

// TestInterrupt: Ctrl-C ends a consumer with 130, SIGTERM with an ordinary end.
func TestInterrupt(t *testing.T) {
	must(t, "", "topic", "create", "interrupted")
	defer must(t, "", "topic", "delete", "interrupted", "-y")
	must(t, "first\n", "produce", "interrupted")
	tests := []struct {
		signal syscall.Signal
		want   int
	}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 0}}
	for _, test := range tests {
		t.Run(test.signal.String(), func(t *testing.T) {
			command := exec.Command(filepath.Join(binaryDir(t), "millrace"), "consume", "interrupted", "-b", brokerAddress)
			command.Env = append(os.Environ(), "MILLRACE_TEST_MAIN=1")
			out := &safeBuffer{}
			command.Stdout = out
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(time.Minute); out.String() != "first\n"; {
				if time.Now().After(deadline) {
					command.Process.Kill()
					t.Fatalf("printed %q", out.String())
				}
				<-time.After(5 * time.Millisecond)
			}
			command.Process.Signal(test.signal)
			command.Wait()
			if got := command.ProcessState.ExitCode(); got != test.want {
				t.Errorf("exit code %d, want %d", got, test.want)
			}
		})
	}
}

// TestSecondSignal: what hangs while it stops is left at the second Ctrl-C.
func TestSecondSignal(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	env := Environment{Context: t.Context(), In: hangingReader{hang}, Terminal: true, Out: &safeBuffer{}, Err: &safeBuffer{},
		Environ: []string{"MILLRACE_BROKERS=" + brokerAddress}, Now: time.Now}
	must(t, "", "topic", "create", "hanging")
	defer must(t, "", "topic", "delete", "hanging", "-y")
	env.Notify = func(c chan<- os.Signal, _ ...os.Signal) {
		go func() {
			pollUntil(t, func() bool { return strings.Contains(env.Err.(*safeBuffer).String(), "[y/N]") })
			c <- os.Interrupt
			c <- os.Interrupt
		}()
	}
	if code := Main([]string{"topic", "delete", "hanging"}, env); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
}

// pollUntil waits for a condition, for at most twenty seconds.
func pollUntil(t *testing.T, condition func() bool) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Error("waited in vain")
			return
		}
	}
}

// hangingReader gives nothing until it is released.
type hangingReader struct{ released chan struct{} }

func (r hangingReader) Read([]byte) (int, error) {
	<-r.released
	return 0, fmt.Errorf("released")
}
