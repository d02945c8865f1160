package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/client/millracetest"
)

// TestOneOfThreeLeft: a cluster without a majority is one state, and so has one exit
// code, whichever command meets it, and no command takes much longer than it may.
func TestOneOfThreeLeft(t *testing.T) {
	cluster := millracetest.Start(t, millracetest.Nodes(3), millracetest.Setting("group.initial.rebalance.delay.ms", "0"))
	environ := []string{"MILLRACE_BROKERS=" + strings.Join(cluster.Addrs(), ",")}
	for _, args := range [][]string{{"topic", "create", "t", "-p", "3", "-r", "3"}, {"produce", "t"}, {"consume", "t", "-g", "g", "-e"}} {
		if o := runIn(t, t.Context(), environ, "x\n", args...); o.code != 0 {
			t.Fatal(o.err)
		}
	}
	cluster.Kill(1)
	cluster.Kill(2)
	const timeout = time.Second
	for _, args := range [][]string{
		{"produce", "t"}, {"topic", "create", "u"}, {"topic", "delete", "t", "-y"}, {"consume", "t", "-e"}, {"consume", "t", "-g", "g", "-e"},
		{"group", "describe", "g"}, {"group", "seek", "g", "--to", "start", "-y"}, {"group", "delete", "g", "-y"},
	} {
		begin := time.Now()
		o := runIn(t, t.Context(), environ, "x\n", append(args, "--timeout", timeout.String())...)
		took := time.Since(begin)
		if o.code != exitUnreachable || took > timeout+4*time.Second {
			t.Errorf("millrace %s: exit %d after %s:\n%s", strings.Join(args, " "), o.code, took, o.err)
		}
	}
}
