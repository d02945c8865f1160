package cli

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/client/millracetest"
)

// TestLeadersComeBack: what a stop moved away is shown, comes back when it is asked
// for, and not to a broker that is down.
func TestLeadersComeBack(t *testing.T) {
	cluster := millracetest.Start(t, millracetest.Nodes(3), millracetest.Setting("auto.leader.rebalance.enable", "false"))
	environ := []string{"MILLRACE_BROKERS=" + strings.Join(cluster.Addrs(), ",")}
	do := func(args ...string) outcome {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return runIn(t, ctx, environ, "", args...)
	}
	leaders := func(args ...string) (out clusterLeadersOutput, o outcome) {
		t.Helper()
		o = do(append([]string{"cluster", "leaders", "--topic", "t", "--format", "json"}, args...)...)
		if err := json.Unmarshal([]byte(o.out), &out); err != nil {
			t.Fatalf("exit %d, %v\n%s%s", o.code, err, o.out, o.err)
		}
		return out, o
	}
	healthy := func() {
		t.Helper()
		if o := do("cluster", "health", "--exit-when-healthy", "--timeout", "1m"); o.code != 0 {
			t.Fatalf("exit %d\n%s%s", o.code, o.out, o.err)
		}
	}
	if o := do("topic", "create", "t", "-p", "3", "-r", "3"); o.code != 0 {
		t.Fatalf("exit %d\n%s", o.code, o.err)
	}
	healthy()
	cluster.Stop(1)
	var brokers clusterBrokersOutput
	pollUntil(t, func() bool { // every partition has found another leader
		if err := json.Unmarshal([]byte(do("cluster", "brokers", "--format", "json").out), &brokers); err != nil {
			t.Fatal(err)
		}
		return len(brokers.Brokers) == 3 && brokers.Brokers[1].Leaders+brokers.Brokers[2].Leaders == 3
	})
	if b := brokers.Brokers[0]; b.Up || b.Node != 1 || b.Leaders != 0 || b.Preferred != 1 || b.Replicas != 3 || !brokers.Brokers[1].Up {
		t.Errorf("after the stop: %+v", brokers)
	}
	out, o := leaders("--elect", "preferred")
	if first, there := preferring(out, 1); o.code != exitError || !there || first.Elected || !strings.Contains(o.err, `"PREFERRED_LEADER_NOT_AVAILABLE"`) || !strings.Contains(o.err, `"hint":"the replica must be up`) {
		t.Errorf("while it is down: exit %d\n%s%s", o.code, o.out, o.err)
	}
	cluster.Restart(1)
	healthy()
	astray := func() bool { out, _ := leaders(); return len(out.Partitions) > 0 }
	if !astray() {
		t.Error("nothing is led by another than the preferred replica")
	}
	elected := func(p leaderOutput) bool { return p.Elected }
	if out, o := leaders("--elect", "preferred", "--dry-run"); o.code != 0 || !out.DryRun || slices.ContainsFunc(out.Partitions, elected) || !astray() {
		t.Errorf("the dry run: exit %d\n%s%s", o.code, o.out, o.err)
	}
	pollUntil(t, func() bool { // a busy machine may be too slow for the hand-over's clocks
		out, o = leaders("--elect", "preferred")
		return o.code == 0
	})
	for _, p := range out.Partitions {
		if !p.Elected || p.Leader == p.Preferred {
			t.Errorf("%+v", p)
		}
	}
	pollUntil(t, func() bool { return !astray() })
	if o := do("cluster", "leaders"); o.out != "every partition is led by its preferred replica\n" {
		t.Errorf("at the end: exit %d\n%s%s", o.code, o.out, o.err)
	}
}

// preferring is the partition that a broker should lead and does not, if the list has
// it: others may stand before it, since leadership moves on a busy machine.
func preferring(out clusterLeadersOutput, broker int32) (leaderOutput, bool) {
	i := slices.IndexFunc(out.Partitions, func(p leaderOutput) bool { return p.Preferred == broker })
	if i < 0 {
		return leaderOutput{}, false
	}
	return out.Partitions[i], true
}
