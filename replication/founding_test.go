package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

func TestDecide(t *testing.T) {
	list := []string{"a:1", "b:1", "c:1"}
	id := func(node metadata.NodeID, cluster string) transport.Peer {
		return transport.Peer{Node: node, Incarnation: metadata.Incarnation(0x10 + node), Cluster: cluster}
	}
	empty := func(address string, node metadata.NodeID) answer {
		return answer{address: address, peer: id(node, ""), said: introduction{List: list}}
	}
	member := func(address string, node metadata.NodeID, cluster string) answer {
		return answer{address: address, peer: id(node, cluster), said: introduction{List: list, Member: true}}
	}
	dead := func(address string) answer { return answer{address: address, err: transport.ErrPeerDown} }
	refused := func(address string, peer transport.Peer, text string) answer {
		return answer{address: address, peer: peer, err: &transport.RefusedError{Reason: transport.RefusedDuplicate, Text: text, Peer: peer}}
	}
	otherList := answer{address: "c:1", peer: id(3, ""), said: introduction{List: []string{"a:1", "c:1"}}}
	reborn := transport.Peer{Node: 1, Incarnation: 0x77}
	rows := []struct {
		name    string
		self    transport.Peer
		without string
		answers []answer
		found   bool
		cluster string
		via     []string
		trouble string // part of it
	}{
		{name: "the lowest id founds", self: id(1, ""), answers: []answer{empty("a:1", 1), empty("b:1", 2), empty("c:1", 3)}, found: true},
		{name: "another waits for it", self: id(2, ""), answers: []answer{empty("a:1", 1), empty("b:1", 2), empty("c:1", 3)}, trouble: "node 1 at a:1 founds"},
		{name: "one is missing", self: id(1, ""), answers: []answer{empty("a:1", 1), empty("b:1", 2), dead("c:1")}, trouble: "c:1 does not answer"},
		{name: "one has another list", self: id(1, ""), answers: []answer{empty("a:1", 1), empty("b:1", 2), otherList}, trouble: "node 3 at c:1 was started with --join a:1,c:1"},
		{name: "two have one id", self: id(1, ""), answers: []answer{empty("a:1", 1), empty("b:1", 2), {address: "c:1", peer: transport.Peer{Node: 2, Incarnation: 0x99}, said: introduction{List: list}}}, trouble: "b:1 and c:1 both have the node id 2"},
		{name: "one has my id", self: id(1, ""), answers: []answer{empty("a:1", 1), empty("b:1", 2), refused("c:1", reborn, "two nodes have the id 1")}, trouble: "c:1: two nodes have the id 1"},
		{name: "one machine under two names", self: id(1, ""), answers: []answer{empty("a:1", 1), empty("b:1", 2), empty("c:1", 2)}, found: true},
		{name: "I am not in my list", self: id(4, ""), answers: []answer{empty("a:1", 1), empty("b:1", 2), empty("c:1", 3)}, trouble: "none of the --join addresses is this node itself"},
		{name: "one belongs to a cluster", self: id(1, ""), answers: []answer{empty("a:1", 1), empty("b:1", 2), member("c:1", 3, "C")}, cluster: "C", via: []string{"c:1"}},
		{name: "a cluster, and one that is dead", self: id(1, ""), answers: []answer{empty("a:1", 1), dead("b:1"), member("c:1", 3, "C")}, cluster: "C", via: []string{"c:1"}},
		{name: "a cluster of which nobody is a member", self: id(1, ""), answers: []answer{empty("a:1", 1), empty("b:1", 2), {address: "c:1", peer: id(3, "C")}}, trouble: "no member of cluster C"},
		{name: "the only one of a cluster has my id", self: id(1, ""), answers: []answer{empty("a:1", 1), empty("b:1", 2), refused("c:1", transport.Peer{Node: 1, Incarnation: 0x55, Cluster: "C"}, "two nodes have the id 1")}, trouble: "two nodes have the id 1"},
		{name: "two clusters", self: id(1, ""), answers: []answer{empty("a:1", 1), member("b:1", 2, "B"), member("c:1", 3, "C")}, trouble: "another address of --join to cluster B"},
		{name: "one that never comes", self: id(1, ""), without: "c:1", answers: []answer{empty("a:1", 1), empty("b:1", 2), dead("c:1")}, found: true},
		{name: "the lowest never comes", self: id(2, ""), without: "a:1", answers: []answer{dead("a:1"), empty("b:1", 2), empty("c:1", 3)}, found: true},
		{name: "not the lowest of the others", self: id(3, ""), without: "a:1", answers: []answer{dead("a:1"), empty("b:1", 2), empty("c:1", 3)}, trouble: "node 2 at b:1 founds"},
		{name: "it came after all, with a cluster", self: id(2, ""), without: "a:1", answers: []answer{member("a:1", 1, "C"), empty("b:1", 2), empty("c:1", 3)}, cluster: "C", via: []string{"a:1"}},
		{name: "without covers one address only", self: id(2, ""), without: "a:1", answers: []answer{dead("a:1"), empty("b:1", 2), dead("c:1")}, trouble: "c:1 does not answer"},
		{name: "another disk founds nothing", self: id(1, "C"), answers: []answer{empty("a:1", 1), empty("b:1", 2), empty("c:1", 3)}, trouble: "no broker of cluster C answers"},
		{name: "another disk joins its own", self: id(1, "C"), answers: []answer{empty("a:1", 1), member("b:1", 2, "B"), member("c:1", 3, "C")}, cluster: "C", via: []string{"c:1"}},
	}
	for _, row := range rows {
		for i, a := range row.answers {
			if a.peer.Node == row.self.Node && a.peer.Incarnation == row.self.Incarnation {
				row.answers[i].peer = row.self
			}
		}
		d := decide(row.self, list, row.without, row.answers)
		trouble := strings.Join(d.trouble, "; ")
		var via []string
		for _, a := range d.via {
			via = append(via, a.address)
		}
		if d.found != row.found || d.cluster != row.cluster || !slices.Equal(via, row.via) || !strings.Contains(trouble, row.trouble) {
			t.Errorf("%s: %+v", row.name, d)
		}
		if !d.found && d.cluster == "" && trouble == "" {
			t.Errorf("%s: waits without a reason", row.name)
		}
	}
}

