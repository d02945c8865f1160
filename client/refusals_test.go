package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/client"
)

// TestTimeoutNamesItsCause: a record that the broker refused until time was up fails
// with what the broker said, whether time was up for the record or for
// the call.
func TestTimeoutNamesItsCause(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"record": time.Second, "call": time.Minute} {
		t.Run(name, func(t *testing.T) {
			c := open(t, client.WithKgo(kgo.RecordDeliveryTimeout(timeout)))
			spec := client.TopicSpec{Name: topicName(t), Partitions: 1, Configs: map[string]string{"min.insync.replicas": "5"}}
			if err := c.Admin().Create(limited(t), spec); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			err := c.Produce(ctx, &client.Record{Topic: spec.Name, Value: []byte("x")})
			var answered *client.KafkaError
			if !errors.As(err, &answered) || answered.Name != "NOT_ENOUGH_REPLICAS" || answered.Topic != spec.Name || answered.Partition != 0 {
				t.Fatalf("error is %v", err)
			}
			if hint := client.Hint(err); !strings.Contains(hint, "min.insync.replicas") {
				t.Errorf("hint is %q", hint)
			}
		})
	}
}

// TestRefusals: what franz-go logs is understood where it is as expected, and nothing
// else does harm.
func TestRefusals(t *testing.T) {
	r := client.NewRefusals()
	begin := time.Now()
	r.Log(kgo.LogLevelDebug, "produced", "broker", "1", "to",
		"a.b[0{5=>8}, 2{retrying@-1,3(LEADER_NOT_AVAILABLE: There is no [leader] yet)}], c[0{retrying@-1,1(NOT_ENOUGH_REPLICAS: Too few)}]")
	r.Log(kgo.LogLevelDebug, "produced", "to", 5)
	r.Log(kgo.LogLevelDebug, "produced", "to", "retrying@")
	r.Log(kgo.LogLevelDebug, "produced", "to")
	r.Log(kgo.LogLevelWarn, "produce partition load error, bumping", "topic", "d", "partition", int32(1), "err", kerr.UnknownTopicOrPartition)
	tests := []struct {
		topic     string
		partition int32
		want      error
	}{
		{"a.b", 0, nil}, {"a.b", 2, kerr.LeaderNotAvailable}, {"c", 0, kerr.NotEnoughReplicas}, {"d", 1, client.ErrUnknownTopic},
		{"a.b", -1, kerr.LeaderNotAvailable}, {"b", -1, nil},
	}
	for _, test := range tests {
		if got := r.Since(test.topic, test.partition, begin); !errors.Is(got, test.want) {
			t.Errorf("%s %d: %v, want %v", test.topic, test.partition, got, test.want)
		}
		if got := r.Since(test.topic, test.partition, time.Now().Add(time.Minute)); got != nil {
			t.Errorf("%s %d: an old refusal is given: %v", test.topic, test.partition, got)
		}
	}
	gone := errors.New("connection reset")
	r.Log(kgo.LogLevelInfo, "produce request failed, triggering metadata update", "broker", "1", "err", gone)
	if got := r.Since("e", 0, begin); !errors.Is(got, gone) {
		t.Errorf("after a lost connection: %v", got)
	}
}
