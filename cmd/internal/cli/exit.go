package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"

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

// hinted is an error with advice that only the command could give.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

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
	a.printError(name, err.Error(), hintFor(err))
	return code
}

// classify is the one place where errors become exit codes. The name is what
// scripts see where there is no name of the Kafka protocol.
func classify(err error) (code int, name string) {
	var usage *usageError
	var answered *client.KafkaError
	var network *net.OpError
	switch {
	case errors.As(err, &usage):
		return exitUsage, "USAGE"
	case errors.Is(err, errDeclined):
		return exitError, "DECLINED"
	case errors.As(err, &answered):
		switch {
		case errors.Is(err, client.ErrDenied):
			return exitDenied, answered.Name
		case answered.Code == kerr.RequestTimedOut.Code:
			return exitUnreachable, answered.Name
		}
		return exitError, answered.Name
	case errors.Is(err, client.ErrUnreachable):
		return exitUnreachable, "UNREACHABLE"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, kgo.ErrRecordTimeout):
		return exitUnreachable, "TIMEOUT"
	case errors.As(err, &network):
		return exitUnreachable, "UNREACHABLE"
	}
	return exitError, "ERROR"
}

func hintFor(err error) string {
	var usage *usageError
	var advised *hinted
	switch {
	case errors.As(err, &usage):
		return usage.hint
	case errors.As(err, &advised):
		return advised.hint
	}
	if hint := client.Hint(err); hint != "" {
		return hint
	}
	if code, _ := classify(err); code == exitUnreachable {
		return "see whether the cluster is well: millrace cluster health"
	}
	return ""
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