func TestNormalize(t *testing.T) {
	got := normalize([]string{" b:1", "a:1", "", "b:1 "})
	if !slices.Equal(got, []string{"a:1", "b:1"}) {
		t.Errorf("%q", got)
	}
}

// ranAs reports whether raft ran as this server, as far as the log goes back.
func (n *metaNode) ranAs(id raft.ServerID) bool {
	return n.logs.has(fmt.Sprintf("%q server=%s", "metadata replica runs", id))
}

// waits requires that the node waits for a reason that has this text.
func (n *metaNode) waits(text string) {
	n.net.Helper()
	eventually(n.net.T, "node to wait for: "+text, func() bool { return strings.Contains(n.group.Waiting(), text) })
}

func TestFoundersWaitForAll(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	nodes[0].start()
	nodes[1].start()
	nodes[0].waits("host3:1 does not answer")
	nodes[1].waits("host3:1 does not answer")
	eventually(t, "the line in the log", func() bool { return nodes[0].logs.has("waiting: ") && nodes[0].logs.has("host3:1") })
	nodes[2].list = []string{"host3:1", "host1:1"}
	nodes[2].start()
	nodes[0].waits("node 3 at host3:1 was started with --join host1:1,host3:1")
	nodes[2].stop()
	nodes[2].list = []string{"host3:1", "host2:1", "host1:1"} // the order says nothing
	nodes[2].start()
	net.settled()
	if !nodes[0].logs.has("founded a cluster") || nodes[1].logs.has("founded a cluster") || nodes[2].logs.has("founded a cluster") {
		t.Error("not exactly node 1 founded the cluster")
	}
	if text := nodes[1].group.Waiting(); text != "" {
		t.Errorf("a serving node says that it waits: %s", text)
	}
}

