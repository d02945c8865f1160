package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestKafkaErrors(t *testing.T) {
	tests := []struct {
		err       error
		topic     string
		partition int32
		text      string
		is        error
		retryable bool
		hint      bool
	}{
		{kerr.UnknownTopicOrPartition, "orders", -1, `topic "orders" does not exist (UNKNOWN_TOPIC_OR_PARTITION)`, ErrUnknownTopic, true, true},
		{kerr.UnknownTopicOrPartition, "orders", 9, `topic "orders" partition 9 does not exist (UNKNOWN_TOPIC_OR_PARTITION)`, ErrUnknownTopic, true, true},
		{kerr.TopicAlreadyExists, "orders", -1, `topic "orders" exists already (TOPIC_ALREADY_EXISTS)`, ErrTopicExists, false, true},
		{kerr.TopicAuthorizationFailed, "", -1, `Not authorized to access topics: [Topic authorization failed.] (TOPIC_AUTHORIZATION_FAILED)`, ErrDenied, false, true},
		{kerr.MessageTooLarge, "orders", 3, `topic "orders" partition 3: The request included a message larger than the max message size the server will accept (MESSAGE_TOO_LARGE)`, ErrRecordTooLarge, false, true},
		{kerr.NotLeaderForPartition, "orders", 0, "", nil, true, false},
		{kerr.NotEnoughReplicas, "orders", 0, "", nil, true, true},
		{kerr.UnknownMemberID, "", -1, "", ErrLostPartitions, false, false},
		{fmt.Errorf("while joining: %w", kerr.GroupAuthorizationFailed), "", -1, "", ErrDenied, false, true},
	}
	for _, test := range tests {
		err := fmt.Errorf("wrapped: %w", convert(test.err, test.topic, test.partition))
		var typed *KafkaError
		if !errors.As(err, &typed) {
			t.Fatalf("%v: not a *KafkaError", test.err)
		}
		if test.text != "" && typed.Error() != test.text {
			t.Errorf("text is %q, want %q", typed.Error(), test.text)
		}
		if test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%v: is not %v", err, test.is)
		}
		if errors.Is(err, ErrFenced) {
			t.Errorf("%v: matches a sentinel that is not its own", err)
		}
		if !errors.Is(err, kerr.ErrorForCode(typed.Code)) {
			t.Errorf("%v: does not match franz-go's error", err)
		}
		if got := Retryable(err); got != test.retryable {
			t.Errorf("%v: retryable is %v", err, got)
		}
		if got := Hint(err) != ""; got != test.hint {
			t.Errorf("%v: hint is %q", err, Hint(err))
		}
	}
}

func TestOtherErrors(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: &net.OpError{Op: "connect", Err: syscall.ECONNREFUSED}}
	unreachable := &UnreachableError{Addresses: []string{"a:1", "b:2"}, Err: refused}
	tests := []struct {
		name      string
		err       error
		is        error
		retryable bool
	}{
		{"none", nil, nil, false},
		{"closed", convert(kgo.ErrClientClosed, "", -1), ErrClosed, false},
		{"unreachable", unreachable, ErrUnreachable, true},
		{"its cause", unreachable, syscall.ECONNREFUSED, true},
		{"cancelled", context.Canceled, context.Canceled, false},
		{"too late", context.DeadlineExceeded, context.DeadlineExceeded, true},
		{"network", refused, syscall.ECONNREFUSED, true},
		{"something else", convert(errors.New("x"), "", -1), nil, false},
	}
	for _, test := range tests {
		if test.is != nil && !errors.Is(test.err, test.is) {
			t.Errorf("%s: %v is not %v", test.name, test.err, test.is)
		}
		if got := Retryable(test.err); got != test.retryable {
			t.Errorf("%s: retryable is %v", test.name, got)
		}
	}
	if got, want := unreachable.Error(), "no broker answered at a:1, b:2: connection refused"; got != want {
		t.Errorf("text is %q, want %q", got, want)
	}
	late := &UnreachableError{Addresses: []string{"a:1"}, Err: context.DeadlineExceeded}
	if got, want := late.Error(), "no broker answered at a:1: no answer in time"; got != want {
		t.Errorf("text is %q, want %q", got, want)
	}
	many := &ProduceError{Sent: 3, Failed: []Failure{{Err: kerr.MessageTooLarge}, {Err: ErrClosed}}}
	if !errors.Is(many, ErrClosed) || !errors.Is(many, kerr.MessageTooLarge) {
		t.Error("a ProduceError does not match the reasons of all its failures")
	}
}

// TestKindsHaveText: what is known about a code is about one of the
// protocol.
func TestKindsHaveText(t *testing.T) {
	for code := range kinds {
		if kerr.TypedErrorForCode(code) == nil {
			t.Errorf("code %d is not one of the protocol", code)
		}
	}
}
