package server

import (
	"bytes"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// A batch that would need all of the request memory when inflated is sent as
// stored: to wait for memory of which the fetch itself holds a part never ends.
func TestInflateNeverWaitsForItself(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"socket.request.max.bytes": "1048576", "millrace.request.memory.bytes": "1048576"})
	topic := n.topic(t, "t", 1, nil)
	plain := segment.Build([]segment.Record{{Value: make([]byte, 2<<20)}}, segment.BuildOptions{})
	stored, _, err := segment.Compress(plain, segment.CodecZstd)
	if err != nil {
		t.Fatal(err)
	}
	n.cluster.partition("t", 0).fill(stored)
	got := n.call(t, fetchRequest(12, fetchTopicOf("t", topic.ID, 0))).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if !bytes.Equal(got.RecordBatches, stored) {
		t.Fatalf("code %d, %d bytes", got.ErrorCode, len(got.RecordBatches))
	}
}