func TestFoundWithout(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	nodes[1].without = "host1:1"
	nodes[1].start()
	nodes[2].start()
	net.settled()
	cluster := nodes[1].node.ClusterID()
	nodes[0].start() // it came after all
	net.settled()
	for _, n := range nodes {
		if n.node.ClusterID() != cluster {
			t.Errorf("node %d is in cluster %s", n.id, n.node.ClusterID())
		}
	}
}

// emptyBroker answers introductions like a broker with an empty disk, and asks
// nobody.
func (n *metaNode) emptyBroker() (stop func()) {
	n.net.Helper()
	listener, err := n.net.network.Listen(n.address)
	must(n.net.T, err)
	own := transport.Identity{Node: n.id, Incarnation: newIncarnation()}
	mux := transport.New(transport.Config{Listener: listener, Dial: n.net.network.Dialer(transporttest.Host(n.address)),
		Identity: func() transport.Identity { return own }, Logger: discard()})
	said, err := json.Marshal(introduction{Address: n.address, List: normalize(n.list)})
	must(n.net.T, err)
	mux.Handle(transport.MethodFounding, func(r *transport.Request) { r.Reply(said) })
	mux.Start()
	return func() { _ = mux.Close() }
}

// twoOfThreeFounders founds a cluster whose third broker has an empty disk and never
// joins; stop ends it.
func twoOfThreeFounders(t *testing.T) (net *metaNet, nodes []*metaNode, stop func()) {
	t.Helper()
	net = newMetaNet(t)
	nodes = net.founders(3)
	stop = nodes[2].emptyBroker()
	nodes[0].start()
	nodes[1].start()
	net.settled()
	return net, nodes, stop
}

// founding requires that a node comes to see the founding as far as that; an empty
// text stands for its end, when all registered brokers have a vote.
func (n *metaNode) founding(want string) {
	n.net.Helper()
	eventually(n.net.T, fmt.Sprintf("node %d to see the founding: %q", n.id, want), func() bool {
		progress, _ := n.group.View().Founding()
		return n.group.View().ClusterID() != "" && progress == want
	})
	if voters, _ := n.voters(); want == "" && len(voters) < n.group.View().BrokerCount() {
		n.net.Errorf("node %d: the cluster is founded, and only %v vote: it would have no quorum without the first", n.id, voters)
	}
}

// TestFoundingLastsUntilAllHaveJoined: also when the founders that have joined are
// all started again before the third comes.
func TestFoundingLastsUntilAllHaveJoined(t *testing.T) {
	net, nodes, stop := twoOfThreeFounders(t)
	for _, n := range nodes[:2] {
		n.founding("2 of 3 founding brokers have joined")
	}
	stop()
	for _, n := range nodes[:2] {
		n.kill()
	}
	for _, n := range nodes[:2] {
		n.start()
	}
	net.settled()
	for _, n := range nodes[:2] {
		n.founding("2 of 3 founding brokers have joined")
	}
	own := metadata.Replica{Node: 2, Incarnation: 7, NodeIncarnation: nodes[1].node.Incarnation()}
	_, err := nodes[1].change(&metadata.CreateTopic{Name: "early", ID: segment.NewTopicID(), Partitions: []metadata.Partition{{Replicas: []metadata.Replica{own}}}})
	var refused *metadata.Refusal
	if !errors.As(err, &refused) || refused.Code != metadata.BeingFounded {
		t.Errorf("a topic in a cluster that is being founded: %v", err)
	}
	eventually(t, "the line in the log", func() bool {
		return nodes[0].logs.has("is being founded: 2 of 3 founding brokers have joined (node 1 at host1:1, node 2 at host2:1)")
	})
	nodes[2].start()
	net.settled()
	for _, n := range nodes {
		n.founding("")
	}
	nodes[2].stop()
	nodes[0].kill().start().serves()
	nodes[0].founding("")
	nodes[1].create("later")
}

