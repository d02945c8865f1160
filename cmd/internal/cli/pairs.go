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

// Set adds the pairs in text. A key given twice is an error: one of the values would
// silently have no effect.
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
		if _, given := p.values[key]; given {
			return fmt.Errorf("%q is given twice", key)
		}
		p.keys = append(p.keys, key)
		p.values[key] = value
		last = key
	}
	return nil
}

// below is the Set of a weaker source: it adds the keys that are not there yet.
func (p *pairs) below() func(text string) error {
	var weaker pairs
	return func(text string) error {
		before := len(weaker.keys)
		if err := weaker.Set(text); err != nil {
			return err
		}
		for _, key := range weaker.keys[before:] {
			if _, given := p.values[key]; given {
				continue
			}
			if p.values == nil {
				p.values = map[string]string{}
			}
			p.keys = append(p.keys, key)
			p.values[key] = weaker.values[key]
		}
		return nil
	}
}

// String is the flag's default as help shows it.
func (p *pairs) String() string { return "" }

// Type is the flag's type as help shows it.
func (p *pairs) Type() string { return "key=value" }
