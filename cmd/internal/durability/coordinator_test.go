package durability

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/cmd/internal/localcluster"
	"github.com/millrace/millrace/cmd/internal/testbinary"
)

const (
	coordinatorKills   = 3
	coordinatorMembers = 3
	coordinatorGroup   = "killed"
	// progressLimit bounds how long any partition of a group may stand still when
	// its coordinator was killed: an election, and a rebalance at the worst.
	progressLimit = 15 * time.Second
)

// groupRun is three broker processes and a group whose coordinator is killed.
type groupRun struct {
	*testing.T
	cluster *localcluster.Cluster
	faults  *Faults
	load    *Load
	group   *Group
	admin   *kadm.Client
}

func newGroupRun(t *testing.T) *groupRun {
	t.Helper()
	ports, err := localcluster.FreePorts(3)
	must(t, err)
	c, err := localcluster.New(localcluster.Config{Binary: testbinary.Build(t), Dir: t.TempDir(), Ports: ports,
		Args: []string{"-c", "group.initial.rebalance.delay.ms=0"}})
	must(t, err)
	t.Cleanup(func() {
		for n := 1; n <= c.Nodes(); n++ {
			must(t, c.Kill(n))
		}
	})
	must(t, c.Start(t.Context()))
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...), kgo.MetadataMinAge(20*time.Millisecond))
	must(t, err)
	t.Cleanup(client.Close)
	r := &groupRun{T: t, cluster: c, faults: NewFaults(), admin: kadm.NewClient(client)}
	resp, err := r.admin.CreateTopic(t.Context(), testPartitions, 3, nil, testTopic)
	must(t, err)
	must(t, resp.Err)
	r.load = NewLoad(Target{Seeds: c.Addrs(), Topic: testTopic, Partitions: testPartitions, ValueBytes: 100, Rate: 1000},
		NewLedger(uint32(time.Now().UnixNano()), r.faults), r.faults)
	t.Cleanup(r.load.Close)
	r.group, err = r.load.Group(coordinatorGroup, coordinatorMembers)
	must(t, err)
	must(t, r.load.Watch(r.group))
	must(t, r.load.Producer())
	return r
}

// coordinator is the node that coordinates the group.
func (r *groupRun) coordinator() int {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), waitLimit)
	defer cancel()
	for {
		found := r.admin.FindGroupCoordinators(ctx, coordinatorGroup)[coordinatorGroup]
		if n := int(found.NodeID); found.Err == nil && n >= 1 && r.cluster.Running(n) {
			return n
		}
		if !rest(ctx, watchInterval) {
			r.Fatalf("the group has no coordinator: %v", found.Err)
		}
	}
}

// committed is what the brokers have acknowledged to members, by partition.
func (r *groupRun) committed() []int64 {
	positions := make([]int64, testPartitions)
	for p := range positions {
		positions[p] = r.group.Committed(int32(p))
	}
	return positions
}

// progresses waits until the group has committed more of every partition.
func (r *groupRun) progresses(after string) {
	r.Helper()
	before, begin := r.committed(), time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), progressLimit)
	defer cancel()
	for stuck := true; stuck; {
		stuck = false
		now := r.committed()
		for p := range now {
			stuck = stuck || now[p] <= before[p]
		}
		if stuck && !rest(ctx, 10*time.Millisecond) {
			r.Fatalf("%s: positions were %v and are %v after %s; %v", after, before, now, progressLimit, r.faults.Err())
		}
	}
	r.Logf("%s: all partitions went on after %s", after, time.Since(begin).Round(time.Millisecond))
}

// stable waits until all members have an equal share and nobody else is in.
func (r *groupRun) stable() {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), progressLimit)
	defer cancel()
	for {
		groups, err := r.admin.DescribeGroups(ctx, coordinatorGroup)
		state, shares := "", []int{}
		if g := groups[coordinatorGroup]; err == nil && g.Err == nil {
			state = g.State
			for _, m := range g.Members {
				assigned, _ := m.Assigned.AsConsumer()
				share := 0
				for _, t := range assigned.Topics {
					share += len(t.Partitions)
				}
				shares = append(shares, share)
			}
		}
		if diff := cmp.Diff([]int{1, 1, 1}, shares); diff == "" && state == "Stable" {
			return
		}
		if !rest(ctx, watchInterval) {
			r.Fatalf("the group is %q with partitions %v, %v", state, shares, err)
		}
	}
}

// TestCoordinatorKills: a group goes on through kills of its coordinator. Positions
// never go back, every record is given to a member, nobody stands still, and in the
// end the group is stable and its positions are those that were acknowledged.
func TestCoordinatorKills(t *testing.T) {
	r := newGroupRun(t)
	r.progresses("start")
	for kill := range coordinatorKills {
		n := r.coordinator()
		must(t, r.cluster.Kill(n))
		r.progresses(fmt.Sprintf("kill %d, of broker %d", kill+1, n))
		must(t, r.cluster.StartNode(n))
		must(t, r.cluster.WaitReady(t.Context(), n))
	}
	r.stable()
	r.progresses("all brokers are back")
	r.load.StopProducers()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	ends, err := r.load.Ends(ctx)
	must(t, err)
	r.load.WaitRead(ctx, ends, nil, r.group)
	for cmp.Diff(ends, r.committed()) != "" && rest(ctx, watchInterval) {
	}
	positions, ok := r.load.Positions(ctx, r.admin, r.group)
	for !ok && rest(ctx, watchInterval) {
		positions, ok = r.load.Positions(ctx, r.admin, r.group)
	}
	if diff := cmp.Diff(r.committed(), positions); diff != "" {
		t.Errorf("positions (-acknowledged +fetched):\n%s", diff)
	}
	select {
	case e := <-r.cluster.Exits():
		t.Error(e.Err)
	default:
	}
	must(t, r.faults.Err())
	t.Logf("%+v", r.load.Ledger().Counts())
}