// TestFounderWipedDuringTheFounding: the second founder loses its disk before the third
// is there. It comes back as another incarnation, and the cluster is founded.
func TestFounderWipedDuringTheFounding(t *testing.T) {
	_, nodes, stop := twoOfThreeFounders(t)
	nodes[1].kill().wipe()
	nodes[1].start()
	stop()
	nodes[2].start()
	for _, n := range nodes {
		n.serves()
		n.founding("")
	}
	nodes[1].create("kept")
}

// TestDoWithoutAFounderThatNeverJoined: any broker may be told, also one that is a
// member already.
func TestDoWithoutAFounderThatNeverJoined(t *testing.T) {
	_, nodes, stop := twoOfThreeFounders(t)
	stop()
	nodes[0].founding("2 of 3 founding brokers have joined")
	nodes[1].stop()
	nodes[1].without = "host3:1"
	nodes[1].start()
	for _, n := range nodes[:2] {
		n.founding("")
	}
	nodes[0].create("kept")
}

// TestOneWipedFounderJoinsAgain: a node that lost its disk, the founder itself
// included, is taken in as another incarnation, and its former self is gone.
func TestOneWipedFounderJoinsAgain(t *testing.T) {
	for _, victim := range []int{0, 2} {
		net := newMetaNet(t)
		nodes := net.founders(3)
		for _, n := range nodes {
			n.start()
		}
		net.settled()
		nodes[1].create("kept")
		cluster, before := nodes[victim].node.ClusterID(), nodes[victim].group.serverID()
		nodes[victim].stop().wipe()
		nodes[victim].start()
		net.settled()
		net.sameState()
		if got := nodes[victim].node.ClusterID(); got != cluster {
			t.Errorf("the wiped node is in cluster %s, not %s", got, cluster)
		}
		after := nodes[victim].group.serverID()
		voters, others := net.leader().voters()
		if before == after || !slices.Contains(voters, after) || slices.Contains(append(voters, others...), before) {
			t.Errorf("before %s, after %s, voters %v, others %v", before, after, voters, others)
		}
		if _, ok := nodes[victim].group.View().TopicNamed("kept"); !ok {
			t.Error("the wiped node did not get the metadata")
		}
	}
}

// TestTwoWipedFoundersFoundNothing: two of three founders on empty disks, with the
// flags they had, must not found a second cluster beside the third one's.
func TestTwoWipedFoundersFoundNothing(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	cluster := nodes[2].node.ClusterID()
	for _, n := range nodes {
		n.stop()
	}
	nodes[0].wipe()
	nodes[1].wipe()
	nodes[0].start()
	nodes[1].start()
	nodes[0].waits("host3:1 does not answer") // the third is not up yet
	nodes[2].start()
	for _, n := range nodes[:2] {
		n.waits("no quorum")
	}
	nodes[2].waits("no quorum: 1 of 3 voters are up")
	eventually(t, "the third node's line about the quorum", func() bool { return nodes[2].logs.has("waiting: the metadata group of cluster") })
	for _, n := range nodes[:2] {
		eventually(t, "the line about the quorum", func() bool { return n.logs.has("no quorum") })
		if n.logs.b.Len() == 0 || n.node.ClusterID() != "" || n.node.member() || n.group.current() != nil {
			t.Errorf("node %d entered cluster %q without a quorum", n.id, n.node.ClusterID())
		}
	}
	if nodes[2].node.ClusterID() != cluster {
		t.Error("the third node left its cluster")
	}
}

func TestSecondBrokerWithOneID(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	owner := nodes[1].node.Incarnation()
	twin := &metaNode{net: net, id: 2, address: "twin:1", list: nodes[0].list, logs: &logBuffer{}}
	twin.wipe()
	net.nodes[102] = twin
	defer delete(net.nodes, 102)
	defer twin.stop()
	twin.start()
	eventually(t, "one short line that says so", func() bool {
		return twin.logs.has(`msg="waiting: node id 2 belongs to the running broker at host2:1: give this broker another --node-id"`)
	})
	nodes[1].create("still-served")
	if b, _ := nodes[0].group.View().Broker(2); b.Incarnation != owner {
		t.Error("the newcomer took the id over")
	}
	if twin.node.ClusterID() != "" {
		t.Error("the refused broker wrote the cluster id")
	}
	nodes[1].stop() // now the id is free
	eventually(t, "the newcomer to take the id over", func() bool {
		b, _ := nodes[0].group.View().Broker(2)
		return b.Incarnation == twin.node.Incarnation()
	})
	twin.serves()
}

