package cli

import (
	"fmt"
	"strings"
)

// pairs is the value of a repeatable flag key=value. One text may hold several,
// separated by commas; a part without '=' belongs to the value before it, so
// that cleanup.policy=compact,delete is one pair.
type pairs struct {
	keys   []string // in the order given
	values map[string]string
}

// Set adds the pairs in text; a key given again replaces its value.
func (p *pairs) Set(text string) error {
	if p.values == nil {
		p.values = map[string]string{}
	}
	last := ""
	for _, part := range strings.Split(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		switch {
		case !ok && last == "":
			return fmt.Errorf("%q is not key=value", text)
		case !ok:
			p.values[last] += "," + part
			continue
		}
		if key = strings.TrimSpace(key); key == "" {
			return fmt.Errorf("%q has no key before '='", part)
		}
		if _, given := p.values[key]; !given {
			p.keys = append(p.keys, key)
		}
		p.values[key] = value
		last = key
	}
	return nil
}

// String is the flag's default as help shows it.
func (p *pairs) String() string { return "" }

// Type is the flag's type as help shows it.
func (p *pairs) Type() string { return "key=value" }
