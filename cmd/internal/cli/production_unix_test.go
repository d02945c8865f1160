//go:build unix

package cli

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stoppedBroker is a broker in a process of its own that has a topic "t" and a
// producer with one record acknowledged and a second one sent after the broker was
// stopped, as a machine that hangs is.
func stoppedBroker(t *testing.T, timeout string) *produced {
	dir := t.TempDir()
	if err := os.Rename(binaryDir(t), filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	address, process := startBroker(t, dir)
	environ := []string{"MILLRACE_BROKERS=" + address}
	if o := runIn(t, t.Context(), environ, "", "topic", "create", "t", "-p", "1"); o.code != 0 {
		t.Fatal(o.err)
	}
	p := startProduce(t, address, "t", "--timeout", timeout)
	p.line(t, address, "t", "acknowledged")
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus // until it stands still
	if _, err := syscall.Wait4(process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("%v, %v", status, err)
	}
	for _, line := range []string{"in flight\n", "behind it\n"} { // the second is read when the first has been sent
		if _, err := io.WriteString(p.in, line); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// TestProduceAtAStoppedBroker: the outcome of records in flight is never known; the
// command must end all the same, and say so.
func TestProduceAtAStoppedBroker(t *testing.T) {
	p := stoppedBroker(t, "1s")
	p.in.Close()
	said := p.ends(t, exitUnreachable, 10*time.Second)
	for _, part := range []string{"produced 1 records\n2 records: outcome unknown\n", "error: no acknowledgement came in time for 2 records: outcome unknown", "hint: the records may have been written"} {
		if !strings.Contains(said, part) {
			t.Errorf("%q is not said:\n%s", part, said)
		}
	}
}

// TestSignalWithRecordsInFlight: one Ctrl-C is enough, also while the input is open.
func TestSignalWithRecordsInFlight(t *testing.T) {
	p := stoppedBroker(t, "1m")
	p.signals <- os.Interrupt
	said := p.ends(t, exitInterrupted, 10*time.Second)
	if !regexp.MustCompile(`^produced 1 records\n[12] records: outcome unknown\n$`).MatchString(said) {
		t.Errorf("said:\n%s", said)
	}
}