func TestBrokerOfAnotherCluster(t *testing.T) {
	net := newMetaNet(t)
	alone := net.add(5).start() // a cluster of its own
	alone.serves()
	cluster := alone.node.ClusterID()
	alone.stop()
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	alone.list = nodes[0].list
	alone.start().serves()
	if alone.node.ClusterID() != cluster || nodes[0].group.View().BrokerCount() != 3 {
		t.Error("a broker of another cluster was taken in")
	}
	other := nodes[0].node.ClusterID()
	eventually(t, "a line that says so", func() bool {
		return alone.logs.has(`level=ERROR msg="a --join address belongs to another cluster`)
	})
	if !alone.logs.has("its_cluster=" + other + " own_cluster=" + cluster) {
		t.Error("the line does not name both clusters")
	}
	_, _, err := alone.mux.CallAddress(context.Background(), "host1:1", transport.MethodFounding, []byte("{}"))
	if !errors.Is(err, transport.ErrRefusedIdentity) {
		t.Errorf("the handshake between two clusters: %v", err)
	}
}

// TestAnotherClusterIsSaidOnce: also when its brokers start after the stranger, and
// once for all of them; a node among its own says nothing.
func TestAnotherClusterIsSaidOnce(t *testing.T) {
	net := newMetaNet(t)
	alone := net.add(5).start()
	alone.serves()
	alone.stop()
	nodes := net.founders(3)
	alone.list = nodes[0].list
	alone.start().serves()
	for _, n := range nodes {
		n.start()
	}
	for _, n := range nodes {
		n.serves()
	}
	const line = "a --join address belongs to another cluster"
	eventually(t, "a line that says so", func() bool { return alone.logs.has(line) })
	alone.group.findStrangers() // all addresses answer now
	nodes[0].group.findStrangers()
	if n := alone.logs.count(line); n != 2 {
		t.Errorf("it is said %d times", n)
	}
	if nodes[0].logs.has(line) {
		t.Error("a member takes its own cluster for another one")
	}
}

// TestComesBackElsewhere: the address book is what the metadata and the nodes
// themselves say; the list is only for a beginning.
func TestComesBackElsewhere(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	before := nodes[1].node.Incarnation()
	nodes[0].stop() // so that node 2 is needed for a quorum, though node 3 cannot dial it
	nodes[1].stop()
	nodes[1].address, nodes[1].list = "elsewhere:9", nil
	nodes[1].start()
	nodes[1].serves()
	eventually(t, "node 3 to learn the address", func() bool {
		b, _ := nodes[2].group.View().Broker(2)
		return b.RPCAddress == "elsewhere:9"
	})
	if nodes[1].node.Incarnation() != before {
		t.Error("a move made another incarnation")
	}
	nodes[0].start()
	net.settled()
}

func TestFourthBrokerJoins(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	fourth := net.add(4, "host2:1") // its own address need not be in the list
	fourth.start()
	net.settled()
	fourth.create("from-the-fourth")
	net.sameState()
	fourth.stop()
	fourth.list = nil // it knows its cluster now
	fourth.start().serves()
}

// TestRolledBackDisk: a disk that is an old copy has forgotten votes; it must not
// come back as the voter it was.
func TestRolledBackDisk(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	victim := nodes[2]
	before := victim.group.serverID()
	old := victim.stop().fs.Clone(77)
	victim.start()
	net.settled()
	victim.stop()
	victim.fs, victim.logs = old, &logBuffer{}
	victim.start()
	net.settled()
	after := victim.group.serverID()
	voters, others := net.leader().voters()
	if before == after || !slices.Contains(voters, after) || slices.Contains(append(voters, others...), before) {
		t.Errorf("before %s, after %s, voters %v, others %v", before, after, voters, others)
	}
	if victim.ranAs(before) {
		t.Errorf("raft ran as %s on the old copy", before)
	}
	if names, err := victim.fs.List("/data/quarantine"); err != nil || len(names) != 1 {
		t.Errorf("set aside: %v, %v", names, err)
	}
	net.sameState()
}

