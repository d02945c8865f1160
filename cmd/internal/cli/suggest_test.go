package cli

import "testing"

func TestNearest(t *testing.T) {
	candidates := []string{"orders", "payments", "list", "describe", "github-events"}
	tests := map[string]string{
		"ordres":        "orders",
		"order":         "orders",
		"Orders":        "orders",
		"paymnets":      "payments",
		"lst":           "list",
		"desc":          "describe",
		"github-event":  "github-events",
		"github_events": "github-events",
		"zzz":           "",
		"x":             "",
		"":              "",
	}
	for name, want := range tests {
		if want != "" {
			want = `did you mean "` + want + `"?`
		}
		if got := nearest(name, candidates); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestEditDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"abcd", "acd", 1}, {"kitten", "sitting", 3}}
	for _, test := range tests {
		if got := editDistance(test.a, test.b); got != test.want {
			t.Errorf("%q to %q: %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
