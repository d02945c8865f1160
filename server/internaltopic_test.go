package server

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// The groups' positions are written by their coordinators alone.
func TestClientsDoNotWriteToInternalTopics(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, offsetsTopic, 1, nil)
	frame := segment.Build([]segment.Record{{Key: []byte("k"), Value: []byte("v")}}, segment.BuildOptions{})
	got := n.call(t, produceRequest(offsetsTopic, 0, frame)).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	if got.ErrorCode != kerr.InvalidTopicException.Code {
		t.Fatalf("code %d, offset %d", got.ErrorCode, got.BaseOffset)
	}
}
