package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/cmd/internal/localcluster"
)

// fence is a block of code in the README; the first group says what it is in.
var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// readmeBlock is the code between two fences.
type readmeBlock struct {
	language string
	lines    []string // without those that are empty
}

func readmeBlocks(t *testing.T) []readmeBlock {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []readmeBlock
	for _, m := range fence.FindAllStringSubmatch(string(readme), -1) {
		block := readmeBlock{language: m[1]}
		for line := range strings.Lines(m[2]) {
			if line = strings.TrimRight(line, "\n"); line != "" {
				block.lines = append(block.lines, line)
			}
		}
		blocks = append(blocks, block)
	}
	return blocks
}

// root is the folder of the repository.
const root = "../../.."

// The kinds of commands in the README. Each has one test that runs all of its kind.
const (
	tourCommand    = "a command of the tour"             // TestReadmeTour
	singleNode     = "the server without flags"          // TestReadmeTour
	threeMachines  = "a server on one of three machines" // TestReadmeThreeMachines
	makeTarget     = "a target of make"                  // TestReadmeMakeTargets
	goCode         = "Go code"                           // TestReadmeGo
	unknownCommand = "a command that no test runs"
)

func kindOf(language, line string) string {
	switch {
	case language == "go":
		return goCode
	case language == "sh":
		return tourCommand
	case line == "bin/millrace server":
		return singleNode
	case strings.HasPrefix(line, "millrace server --node-id "):
		return threeMachines
	case strings.HasPrefix(line, "make "):
		return makeTarget
	}
	return unknownCommand
}

// readmeCommands are the README's lines of one kind.
func readmeCommands(t *testing.T, kind string) []string {
	t.Helper()
	var commands []string
	for _, block := range readmeBlocks(t) {
		for _, line := range block.lines {
			if kindOf(block.language, line) == kind {
				commands = append(commands, line)
			}
		}
	}
	return commands
}

// TestReadmeHasOnlyWhatIsRun: a line that no test knows how to run is not tested.
func TestReadmeHasOnlyWhatIsRun(t *testing.T) {
	for _, line := range readmeCommands(t, unknownCommand) {
		t.Errorf("no test runs %q", line)
	}
	for kind, least := range map[string]int{tourCommand: 10, singleNode: 1, threeMachines: 3, makeTarget: 5, goCode: 5} {
		if n := len(readmeCommands(t, kind)); n < least {
			t.Errorf("the README has %d lines that are %s, at least %d are expected", n, kind, least)
		}
	}
}

