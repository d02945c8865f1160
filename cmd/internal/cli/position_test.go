package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/client"
)

func TestParseRange(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	at := func(text string) client.Position {
		parsed, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return client.Time(parsed)
	}
	until := func(p client.Position) *client.Position { return &p }
	tests := []struct {
		text  string
		from  client.Position
		until *client.Position
	}{
		{"start", client.Start(), nil},
		{"end", client.End(), nil},
		{"0", client.At(0), nil},
		{"42", client.At(42), nil},
		{"+5", client.AfterStart(5), nil},
		{"-10", client.BeforeEnd(10), nil},
		{"100:200", client.At(100), until(client.At(200))},
		{":200", client.Start(), until(client.At(200))},
		{"100:", client.At(100), until(client.End())},
		{":end", client.Start(), until(client.End())},
		{":", client.Start(), until(client.End())},
		{"-10:end", client.BeforeEnd(10), until(client.End())},
		{"+5:-5", client.AfterStart(5), until(client.BeforeEnd(5))},
		{"@2026-11-01", at("2026-11-01T00:00:00Z"), nil},
		{"@2026-11-01T10:00:00Z", at("2026-11-01T10:00:00Z"), nil},
		{"@2026-11-01T10:00", at("2026-11-01T10:00:00Z"), nil},
		{"2026-11-01T10:00:00Z", at("2026-11-01T10:00:00Z"), nil},
		{"@2026-11-01T10:00:00+02:00", at("2026-11-01T08:00:00Z"), nil},
		{"@1700000000", client.Time(time.Unix(1_700_000_000, 0)), nil},
		{"@1700000000123", client.Time(time.UnixMilli(1_700_000_000_123)), nil},
		{"@-1h", client.Time(now.Add(-time.Hour)), nil},
		{"@-2d", client.Time(now.Add(-48 * time.Hour)), nil},
		{"-1h30m", client.Time(now.Add(-90 * time.Minute)), nil},
		{"@-1h:end", client.Time(now.Add(-time.Hour)), until(client.End())},
		{"@2026-11-01T10:00:00Z:@2026-11-01T11:00:00Z", at("2026-11-01T10:00:00Z"), until(at("2026-11-01T11:00:00Z"))},
		{"@2026-11-01:@2026-11-02", at("2026-11-01T00:00:00Z"), until(at("2026-11-02T00:00:00Z"))},
	}
	for _, test := range tests {
		got, err := parseRange(test.text, now)
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		if got.from != test.from {
			t.Errorf("%q begins at %v, want %v", test.text, got.from, test.from)
		}
		if (got.until == nil) != (test.until == nil) || got.until != nil && *got.until != *test.until {
			t.Errorf("%q ends at %v, want %v", test.text, got.until, test.until)
		}
	}
	for _, text := range []string{"", "foo", "start:foo", "1:2:3", "@", "@foo", "--5", "1h", "@9999999999999999999", "-x", "99999999999999999999"} {
		if got, err := parseRange(text, now); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

// TestOffsetsThatAreNotThere: taking another one is said, in one line.
func TestOffsetsThatAreNotThere(t *testing.T) {
	must(t, "", "topic", "create", "bounded", "-p", "2")
	defer must(t, "", "topic", "delete", "bounded", "-y")
	must(t, "a\nb\n", "produce", "bounded", "-p", "1")
	must(t, "", "consume", "bounded", "-g", "bounded", "-e")
	defer must(t, "", "group", "delete", "bounded", "-y")
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"consume", "bounded", "-e", "-o", "99"}, "note: offset 99 is outside the log of topic \"bounded\" partition 0 (0 to 0), taking 0; so for 1 more partitions\n"},
		{[]string{"consume", "bounded", "-e", "-o", "3:", "-p", "1"}, "note: offset 3 is outside the log of topic \"bounded\" partition 1 (0 to 2), taking 2\n"},
		{[]string{"consume", "bounded", "-e", "-o", "2", "-p", "1"}, ""},
		{[]string{"consume", "bounded", "-e", "-o", "-9"}, ""},
		{[]string{"group", "seek", "bounded", "--to", "2", "-y", "--topics", "bounded,bounded"}, "note: offset 2 is outside the log of topic \"bounded\" partition 0 (0 to 0), taking 0\n"},
		{[]string{"group", "seek", "bounded", "--to", "end", "-y"}, ""},
	}
	for _, test := range tests {
		o := run(t, "", test.args...)
		if o.code != 0 || o.err != test.want {
			t.Errorf("millrace %s: exit %d, said %q, want %q", strings.Join(test.args, " "), o.code, o.err, test.want)
		}
		if test.args[0] == "group" && strings.Count(o.out, "bounded") != 2 {
			t.Errorf("millrace %s: not one row a partition:\n%s", strings.Join(test.args, " "), o.out)
		}
	}
}
