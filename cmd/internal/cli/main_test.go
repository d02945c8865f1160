package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/server"
)

// brokerAddress is that of the broker that the tests of this package share.
var brokerAddress string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	if os.Getenv("MILLRACE_TEST_MAIN") != "" { // this process plays the binary
		os.Unsetenv("MILLRACE_TEST_MAIN")
		return Main(os.Args[1:], System())
	}
	dir, err := os.MkdirTemp("", "millrace-cli-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	broker, err := server.Open(context.Background(), server.Config{
		DataDir: filepath.Join(dir, "data"), NodeID: 1, Rack: "eu-1a", KafkaAddr: "127.0.0.1:0", RPCAddr: "127.0.0.1:0", HTTPAddr: "none",
		Settings: map[string]string{"group.initial.rebalance.delay.ms": "0"},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	select {
	case <-broker.Ready():
	case <-time.After(time.Minute):
		fmt.Fprintln(os.Stderr, "the broker is not ready")
		return 1
	}
	brokerAddress = broker.KafkaAddr()
	code := m.Run()
	if err := broker.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// outcome is what a command did.
type outcome struct {
	code     int
	out, err string
}

// terminal is standard input with somebody at it who types this.
type terminal string

// run runs a command line in process against the shared broker. stdin is a string
// or a terminal.
func run(t *testing.T, stdin any, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return runIn(t, ctx, []string{"MILLRACE_BROKERS=" + brokerAddress}, stdin, args...)
}

func runIn(t *testing.T, ctx context.Context, environ []string, stdin any, args ...string) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	env := Environment{
		Context: ctx, Out: &out, Err: &errOut, Environ: environ,
		Now: func() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) },
	}
	switch in := stdin.(type) {
	case terminal:
		env.In, env.Terminal = strings.NewReader(string(in)), true
	case string:
		env.In = strings.NewReader(in)
	default:
		t.Fatalf("standard input is a %T", stdin)
	}
	code := Main(args, env)
	return outcome{code, out.String(), errOut.String()}
}

// must runs a command that has to succeed.
func must(t *testing.T, stdin any, args ...string) string {
	t.Helper()
	o := run(t, stdin, args...)
	if o.code != 0 {
		t.Fatalf("millrace %s: exit %d\n%s", strings.Join(args, " "), o.code, o.err)
	}
	return o.out
}