// TestReadmeTour starts the node as the README says, and runs every command of its
// tour, in order. Only the ports are others.
func TestReadmeTour(t *testing.T) {
	dir := t.TempDir()
	if err := os.Rename(binaryDir(t), filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	address := ""
	for _, line := range readmeCommands(t, singleNode) {
		address, _ = startServer(t, dir, line, "MILLRACE_KAFKA_ADDR=127.0.0.1:0", "MILLRACE_RPC_ADDR=127.0.0.1:0", "MILLRACE_HTTP_ADDR=127.0.0.1:0")
	}
	if address == "" {
		t.FailNow()
	}
	if _, err := os.Stat(filepath.Join(dir, "millrace-data", "FORMAT")); err != nil {
		t.Errorf("the data is not where the README says: %v", err)
	}
	for _, line := range readmeCommands(t, tourCommand) {
		runReadmeCommand(t, dir, address, line)
	}
}

// TestReadmeThreeMachines runs the three lines at once, each in a folder of its own
// that stands for a machine, with loopback instead of the machines' addresses.
func TestReadmeThreeMachines(t *testing.T) {
	lines := readmeCommands(t, threeMachines)
	ports, err := localcluster.FreePorts(len(lines))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Rename(binaryDir(t), filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	var pairs []string
	for i, p := range ports {
		machine := fmt.Sprintf("10.0.0.%d:", i+1)
		pairs = append(pairs, machine+"33145", fmt.Sprintf("127.0.0.1:%d", p.RPC), machine+"9092", fmt.Sprintf("127.0.0.1:%d", p.Kafka))
	}
	addresses := make([]string, len(lines))
	var starting sync.WaitGroup // none is ready before the others are there
	for i, line := range lines {
		if !strings.Contains(line, fmt.Sprintf("--node-id %d ", i+1)) || !strings.Contains(line, fmt.Sprintf("--rpc-addr 10.0.0.%d:33145 --kafka-addr 10.0.0.%[1]d:9092", i+1)) {
			t.Errorf("line %d is not that of node and machine %[1]d: %s", i+1, line)
		}
		machine := filepath.Join(dir, fmt.Sprintf("machine%d", i+1))
		if err := os.Mkdir(machine, 0o755); err != nil {
			t.Fatal(err)
		}
		starting.Go(func() {
			addresses[i], _ = startServer(t, machine, strings.NewReplacer(pairs...).Replace(line), fmt.Sprintf("MILLRACE_HTTP_ADDR=127.0.0.1:%d", ports[i].HTTP))
		})
	}
	starting.Wait()
	if t.Failed() {
		return
	}
	runReadmeCommand(t, dir, addresses[0], "bin/millrace cluster health --exit-when-healthy --timeout 30s")
	runReadmeCommand(t, dir, addresses[2], "test $(bin/millrace cluster info --format json | grep -o '\"node\":' | wc -l) = 3")
}

// TestReadmeMakeTargets: each target that the README names is one of the Makefile's,
// and .ci/run runs it. It is not run from here: make test would run itself, and a
// cluster has the ports that users have brokers on. What demo and cluster do is
// tested on other ports in cmd/demo and cmd/cluster.
func TestReadmeMakeTargets(t *testing.T) {
	ci, err := os.ReadFile(filepath.Join(root, ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range readmeCommands(t, makeTarget) {
		target := strings.Fields(line)[1]
		dry := exec.Command("make", "-n", target)
		dry.Dir = root
		dry.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS") })
		if out, err := dry.CombinedOutput(); err != nil || len(out) == 0 {
			t.Errorf("make %s: %v\n%s", target, err, out)
		}
		if !regexp.MustCompile(`(?m)\bmake ` + target + `( |$)`).Match(ci) {
			t.Errorf(".ci/run does not run make %s", target)
		}
	}
}

// TestReadmeGo compiles the README's Go code, in a function that has what it takes
// for granted.
func TestReadmeGo(t *testing.T) {
	code := strings.Join(readmeCommands(t, goCode), "\n")
	comment := "// a record is committed when its turn of the loop has ended"
	if !strings.Contains(code, comment) {
		t.Fatalf("the loop's body is not the comment that it was:\n%s", code)
	}
	code = "package main\n\nimport (\n\t\"context\"\n\n\t\"github.com/millrace/millrace/client\"\n)\n\nfunc main() { _ = readme(context.Background(), nil, nil) }\n\n" +
		"func readme(ctx context.Context, key, value []byte) error {\n" + strings.Replace(code, comment, "_, _ = record, err", 1) + "\nreturn err\n}\n"
	dir := t.TempDir()
	file := filepath.Join(dir, "main.go")
	if err := os.WriteFile(file, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "readme"), file)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s\n%s", err, out, code)
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
	address, process = startServer(t, dir, "bin/millrace server --kafka-addr 127.0.0.1:0 --rpc-addr 127.0.0.1:0 --http-addr 127.0.0.1:0")
	if address == "" {
		t.FailNow()
	}
	return address, process
}

// startServer runs a command line that starts a node, in dir, and waits until the
// node is ready. It may be called from several goroutines.
func startServer(t *testing.T, dir, line string, environment ...string) (address string, process *os.Process) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "exec "+line)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "MILLRACE_TEST_MAIN=1"), environment...)
	log := &safeBuffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return "", nil
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ready := regexp.MustCompile(`(?m)^ready .*kafka=(\S+)`)
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ; time.Now().Before(deadline); <-tick.C {
		if m := ready.FindStringSubmatch(log.String()); m != nil {
			return m[1], cmd.Process
		}
	}
	t.Errorf("%s: not ready:\n%s", line, log.String())
	return "", cmd.Process
}
