package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
)

// leads says who leads a partition, and which of its replicas are in sync.
func (c *fakeCluster) leads(t *metadata.Topic, number int32, node metadata.NodeID, inSync ...metadata.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaders[partitionName(t.ID, number)] = replication.LeaderInfo{Node: node, Term: 6, InSync: inSync}
}

// electRequest asks for elections of these partitions; without any, for all.
func electRequest(kind int8, topics map[string][]int32) *kmsg.ElectLeadersRequest {
	req := kmsg.NewPtrElectLeadersRequest()
	req.SetVersion(2)
	req.ElectionType, req.TimeoutMillis = kind, 10_000
	for _, name := range sortedKeys(topics) {
		t := kmsg.NewElectLeadersRequestTopic()
		t.Topic, t.Partitions = name, topics[name]
		req.Topics = append(req.Topics, t)
	}
	return req
}

// elected is an answer as "topic/partition ERROR".
func elected(resp *kmsg.ElectLeadersResponse) (lines []string) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			text := "OK"
			if err := kerr.TypedErrorForCode(p.ErrorCode); err != nil {
				text = err.Message
			}
			lines = append(lines, fmt.Sprintf("%s/%d %s", t.Topic, p.Partition, text))
		}
	}
	return lines
}

// TestElectLeaders holds the answer for each state that a partition can be in.
func TestElectLeaders(t *testing.T) {
	n := newTestNode(t, 3, nil)
	topic := n.topic(t, "t", 6, nil, 1, 2, 3)
	n.cluster.leads(topic, 1, 2, 1, 2, 3)
	n.cluster.leads(topic, 2, 2, 2, 3)
	n.cluster.leads(topic, 3, replication.NoLeader)
	n.cluster.leads(topic, 4, 3, 1, 2, 3)
	down := n.topic(t, "down", 1, nil, 3, 1)
	n.cluster.leads(down, 0, 1, 1, 3)
	n.cluster.mu.Lock()
	n.cluster.alive[3] = false
	n.cluster.mu.Unlock()
	some := map[string][]int32{"t": {0, 1, 2, 3, 9}, "down": {0}, "nope": {0}}
	for _, row := range []struct {
		name string
		req  *kmsg.ElectLeadersRequest
		want []string
	}{
		{"unclean", electRequest(electUnclean, map[string][]int32{"t": {1, 3}}),
			[]string{"t/1 ELECTION_NOT_NEEDED", "t/3 ELIGIBLE_LEADERS_NOT_AVAILABLE"}},
		{"some", electRequest(electPreferred, some), []string{"down/0 PREFERRED_LEADER_NOT_AVAILABLE", "nope/0 UNKNOWN_TOPIC_OR_PARTITION",
			"t/0 ELECTION_NOT_NEEDED", "t/1 OK", "t/2 PREFERRED_LEADER_NOT_AVAILABLE", "t/3 PREFERRED_LEADER_NOT_AVAILABLE", "t/9 UNKNOWN_TOPIC_OR_PARTITION"}},
		{"again", electRequest(electPreferred, map[string][]int32{"t": {1}}), []string{"t/1 ELECTION_NOT_NEEDED"}},
		{"all that need it", electRequest(electPreferred, nil), []string{"down/0 PREFERRED_LEADER_NOT_AVAILABLE",
			"t/2 PREFERRED_LEADER_NOT_AVAILABLE", "t/3 PREFERRED_LEADER_NOT_AVAILABLE", "t/4 OK"}},
	} {
		got := n.call(t, row.req).(*kmsg.ElectLeadersResponse)
		if diff := cmp.Diff(row.want, elected(got)); diff != "" || got.ErrorCode != 0 {
			t.Errorf("%s: code %d (-want +got):\n%s", row.name, got.ErrorCode, diff)
		}
		for _, p := range got.Topics[0].Partitions {
			if (p.ErrorMessage == nil) != (p.ErrorCode == 0) {
				t.Errorf("%s: code %d without a word, or none with one", row.name, p.ErrorCode)
			}
		}
	}
	n.cluster.mu.Lock()
	moves := n.cluster.moves
	n.cluster.mu.Unlock()
	if moves != 2 {
		t.Errorf("%d leaderships were moved", moves)
	}
	n.cluster.leads(topic, 1, 2, 1, 2, 3)
	one := map[string][]int32{"t": {1}}
	for err, want := range map[error]string{
		replication.ErrNotInSync:   "t/1 PREFERRED_LEADER_NOT_AVAILABLE",
		replication.ErrNoSuccessor: "t/1 PREFERRED_LEADER_NOT_AVAILABLE",
		context.DeadlineExceeded:   "t/1 REQUEST_TIMED_OUT",
	} {
		n.cluster.mu.Lock()
		n.cluster.moveErr = fmt.Errorf("move: %w", err)
		n.cluster.mu.Unlock()
		if got := elected(n.call(t, electRequest(electPreferred, one)).(*kmsg.ElectLeadersResponse)); len(got) != 1 || got[0] != want {
			t.Errorf("%v: %v, want %s", err, got, want)
		}
	}
	if got := n.call(t, electRequest(7, one)).(*kmsg.ElectLeadersResponse); got.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("an unknown kind of election: code %d", got.ErrorCode)
	}
	oldest := electRequest(electPreferred, one)
	oldest.SetVersion(0)
	if got := elected(n.call(t, oldest).(*kmsg.ElectLeadersResponse)); len(got) != 1 {
		t.Errorf("version 0: %v", got)
	}
}