// TestOldDiskIsRefusedOnce: the folder of a former incarnation is put back. The
// brokers refuse that one, and what a connection was refused for then is not said
// of the incarnation that the disk becomes.
func TestOldDiskIsRefusedOnce(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	victim := nodes[2]
	old := victim.stop().fs.Clone(77)
	victim.wipe()
	victim.start()
	net.settled()
	victim.stop()
	victim.fs, victim.logs = old, &logBuffer{}
	victim.start()
	net.settled()
	if n := victim.logs.count("this disk is no longer the broker it was"); n != 1 {
		t.Errorf("the disk became another one %d times", n)
	}
	b, _ := nodes[0].group.View().Broker(3)
	if b.Incarnation != victim.node.Incarnation() || len(b.Retired) != 2 {
		t.Errorf("incarnation %s, before it %v", b.Incarnation, b.Retired)
	}
}

// TestRefusalOfAFormerIncarnation: what a peer refused, or what was noticed, while
// this disk was another one is no news of the present one.
func TestRefusalOfAFormerIncarnation(t *testing.T) {
	net := newMetaNet(t)
	n := net.add(1).start()
	n.serves()
	former := n.node.Identity()
	former.Incarnation++
	refusal := func(of transport.Peer) error {
		return fmt.Errorf("handshake: %w", &transport.RefusedError{Reason: transport.RefusedRetired, Text: "replaced", ByPeer: true, Own: of})
	}
	if err := n.group.refusedAsReplaced(refusal(former)); err != nil {
		t.Errorf("a refusal of the former incarnation: %v", err)
	}
	if err := n.group.refusedAsReplaced(refusal(n.node.Identity())); !errors.Is(err, errOtherDisk) {
		t.Errorf("a refusal of the present incarnation: %v", err)
	}
	if err := n.group.judgeOwn(answer{err: refusal(former)}); err != nil {
		t.Errorf("an answer to the former incarnation: %v", err)
	}
	n.group.mustBecomeOther(former.Incarnation, errOtherDisk)
	n.create("still-the-same")
	if n.logs.has("this disk is no longer the broker it was") {
		t.Error("the disk became another one for what its former self was told")
	}
}

func TestLostMetadataFolder(t *testing.T) {
	net := newMetaNet(t)
	nodes := net.founders(3)
	for _, n := range nodes {
		n.start()
	}
	net.settled()
	for _, victim := range nodes[:2] {
		before := victim.group.serverID()
		victim.stop()
		victim.logs = &logBuffer{}
		if err := victim.fs.RemoveAll("/data/metadata"); err != nil {
			t.Fatal(err)
		}
		victim.start()
		net.settled()
		voters, _ := net.leader().voters()
		if after := victim.group.serverID(); before == after || !slices.Contains(voters, after) || slices.Contains(voters, before) {
			t.Errorf("before %s, after %s, voters %v", before, after, voters)
		}
		if victim.ranAs(before) {
			t.Errorf("node %d ran as %s on an empty log before it became another", victim.id, before)
		}
	}
	net.sameState()
}

// crashing starts the node so that its nth change of the disk is the last one
// before a power cut, and ends what is left. False: it made fewer changes before
// it served.
func (n *metaNode) crashing(nth int) bool {
	cut := make(chan struct{})
	disk := n.fs
	fault := disk.Inject(crashfs.Fault{Op: crashfs.OpChange, Nth: nth, Do: func() {
		disk.Crash(crashfs.CrashOptions{})
		close(cut)
	}})
	defer fault.Remove()
	if err := n.tryStart(); err != nil {
		return true // cut within the synchronous part
	}
	served := make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	group := n.group
	go func() {
		defer close(served)
		_ = group.waitView(ctx, func(v *metadata.View) bool { return v.HasSession(n.id, group.process.Load()) })
	}()
	select {
	case <-cut:
		n.stop()
		<-served
		return true
	case <-served:
		n.stop()
		return false
	}
}

