package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/cmd/internal/checker"
)

const (
	headerID  = "event-id"
	headerSeq = "seq"
	// digits is the width of both numbers, so that they are patched in place.
	digits = 8
	// maxExample bounds an example event, in bytes.
	maxExample = 4 << 20
)

// Made-up repositories are OWNER/NAME of these, all of one length: 40 x 25.
const (
	owners = "amber aspen birch bluff brook cedar chalk cliff cloud coast coral creek delta dunes ember field fjord flint " +
		"frost glade grove heath holly hazel larch lilac maple marsh mesas ocean pearl pines plain poppy ridge river slate spire stone tides"
	names = "anvil audit badge board bread cargo chess clock crane drone forge index kiosk label ledge mills notes orbit parse quill relay scale table vault wheel"
)

// corpus makes events of the example payloads.
type corpus struct {
	templates []template
	keys      []string // made-up repositories
	numbers   map[string]uint32
}

// template is an example prepared so that an event is a copy and some patches:
// the name of its repository has been replaced by one as long as every key, and
// its places are known.
type template struct {
	value   []byte
	places  []int // where the repository's name begins
	headers []client.Header
}

// loadCorpus reads the examples; JSON is parsed here and never again.
func loadCorpus(file string) (*corpus, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("example events: %w", err)
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("example events: %w", err)
	}
	c := &corpus{keys: makeKeys(), numbers: map[string]uint32{}}
	for i, key := range c.keys {
		c.numbers[key] = uint32(i)
	}
	lines := bufio.NewScanner(unpacked)
	lines.Buffer(nil, maxExample)
	for lines.Scan() {
		t, err := newTemplate(lines.Bytes(), c.keys[0])
		if err != nil {
			return nil, fmt.Errorf("example event %d: %w", len(c.templates)+1, err)
		}
		c.templates = append(c.templates, t)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("example events: %w", err)
	}
	if len(c.templates) == 0 {
		return nil, errors.New("example events: the file is empty")
	}
	return c, nil
}

func makeKeys() []string {
	var keys []string
	for _, owner := range bytes.Fields([]byte(owners)) {
		for _, name := range bytes.Fields([]byte(names)) {
			keys = append(keys, string(owner)+"/"+string(name))
		}
	}
	return keys
}

func newTemplate(line []byte, key string) (template, error) {
	var example struct {
		Key     *string           `json:"key"`
		Headers map[string]string `json:"headers"`
		Value   json.RawMessage   `json:"value"`
	}
	if err := json.Unmarshal(line, &example); err != nil {
		return template{}, err
	}
	t := template{value: bytes.Clone(example.Value)}
	for _, name := range []string{"ce_type", "content-type"} {
		t.headers = append(t.headers, client.Header{Key: name, Value: []byte(example.Headers[name])})
	}
	if example.Key == nil {
		return t, nil // nothing in it to replace
	}
	t.value = bytes.ReplaceAll(example.Value, []byte(*example.Key), []byte(key))
	for from := 0; ; {
		i := bytes.Index(t.value[from:], []byte(key))
		if i < 0 {
			return t, nil
		}
		t.places = append(t.places, from+i)
		from += i + len(key)
	}
}

// event makes the record of event e, a copy of the example with e's numbers and
// its key's repository.
func (c *corpus) event(e checker.Event) *client.Record {
	t := &c.templates[e.ID%uint64(len(c.templates))]
	key := c.keys[e.Key]
	value := bytes.Clone(t.value)
	for _, place := range t.places {
		copy(value[place:], key)
	}
	numbers := make([]byte, 2*digits)
	patch(numbers[:digits], e.ID)
	patch(numbers[digits:], e.Seq)
	headers := make([]client.Header, 0, len(t.headers)+2)
	headers = append(headers,
		client.Header{Key: headerID, Value: numbers[:digits]},
		client.Header{Key: headerSeq, Value: numbers[digits:]})
	return &client.Record{Topic: topic, Key: []byte(key), Value: value, Headers: append(headers, t.headers...)}
}

// patch writes n in decimal, with leading zeros.
func patch(b []byte, n uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}

// parse reads the numbers of a record back, from its headers and its key alone.
func (c *corpus) parse(r *client.Record) (checker.Event, error) {
	var e checker.Event
	key, ok := c.numbers[string(r.Key)]
	if !ok {
		return e, fmt.Errorf("key %.40q is none of this run", r.Key)
	}
	e.Key = key
	found := 0
	for _, h := range r.Headers {
		var target *uint64
		switch h.Key {
		case headerID:
			target = &e.ID
		case headerSeq:
			target = &e.Seq
		default:
			continue
		}
		n, err := strconv.ParseUint(string(h.Value), 10, 32)
		if err != nil {
			return e, fmt.Errorf("header %s: %w", h.Key, err)
		}
		*target = n
		found++
	}
	if found != 2 {
		return e, fmt.Errorf("%d of the 2 headers", found)
	}
	return e, nil
}
