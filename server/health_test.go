package server

import (
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
)

// /healthz counts as a client does that looks at Metadata (millrace cluster health).
func TestHealthCountsAsClientsDo(t *testing.T) {
	n := newTestNode(t, 3, nil)
	n.topic(t, "well", 2, nil, 1, 2, 3)
	behind := n.topic(t, "behind", 1, nil, 1, 2, 3)
	lost := n.topic(t, "lost", 3, nil, 3, 1, 2)
	n.cluster.mu.Lock()
	n.cluster.alive[3] = false
	n.cluster.leaders[partitionName(behind.ID, 0)] = replication.LeaderInfo{Node: 1, Term: 9, InSync: []metadata.NodeID{1, 2}}
	n.cluster.leaders[partitionName(lost.ID, 0)] = replication.LeaderInfo{Node: replication.NoLeader, Term: 9}
	delete(n.cluster.leaders, partitionName(lost.ID, 1))
	n.cluster.mu.Unlock()

	recorder := httptest.NewRecorder()
	(&httpServer{broker: &Broker{node: n.node}}).healthz(recorder, nil)
	var got health
	if err := json.Unmarshal(recorder.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := health{Controller: 1, Brokers: 3, Topics: 3, Leaderless: 2, UnderReplicated: 3, BrokersDown: []int32{3}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(12)
	leaderless, under := 0, 0
	for _, topic := range n.call(t, req).(*kmsg.MetadataResponse).Topics {
		for _, p := range topic.Partitions {
			if p.Leader < 0 {
				leaderless++
			}
			if len(p.ISR) < len(p.Replicas) {
				under++
			}
		}
	}
	if leaderless != got.Leaderless || under != got.UnderReplicated {
		t.Errorf("a client counts %d leaderless and %d under-replicated, /healthz %+v", leaderless, under, got)
	}
}
