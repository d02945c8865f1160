package cli

import (
	"bytes"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/client/millracetest"
)

// TestGroupListWithABrokerDown: what the others say is printed, and so is who did not
// answer, for as long as the cluster lists it.
func TestGroupListWithABrokerDown(t *testing.T) {
	cluster := millracetest.Start(t, millracetest.Nodes(3), millracetest.Setting("group.initial.rebalance.delay.ms", "0"))
	environ := []string{"MILLRACE_BROKERS=" + strings.Join(cluster.Addrs(), ",")}
	command := func(stdin string, args ...string) outcome { return runIn(t, t.Context(), environ, stdin, args...) }
	for _, o := range []outcome{
		command("", "topic", "create", "t", "-p", "1", "-r", "3"), command("x\n", "produce", "t"), command("", "consume", "t", "-g", "g", "-e"),
	} {
		if o.code != 0 {
			t.Fatal(o.err)
		}
	}
	admin := cluster.Client().Admin().Kadm()
	found := admin.FindGroupCoordinators(t.Context(), "g")["g"]
	for deadline := time.Now().Add(time.Minute); found.Err != nil; { // another broker may not have heard of it yet
		if time.Now().After(deadline) {
			t.Fatal(found.Err)
		}
		found = admin.FindGroupCoordinators(t.Context(), "g")["g"]
	}
	cluster.Kill(int(found.NodeID)%3 + 1)
	begin := time.Now()
	o := command("", "group", "list", "--timeout", "5s")
	if !strings.Contains(o.out, "\ng ") {
		t.Errorf("what is known is not printed:\n%s", o.out)
	}
	complete := o.code == 0 && o.err == ""
	told := o.code == exitUnreachable && strings.Contains(o.err, "no answer from node ") && strings.Contains(o.err, "hint: ")
	if !complete && !told {
		t.Errorf("exit %d after %s:\n%s", o.code, time.Since(begin), o.err)
	}
}

// TestPartOfTheGroups: a broker without an answer does not hide what the others said.
func TestPartOfTheGroups(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	silent := &kadm.ShardErrors{Name: "ListGroups", Errs: []kadm.ShardError{
		{Broker: kadm.BrokerDetail{NodeID: 3}, Err: refused}, {Broker: kadm.BrokerDetail{NodeID: 2}, Err: refused},
	}}
	var out bytes.Buffer
	o := groupListOptions{app: &app{Environment: Environment{Out: &out}, format: "text"}}
	err := o.show(kadm.ListedGroups{"g": {Group: "g", State: "Empty", ProtocolType: "consumer", Coordinator: 1}}, silent)
	if want := "GROUP  STATE  PROTOCOL  COORDINATOR\ng      Empty  consumer            1\n"; out.String() != want {
		t.Errorf("printed:\n%s", out.String())
	}
	if code, _ := classify(err); code != exitUnreachable || !strings.Contains(err.Error(), "no answer from node 2,3: ") {
		t.Errorf("exit code %d: %v", code, err)
	}
	out.Reset()
	silent.AllFailed = true
	if err := o.show(nil, silent); err == nil || out.Len() > 0 {
		t.Errorf("nobody answered: %v, printed %q", err, out.String())
	}
}