// quorumRequest asks for the state of a topic's first partition.
func quorumRequest(version int16, topic string) *kmsg.DescribeQuorumRequest {
	req := kmsg.NewPtrDescribeQuorumRequest()
	req.SetVersion(version)
	t := kmsg.NewDescribeQuorumRequestTopic()
	t.Topic = topic
	t.Partitions = append(t.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
	req.Topics = append(req.Topics, t)
	return req
}

func TestDescribeQuorum(t *testing.T) {
	n := newTestNode(t, 3, nil)
	at := time.UnixMilli(1_700_000_000_000)
	n.cluster.mu.Lock()
	n.cluster.quorum = replication.Quorum{Leader: 2, Term: 4, Commit: 10, Members: []replication.QuorumMember{
		{Node: 2, Incarnation: 2, Voter: true, Last: 11, CaughtUpAt: at},
		{Node: 1, Incarnation: 0x0102, Voter: true, Last: 10, HeardAt: at.Add(-1), CaughtUpAt: at.Add(-2 * time.Millisecond)},
		{Node: 3, Incarnation: 3},
	}}
	n.cluster.mu.Unlock()
	got := n.call(t, quorumRequest(2, metadataTopic0)).(*kmsg.DescribeQuorumResponse)
	replica := func(node int32, directory byte, end, fetched, caughtUp int64) kmsg.DescribeQuorumResponseTopicPartitionReplicaState {
		s := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
		s.ReplicaID, s.LogEndOffset, s.LastFetchTimestamp, s.LastCaughtUpTimestamp = node, end, fetched, caughtUp
		s.ReplicaDirectoryID[15] = directory
		return s
	}
	want := kmsg.NewDescribeQuorumResponseTopicPartition()
	want.LeaderID, want.LeaderEpoch, want.HighWatermark = 2, 4, 11
	second := replica(1, 2, 11, at.UnixMilli()-1, at.UnixMilli()-2)
	second.ReplicaDirectoryID[14] = 1
	want.CurrentVoters = append(want.CurrentVoters, replica(2, 2, 12, -1, at.UnixMilli()), second)
	want.Observers = append(want.Observers, replica(3, 3, -1, -1, -1))
	if diff := cmp.Diff(want, got.Topics[0].Partitions[0], cmp.AllowUnexported(kmsg.Tags{})); diff != "" || got.ErrorCode != 0 {
		t.Errorf("code %d (-want +got):\n%s", got.ErrorCode, diff)
	}
	// Broker 1 has another disk than the member that is called so.
	if len(got.Nodes) != 2 || got.Nodes[1].NodeID != 3 || got.Nodes[1].Listeners[0].Host != "host3" || got.Nodes[1].Listeners[0].Port != 33145 {
		t.Errorf("%+v", got.Nodes)
	}
	if got := n.call(t, quorumRequest(0, "t")).(*kmsg.DescribeQuorumResponse); got.Topics[0].Partitions[0].ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("%+v", got)
	}
	n.cluster.mu.Lock()
	n.cluster.quorumErr = errors.New("no leader")
	n.cluster.mu.Unlock()
	if got := n.call(t, quorumRequest(2, metadataTopic0)).(*kmsg.DescribeQuorumResponse); got.ErrorCode != kerr.RequestTimedOut.Code || !strings.Contains(*got.ErrorMessage, "no leader") {
		t.Errorf("%+v", got)
	}
}

// TestElectionByKadm: a leadership that a stop moved away comes back when it is asked
// for, and everything that was acknowledged is there.
func TestElectionByKadm(t *testing.T) {
	configs, brokers, addrs := openThree(t)
	c := newClient(t, addrs, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	admin := kadm.NewClient(c)
	createTopic1(t, c, "t", 3, 3)
	details, err := admin.ListTopics(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	preferred := func(i int32) int32 { return details["t"].Partitions[i].Replicas[0] }
	count := 0
	produce := func() {
		t.Helper()
		for p := range int32(3) {
			if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Partition: p, Value: []byte("x")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			count++
		}
	}
	produce()
	if err := brokers[0].Close(); err != nil {
		t.Fatal(err)
	}
	produce()
	brokers[0] = openBroker(t, configs[0])
	eventually(t, "everything to be led by its preferred replica", func() bool {
		if _, err := admin.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, nil); err != nil {
			t.Fatal(err)
		}
		now, err := admin.ListTopics(kadm.WithAuthorizedOps(t.Context()), "t")
		if err != nil {
			t.Fatal(err)
		}
		for i := range int32(3) {
			if now["t"].Partitions[i].Leader != preferred(i) {
				return false
			}
		}
		return true
	})
	produce()
	read(t, addrs, "t", count)
	asked := map[int32]bool{}
	for _, b := range brokers { // each tells the same
		single := newClient(t, []string{b.KafkaAddr()})
		resp, err := quorumRequest(2, metadataTopic0).RequestWith(t.Context(), single)
		if err != nil || resp.ErrorCode != 0 || len(resp.Topics[0].Partitions[0].CurrentVoters) != 3 {
			t.Fatalf("%+v, %v", resp, err)
		}
		asked[resp.Topics[0].Partitions[0].LeaderID] = true
	}
	if len(asked) != 1 {
		t.Errorf("they name the leaders %v", asked)
	}
	if under, err := admin.ListPartitionReassignments(t.Context(), nil); err != nil || len(under) != 0 {
		t.Errorf("%+v, %v", under, err)
	}
}
