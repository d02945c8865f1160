package cli

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// changing are parts of an output that differ from run to run, and what golden
// files have in their place.
var changing = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(?m)^((?:ID|CLUSTER) +|\s*"?(?:id|cluster_id)"?: "?)[A-Za-z0-9_-]{22}`), "${1}IDENTITY"},
	{regexp.MustCompile(` +\d+( +)/\S*/topics/(\S+)/(\d+)-[0-9a-f]{32}`), "  BYTES${1}DIR/topics/$2/$3-ID"},
	{regexp.MustCompile(`/[^"\s]*/topics/([^"\s]+)/(\d+)-[0-9a-f]{32}`), "DIR/topics/$1/$2-ID"},
	{regexp.MustCompile(`("?bytes"?:) \d+`), "$1 BYTES"},
	{regexp.MustCompile(`127\.0\.0\.1:\d{5}`), "127.0.0.1:PORTS"},
	{regexp.MustCompile(`("?leader_epoch"?:) \d+`), "$1 EPOCH"},
	{regexp.MustCompile(`(?m)^( +\d+ +1) +\d+(  1)`), "$1      E$2"},
	{regexp.MustCompile(`"?(version|go|platform)"?: .*`), "$1: ..."},
	{regexp.MustCompile(`millrace \S+ \(go.*\)`), "millrace ..."},
	{regexp.MustCompile(`"timestamp":"[^"]+"`), `"timestamp":"..."`},
}

