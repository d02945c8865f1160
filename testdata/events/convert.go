// Convert turns the examples of npm package @octokit/webhooks-examples into the
// lines of github.ndjson.gz: one JSON object {key, headers, value} a payload, in
// the order of the package. It reads api.github.com/index.json of the package
// and writes the gzip file, both named on the command line; the same input
// gives the same bytes (no time stamp, no file name in the gzip header).
//
//	go run testdata/events/convert.go index.json github.ndjson.gz
//
// Payloads keep their key order and the text of their numbers; only white space
// between tokens is dropped.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
)

// eventType is one element of the package's index: an event and its examples.
type eventType struct {
	Name     string            `json:"name"`
	Examples []json.RawMessage `json:"examples"`
}

// line is one output line. Its key is the full name of the repository, null for
// the events that have none.
type line struct {
	Key     *string           `json:"key"`
	Headers map[string]string `json:"headers"`
	Value   json.RawMessage   `json:"value"`
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: convert index.json github.ndjson.gz")
		os.Exit(2)
	}
	if err := convert(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "convert:", err)
		os.Exit(1)
	}
}

func convert(from, to string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read examples: %w", err)
	}
	var types []eventType
	if err := json.Unmarshal(raw, &types); err != nil {
		return fmt.Errorf("parse examples: %w", err)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	for _, t := range types {
		for _, example := range t.Examples {
			l, err := toLine(t.Name, example)
			if err != nil {
				return fmt.Errorf("event %s: %w", t.Name, err)
			}
			if err := encoder.Encode(l); err != nil {
				return fmt.Errorf("event %s: %w", t.Name, err)
			}
		}
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	if _, err := w.Write(text.Bytes()); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	return os.WriteFile(to, packed.Bytes(), 0o644)
}

func toLine(event string, example json.RawMessage) (line, error) {
	var head struct {
		Action     string `json:"action"`
		Repository *struct {
			FullName string `json:"full_name"`
		} `json:"repository"`
	}
	if err := json.Unmarshal(example, &head); err != nil {
		return line{}, err
	}
	kind := "com.github." + event
	if head.Action != "" {
		kind += "." + head.Action
	}
	l := line{Value: example, Headers: map[string]string{"ce_type": kind, "content-type": "application/json"}}
	if head.Repository != nil && head.Repository.FullName != "" {
		l.Key = &head.Repository.FullName
	}
	return l, nil
}
