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

// TestDrainAndUndrain: a drained broker leads nothing and is safe to stop while the
// others are there; while one of them is down it is not, and that is said.
func TestDrainAndUndrain(t *testing.T) {
	cluster := millracetest.Start(t, millracetest.Nodes(3), millracetest.Setting("auto.leader.rebalance.enable", "false"))
	environ := []string{"MILLRACE_BROKERS=" + strings.Join(cluster.Addrs(), ",")}
	do := func(args ...string) outcome {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		return runIn(t, ctx, environ, "", args...)
	}
	drain := func(args ...string) (out clusterDrainOutput, o outcome) {
		t.Helper()
		o = do(append([]string{"cluster", "drain", "--format", "json", "--timeout", "1m"}, args...)...)
		if err := json.Unmarshal([]byte(o.out), &out); err != nil {
			t.Fatalf("exit %d, %v\n%s%s", o.code, err, o.out, o.err)
		}
		return out, o
	}
	brokers := func() []brokerLoadOutput {
		t.Helper()
		var out clusterBrokersOutput
		o := do("cluster", "brokers", "--format", "json")
		if err := json.Unmarshal([]byte(o.out), &out); err != nil {
			t.Fatalf("exit %d, %v\n%s%s", o.code, err, o.out, o.err)
		}
		return out.Brokers
	}
	healthy := func() {
		t.Helper()
		if o := do("cluster", "health", "--exit-when-healthy", "--timeout", "1m"); o.code != 0 {
			t.Fatalf("exit %d\n%s%s", o.code, o.out, o.err)
		}
	}
	if o := do("topic", "create", "t", "-p", "6", "-r", "3"); o.code != 0 {
		t.Fatalf("exit %d\n%s", o.code, o.err)
	}
	healthy()
	if out, o := drain("2", "--dry-run"); o.code != 0 || !out.DryRun || !out.SafeToStop || brokers()[1].Drained {
		t.Errorf("the dry run: exit %d\n%s%s", o.code, o.out, o.err)
	}
	if out, o := drain("2"); o.code != 0 || out.Leaders != 0 || !out.SafeToStop || !out.MetadataQuorum || len(out.NoQuorum) != 0 {
		t.Errorf("exit %d\n%s%s", o.code, o.out, o.err)
	}
	if b := brokers()[1]; !b.Drained || b.Leaders != 0 || b.Preferred != 2 || b.Replicas != 6 {
		t.Errorf("the drained broker is %+v", b)
	}
	if o := do("topic", "create", "u", "-p", "1", "-r", "3"); o.code != exitError || !strings.Contains(o.err, "drained") {
		t.Errorf("a topic that needs it: exit %d\n%s", o.code, o.err)
	}
	cluster.Stop(2)
	pollUntil(t, func() bool { return !brokers()[1].Up })
	out, o := drain("3")
	if o.code != exitError || out.SafeToStop || out.MetadataQuorum || len(out.NoQuorum) != 6 || out.Leaders != 0 {
		t.Errorf("the second of three: exit %d\n%s%s", o.code, o.out, o.err)
	}
	if o := do("cluster", "undrain", "2"); o.code != 0 || !strings.HasPrefix(o.out, "broker 2 is drained no more") { // while it is down
		t.Errorf("exit %d\n%s%s", o.code, o.out, o.err)
	}
	cluster.Restart(2)
	healthy()
	if o := do("cluster", "undrain", "3", "--dry-run"); o.code != 0 || !brokers()[2].Drained {
		t.Errorf("the dry run: exit %d\n%s%s", o.code, o.out, o.err)
	}
	if o := do("cluster", "undrain", "3"); o.code != 0 {
		t.Errorf("exit %d\n%s%s", o.code, o.out, o.err)
	}
	pollUntil(t, func() bool { // a busy machine may be too slow for the hand-over's clocks
		return do("cluster", "leaders", "--elect", "preferred").code == 0
	})
	pollUntil(t, func() bool {
		return !slices.ContainsFunc(brokers(), func(b brokerLoadOutput) bool { return b.Drained || b.Leaders != 2 })
	})
}

// TestProgress: a line a second, with an estimate once there is one, and none between.
func TestProgress(t *testing.T) {
	var err strings.Builder
	now := time.Unix(1000, 0)
	a := &app{Environment: Environment{Err: &err, Now: func() time.Time { return now }}, format: "text"}
	p := newProgress(a, "drain broker 2", "left")
	for _, left := range []int{100, 100, 100, 80, 80, 60} {
		p.left(left)
		now = now.Add(500 * time.Millisecond)
	}
	want := "drain broker 2: 100 left\ndrain broker 2: 80 left, about 8s more\n"
	if err.String() != want {
		t.Errorf("%q, want %q", err.String(), want)
	}
	a.format = "json"
	now = now.Add(time.Minute)
	p.left(1)
	if err.String() != want {
		t.Errorf("where errors are JSON: %q", err.String())
	}
}
