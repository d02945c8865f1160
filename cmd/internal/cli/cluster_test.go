package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/client/millracetest"
)

// TestHealthOfASickCluster: a killed broker is named, exit code 1; waiting for
// health ends when it is back.
func TestHealthOfASickCluster(t *testing.T) {
	cluster := millracetest.Start(t, millracetest.Nodes(3))
	environ := []string{"MILLRACE_BROKERS=" + strings.Join(cluster.Addrs(), ",")}
	do := func(args ...string) outcome {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return runIn(t, ctx, environ, "", args...)
	}
	o := do("topic", "create", "t", "-p", "3", "-r", "3", "-c", "min.insync.replicas=1", "-c", "retention.ms=1000")
	if want := "note: min.insync.replicas=1 has no effect, 2 is in force: an acknowledgement means a majority of the replicas, never fewer\n"; o.code != 0 || o.err != want {
		t.Fatalf("exit %d, %q, want %q", o.code, o.err, want)
	}
	if o := do("cluster", "health", "--exit-when-healthy", "--timeout", "30s"); o.code != 0 {
		t.Fatalf("exit %d\n%s%s", o.code, o.out, o.err)
	}
	var info clusterInfoOutput
	if err := json.Unmarshal([]byte(do("cluster", "info", "--format", "json").out), &info); err != nil || len(info.Brokers) != 3 || info.ClusterID == "" {
		t.Errorf("info is %+v, %v", info, err)
	}
	cluster.Kill(2)
	var sick healthOutput
	for deadline := time.Now().Add(time.Minute); !slices.Equal(sick.BrokersDown, []int32{2}) || sick.Leaderless > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("health is %+v", sick)
		}
		o := do("cluster", "health", "--format", "json")
		if o.code != exitError {
			t.Fatalf("exit %d\n%s%s", o.code, o.out, o.err)
		}
		if err := json.Unmarshal([]byte(o.out), &sick); err != nil {
			t.Fatal(err)
		}
	}
	if sick.Healthy || sick.UnderReplicated == 0 {
		t.Errorf("health is %+v", sick)
	}
	if o := do("cluster", "health", "--exit-when-healthy", "--timeout", "300ms"); o.code != exitUnreachable {
		t.Errorf("waiting in vain: exit %d\n%s", o.code, o.err)
	}
	cluster.Restart(2)
	if o := do("cluster", "health", "--exit-when-healthy", "--timeout", "30s", "--format", "json"); o.code != 0 || !strings.Contains(o.out, `"brokers_down": []`) {
		t.Errorf("after the restart: exit %d\n%s%s", o.code, o.out, o.err)
	}
}

// TestHealthWithoutReplicas: a killed broker that holds no replica is missed too, and
// info still lists it.
func TestHealthWithoutReplicas(t *testing.T) {
	cluster := millracetest.Start(t, millracetest.Nodes(3))
	environ := []string{"MILLRACE_BROKERS=" + strings.Join(cluster.Addrs()[:2], ",")}
	do := func(args ...string) outcome {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return runIn(t, ctx, environ, "", args...)
	}
	if o := do("cluster", "health", "--exit-when-healthy", "--timeout", "30s"); o.code != 0 {
		t.Fatalf("exit %d\n%s%s", o.code, o.out, o.err)
	}
	cluster.Kill(3)
	// Each survivor lists it for a while, and then it is found silent.
	c, err := client.Open(t.Context(), cluster.Addrs()[:2])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for survivor := 1; survivor <= 2; survivor++ {
		pollUntil(t, func() bool {
			m, err := c.Kgo().Broker(survivor).Request(t.Context(), kmsg.NewPtrMetadataRequest())
			return err == nil && len(m.(*kmsg.MetadataResponse).Brokers) == 2
		})
	}
	o := do("cluster", "health", "--format", "json")
	var sick healthOutput
	if err := json.Unmarshal([]byte(o.out), &sick); err != nil {
		t.Fatal(err)
	}
	if o.code != exitError || sick.Healthy || !slices.Equal(sick.BrokersDown, []int32{3}) {
		t.Errorf("exit %d, health is %+v", o.code, sick)
	}
	var info clusterInfoOutput
	if err := json.Unmarshal([]byte(do("cluster", "info", "--format", "json").out), &info); err != nil || len(info.Brokers) != 3 {
		t.Errorf("info is %+v, %v", info, err)
	}
}

