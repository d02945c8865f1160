package replication

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

func TestWhoCampaigns(t *testing.T) {
	members := []raft.ServerID{"1/a", "2/b", "3/c"}
	at := func(id raft.ServerID, term segment.Term, index segment.Index) transport.GroupUp {
		return transport.GroupUp{Replica: id, LastTerm: term, LastIndex: index}
	}
	led := func(s transport.GroupUp) transport.GroupUp {
		s.Leader = "9/z"
		return s
	}
	withholding := func(s transport.GroupUp) transport.GroupUp {
		s.Probation, s.Withholds = 1, true
		return s
	}
	for name, row := range map[string]struct {
		own     transport.GroupUp
		peers   []transport.GroupUp
		members []raft.ServerID
		want    bool
	}{
		"alone of three":              {at("1/a", 1, 1), nil, members, false},
		"single voter":                {at("1/a", 1, 1), nil, members[:1], true},
		"preferred of two equals":     {at("1/a", 1, 1), []transport.GroupUp{at("2/b", 1, 1)}, members, true},
		"second of two equals":        {at("2/b", 1, 1), []transport.GroupUp{at("1/a", 1, 1)}, members, false},
		"second with the longer log":  {at("2/b", 1, 2), []transport.GroupUp{at("1/a", 1, 1)}, members, true},
		"a higher term beats length":  {at("2/b", 2, 1), []transport.GroupUp{at("1/a", 1, 9)}, members, true},
		"a peer knows a leader":       {at("1/a", 1, 9), []transport.GroupUp{led(at("2/b", 1, 1))}, members, false},
		"it knows a leader itself":    {led(at("1/a", 1, 9)), []transport.GroupUp{at("2/b", 1, 1)}, members, false},
		"third is longer than first":  {at("1/a", 1, 1), []transport.GroupUp{at("3/c", 1, 2)}, members, false},
		"not a member":                {at("9/x", 5, 5), []transport.GroupUp{at("1/a", 1, 1), at("2/b", 1, 1)}, members, false},
		"a stranger does not count":   {at("1/a", 1, 1), []transport.GroupUp{at("9/x", 1, 1)}, members, false},
		"the longest gives no votes":  {at("2/b", 1, 1), []transport.GroupUp{withholding(at("1/a", 1, 9)), at("3/c", 1, 1)}, members, true},
		"its vote is missing":         {at("1/a", 1, 1), []transport.GroupUp{withholding(at("2/b", 1, 1))}, members, false},
		"it speaks of a leader":       {at("1/a", 1, 1), []transport.GroupUp{withholding(led(at("2/b", 1, 1))), at("3/c", 1, 1)}, members, false},
		"last in order, shortest two": {at("3/c", 3, 3), []transport.GroupUp{at("1/a", 2, 9), at("2/b", 3, 2)}, members, true},
	} {
		t.Run(name, func(t *testing.T) {
			var up upPeers
			for _, s := range row.peers {
				up.heard(s)
			}
			if got := up.shouldCampaign(row.own, row.members, nobody); got != row.want {
				t.Errorf("shouldCampaign: %v, want %v", got, row.want)
			}
		})
	}
}

func nobody(raft.ServerID) bool { return false }

// TestConnectedReplicaIsWaitedFor: the preferred replica of a new group leads it,
// though the two others happened to be up a millisecond before it.
func TestConnectedReplicaIsWaitedFor(t *testing.T) {
	var up upPeers
	members := []raft.ServerID{"1/a", "2/b", "3/c"}
	own := transport.GroupUp{Replica: "2/b", LastTerm: 1, LastIndex: 1}
	up.heard(transport.GroupUp{Replica: "3/c", LastTerm: 1, LastIndex: 1})
	if up.shouldCampaign(own, members, func(id raft.ServerID) bool { return id == "1/a" }) {
		t.Error("campaigned before the preferred replica had spoken")
	}
	if !up.shouldCampaign(own, members, nobody) {
		t.Error("did not campaign without it")
	}
}

