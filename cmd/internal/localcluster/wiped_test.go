package localcluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/cmd/internal/testbinary"
)

// founders are three brokers of the real binary that founded a cluster.
type founders struct {
	*testing.T
	binary  string
	ports   []int
	dirs    [3]string
	brokers [3]*broker
	cluster string
}

// found starts three brokers with empty disks and one list.
func found(t *testing.T) *founders {
	t.Helper()
	f := &founders{T: t, binary: testbinary.Build(t), ports: rpcPorts(t, 3)}
	for node := 1; node <= 3; node++ {
		f.dirs[node-1] = t.TempDir()
		f.start(node)
	}
	f.cluster = f.brokers[0].ready()
	for _, b := range f.brokers[1:] {
		if b.ready() != f.cluster {
			t.Fatal("there are two clusters")
		}
	}
	f.awaitVotes()
	return f
}

// start starts a broker with the flags that it always has.
func (f *founders) start(node int) *broker {
	f.Helper()
	f.brokers[node-1] = serve(f.T, f.binary, f.dirs[node-1], node, f.ports[node-1], f.ports...)
	return f.brokers[node-1]
}

// kill ends a broker with SIGKILL; wipe also gives it an empty disk.
func (f *founders) kill(node int) {
	f.Helper()
	b := f.brokers[node-1]
	if err := b.command.Process.Kill(); err != nil {
		f.Fatal(err)
	}
	<-b.ended
}

func (f *founders) wipe(node int) {
	f.Helper()
	f.kill(node)
	f.dirs[node-1] = f.TempDir()
}

// nodeFile is what node.json says who a broker is.
type nodeFile struct {
	Node        int    `json:"node"`
	Incarnation string `json:"incarnation"`
	Cluster     string `json:"cluster"`
}

func (f *founders) identity(node int) (n nodeFile) {
	f.Helper()
	text, err := os.ReadFile(filepath.Join(f.dirs[node-1], "node.json"))
	if err != nil {
		f.Fatal(err)
	}
	if err := json.Unmarshal(text, &n); err != nil {
		f.Fatal(err)
	}
	return n
}

// foundedNothing checks that wiped brokers wait.
func (f *founders) foundedNothing(nodes ...int) {
	f.Helper()
	for _, node := range nodes {
		b := f.brokers[node-1]
		if b.isReady() || strings.Contains(b.said(), "founded a cluster") {
			f.Errorf("wiped broker %d does not wait:\n%s", node, b.said())
		}
		if got := f.identity(node).Cluster; got != "" && got != f.cluster {
			f.Errorf("wiped broker %d is of cluster %s", node, got)
		}
	}
}

// TestTwoOfThreeFoundersWiped: restarted on empty disks with the flags they always
// had, they are a majority that has forgotten everything. They wait for whom they
// miss, say that the metadata group has no quorum, and found nothing, whether the
// third is there or not.
func TestTwoOfThreeFoundersWiped(t *testing.T) {
	f := found(t)
	f.kill(3)
	f.wipe(1)
	f.wipe(2)
	for node := 1; node <= 2; node++ {
		f.start(node).says("waiting", loopback(f.ports[2]))
	}
	f.foundedNothing(1, 2)
	f.start(3)
	for _, b := range f.brokers {
		b.says("waiting", "no quorum")
	}
	f.foundedNothing(1, 2, 3)
	if got := f.identity(3).Cluster; got != f.cluster {
		t.Errorf("the broker that kept its disk is of cluster %q now, was of %q", got, f.cluster)
	}
}

// TestOneOfThreeFoundersWiped: it joins the cluster of the others again, as somebody
// new.
func TestOneOfThreeFoundersWiped(t *testing.T) {
	f := found(t)
	before := f.identity(1)
	c := open(t, f.brokers[1])
	if err := c.Admin().Create(limited(t), client.TopicSpec{Name: "kept", Partitions: 1, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	if err := c.Produce(limited(t), &client.Record{Topic: "kept", Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	f.wipe(1) // the one that founded
	if got := f.start(1).ready(); got != f.cluster {
		t.Errorf("it is of cluster %s, the others are of %s", got, f.cluster)
	}
	if strings.Contains(f.brokers[0].said(), "founded a cluster") {
		t.Error("it founded a cluster")
	}
	after := f.identity(1)
	if after.Node != 1 || after.Cluster != f.cluster || after.Incarnation == "" || after.Incarnation == before.Incarnation {
		t.Errorf("it was %+v and is %+v, want a fresh incarnation of node 1", before, after)
	}
	offsets, err := open(t, f.brokers[0]).Offsets(limited(t), "kept", client.End())
	if err != nil || offsets[0] != 1 {
		t.Errorf("the record of before is at %v, %v", offsets, err)
	}
}

// awaitVotes waits until the metadata group has given a vote to all three: before
// that it cannot do without the founder.
func (f *founders) awaitVotes() {
	f.Helper()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(pollInterval) {
		votes := 0
		for _, b := range f.brokers {
			votes += strings.Count(b.said(), "giving a vote to")
		}
		if votes >= 2 {
			return
		}
		if time.Now().After(deadline) {
			f.Fatalf("%d brokers besides the founder have a vote", votes)
		}
	}
}

// open opens a client of one broker.
func open(t *testing.T, b *broker) *client.Client {
	t.Helper()
	_, rest, _ := strings.Cut(b.says("ready node="), "kafka=")
	address, _, _ := strings.Cut(rest, " ")
	c, err := client.Open(limited(t), []string{address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