// golden compares an outcome with a file: exit code, standard output, standard
// error.
func golden(t *testing.T, name string, o outcome) {
	t.Helper()
	got := "-- exit " + string(rune('0'+o.code)) + " --\n-- out --\n" + o.out + "-- err --\n" + o.err
	for _, c := range changing {
		got = c.pattern.ReplaceAllString(got, c.with)
	}
	file := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestGolden runs a story on topics and groups of its own; what each command says
// is held in files. Commands that only look are run in each format.
func TestGolden(t *testing.T) {
	look := func(name string, args ...string) {
		t.Helper()
		for _, format := range []string{"text", "json", "yaml"} {
			golden(t, name+"."+format, run(t, "", append(args, "--format", format)...))
		}
	}
	act := func(name string, stdin any, args ...string) {
		t.Helper()
		golden(t, name, run(t, stdin, args...))
	}
	look("version", "version")
	look("topic-list-empty", "topic", "list")
	for i, format := range []string{"text", "json", "yaml"} {
		act("topic-create."+format, "", "topic", "create", "golden-"+format, "-p", string(rune('2'+i)), "-r", "1", "-c", "retention.ms=1000000", "--format", format)
	}
	act("topic-create-again.text", "", "topic", "create", "golden-text")
	act("topic-create-again.json", "", "topic", "create", "golden-text", "--format", "json")
	look("topic-list", "topic", "list")
	look("topic-describe", "topic", "describe", "golden-text")
	look("topic-describe-unknown", "topic", "describe", "golden-txet")
	act("produce.text", "one\ntwo\n\nfour", "produce", "golden-text", "-k", "key", "-H", "h:v")
	act("produce-unknown.text", "x\n", "produce", "golden-txet")
	act("produce-no-partition.text", "x\n", "produce", "golden-text", "-p", "7")
	bad := "{\"value\":\"five\"}\n\n{\"value\":{\"a\":1}}\n"
	act("produce-bad-line.text", bad, "produce", "golden-json", "-f", "json")
	act("produce-bad-line.json", bad, "produce", "golden-json", "--format", "json")
	act("produce-bad-layout.text", "kv", "produce", "golden-json", "-f", `%k\t%v\n`)
	act("consume.text", "", "consume", "golden-text", "-e")
	act("consume.json", "", "consume", "golden-text", "-e", "--format", "json")
	act("consume.yaml", "", "consume", "golden-text", "-e", "--format", "yaml")
	act("consume-layout.text", "", "consume", "golden-text", "-o", "-2", "-e", "-f", `%t %o %k=%v %h{%k:%v}\n`)
	act("consume-unknown.text", "", "consume", "golden-txet", "-e")
	act("consume-group.text", "", "consume", "golden-text", "-g", "golden-group", "-e")
	look("group-list", "group", "list")
	look("group-describe", "group", "describe", "golden-group")
	look("group-describe-unknown", "group", "describe", "golden-gruop")
	for _, format := range []string{"text", "json", "yaml"} {
		act("group-seek-dry."+format, "", "group", "seek", "golden-group", "--to", "1", "--dry-run", "--format", format)
		act("group-seek."+format, "", "group", "seek", "golden-group", "--to", "start", "-y", "--format", format)
		act("group-delete-dry."+format, "", "group", "delete", "golden-group", "--dry-run", "--format", format)
		act("topic-delete-dry."+format, "", "topic", "delete", "golden-"+format, "--dry-run", "--format", format)
	}
	act("group-seek-unconfirmed.text", "", "group", "seek", "golden-group", "--to", "start")
	act("group-delete-unconfirmed.text", "", "group", "delete", "golden-group")
	act("group-delete.text", "", "group", "delete", "golden-group", "-y")
	act("group-delete-again.json", "", "group", "delete", "golden-group", "-y", "--format", "json")
	look("cluster-info", "cluster", "info")
	look("cluster-health", "cluster", "health")
	look("cluster-brokers", "cluster", "brokers")
	look("cluster-partitions", "cluster", "partitions", "--topic", "golden-text")
	look("cluster-partitions-none", "cluster", "partitions", "--offline", "--under-replicated")
	look("cluster-partitions-unknown", "cluster", "partitions", "--topic", "golden-txet")
	look("cluster-leaders", "cluster", "leaders")
	for _, format := range []string{"text", "json", "yaml"} {
		act("cluster-drain-dry."+format, "", "cluster", "drain", "1", "--dry-run", "--format", format)
		act("cluster-drain."+format, "", "cluster", "drain", "1", "--format", format)
		act("cluster-brokers-drained."+format, "", "cluster", "brokers", "--format", format)
		act("cluster-undrain-dry."+format, "", "cluster", "undrain", "1", "--dry-run", "--format", format)
		act("cluster-undrain."+format, "", "cluster", "undrain", "1", "--format", format)
	}
	for _, format := range []string{"text", "json", "yaml"} {
		act("cluster-move-dry."+format, "", "cluster", "move", "golden-text", "--to", "2,1", "--dry-run", "--format", format)
		act("cluster-move-none."+format, "", "cluster", "move", "golden-text", "--to", "1", "--format", format)
		act("cluster-move-cancel."+format, "", "cluster", "move", "--cancel", "--format", format)
		act("cluster-balance."+format, "", "cluster", "balance", "--format", format)
		act("cluster-decommission-refused."+format, "", "cluster", "decommission", "1", "--format", format)
	}
	act("cluster-move-unknown.text", "", "cluster", "move", "golden-text", "--to", "7")
	act("cluster-decommission-unknown.text", "", "cluster", "decommission", "7")
	act("cluster-undrain-again.text", "", "cluster", "undrain", "1")
	act("cluster-drain-unknown.text", "", "cluster", "drain", "7")
	act("cluster-drain-unknown.json", "", "cluster", "undrain", "7", "--format", "json")
	act("cluster-drain-usage.text", "", "cluster", "drain", "one")
	look("cluster-leaders-elect", "cluster", "leaders", "--elect", "preferred")
	for _, format := range []string{"text", "json", "yaml"} {
		act("topic-trim-dry."+format, "", "topic", "trim", "golden-text", "--offset", "1", "--dry-run", "--format", format)
	}
	act("topic-trim-unconfirmed.text", "", "topic", "trim", "golden-text", "--offset", "end")
	act("topic-trim-nothing.json", "", "topic", "trim", "golden-text", "--before", "2001-01-01", "-y", "--format", "json")
	act("topic-trim-no-partition.text", "", "topic", "trim", "golden-text", "--offset", "1", "-p", "7")
	act("topic-trim-outside.text", "", "topic", "trim", "golden-text", "--offset", "100", "-y")
	look("topic-describe-trimmed", "topic", "describe", "golden-text")
	act("topic-trim-own.text", "", "topic", "trim", "__consumer_offsets", "--offset", "end", "-y")
	act("topic-delete-unconfirmed.text", "", "topic", "delete", "golden-text")
	act("topic-delete-no.text", terminal("n\n"), "topic", "delete", "golden-text")
	act("topic-delete-yes.text", terminal("y\n"), "topic", "delete", "golden-text")
	act("topic-delete.json", "", "topic", "delete", "golden-json", "-y", "--format", "json")
	act("topic-delete.yaml", "", "topic", "delete", "golden-yaml", "-y", "--format", "yaml")
	look("topic-list-end", "topic", "list")
}

// TestHelpGolden holds the help of every command: it is the command line's
// documentation.
func TestHelpGolden(t *testing.T) {
	root := newRootCmd(&app{})
	for _, c := range allCommands(root) {
		if c.Hidden || c.Name() == "help" {
			continue
		}
		path := strings.Fields(c.CommandPath())[1:]
		golden(t, strings.Join(append([]string{"help"}, path...), "-")+".text", run(t, "", append(path, "--help")...))
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		if c.Runnable() && len(c.Commands()) == 0 && strings.Count(c.Example, "millrace") < 2 {
			t.Errorf("%s has fewer than two examples", c.CommandPath())
		}
	}
}
