package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/client"
)

// produced runs produce in the background: lines go in, signals too.
type produced struct {
	in      *io.PipeWriter
	out     *safeBuffer
	signals chan<- os.Signal
	code    chan int
}

func startProduce(t *testing.T, address string, args ...string) *produced {
	t.Helper()
	reader, writer := io.Pipe()
	p := &produced{in: writer, out: &safeBuffer{}, code: make(chan int, 1)}
	t.Cleanup(func() { writer.Close() })
	notified := make(chan struct{})
	env := Environment{Context: t.Context(), In: reader, Out: &safeBuffer{}, Err: p.out, Environ: []string{"MILLRACE_BROKERS=" + address}, Now: time.Now,
		Notify: func(c chan<- os.Signal, _ ...os.Signal) { p.signals = c; close(notified) }}
	go func() { p.code <- Main(append([]string{"produce"}, args...), env) }()
	<-notified
	return p
}

// line writes a line and waits until it is in the topic.
func (p *produced) line(t *testing.T, address, topic, text string) {
	t.Helper()
	if _, err := io.WriteString(p.in, text+"\n"); err != nil {
		t.Fatal(err)
	}
	pollUntil(t, func() bool {
		o := runIn(t, t.Context(), []string{"MILLRACE_BROKERS=" + address}, "", "consume", topic, "-e")
		return strings.HasSuffix(o.out, text+"\n")
	})
}

// ends demands an exit code within some time, and gives standard error.
func (p *produced) ends(t *testing.T, want int, within time.Duration) string {
	t.Helper()
	select {
	case code := <-p.code:
		if code != want {
			t.Errorf("exit code %d, want %d", code, want)
		}
	case <-time.After(within):
		t.Fatalf("it has not ended after %s", within)
	}
	return p.out.String()
}

// TestStalledBeforeSending: records that were cancelled because nothing moved have not
// failed by themselves: time was up.
func TestStalledBeforeSending(t *testing.T) {
	p := production{}
	p.give()
	p.done(fmt.Errorf("no producer id: %w; the last answer: %w", context.Canceled, client.Typed(kerr.LeaderNotAvailable)), func() { t.Error("it counts as a failure") })
	err := p.outcome(t.Context(), errStalled)
	if code, name := classify(err); code != exitUnreachable || name != "LEADER_NOT_AVAILABLE" || !strings.Contains(err.Error(), "for 1 records") {
		t.Errorf("exit code %d, %s: %v", code, name, err)
	}
	p.doubt = context.Canceled
	if code, name := classify(p.outcome(t.Context(), errStalled)); code != exitUnreachable || name != "TIMEOUT" {
		t.Errorf("without an answer: exit code %d, %s", code, name)
	}
}

// TestOldTimestamp: --timeout counts from now and not from the time of the record.
func TestOldTimestamp(t *testing.T) {
	must(t, "", "topic", "create", "old", "-p", "1", "-c", "retention.ms=-1")
	defer must(t, "", "topic", "delete", "old", "-y")
	const stamp = `"timestamp":"2020-01-02T03:04:05Z"`
	if o := run(t, `{`+stamp+`,"value":"x"}`+"\n", "produce", "old", "-f", "json"); o.code != 0 || o.err != "produced 1 records\n" {
		t.Fatalf("exit %d\n%s", o.code, o.err)
	}
	if got := must(t, "", "consume", "old", "-e", "-f", "json"); !strings.Contains(got, stamp) {
		t.Errorf("consumed:\n%s", got)
	}
}

// TestSignalWhileReading: a producer that waits for input ends at the first signal,
// and what it read is acknowledged and counted.
func TestSignalWhileReading(t *testing.T) {
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			must(t, "", "topic", "create", "reading", "-p", "1")
			defer must(t, "", "topic", "delete", "reading", "-y")
			p := startProduce(t, brokerAddress, "reading")
			p.line(t, brokerAddress, "reading", "first")
			p.signals <- signal
			if said := p.ends(t, exitInterrupted, 10*time.Second); said != "produced 1 records\n" {
				t.Errorf("said:\n%s", said)
			}
		})
	}
}