// TestGroupWithMembers: it is described with who reads what, and neither moved nor
// deleted.
func TestGroupWithMembers(t *testing.T) {
	must(t, "", "topic", "create", "busy", "-p", "2")
	defer must(t, "", "topic", "delete", "busy", "-y")
	must(t, "x\n", "produce", "busy")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := client.Open(ctx, []string{brokerAddress}, client.WithClientID("the-member"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sub, err := c.Subscribe(ctx, client.Topics("busy"), client.Group("busy-group"))
	if err != nil {
		t.Fatal(err)
	}
	for record, err := range sub.Records(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		var g groupDescribeOutput
		if err := json.Unmarshal([]byte(must(t, "", "group", "describe", "busy-group", "--format", "json")), &g); err != nil {
			t.Fatal(err)
		}
		if g.State != "Stable" || len(g.Members) != 1 || g.Members[0].ClientID != "the-member" || len(g.Members[0].Partitions) != 2 {
			t.Errorf("described as %+v", g)
		}
		if text := must(t, "", "group", "describe", "busy-group"); !strings.Contains(text, "  busy:0,1\n") {
			t.Errorf("the member's partitions are not shown:\n%s", text)
		}
		for _, args := range [][]string{{"group", "seek", "busy-group", "--to", "start", "-y"}, {"group", "delete", "busy-group", "-y"}} {
			o := run(t, "", args...)
			if o.code != exitError || !strings.Contains(o.err, "members") && !strings.Contains(o.err, "NON_EMPTY_GROUP") {
				t.Errorf("%v: exit %d\n%s", args, o.code, o.err)
			}
		}
		sub.Finish(record)
		break
	}
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	must(t, "", "group", "delete", "busy-group", "-y")
}

// TestProduceFailures: what was not acknowledged makes the exit code, and the count
// is of what was.
func TestProduceFailures(t *testing.T) {
	must(t, "", "topic", "create", "small", "-c", "max.message.bytes=2000", "-p", "1")
	defer must(t, "", "topic", "delete", "small", "-y")
	o := run(t, "fits\n"+strings.Repeat("0123456789abcdef", 100_000)+"\n", "produce", "small", "-z", "none")
	if o.code != exitError || !strings.Contains(o.err, "MESSAGE_TOO_LARGE") || !strings.Contains(o.err, "hint: ") {
		t.Errorf("too large: exit %d\n%.500s", o.code, o.err)
	}
	o = run(t, `{"value":"good"}`+"\n"+`{"value":`, "produce", "small", "-f", "json")
	if o.code != exitError || !strings.Contains(o.err, "line 2") || !strings.Contains(o.err, "produced 1 records") {
		t.Errorf("broken input: exit %d\n%s", o.code, o.err)
	}
	var lines strings.Builder
	for i := range 3000 {
		fmt.Fprintln(&lines, i)
	}
	must(t, "", "topic", "create", "many", "-p", "1")
	defer must(t, "", "topic", "delete", "many", "-y")
	o = run(t, lines.String(), "produce", "many")
	if o.code != 0 || o.err != "produced 3000 records\n" {
		t.Errorf("many: exit %d\n%s", o.code, o.err)
	}
	if got := must(t, "", "consume", "many", "-e"); got != lines.String() {
		t.Error("the lines came back in another order")
	}
}

// TestWhyNothingIsTaken: a time-out and a refusal say what the broker wants.
func TestWhyNothingIsTaken(t *testing.T) {
	tests := []struct {
		config string
		code   int
		says   []string
	}{
		{"min.insync.replicas=5", exitUnreachable, []string{"NOT_ENOUGH_REPLICAS", "hint: too few replicas are up for the topic's min.insync.replicas"}},
		{"cleanup.policy=compact", exitError, []string{"INVALID_RECORD", "hint: a compacted topic takes only records with a key"}},
	}
	for _, test := range tests {
		t.Run(test.config, func(t *testing.T) {
			must(t, "", "topic", "create", "picky", "-p", "1", "-c", test.config)
			defer must(t, "", "topic", "delete", "picky", "-y")
			o := run(t, "x\n", "produce", "picky", "--timeout", "1s")
			if o.code != test.code {
				t.Errorf("exit code %d, want %d", o.code, test.code)
			}
			for _, part := range test.says {
				if !strings.Contains(o.err, part) {
					t.Errorf("%q is not said:\n%s", part, o.err)
				}
			}
			if strings.Contains(o.err, "unknown") {
				t.Errorf("what was refused has an outcome:\n%s", o.err)
			}
		})
	}
}
