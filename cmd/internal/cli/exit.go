package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/client"
)

// The exit codes, as far as they are fixed.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitDenied      = 4
	exitInterrupted = 130
)

// usageError is a wrong command line: exit code 2.
type usageError struct{ message, hint string }

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) *usageError {
	return &usageError{message: fmt.Sprintf(format, args...)}
}

func (e *usageError) withHint(hint string) *usageError {
	e.hint = hint
	return e
}

// hinted is an error with advice that only the command could give, and with a name
// for scripts, unless it is that of the error within.
type hinted struct {
	error
	hint string
	code string
}

// advise adds a hint to an error.
func advise(err error, hint string) *hinted { return &hinted{error: err, hint: hint} }

// named gives the error a name for scripts.
func (e *hinted) named(code string) *hinted {
	e.code = code
	return e
}

func (e *hinted) Unwrap() error { return e.error }

// The names of errors that are no answer of a broker.
const (
	codeUsage       = "USAGE"
	codeDeclined    = "DECLINED"
	codeUnreachable = "UNREACHABLE"
	codeTimeout     = "TIMEOUT"
	codeInput       = "INVALID_INPUT"
	codeOutput      = "OUTPUT_FAILED"
	codeStorage     = "STORAGE_FAILED"
	codeFolder      = "DATA_FOLDER"
	codeFolderInUse = "DATA_FOLDER_IN_USE"
	codeAddress     = "ADDRESS_IN_USE"
	codePermission  = "PERMISSION_DENIED"
	codeUnknown     = "OUTCOME_UNKNOWN"
	codeOther       = "ERROR"
)

// silent ends with an exit code and says nothing: the output said it already.
type silent struct{ code int }

func (e *silent) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// report prints an error and gives the exit code.
func (a *app) report(ctx context.Context, err error) int {
	var quiet *silent
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &quiet):
		return quiet.code
	case errors.Is(context.Cause(ctx), errInterrupted):
		return exitInterrupted
	}
	code, name := classify(err)
	a.printError(name, err.Error(), a.hintFor(err))
	return code
}

// classify is the one place where errors become exit codes. The name is what
// scripts see where there is no name of the Kafka protocol.
func classify(err error) (code int, name string) {
	var usage *usageError
	var advised *hinted
	var answered *client.KafkaError
	var network *net.OpError
	switch {
	case errors.As(err, &usage):
		return exitUsage, codeUsage
	case errors.Is(err, errDeclined):
		return exitError, codeDeclined
	case errors.Is(err, client.ErrOutcomeUnknown) && !errors.Is(err, client.ErrDenied):
		return exitUnreachable, codeUnknown
	case errors.As(err, &advised) && advised.code != "":
		return exitError, advised.code
	case errors.As(err, &answered):
		switch {
		case errors.Is(err, client.ErrDenied):
			return exitDenied, answered.Name
		case outOfTime(err):
			return exitUnreachable, answered.Name
		}
		return exitError, answered.Name
	case errors.Is(err, client.ErrUnreachable):
		return exitUnreachable, codeUnreachable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, kgo.ErrRecordTimeout):
		return exitUnreachable, codeTimeout
	case errors.As(err, &network), kgo.IsRetryableBrokerErr(err):
		return exitUnreachable, codeUnreachable
	}
	return exitError, codeOther
}

// outOfTime reports whether a broker's answer is one that is asked for again until
// --timeout is over: no leader, no coordinator, too few replicas. What state the
// cluster is in must not decide between two exit codes by chance. That a topic is
// unknown can pass, too, but is an answer.
func outOfTime(err error) bool {
	return client.Retryable(err) && !errors.Is(err, client.ErrUnknownTopic)
}

// hintFor says what to do next. Every error has something: what the command knows
// best, then what the SDK knows, then where to look.
func (a *app) hintFor(err error) string {
	var usage *usageError
	var advised *hinted
	switch {
	case errors.As(err, &usage) && usage.hint != "":
		return usage.hint
	case errors.As(err, &usage):
		return "see: " + a.command + " --help"
	case errors.As(err, &advised) && advised.hint != "":
		return advised.hint
	case errors.Is(err, errDeclined):
		return "answer y to do it, or add -y"
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed): // the broker's way to refuse them to everybody
		return "transactions are not available in this version"
	}
	hint := client.Hint(err)
	switch {
	case errors.Is(err, client.ErrOutcomeUnknown):
		return strings.TrimPrefix(hint+"; ", "; ") + "the records may have been written, producing them again may write them twice"
	case hint != "":
		return hint
	}
	if code, _ := classify(err); code == exitUnreachable || client.Retryable(err) {
		return "see whether the cluster is well: millrace cluster health"
	}
	return "see the log of the broker for the reason"
}

func (a *app) printError(code, message, hint string) {
	if a.format == "json" {
		text, _ := json.Marshal(map[string]any{"error": struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Hint    string `json:"hint"`
		}{code, message, hint}})
		fmt.Fprintf(a.Err, "%s\n", text)
		return
	}
	fmt.Fprintf(a.Err, "error: %s\n", message)
	if hint != "" {
		fmt.Fprintf(a.Err, "hint: %s\n", hint)
	}
}
