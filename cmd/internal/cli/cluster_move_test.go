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

// TestMoveBalanceDecommission: partitions go where they are sent, then evenly over all
// brokers, then away from one, which is stopped and forgotten; every record stays.
func TestMoveBalanceDecommission(t *testing.T) {
	cluster := millracetest.Start(t, millracetest.Nodes(4))
	environ := []string{"MILLRACE_BROKERS=" + strings.Join(cluster.Addrs(), ",")}
	do := func(stdin string, args ...string) outcome {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		return runIn(t, ctx, environ, stdin, args...)
	}
	moved := func(args ...string) (out clusterDecommissionOutput) {
		t.Helper()
		o := do("", append([]string{"cluster", "--format", "json"}, args...)...)
		if err := json.Unmarshal([]byte(o.out), &out); err != nil || o.code != 0 {
			t.Fatalf("%v: exit %d, %v\n%s%s", args, o.code, err, o.out, o.err)
		}
		return out
	}
	replicas := func() (all [][]int32) {
		t.Helper()
		var out clusterPartitionsOutput
		o := do("", "cluster", "partitions", "--topic", "t", "--format", "json")
		if err := json.Unmarshal([]byte(o.out), &out); err != nil {
			t.Fatalf("exit %d, %v\n%s%s", o.code, err, o.out, o.err)
		}
		for _, p := range out.Partitions {
			all = append(all, p.Replicas)
		}
		return all
	}
	for _, args := range [][]string{{"topic", "create", "t", "-p", "4", "-r", "1"}, {"cluster", "health", "--exit-when-healthy", "--timeout", "1m"}} {
		if o := do("", args...); o.code != 0 {
			t.Fatalf("exit %d\n%s%s", o.code, o.out, o.err)
		}
	}
	if o := do("a\nb\nc\nd\n", "produce", "t"); o.code != 0 {
		t.Fatalf("exit %d\n%s", o.code, o.err)
	}
	before := replicas()
	if out := moved("move", "t", "--to", "1,2,3", "--dry-run"); !out.DryRun || len(out.Partitions) != 4 || !slices.EqualFunc(before, replicas(), slices.Equal) {
		t.Errorf("the dry run: %+v", out)
	}
	moved("move", "t", "--to", "1,2,3", "--parallel", "2")
	// The broker that is asked next may not have heard of it yet.
	pollUntil(t, func() bool {
		return !slices.ContainsFunc(replicas(), func(on []int32) bool { return !slices.Equal(on, []int32{1, 2, 3}) })
	})
	if out := moved("move", "--cancel"); len(out.Partitions) != 0 {
		t.Errorf("taken back: %+v", out)
	}
	if out := moved("balance", "--topic", "t"); len(out.Partitions) == 0 {
		t.Error("nothing was balanced")
	}
	pollUntil(t, func() bool {
		counts := map[int32]int{}
		for _, on := range replicas() {
			for _, n := range on {
				counts[n]++
			}
		}
		return counts[1] == 3 && counts[2] == 3 && counts[3] == 3 && counts[4] == 3
	})
	if out := moved("balance", "--topic", "t"); len(out.Partitions) != 0 {
		t.Errorf("balanced again: %+v", out)
	}
	if out := moved("decommission", "4", "--dry-run"); len(out.Partitions) != 3 || out.Unregistered {
		t.Errorf("the dry run: %+v", out)
	}
	if out := moved("decommission", "4"); len(out.Partitions) != 3 || out.Unregistered {
		t.Errorf("decommissioned: %+v", out)
	}
	pollUntil(t, func() bool {
		return !slices.ContainsFunc(replicas(), func(on []int32) bool { return len(on) != 3 || slices.Contains(on, 4) })
	})
	if o := do("", "cluster", "decommission", "3"); o.code != exitError || !strings.Contains(o.err, "cannot be emptied") || !strings.Contains(o.err, "hint: ") {
		t.Errorf("too few brokers: exit %d\n%s%s", o.code, o.out, o.err)
	}
	cluster.Stop(4)
	pollUntil(t, func() bool {
		o := do("", "cluster", "decommission", "4")
		return o.code == 0 && strings.HasSuffix(o.out, "broker 4 was forgotten\n")
	})
	pollUntil(t, func() bool { return !strings.Contains(do("", "cluster", "brokers").out, "\n   4 ") })
	o := do("", "consume", "t", "-e")
	if lines := strings.Fields(o.out); len(lines) != 4 {
		t.Errorf("exit %d, %q\n%s", o.code, lines, o.err)
	}
}

func TestMoveUsage(t *testing.T) {
	for _, row := range []struct {
		args string
		says string
	}{
		{"move t", "needs --to or --cancel"},
		{"move t --to 1 --cancel", "needs --to or --cancel"},
		{"move --to 1", "needs a topic"},
		{"move --cancel -p 1", "needs a topic"},
		{"move t --to 1 --parallel 0", "--parallel"},
		{"balance --parallel 0", "--parallel"},
		{"decommission x", "no id of a broker"},
		{"decommission 1 --parallel 0", "--parallel"},
	} {
		if o := run(t, "", append([]string{"cluster"}, strings.Fields(row.args)...)...); o.code != exitUsage || !strings.Contains(o.err, row.says) {
			t.Errorf("%s: exit %d\n%s", row.args, o.code, o.err)
		}
	}
}
