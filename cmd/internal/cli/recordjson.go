package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/millrace/millrace/client"
)

// base64Encoding says in a record or a header that its bytes are base64.
const base64Encoding = "base64"

// recordJSON is a record as -f json writes and reads it. A null key or value is
// null. When key or value is not UTF-8, both are base64 and encoding says so; a
// header has its own encoding for its value, and key_encoding for its key.
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
	Key         string  `json:"key"`
	Value       *string `json:"value"`
	Encoding    string  `json:"encoding,omitempty"`
	KeyEncoding string  `json:"key_encoding,omitempty"`
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
		if !utf8.ValidString(h.Key) { // the encoder would replace bytes
			header.KeyEncoding = base64Encoding
			header.Key = *toText([]byte(h.Key), base64Encoding)
		}
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
		key, err := toBytes(&h.Key, h.KeyEncoding)
		if err != nil {
			return nil, fmt.Errorf("header %q: key: %w", h.Key, err)
		}
		r.Headers = append(r.Headers, client.Header{Key: string(key), Value: value})
	}
	return r, nil
}

// lineHint is the advice about a line that is no record.
const lineHint = `each line is one object, such as {"key":"k","value":"text"}, as consume -f json writes it; ` +
	`to produce lines as they are, leave -f json and --format json out`

// absent stands in for a value that the input does not have: no JSON text decodes
// to it, because it is not UTF-8.
const absent = "\xff"

// parseRecord reads a line; a blank one is no record. A record without a value is
// refused: consume writes null out, and a misspelt name must not become one. So is
// everything that would be left out or replaced.
func parseRecord(line []byte) (*client.Record, error) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return nil, nil
	}
	if err := checkText(line); err != nil {
		return nil, err
	}
	value := absent
	j := &recordJSON{Value: &value}
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&j); err != nil {
		return nil, describeJSON(err)
	}
	switch rest := bytes.TrimSpace(line[decoder.InputOffset():]); {
	case len(rest) > 0:
		return nil, fmt.Errorf("not JSON: there is more behind the object, at byte %d", decoder.InputOffset()+1)
	case j == nil:
		return nil, errors.New("null is no record")
	case j.Value != nil && *j.Value == absent:
		return nil, errors.New(`there is no "value", which may be null`)
	}
	return j.record()
}

// checkText refuses bytes and escapes that are no text: the decoder would put U+FFFD
// in their place.
func checkText(line []byte) error {
	if !utf8.Valid(line) {
		return errors.New(`not UTF-8: give such bytes as base64, with "encoding":"base64"`)
	}
	for i := 0; i+1 < len(line); i++ {
		if line[i] != '\\' {
			continue
		}
		i++ // what is escaped
		unit, ok := escapedUnit(line[i-1:])
		if !ok || !utf16.IsSurrogate(unit) {
			continue
		}
		low, ok := escapedUnit(line[i+5:])
		if !ok || utf16.DecodeRune(unit, low) == utf8.RuneError {
			return fmt.Errorf(`\u%04x is half a character: give such bytes as base64, with "encoding":"base64"`, unit)
		}
		i += 10
	}
	return nil
}

// escapedUnit is the number in \uXXXX, if the text begins with it.
func escapedUnit(text []byte) (rune, bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n), err == nil
}

// describeJSON puts what the decoder says into the words of JSON.
func describeJSON(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	unknown, isUnknown := strings.CutPrefix(err.Error(), "json: unknown field ")
	switch {
	case isUnknown:
		return fmt.Errorf("%s is no field of a record", unknown)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("not JSON: unexpected end of JSON input")
	case errors.As(err, &syntax):
		return fmt.Errorf("not JSON: %w, at byte %d", err, syntax.Offset)
	case errors.As(err, &kind) && kind.Field == "":
		return fmt.Errorf("a record is an object, this is %s", article(kind.Value))
	case errors.As(err, &kind):
		return fmt.Errorf("%q is %s, want %s", kind.Field, article(kind.Value), article(wanted[kind.Type.Kind()]))
	}
	return err
}

// wanted names what a field of a record holds in the words of JSON.
var wanted = map[reflect.Kind]string{reflect.String: "string", reflect.Slice: "array", reflect.Struct: "object", reflect.Int32: "number", reflect.Int64: "number"}

func article(kind string) string {
	kind, _, _ = strings.Cut(kind, " ") // a number is followed by itself
	if kind == "object" || kind == "array" {
		return "an " + kind
	}
	return "a " + kind
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