func TestPeerThatWentAwayDoesNotCount(t *testing.T) {
	var up upPeers
	up.heard(transport.GroupUp{Replica: "2/b", LastTerm: 1, LastIndex: 1})
	up.gone("2/b")
	if up.shouldCampaign(transport.GroupUp{Replica: "1/a", LastTerm: 1, LastIndex: 1}, []raft.ServerID{"1/a", "2/b", "3/c"}, nobody) {
		t.Error("one of three that are up campaigned")
	}
}

func TestReportsSurviveTheWire(t *testing.T) {
	want := []leaderReport{
		{transport.GroupID{Topic: segment.TopicID{1}, Partition: 3}, LeaderInfo{Node: 2, Term: 7, InSync: []metadata.NodeID{1, 2}}, 1<<40 + 5},
		{transport.GroupID{Partition: 1}, LeaderInfo{Node: NoLeader, Term: 1}, 1},
	}
	got, err := decodeReports(encodeReports(want))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(leaderReport{})); d != "" {
		t.Error(d)
	}
}

func FuzzDecodeReports(f *testing.F) {
	f.Add(encodeReports([]leaderReport{{info: LeaderInfo{Node: 1, InSync: []metadata.NodeID{1}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		reports, err := decodeReports(b)
		if err == nil && string(encodeReports(reports)) != string(b) {
			t.Error("decoded and encoded again, the bytes differ")
		}
	})
}

func TestHighestTermLeads(t *testing.T) {
	table := newLeaderTable()
	group := transport.GroupID{Partition: 1}
	for i, row := range []struct {
		by       metadata.NodeID
		info     LeaderInfo
		sequence uint64
		news     bool
		want     metadata.NodeID
	}{
		{1, LeaderInfo{Node: 1, Term: 3}, 1, true, 1},
		{1, LeaderInfo{Node: 1, Term: 3}, 1, false, 1},
		{2, LeaderInfo{Node: 2, Term: 2}, 9, false, 1},
		{2, LeaderInfo{Node: NoLeader, Term: 3}, 9, false, 1}, // of another's term
		{1, LeaderInfo{Node: NoLeader, Term: 3}, 3, true, NoLeader},
		{1, LeaderInfo{Node: 1, Term: 3, InSync: []metadata.NodeID{1}}, 2, false, NoLeader}, // said before
		{2, LeaderInfo{Node: 2, Term: 4}, 1, true, 2},
		{1, LeaderInfo{Node: NoLeader, Term: 3}, 4, false, 2},
		{2, LeaderInfo{Node: 2, Term: 4, InSync: []metadata.NodeID{2}}, 2, true, 2},
	} {
		if got := table.learn(row.by, leaderReport{group, row.info, row.sequence}); got != row.news {
			t.Errorf("report %d was news: %v, want %v", i, got, row.news)
		}
		if info, _ := table.get(group); info.Node != row.want {
			t.Errorf("after report %d node %d leads, want %d", i, info.Node, row.want)
		}
	}
}

// TestOwnReportsAreNumbered: others must tell the newer of two apart.
func TestOwnReportsAreNumbered(t *testing.T) {
	table := newLeaderTable()
	group := transport.GroupID{Partition: 1}
	table.learn(2, leaderReport{group, LeaderInfo{Node: 2, Term: 2}, 7})
	for i, row := range []struct {
		info     LeaderInfo
		news     bool
		sequence uint64
	}{
		{LeaderInfo{Node: 1, Term: 1}, false, 0},
		{LeaderInfo{Node: 1, Term: 2}, false, 0}, // another's term
		{LeaderInfo{Node: 1, Term: 3}, true, 1},
		{LeaderInfo{Node: 1, Term: 3}, false, 1},
		{LeaderInfo{Node: 1, Term: 3, InSync: []metadata.NodeID{1}}, true, 2},
		{LeaderInfo{Node: NoLeader, Term: 3}, true, 3},
		{LeaderInfo{Node: 1, Term: 5}, true, 1},
	} {
		if got := table.announce(1, group, row.info); got != row.news {
			t.Errorf("report %d was news: %v, want %v", i, got, row.news)
		}
		if report, own := table.saidBy(1, group); own != (row.sequence > 0) || own && report.sequence != row.sequence {
			t.Errorf("report %d: own %v, sequence %d, want %d", i, own, report.sequence, row.sequence)
		}
	}
}
