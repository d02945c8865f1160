package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/client"
)

func TestExitCodes(t *testing.T) {
	tests := []struct {
		err  error
		code int
		name string
	}{
		{usagef("wrong"), exitUsage, "USAGE"},
		{fmt.Errorf("wrapped: %w", usagef("wrong")), exitUsage, "USAGE"},
		{errDeclined, exitError, "DECLINED"},
		{errors.New("anything"), exitError, "ERROR"},
		{&client.UnreachableError{Err: errors.New("x")}, exitUnreachable, "UNREACHABLE"},
		{context.DeadlineExceeded, exitUnreachable, "TIMEOUT"},
		{kgo.ErrRecordTimeout, exitUnreachable, "TIMEOUT"},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, exitUnreachable, "UNREACHABLE"},
		{syscall.EADDRINUSE, exitError, "ERROR"},
		{fmt.Errorf("wrapped: %w", advise(errors.New("x"), "y").named("NAME")), exitError, "NAME"},
		{client.Typed(kerr.RequestTimedOut), exitUnreachable, "REQUEST_TIMED_OUT"},
		{client.Typed(kerr.LeaderNotAvailable), exitUnreachable, "LEADER_NOT_AVAILABLE"},
		{client.Typed(kerr.CoordinatorNotAvailable), exitUnreachable, "COORDINATOR_NOT_AVAILABLE"},
		{client.Typed(kerr.NotController), exitUnreachable, "NOT_CONTROLLER"},
		{fmt.Errorf("%w: %w", kgo.ErrRecordTimeout, client.Typed(kerr.NotEnoughReplicas)), exitUnreachable, "NOT_ENOUGH_REPLICAS"},
		{fmt.Errorf("%w for 3 records", client.ErrOutcomeUnknown), exitUnreachable, "OUTCOME_UNKNOWN"},
		{errors.Join(client.ErrOutcomeUnknown, client.Typed(kerr.TopicAuthorizationFailed)), exitDenied, "TOPIC_AUTHORIZATION_FAILED"},
		{client.Typed(kerr.UnknownTopicOrPartition), exitError, "UNKNOWN_TOPIC_OR_PARTITION"},
		{client.Typed(kerr.TopicAuthorizationFailed), exitDenied, "TOPIC_AUTHORIZATION_FAILED"},
		{client.Typed(kerr.SaslAuthenticationFailed), exitDenied, "SASL_AUTHENTICATION_FAILED"},
		{advise(client.Typed(kerr.ClusterAuthorizationFailed), "ask"), exitDenied, "CLUSTER_AUTHORIZATION_FAILED"},
		{fmt.Errorf("several: %w", errors.Join(errors.New("x"), client.Typed(kerr.GroupAuthorizationFailed))), exitDenied, "GROUP_AUTHORIZATION_FAILED"},
	}
	for _, test := range tests {
		if code, name := classify(test.err); code != test.code || name != test.name {
			t.Errorf("%v: %d %s, want %d %s", test.err, code, name, test.code, test.name)
		}
	}
}

// TestHintAboutTransactions: no permission would help.
func TestHintAboutTransactions(t *testing.T) {
	err := fmt.Errorf("find coordinator: %w", client.Typed(kerr.TransactionalIDAuthorizationFailed))
	const want = "transactions are not available in this version"
	if got := (&app{}).hintFor(err); got != want {
		t.Errorf("hint is %q, want %q", got, want)
	}
	if code, _ := classify(err); code != exitDenied {
		t.Errorf("exit code is %d", code)
	}
}

