package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
)

// ElectLeaders (key 43, KIP-183 and KIP-460). Version 1 brings the kind of election
// and an error of the whole answer, 2 flexible encoding. In Kafka it needs ALTER on
// the cluster.
//
// A preferred election moves the leadership to a partition's first replica. Any
// broker answers: it asks each partition's leader to hand over, which holds writes
// for a moment and fails none. Leaders work at the same time, each on one partition
// after the other.
//
// There is no unclean election: a replica of a Raft group that lacks acknowledged
// records cannot be elected, by nobody.

// The kinds of election.
const (
	electPreferred = 0
	electUnclean   = 1
)

// maxElectWait bounds an election of everything, whatever the client allows.
const maxElectWait = 5 * time.Minute

const uncleanRefused = "there is no unclean election: a replica that lacks acknowledged records cannot lead a Raft group; bring back a majority of the replicas"

func handleElectLeaders(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.ElectLeadersRequest)
	ctx, cancel := bounded(ctx, body.TimeoutMillis, maxElectWait)
	defer cancel()
	stop := context.AfterFunc(n.stopping, cancel)
	defer stop()
	resp := kmsg.NewPtrElectLeadersResponse()
	if body.ElectionType != electPreferred && body.ElectionType != electUnclean {
		resp.ErrorCode = kerr.InvalidRequest.Code
		return resp, nil
	}
	elections := electionsOf(n.cluster.View(), body)
	byLeader := map[metadata.NodeID][]*election{}
	for _, e := range elections {
		if e.failure == nil {
			e.judge(n, body.ElectionType)
		}
		if e.failure == nil {
			byLeader[e.leader] = append(byLeader[e.leader], e)
		}
	}
	var work sync.WaitGroup
	for _, list := range byLeader {
		work.Go(func() {
			for _, e := range list {
				err := n.cluster.MoveLeader(ctx, e.id, e.partition, e.preferred)
				e.failure = electionFailure(err)
			}
		})
	}
	work.Wait()
	for _, e := range elections {
		// As in Kafka: where all were asked for, those that need nothing are left out.
		if body.Topics == nil && e.failure != nil && e.failure.code == kerr.ElectionNotNeeded.Code {
			continue
		}
		e.answer(resp)
	}
	return resp, nil
}

// election is one partition of which the leader is to be elected.
type election struct {
	topicRef
	partition int32
	topic     *metadata.Topic
	preferred metadata.NodeID
	leader    metadata.NodeID
	failure   *failure
}

// electionsOf lists the partitions that were asked for, all of them for null.
func electionsOf(view *metadata.View, body *kmsg.ElectLeadersRequest) (all []*election) {
	if body.Topics == nil {
		for t := range view.Topics() {
			for i := range t.Partitions {
				all = append(all, &election{topicRef: topicRef{t.Name, t.ID}, partition: int32(i), topic: t})
			}
		}
		return all
	}
	for i := range body.Topics {
		for _, partition := range body.Topics[i].Partitions {
			e := &election{topicRef: topicRef{name: body.Topics[i].Topic}, partition: partition}
			t, ok := view.TopicNamed(e.name)
			if ok && partition >= 0 && int(partition) < len(t.Partitions) {
				e.topic, e.id = t, t.ID
			} else {
				e.failure = fail(kerr.UnknownTopicOrPartition, "no such topic or partition")
			}
			all = append(all, e)
		}
	}
	return all
}

// judge decides what can be decided without asking the leader.
func (e *election) judge(n *node, kind int8) {
	e.preferred = e.topic.Partitions[e.partition].Replicas[0].Node
	l, known := n.cluster.Leader(e.id, e.partition)
	known = known && l.Node != replication.NoLeader
	e.leader = l.Node
	switch {
	case kind == electUnclean && !known:
		e.failure = fail(kerr.EligibleLeadersNotAvailable, uncleanRefused)
	case kind == electUnclean:
		e.failure = fail(kerr.ElectionNotNeeded, "the partition has a leader")
	case !known:
		e.failure = fail(kerr.PreferredLeaderNotAvailable, "the partition has no leader that could hand over to its preferred one; it elects one as soon as a majority of its replicas is up")
	case l.Node == e.preferred:
		e.failure = fail(kerr.ElectionNotNeeded, "the preferred replica leads")
	case n.cluster.View().Drained(e.preferred):
		e.failure = fail(kerr.PreferredLeaderNotAvailable, fmt.Sprintf("broker %d is drained", e.preferred))
	case !n.alive(e.preferred):
		e.failure = fail(kerr.PreferredLeaderNotAvailable, fmt.Sprintf("broker %d is down", e.preferred))
	case !slices.Contains(l.InSync, e.preferred):
		e.failure = fail(kerr.PreferredLeaderNotAvailable, fmt.Sprintf("the replica on broker %d is not in sync", e.preferred))
	}
}

// electionFailure maps what came of asking the leader.
func electionFailure(err error) *failure {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fail(kerr.RequestTimedOut, "not done in time")
	default: // the leader did not hand over, or is no leader any more
		return fail(kerr.PreferredLeaderNotAvailable, err.Error())
	}
}

// answer adds the outcome to a response; partitions of a topic come one behind the
// other.
func (e *election) answer(resp *kmsg.ElectLeadersResponse) {
	if last := len(resp.Topics) - 1; last < 0 || resp.Topics[last].Topic != e.name {
		t := kmsg.NewElectLeadersResponseTopic()
		t.Topic = e.name
		resp.Topics = append(resp.Topics, t)
	}
	p := kmsg.NewElectLeadersResponseTopicPartition()
	p.Partition = e.partition
	if e.failure != nil {
		p.ErrorCode, p.ErrorMessage = e.failure.code, e.failure.text()
	}
	t := &resp.Topics[len(resp.Topics)-1]
	t.Partitions = append(t.Partitions, p)
}
