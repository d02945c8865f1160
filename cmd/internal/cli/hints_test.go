package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestHints: what is advised fits what is wrong, and nothing of Go's own words is shown.
func TestHints(t *testing.T) {
	must(t, "", "topic", "create", "hints", "-p", "2")
	defer must(t, "", "topic", "delete", "hints", "-y")
	must(t, "x\n", "produce", "hints")
	must(t, "", "consume", "hints", "-g", "hints", "-e") // makes __consumer_offsets
	defer must(t, "", "group", "delete", "hints", "-y")
	tests := []struct {
		args []string
		code int
		says []string
		not  string
	}{
		{[]string{"consume", "hints", "-p", "7"}, 1, []string{`error: topic "hints" has no partition 7`, "hint: it has 2 partitions"}, "did you mean"},
		{[]string{"consume", "hints", "-p", "-1"}, 2, []string{"error: -p -1 is no partition"}, ""},
		{[]string{"topic", "delete", "__consumer_offsets", "-y"}, 1, []string{"the cluster's own", "hint: clients can read it"}, "letters"},
		{[]string{"produce", "__consumer_offsets"}, 1, []string{"the cluster's own", "hint: clients can read it"}, "letters"},
		{[]string{"topic", "delete", "nowhere-at-all", "-y"}, 1, []string{"hint: list topics with"}, "create it"},
		{[]string{"consume", "nowhere-at-all"}, 1, []string{"hint: create it with: millrace topic create nowhere-at-all"}, ""},
		{[]string{"topic", "create", "many", "-p", "10001"}, 1, []string{"INVALID_PARTITIONS", "hint: "}, "one partition or more"},
		{[]string{"topic", "create", "hints"}, 1, []string{`error: create topic: topic "hints" exists already (TOPIC_ALREADY_EXISTS)`}, "topic hints"},
		{[]string{"topic", "create", "x", "-p", "many"}, 2, []string{"not a number"}, "strconv"},
		{[]string{"topic", "create", "x", "-c", "a=1", "-c", "a=2"}, 2, []string{`"a" is given twice`}, ""},
		{[]string{"topic", "list", "-b", ""}, 2, []string{"error: no broker address"}, "client options"},
		{[]string{"server", "--data-dir", ""}, 2, []string{"--data-dir is empty"}, ""},
		{[]string{"consume", "hints", "--format", "json", "-f", `%v\n`}, 2, []string{"cannot be used together"}, ""},
		{[]string{"produce", "hints", "--format", "json", "-f", `%v\n`}, 2, []string{"cannot be used together"}, ""},
		{[]string{"cluster", "leaders", "--elect", "unclean"}, 2, []string{"there is no unclean election", "hint: bring back a majority"}, ""},
		{[]string{"cluster", "leaders", "--elect", "prefered"}, 2, []string{`--elect "prefered" is not preferred`, "hint: --elect preferred"}, ""},
		{[]string{"cluster", "leaders", "--dry-run"}, 2, []string{"--dry-run without --elect", "hint: add --elect preferred"}, ""},
		{[]string{"cluster", "health", "--exit-when-healthy", "--timeout", "300ms", "-b", "127.0.0.1:1"}, 3, []string{"error: not healthy within 300ms: no broker answered"}, "deadline"},
	}
	for _, test := range tests {
		o := run(t, "x\n", test.args...)
		line := "millrace " + strings.Join(test.args, " ")
		if o.code != test.code {
			t.Errorf("%s: exit code %d, want %d\n%s", line, o.code, test.code, o.err)
		}
		for _, part := range test.says {
			if !strings.Contains(o.err, part) {
				t.Errorf("%s: %q is not said:\n%s", line, part, o.err)
			}
		}
		if test.not != "" && strings.Contains(o.err, test.not) {
			t.Errorf("%s: %q is said:\n%s", line, test.not, o.err)
		}
	}
}

func TestVersionFlag(t *testing.T) {
	if got, want := must(t, "", "--version"), must(t, "", "version"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestLastLine: a layout that ends its records with a line feed takes an input that
// does not end its last line, as the layout of plain lines does.
func TestLastLine(t *testing.T) {
	for _, text := range []string{"", "a:b\nc:d", "a:b\nc:d\n"} {
		want := text
		if text != "" {
			want = strings.TrimSuffix(text, "\n") + "\n"
		}
		for name, in := range map[string]io.Reader{
			"whole": strings.NewReader(text), "bytes": iotest.OneByteReader(strings.NewReader(text)), "EOF with data": iotest.DataErrReader(strings.NewReader(text)),
		} {
			if err := iotest.TestReader(&lastLine{in: strings.NewReader(text)}, []byte(want)); err != nil {
				t.Errorf("%q: %v", text, err)
			}
			got, err := io.ReadAll(&lastLine{in: in})
			if err != nil || !bytes.Equal(got, []byte(want)) {
				t.Errorf("%q, %s: %q, %v", text, name, got, err)
			}
		}
	}
	read, err := recordReader(strings.NewReader("a:b\nc:d"), `%k:%v\n`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"b", "d"} {
		if r, err := read(); err != nil || string(r.Value) != want {
			t.Fatalf("%+v, %v; want %q", r, err, want)
		}
	}
	if _, err := read(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}