// TestCrashWhileFounding cuts the power at each change that founding makes on the
// disk. The next start must serve, and an acknowledged change must stay.
func TestCrashWhileFounding(t *testing.T) {
	for nth := 1; ; nth++ {
		net := newMetaNet(t)
		n := net.add(1)
		crashed := n.crashing(nth)
		n.start().serves()
		n.create("kept")
		n.kill().start().serves()
		if _, ok := n.group.View().TopicNamed("kept"); !ok {
			t.Fatalf("crash at change %d: a topic was lost", nth)
		}
		n.stop()
		if !crashed {
			t.Logf("%d changes", nth-1)
			return
		}
	}
}

// TestCrashWhileJoining cuts the power at changes that a joining node makes on its
// disk; it must come to serve in the cluster that it joined, as one voter.
func TestCrashWhileJoining(t *testing.T) {
	for nth, crashed := 1, true; crashed; nth += 2 {
		net := newMetaNet(t)
		first := net.add(1).start()
		first.serves()
		second := net.add(2, "host1:1")
		crashed = second.crashing(nth)
		second.start()
		net.settled()
		second.create("kept")
		if second.node.ClusterID() != first.node.ClusterID() || first.group.View().BrokerCount() != 2 {
			t.Fatalf("crash at change %d: cluster %s", nth, second.node.ClusterID())
		}
		net.sameState()
		first.stop()
		second.stop()
	}
}

