package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// settle resolves the settings of `millrace server` and gives its flags by name.
func settle(t *testing.T, environ []string, file string, args ...string) (map[string]string, error) {
	t.Helper()
	if file != "" {
		name := filepath.Join(t.TempDir(), "millrace.yaml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", name)
	}
	a := &app{Environment: Environment{Environ: environ}}
	root := newRootCmd(a)
	got := map[string]string{}
	for _, c := range root.Commands() {
		if c.Name() != "server" {
			continue
		}
		c.RunE = func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"data-dir", "node-id", "join", "brokers"} {
				got[name] = cmd.Flag(name).Value.String()
			}
			p := cmd.Flag("broker-config").Value.(*pairs)
			for _, key := range p.keys {
				got["-c "+key] = p.values[key]
			}
			return nil
		}
	}
	root.SetArgs(append([]string{"server"}, args...))
	return got, root.Execute()
}

func TestPrecedence(t *testing.T) {
	const file = "data-dir: from-file\nnode-id: 7\njoin: [a:1, b:2]\nbroker-config:\n  num.partitions: 3\n  cleanup.policy: compact,delete\n"
	tests := []struct {
		name    string
		environ []string
		file    string
		args    []string
		want    map[string]string
	}{
		{"defaults", nil, "", nil, map[string]string{"data-dir": "./millrace-data", "node-id": "1", "join": "[]", "brokers": "[127.0.0.1:9092]"}},
		{"file", nil, file, nil, map[string]string{"data-dir": "from-file", "node-id": "7", "join": "[a:1,b:2]", "brokers": "[127.0.0.1:9092]",
			"-c num.partitions": "3", "-c cleanup.policy": "compact,delete"}},
		{"environment over file", []string{"MILLRACE_DATA_DIR=from-env", "MILLRACE_NOBODY_KNOWS=1", "OTHER=x", "MILLRACE_BROKERS=x:1,y:2"}, file, nil,
			map[string]string{"data-dir": "from-env", "node-id": "7", "join": "[a:1,b:2]", "brokers": "[x:1,y:2]", "-c num.partitions": "3", "-c cleanup.policy": "compact,delete"}},
		{"flag over all", []string{"MILLRACE_DATA_DIR=from-env", "MILLRACE_BROKER_CONFIG=num.partitions=9"}, file, []string{"--data-dir", "from-flag", "-c", "num.partitions=12"},
			map[string]string{"data-dir": "from-flag", "node-id": "7", "join": "[a:1,b:2]", "brokers": "[127.0.0.1:9092]", "-c num.partitions": "12", "-c cleanup.policy": "compact,delete"}},
		{"pairs key by key", []string{"MILLRACE_BROKER_CONFIG=b=env,c=env"}, "broker-config:\n  b: file\n  c: file\n  d: file\n", []string{"-c", "c=flag", "-c", "a=flag"},
			map[string]string{"data-dir": "./millrace-data", "node-id": "1", "join": "[]", "brokers": "[127.0.0.1:9092]",
				"-c a": "flag", "-c b": "env", "-c c": "flag", "-c d": "file"}},
		{"keys of other commands", nil, "brokers: z:9\ndata-dir: d\npartitions: 4\n", nil,
			map[string]string{"data-dir": "d", "node-id": "1", "join": "[]", "brokers": "[z:9]"}},
		{"only comments", nil, "# nothing\n", nil, map[string]string{"data-dir": "./millrace-data", "node-id": "1", "join": "[]", "brokers": "[127.0.0.1:9092]"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := settle(t, test.environ, test.file, test.args...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFaultySettings(t *testing.T) {
	tests := []struct {
		name    string
		environ []string
		file    string
		message []string
		hint    string
	}{
		{"unknown key", nil, "node-id: 1\ndata-dri: x\n", []string{"millrace.yaml:2:", `unknown key "data-dri"`}, `did you mean "data-dir"?`},
		{"wrong value in the file", nil, "\nnode-id: many\n", []string{"millrace.yaml:2: node-id", "many"}, "see: millrace server --help"},
		{"wrong value in the environment", []string{"MILLRACE_NODE_ID=many"}, "", []string{"MILLRACE_NODE_ID", "many"}, "see: millrace server --help"},
		{"no mapping", nil, "- a\n- b\n", []string{"millrace.yaml:1:"}, "see: millrace server --help"},
		{"no YAML", nil, "a: [b\n", []string{"millrace.yaml"}, "see: millrace server --help"},
		{"a pair twice", []string{"MILLRACE_BROKER_CONFIG=a=1,a=2"}, "", []string{"MILLRACE_BROKER_CONFIG", `"a" is given twice`}, "see: millrace server --help"},
		{"a key twice", nil, "node-id: 1\nnode-id: 2\n", []string{"millrace.yaml", "node-id"}, "see: millrace server --help"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := settle(t, test.environ, test.file)
			if err == nil {
				t.Fatal("no error")
			}
			if code, _ := classify(err); code != exitUsage {
				t.Errorf("exit code is %d", code)
			}
			for _, part := range test.message {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if got := (&app{command: "millrace server"}).hintFor(err); got != test.hint {
				t.Errorf("hint is %q, want %q", got, test.hint)
			}
		})
	}
	if _, err := settle(t, []string{"MILLRACE_CONFIG=/nowhere/at-all.yaml"}, ""); err == nil || !strings.Contains(err.Error(), "/nowhere/at-all.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestQuestionsAreNoSettings: --help and --version ask for something once; neither the
// environment nor the file answers for them.
func TestQuestionsAreNoSettings(t *testing.T) {
	environ := []string{"MILLRACE_VERSION=0.1", "MILLRACE_HELP=always"}
	for _, args := range [][]string{nil, {"version"}, {"topic"}} {
		if o := runIn(t, t.Context(), environ, "", args...); o.code != 0 || o.err != "" {
			t.Errorf("millrace %s: exit %d\n%s", strings.Join(args, " "), o.code, o.err)
		}
	}
	for _, key := range []string{"help", "version"} {
		name := filepath.Join(t.TempDir(), "millrace.yaml")
		if err := os.WriteFile(name, []byte(key+": true\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"--config", name}, {"version", "--config", name}} {
			o := runIn(t, t.Context(), nil, "", args...)
			if o.code != exitUsage || !strings.Contains(o.err, `millrace.yaml:1: unknown key "`+key+`"`) {
				t.Errorf("millrace %s: exit %d\n%s", strings.Join(args, " "), o.code, o.err)
			}
		}
	}
}

func TestPairs(t *testing.T) {
	tests := []struct {
		texts []string
		want  map[string]string // nil: an error
	}{
		{[]string{"a=1"}, map[string]string{"a": "1"}},
		{[]string{"a=1", "b=2"}, map[string]string{"a": "1", "b": "2"}},
		{[]string{"a=1,b=2"}, map[string]string{"a": "1", "b": "2"}},
		{[]string{"cleanup.policy=compact,delete"}, map[string]string{"cleanup.policy": "compact,delete"}},
		{[]string{"a=x,y,b=z"}, map[string]string{"a": "x,y", "b": "z"}},
		{[]string{"a="}, map[string]string{"a": ""}},
		{[]string{"a=b=c"}, map[string]string{"a": "b=c"}},
		{[]string{"a=1", "a=2"}, nil},
		{[]string{"a=1,a=2"}, nil},
		{[]string{"a"}, nil},
		{[]string{"=1"}, nil},
		{[]string{""}, nil},
	}
	for _, test := range tests {
		var p pairs
		var err error
		for _, text := range test.texts {
			if err == nil {
				err = p.Set(text)
			}
		}
		if test.want == nil {
			if err == nil {
				t.Errorf("%q: no error", test.texts)
			}
			continue
		}
		if diff := cmp.Diff(test.want, p.values); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", test.texts, err, diff)
		}
	}
}
