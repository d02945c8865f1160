package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

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
		{client.Typed(kerr.RequestTimedOut), exitUnreachable, "REQUEST_TIMED_OUT"},
		{client.Typed(kerr.UnknownTopicOrPartition), exitError, "UNKNOWN_TOPIC_OR_PARTITION"},
		{client.Typed(kerr.TopicAuthorizationFailed), exitDenied, "TOPIC_AUTHORIZATION_FAILED"},
		{client.Typed(kerr.SaslAuthenticationFailed), exitDenied, "SASL_AUTHENTICATION_FAILED"},
		{&hinted{client.Typed(kerr.ClusterAuthorizationFailed), "ask"}, exitDenied, "CLUSTER_AUTHORIZATION_FAILED"},
		{fmt.Errorf("several: %w", errors.Join(errors.New("x"), client.Typed(kerr.GroupAuthorizationFailed))), exitDenied, "GROUP_AUTHORIZATION_FAILED"},
	}
	for _, test := range tests {
		if code, name := classify(test.err); code != test.code || name != test.name {
			t.Errorf("%v: %d %s, want %d %s", test.err, code, name, test.code, test.name)
		}
	}
}
