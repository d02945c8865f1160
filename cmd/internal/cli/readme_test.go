package cli

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// shellBlock is a block of the README that says what to type.
var shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// TestReadme runs every command of the README's tour, in order, against a broker
// started as it says. Commands that make runs are make's own targets.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Rename(binaryDir(t), filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	address, _ := startBroker(t, dir) // which the README does on its own ports
	commands := 0
	for _, block := range shellBlock.FindAllStringSubmatch(string(readme), -1) {
		for line := range strings.Lines(block[1]) {
			commands++
			runReadmeCommand(t, dir, address, strings.TrimSpace(line))
		}
	}
	if commands < 10 {
		t.Errorf("the README has %d commands to run; is its tour gone?", commands)
	}
}

func runReadmeCommand(t *testing.T, dir, address, line string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MILLRACE_TEST_MAIN=1", "MILLRACE_BROKERS="+address)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
}

// startBroker starts a node on free ports in a process of its own. dir has the
// executable in bin.
func startBroker(t *testing.T, dir string) (address string, process *os.Process) {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, "bin", "millrace"), "server",
		"--kafka-addr", "127.0.0.1:0", "--rpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MILLRACE_TEST_MAIN=1")
	log := &safeBuffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ready := regexp.MustCompile(`(?m)^ready .*kafka=(\S+)`)
	deadline := time.Now().Add(30 * time.Second)
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		if m := ready.FindStringSubmatch(log.String()); m != nil {
			tick.Stop()
			return m[1], cmd.Process
		}
		if time.Now().After(deadline) {
			t.Fatalf("the broker is not ready:\n%s", log.String())
		}
	}
}