// TestErrorsAreUseful: whatever goes wrong, a script gets a code that says what
// kind of error it is, and a person gets a hint.
func TestErrorsAreUseful(t *testing.T) {
	must(t, "", "topic", "create", "useful", "-p", "1")
	defer must(t, "", "topic", "delete", "useful", "-y")
	must(t, `{"value":"x"}`, "produce", "useful", "-f", "json")
	must(t, "", "consume", "useful", "-g", "useful", "-e")
	defer must(t, "", "group", "delete", "useful", "-y")
	used := t.TempDir()
	if err := os.WriteFile(filepath.Join(used, "FORMAT"), []byte("millrace 99\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	serve := []string{"server", "--rpc-addr", "127.0.0.1:0", "--http-addr", "none", "--data-dir", used, "--kafka-addr"}
	tests := []struct {
		code  string
		stdin any
		args  []string
	}{
		{"USAGE", "", []string{"topc"}},
		{"USAGE", "", []string{"nothing-like-it"}},
		{"USAGE", "", []string{"topic", "nothing-like-it"}},
		{"USAGE", "", []string{"topic", "list", "--nothing-like-it"}},
		{"USAGE", "", []string{"topic", "list", "--timeout", "0"}},
		{"USAGE", "", []string{"topic", "list", "--timeout", "soon"}},
		{"USAGE", "", []string{"topic", "list", "-b", "http://x/"}},
		{"USAGE", "", []string{"topic", "list", "--config", "nowhere.yaml"}},
		{"USAGE", "", []string{"topic", "create"}},
		{"USAGE", "", []string{"topic", "create", "t", "-p", "0"}},
		{"USAGE", "", []string{"topic", "create", "t", "-r", "0"}},
		{"USAGE", "", []string{"topic", "create", "t", "-c", "x"}},
		{"USAGE", "", []string{"topic", "delete"}},
		{"USAGE", "", []string{"topic", "delete", "useful"}},
		{"USAGE", "", []string{"produce", "useful", "-p", "-1"}},
		{"USAGE", "", []string{"produce", "useful", "-z", "brotli"}},
		{"USAGE", "", []string{"produce", "useful", "-H", "x"}},
		{"USAGE", "", []string{"consume", "useful", "-o", "sometime"}},
		{"USAGE", "", []string{"consume", "useful", "-n", "-1"}},
		{"USAGE", "", []string{"consume", "useful", "-g", "g", "-p", "0"}},
		{"USAGE", "", []string{"consume", "useful", "-g", "g", "-o", "5"}},
		{"USAGE", "", []string{"group", "seek", "useful"}},
		{"USAGE", "", []string{"group", "seek", "useful", "--to", "sometime"}},
		{"USAGE", "", []string{"server", "--log-level", "loud"}},
		{"USAGE", "", []string{"server", "-c", "num.partition=3"}},
		{"DECLINED", terminal("n\n"), []string{"topic", "delete", "useful"}},
		{"UNKNOWN_TOPIC_OR_PARTITION", "", []string{"topic", "describe", "nowhere"}},
		{"UNKNOWN_TOPIC_OR_PARTITION", "", []string{"topic", "delete", "nowhere", "-y"}},
		{"UNKNOWN_TOPIC_OR_PARTITION", "", []string{"consume", "nowhere"}},
		{"UNKNOWN_TOPIC_OR_PARTITION", "", []string{"consume", "useful", "-p", "7"}},
		{"UNKNOWN_TOPIC_OR_PARTITION", "x", []string{"produce", "nowhere"}},
		{"UNKNOWN_TOPIC_OR_PARTITION", "x", []string{"produce", "useful", "-p", "7"}},
		{"UNKNOWN_TOPIC_OR_PARTITION", "", []string{"group", "seek", "useful", "--to", "end", "--topics", "nowhere", "-y"}},
		{"TOPIC_ALREADY_EXISTS", "", []string{"topic", "create", "useful"}},
		{"INVALID_TOPIC_EXCEPTION", "", []string{"topic", "create", "a/b"}},
		{"INVALID_REPLICATION_FACTOR", "", []string{"topic", "create", "t", "-r", "5"}},
		{"INVALID_CONFIG", "", []string{"topic", "create", "t", "-c", "retention.mss=1"}},
		{"GROUP_ID_NOT_FOUND", "", []string{"group", "describe", "nobody"}},
		{"GROUP_ID_NOT_FOUND", "", []string{"group", "delete", "nobody", "-y"}},
		{"GROUP_ID_NOT_FOUND", "", []string{"group", "seek", "nobody", "--to", "end", "-y"}},
		{"INVALID_INPUT", "x", []string{"produce", "useful"}}, // --format json is -f json
		{"INVALID_INPUT", "{", []string{"produce", "useful"}},
		{"INVALID_INPUT", "{}", []string{"produce", "useful"}},
		{"UNREACHABLE", "", []string{"topic", "list", "-b", "127.0.0.1:1"}},
		{"ADDRESS_IN_USE", "", append(serve, brokerAddress)},
		{"DATA_FOLDER", "", append(serve, "127.0.0.1:0")},
	}
	for _, test := range tests {
		o := run(t, test.stdin, append(slices.Clone(test.args), "--format", "json")...)
		_, document, _ := strings.Cut(o.err, `{"error"`) // behind a table and a question
		var printed struct {
			Error struct{ Code, Message, Hint string }
		}
		err := json.Unmarshal([]byte(`{"error"`+document), &printed)
		e := printed.Error
		if o.code == 0 || err != nil || e.Code != test.code || e.Message == "" || e.Hint == "" {
			t.Errorf("millrace %s: exit %d, want code %s, a message and a hint: %s", strings.Join(test.args, " "), o.code, test.code, o.err)
		}
	}
}

// fullDisk takes nothing.
type fullDisk struct{}

// Write implements io.Writer.
func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestOutputThatTakesNothing: a command whose output is lost has not succeeded.
func TestOutputThatTakesNothing(t *testing.T) {
	must(t, "", "topic", "create", "unprinted", "-p", "1")
	defer must(t, "", "topic", "delete", "unprinted", "-y")
	must(t, "x\n", "produce", "unprinted")
	for _, args := range [][]string{{"topic", "list"}, {"consume", "unprinted", "-e"}} {
		var errOut bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		code := Main(append(args, "-b", brokerAddress), Environment{Context: ctx, In: strings.NewReader(""), Out: fullDisk{}, Err: &errOut, Now: time.Now})
		cancel()
		if code != exitError || !strings.Contains(errOut.String(), "write output: ") || !strings.Contains(errOut.String(), "hint: ") {
			t.Errorf("millrace %s: exit %d: %s", strings.Join(args, " "), code, errOut.String())
		}
	}
}

// TestOneTimeout: --timeout bounds a command as a whole, not each of its steps.
func TestOneTimeout(t *testing.T) {
	a := &app{left: time.Hour}
	_, done := a.limit(t.Context())
	if done(); a.left >= time.Hour {
		t.Error("the first step has cost nothing")
	}
	a.left = 0
	second, done := a.limit(t.Context())
	defer done()
	if second.Err() == nil {
		t.Error("there is time for a second step")
	}
}