func TestUnknownCommandStopsTheNode(t *testing.T) {
	net := newMetaNet(t)
	n := net.add(1).start()
	n.serves()
	future := n.group.current().raft.Apply([]byte("what a newer version might write"), time.Second)
	if err := future.Error(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node to stop", func() bool { return n.fatalError() != nil })
	if !errors.Is(n.fatalError(), metadata.ErrCorrupt) {
		t.Errorf("stopped for %v", n.fatalError())
	}
	if err := n.group.current().raft.Snapshot().Error(); err == nil {
		t.Error("a state that could not be followed was made a snapshot")
	}
}

func TestNextMember(t *testing.T) {
	state := metadata.NewState()
	index := uint64(0)
	apply := func(cmd metadata.Command) {
		b, err := metadata.EncodeCommand(metadata.Origin{}, cmd)
		if err != nil {
			t.Fatal(err)
		}
		index++
		if r, err := state.Apply(index, b); err != nil || r.Err() != nil {
			t.Fatal(err, r.Err())
		}
	}
	for n := metadata.NodeID(1); n <= 7; n++ {
		apply(&metadata.RegisterBroker{Node: n, Incarnation: metadata.Incarnation(n), Start: 1, Session: 1})
	}
	apply(&metadata.RegisterBroker{Node: 3, Incarnation: 0x33, Replaces: 3, Start: 1, Session: 2})
	apply(&metadata.RegisterBroker{Node: 8, Incarnation: 8, Start: 1, Session: 1})
	apply(&metadata.UnregisterBroker{Node: 8, Incarnation: 8})
	id := func(n metadata.NodeID, incarnation uint64) raft.ServerID { return transport.ServerID(n, incarnation) }
	rows := []struct {
		name             string
		voters, others   []raft.ServerID
		caughtUp, silent []raft.ServerID
		want             string
	}{
		{name: "all are there", voters: []raft.ServerID{id(1, 1), id(2, 2), id(3, 0x33), id(4, 4), id(5, 5)}, others: []raft.ServerID{id(6, 6), id(7, 7)},
			caughtUp: []raft.ServerID{id(2, 2), id(3, 0x33), id(6, 6)}},
		{name: "one is registered", voters: []raft.ServerID{id(1, 1)}, silent: []raft.ServerID{id(2, 2), id(3, 0x33), id(5, 5), id(6, 6), id(7, 7)}, want: "taking in 4/0000000000000004"},
		{name: "nobody new answers", voters: []raft.ServerID{id(1, 1)}, silent: []raft.ServerID{id(2, 2), id(3, 0x33), id(4, 4), id(5, 5), id(6, 6), id(7, 7)}},
		{name: "one has caught up", voters: []raft.ServerID{id(1, 1)}, others: []raft.ServerID{id(2, 2), id(3, 0x33), id(4, 4), id(5, 5), id(6, 6), id(7, 7)},
			caughtUp: []raft.ServerID{id(4, 4)}, want: "giving a vote to 4/0000000000000004"},
		{name: "a vote would cost the quorum", voters: []raft.ServerID{id(1, 1), id(2, 2)}, others: []raft.ServerID{id(3, 0x33), id(4, 4), id(5, 5), id(6, 6), id(7, 7)}, caughtUp: nil},
		{name: "replaced, its successor not caught up", voters: []raft.ServerID{id(1, 1), id(2, 2), id(3, 3)}, others: []raft.ServerID{id(3, 0x33), id(4, 4), id(5, 5), id(6, 6), id(7, 7)},
			caughtUp: []raft.ServerID{id(2, 2)}},
		{name: "replaced, its successor caught up", voters: []raft.ServerID{id(1, 1), id(2, 2), id(3, 3)}, others: []raft.ServerID{id(3, 0x33), id(4, 4), id(5, 5), id(6, 6), id(7, 7)},
			caughtUp: []raft.ServerID{id(2, 2), id(3, 0x33)}, want: "removing the replaced disk 3/0000000000000003"},
		{name: "replaced, but the rest is no quorum", voters: []raft.ServerID{id(1, 1), id(2, 2), id(3, 3)}, others: []raft.ServerID{id(3, 0x33), id(4, 4), id(5, 5), id(6, 6), id(7, 7)},
			caughtUp: []raft.ServerID{id(3, 0x33)}},
		{name: "replaced without a vote", voters: []raft.ServerID{id(1, 1), id(2, 2), id(4, 4), id(5, 5), id(6, 6)}, others: []raft.ServerID{id(3, 3), id(3, 0x33), id(7, 7)}, want: "removing the replaced disk 3/0000000000000003"},
		{name: "unregistered", voters: []raft.ServerID{id(1, 1), id(2, 2), id(8, 8)}, others: []raft.ServerID{id(3, 0x33), id(4, 4), id(5, 5), id(6, 6), id(7, 7)},
			caughtUp: []raft.ServerID{id(2, 2)}, want: "removing the unregistered broker 8/0000000000000008"},
		{name: "unregistered, but the rest is no quorum", voters: []raft.ServerID{id(1, 1), id(2, 2), id(8, 8)}, others: []raft.ServerID{id(3, 0x33), id(4, 4), id(5, 5), id(6, 6), id(7, 7)}},
		{name: "unregistered without a vote", voters: []raft.ServerID{id(1, 1)}, others: []raft.ServerID{id(2, 2), id(3, 0x33), id(4, 4), id(5, 5), id(6, 6), id(7, 7), id(8, 8)}, want: "removing the unregistered broker 8/0000000000000008"},
	}
	for _, row := range rows {
		g := groupMembers{own: id(1, 1), view: state.View(), matches: map[raft.ServerID]transport.Match{}, commit: 10,
			answers: func(id raft.ServerID) bool { return !slices.Contains(row.silent, id) }, runs: func(raft.ServerID) bool { return true }}
		for _, v := range row.voters {
			g.servers = append(g.servers, raft.Server{Suffrage: raft.Voter, ID: v})
		}
		for _, o := range row.others {
			g.servers = append(g.servers, raft.Server{Suffrage: raft.Nonvoter, ID: o})
		}
		for _, c := range row.caughtUp {
			g.matches[c] = transport.Match{Index: 10}
		}
		got := ""
		if step := g.next(); step != nil {
			got = step.what + " " + string(step.id)
		}
		if got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}
