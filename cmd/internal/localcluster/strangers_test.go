package localcluster

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/cmd/internal/testbinary"
)

// broker is one process of the real binary, with flags that no cluster would give.
type broker struct {
	*testing.T
	command *exec.Cmd
	log     string
	ended   chan struct{}
}

// serve starts `millrace server` on free ports; rpc is the port between brokers.
func serve(t *testing.T, binary, dir string, node, rpc int, join ...int) *broker {
	t.Helper()
	args := []string{"server", "--data-dir", dir, "--node-id", strconv.Itoa(node), "--kafka-addr", "127.0.0.1:0",
		"--rpc-addr", loopback(rpc), "--http-addr", "none"}
	var list []string
	for _, port := range join {
		list = append(list, loopback(port))
	}
	if len(list) > 0 {
		args = append(args, "--join", strings.Join(list, ","))
	}
	b := &broker{T: t, command: exec.Command(binary, args...), log: filepath.Join(t.TempDir(), "log"), ended: make(chan struct{})}
	log, err := os.Create(b.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	b.command.Stderr, b.command.Env, b.command.SysProcAttr = log, cleanEnvironment(), processAttributes(false)
	if err := b.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(b.ended)
		_ = b.command.Wait() // the state says how
	}()
	t.Cleanup(func() {
		_ = b.command.Process.Kill()
		<-b.ended
	})
	return b
}

// said is what the broker has printed.
func (b *broker) said() string {
	text, err := os.ReadFile(b.log)
	if err != nil {
		b.Fatal(err)
	}
	return string(text)
}

// says waits until one line holds all these texts.
func (b *broker) says(texts ...string) string {
	b.Helper()
	var found string
	deadline := time.Now().Add(time.Minute)
	for found == "" {
		for line := range strings.Lines(b.said()) {
			has := true
			for _, text := range texts {
				has = has && strings.Contains(line, text)
			}
			if has {
				found = line
			}
		}
		if time.Now().After(deadline) {
			b.Fatalf("no line with %q in:\n%s", texts, b.said())
		}
		<-time.After(pollInterval)
	}
	return found
}

// ready waits for the line that says so and returns the cluster id in it.
func (b *broker) ready() string {
	b.Helper()
	_, rest, _ := strings.Cut(b.says("ready node="), "cluster=")
	id, _, _ := strings.Cut(rest, " ")
	return id
}

func (b *broker) isReady() bool { return strings.Contains("\n"+b.said(), "\nready ") }

// stop ends it gracefully.
func (b *broker) stop() {
	b.Helper()
	if err := b.command.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	<-b.ended
	if code := b.command.ProcessState.ExitCode(); code != 0 {
		b.Fatalf("exit code %d:\n%s", code, b.said())
	}
}

// refuses waits until it has ended by itself with this exit code.
func (b *broker) refuses(code int, texts ...string) {
	b.Helper()
	select {
	case <-b.ended:
	case <-time.After(time.Minute):
		b.Fatalf("it runs:\n%s", b.said())
	}
	if got := b.command.ProcessState.ExitCode(); got != code {
		b.Errorf("exit code %d, want %d", got, code)
	}
	b.says(texts...)
	if b.isReady() {
		b.Error("it said that it is ready")
	}
}

// rpcPorts are ports that were free a moment ago.
func rpcPorts(t *testing.T, n int) []int {
	t.Helper()
	free, err := FreePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	var ports []int
	for _, p := range free {
		ports = append(ports, p.RPC)
	}
	return ports
}

// TestTwoBrokersWithOneID: the second one waits and says what to do; the first
// serves on.
func TestTwoBrokersWithOneID(t *testing.T) {
	binary, port := testbinary.Build(t), rpcPorts(t, 4)
	first := serve(t, binary, t.TempDir(), 1, port[0])
	cluster := first.ready()
	second := serve(t, binary, t.TempDir(), 2, port[1], port[0], port[1])
	if second.ready() != cluster {
		t.Fatal("the second broker did not join")
	}
	twin := serve(t, binary, t.TempDir(), 2, port[2], port[0], port[2])
	twin.says("waiting", "node id 2 belongs to the running broker at "+loopback(port[1]), "give this broker another --node-id")
	if twin.isReady() {
		t.Error("two brokers are ready with one id")
	}
	twin.stop()
	third := serve(t, binary, t.TempDir(), 3, port[3], port[0], port[3])
	if third.ready() != cluster { // the cluster goes on
		t.Error("the third broker did not join")
	}
}

// TestTwoFoundersWithOneID: nothing is founded.
func TestTwoFoundersWithOneID(t *testing.T) {
	binary, port := testbinary.Build(t), rpcPorts(t, 2)
	for i, b := range []*broker{serve(t, binary, t.TempDir(), 1, port[0], port...), serve(t, binary, t.TempDir(), 1, port[1], port...)} {
		b.says("waiting", loopback(port[1-i]), "two nodes have the id 1", "give one of them another --node-id")
		if strings.Contains(b.said(), "founded a cluster") || b.isReady() {
			t.Errorf("a cluster was founded:\n%s", b.said())
		}
	}
}

// TestBrokerOfAnotherCluster: it is not taken in, and says so; the cluster is as
// it was.
func TestBrokerOfAnotherCluster(t *testing.T) {
	binary, port, dir := testbinary.Build(t), rpcPorts(t, 4), t.TempDir()
	first := serve(t, binary, t.TempDir(), 1, port[0])
	cluster := first.ready()
	stranger := serve(t, binary, dir, 2, port[1])
	own := stranger.ready()
	stranger.stop()
	back := serve(t, binary, dir, 2, port[1], port[0], port[1])
	if got := back.ready(); got != own || own == cluster {
		t.Errorf("it serves cluster %s now, its folder is of %s", got, own)
	}
	back.says("another cluster", "empty --data-dir", loopback(port[0]), cluster, own)
	first.says("refused", cluster, own)
	newcomer := serve(t, binary, t.TempDir(), 2, port[2], port[0], port[2])
	if newcomer.ready() != cluster {
		t.Error("the id was taken by the stranger")
	}
}

// TestFolderOfAnother: what belongs to another node, or to a newer program, or is
// in use, is refused before anything is touched.
func TestFolderOfAnother(t *testing.T) {
	binary, port := testbinary.Build(t), rpcPorts(t, 2)
	dir, newer := t.TempDir(), t.TempDir()
	format := filepath.Join(newer, "FORMAT")
	if err := os.WriteFile(format, []byte("millrace 99\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	serve(t, binary, newer, 1, port[1]).refuses(1, "error: ", newer, "FORMAT", "millrace 99")
	if text, err := os.ReadFile(format); err != nil || !bytes.Equal(text, []byte("millrace 99\n")) {
		t.Errorf("FORMAT is %q now, %v", text, err)
	}
	if entries, err := os.ReadDir(newer); err != nil || len(entries) > 2 { // FORMAT, and LOCK, which is needed to look
		t.Errorf("the folder of a newer program was written to: %v, %v", entries, err)
	}

	first := serve(t, binary, dir, 1, port[0])
	first.ready()
	serve(t, binary, dir, 1, port[1]).refuses(1, "error: ", dir, "in use")
	serve(t, binary, t.TempDir(), 1, port[0]).refuses(1, "error: ", "--rpc-addr", loopback(port[0]), "address already in use")
	first.stop()
	serve(t, binary, dir, 7, port[0]).refuses(1, "error: ", dir, "node 1")
	serve(t, binary, dir, 1, port[0]).ready() // and it is still good
}
