package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/client"
)

// base64Encoding says in a record or a header that its bytes are base64.
const base64Encoding = "base64"

// recordJSON is a record as -f json writes and reads it. A null key or value is
// null. When key or value is not UTF-8, both are base64 and encoding says so; a
// header has its own encoding for its value.
type recordJSON struct {
	Topic     string       `json:"topic"`
	Partition int32        `json:"partition"`
	Offset    int64        `json:"offset"`
	Timestamp *time.Time   `json:"timestamp"` // milliseconds in UTC; null where a record has none
	Key       *string      `json:"key"`
	Value     *string      `json:"value"`
	Headers   []headerJSON `json:"headers"`
	Encoding  string       `json:"encoding,omitempty"`
}

type headerJSON struct {
	Key      string  `json:"key"`
	Value    *string `json:"value"`
	Encoding string  `json:"encoding,omitempty"`
}

// appendRecord adds the record as one line of JSON.
func appendRecord(line *bytes.Buffer, r *client.Record) error {
	out := recordJSON{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Headers: make([]headerJSON, len(r.Headers))}
	if r.Timestamp.UnixMilli() >= 0 {
		utc := r.Timestamp.UTC().Truncate(time.Millisecond)
		out.Timestamp = &utc
	}
	if !utf8.Valid(r.Key) || !utf8.Valid(r.Value) {
		out.Encoding = base64Encoding
	}
	out.Key, out.Value = toText(r.Key, out.Encoding), toText(r.Value, out.Encoding)
	for i, h := range r.Headers {
		header := headerJSON{Key: h.Key}
		if !utf8.Valid(h.Value) {
			header.Encoding = base64Encoding
		}
		header.Value = toText(h.Value, header.Encoding)
		out.Headers[i] = header
	}
	encoder := json.NewEncoder(line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(out); err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	return nil
}

// record turns what was read back into a record. Topic, partition and offset
// are those of the place it came from and are not taken over.
func (j *recordJSON) record() (*client.Record, error) {
	r := &client.Record{}
	if j.Timestamp != nil {
		r.Timestamp = *j.Timestamp
	}
	var err error
	if r.Key, err = toBytes(j.Key, j.Encoding); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if r.Value, err = toBytes(j.Value, j.Encoding); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	for _, h := range j.Headers {
		value, err := toBytes(h.Value, h.Encoding)
		if err != nil {
			return nil, fmt.Errorf("header %q: %w", h.Key, err)
		}
		r.Headers = append(r.Headers, client.Header{Key: h.Key, Value: value})
	}
	return r, nil
}

func toText(b []byte, encoding string) *string {
	if b == nil {
		return nil
	}
	text := string(b)
	if encoding == base64Encoding {
		text = base64.StdEncoding.EncodeToString(b)
	}
	return &text
}

func toBytes(text *string, encoding string) ([]byte, error) {
	switch {
	case text == nil:
		return nil, nil
	case encoding == "":
		return append([]byte{}, *text...), nil
	case encoding == base64Encoding:
		b, err := base64.StdEncoding.DecodeString(*text)
		if err != nil {
			return nil, fmt.Errorf("not base64: %w", err)
		}
		return append([]byte{}, b...), nil
	}
	return nil, fmt.Errorf("unknown encoding %q", encoding)
}
