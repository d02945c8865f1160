package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/cmd/internal/checker"
	"github.com/millrace/millrace/cmd/internal/testbinary"
)

const events = "../../testdata/events/github.ndjson.gz"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestCorpus: every event is the example with another repository, still JSON, and
// its three numbers are read back from key and headers.
func TestCorpus(t *testing.T) {
	c, err := loadCorpus(events)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.templates) != 329 || len(c.keys) != 1000 || len(c.numbers) != 1000 {
		t.Fatalf("%d examples, %d keys, %d of them different", len(c.templates), len(c.keys), len(c.numbers))
	}
	patched, size := 0, 0
	for id := range uint64(2 * 329) {
		e := checker.Event{ID: id, Key: uint32(id*7919) % 1000, Seq: id % 50}
		r := c.event(e)
		size += len(r.Value)
		got, err := c.parse(r)
		if err != nil || got != e {
			t.Fatalf("event %+v came back as %+v, %v", e, got, err)
		}
		var value struct {
			Repository *struct {
				FullName string `json:"full_name"`
			}
		}
		if err := json.Unmarshal(r.Value, &value); err != nil {
			t.Fatalf("event %d is no JSON: %v", id, err)
		}
		if value.Repository != nil {
			patched++
			if value.Repository.FullName != string(r.Key) {
				t.Fatalf("event %d is of %q and has the key %q", id, value.Repository.FullName, r.Key)
			}
		}
	}
	if patched != 2*(329-49) {
		t.Errorf("%d of 658 events have a repository, want 560", patched)
	}
	if mean := size / 658; mean < 9_000 || mean > 11_000 {
		t.Errorf("an event has %d bytes, want about 10,000", mean)
	}
}

func TestParseStrangeRecords(t *testing.T) {
	c, err := loadCorpus(events)
	if err != nil {
		t.Fatal(err)
	}
	header := func(id, seq string) []client.Header {
		return []client.Header{{Key: headerID, Value: []byte(id)}, {Key: headerSeq, Value: []byte(seq)}}
	}
	key := []byte(c.keys[0])
	for name, r := range map[string]*client.Record{
		"no key":         {Headers: header("00000001", "00000001")},
		"another key":    {Key: []byte("somebody/else"), Headers: header("00000001", "00000001")},
		"no headers":     {Key: key},
		"one header":     {Key: key, Headers: header("00000001", "00000001")[:1]},
		"not a number":   {Key: key, Headers: header("x", "00000001")},
		"a huge number":  {Key: key, Headers: header("99999999999", "00000001")},
		"an empty value": {Key: key, Headers: header("", "00000001")},
	} {
		if e, err := c.parse(r); err == nil {
			t.Errorf("%s: read as %+v", name, e)
		}
	}
	if _, err := loadCorpus("nowhere"); err == nil {
		t.Error("examples that are not there were read")
	}
}

// screen is an output that tells when something was printed.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	want string
	seen func()
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	if s.seen != nil && strings.Contains(s.text.String(), s.want) {
		s.seen()
		s.seen = nil
	}
	return len(p), nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// emptyAfter makes a folder for temporary files and checks that it is empty when
// the test ends.
func emptyAfter(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, l := range left {
			t.Errorf("%s was left", l.Name())
		}
	})
}

// TestDemo is the demo itself with fewer events.
func TestDemo(t *testing.T) {
	binary := testbinary.Build(t)
	emptyAfter(t)
	out := &screen{}
	line, err := run(t.Context(), options{binary: binary, events: events, count: 20_000, out: out})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := regexp.MustCompile(`^demo: ok acked=20000 consumed=20000 lost=0 duplicated=0 out_of_order=0 gap_ms=\d+ rate_mb_s=\d+$`)
	if !want.MatchString(line) {
		t.Errorf("the last line is %q", line)
	}
	for _, part := range []string{"SIGKILL to broker", "before the kill", "durability                 fsync", "member-1 [", "bytes on disk"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("it does not show %q:\n%s", part, out)
		}
	}
}

// TestInterruptedDemo: Ctrl-C in mid-load leaves nothing behind.
func TestInterruptedDemo(t *testing.T) {
	binary := testbinary.Build(t)
	emptyAfter(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &screen{want: "SIGKILL to broker", seen: cancel}
	begin := time.Now()
	if line, err := run(ctx, options{binary: binary, events: events, count: 20_000, out: out}); err == nil {
		t.Errorf("it ended with %q", line)
	}
	if ctx.Err() == nil {
		t.Errorf("it ended by itself:\n%s", out)
	}
	if took := time.Since(begin); took > 40*time.Second {
		t.Errorf("took %s", took)
	}
}

// TestDemoWithADyingBroker: a broker that ends by itself fails the demo, with
// what it said last.
func TestDemoWithADyingBroker(t *testing.T) {
	emptyAfter(t)
	script := t.TempDir() + "/millrace"
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho the disk is on fire >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := run(t.Context(), options{binary: script, events: events, count: 1000, out: &screen{}})
	if err == nil || !strings.Contains(err.Error(), "the disk is on fire") {
		t.Errorf("error is %v", err)
	}
}
