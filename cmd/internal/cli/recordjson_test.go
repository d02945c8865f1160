package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/client"
)

func TestRecordJSON(t *testing.T) {
	tests := []struct {
		name   string
		record client.Record
		want   string
	}{
		{"plain", client.Record{Topic: "t", Partition: 2, Offset: 7, Timestamp: time.UnixMilli(1_700_000_000_123), Key: []byte("k"), Value: []byte(`{"a":"<b>"}`),
			Headers: []client.Header{{Key: "h", Value: []byte("v")}}},
			`{"topic":"t","partition":2,"offset":7,"timestamp":"2023-11-14T22:13:20.123Z","key":"k","value":"{\"a\":\"<b>\"}","headers":[{"key":"h","value":"v"}]}`},
		{"null is not empty", client.Record{Topic: "t", Timestamp: time.UnixMilli(0), Value: []byte{}},
			`{"topic":"t","partition":0,"offset":0,"timestamp":"1970-01-01T00:00:00Z","key":null,"value":"","headers":[]}`},
		{"no time", client.Record{Topic: "t", Timestamp: time.UnixMilli(-1)},
			`{"topic":"t","partition":0,"offset":0,"timestamp":null,"key":null,"value":null,"headers":[]}`},
		{"bytes in the value", client.Record{Topic: "t", Timestamp: time.UnixMilli(0), Key: []byte("k"), Value: []byte{0xff, 0}},
			`{"topic":"t","partition":0,"offset":0,"timestamp":"1970-01-01T00:00:00Z","key":"aw==","value":"/wA=","headers":[],"encoding":"base64"}`},
		{"bytes in a header", client.Record{Topic: "t", Timestamp: time.UnixMilli(0), Key: []byte("k"), Headers: []client.Header{{Key: "h", Value: []byte{0xfe}}, {Key: "n"}}},
			`{"topic":"t","partition":0,"offset":0,"timestamp":"1970-01-01T00:00:00Z","key":"k","value":null,"headers":[{"key":"h","value":"/g==","encoding":"base64"},{"key":"n","value":null}]}`},
		{"bytes in the key of a header", client.Record{Topic: "t", Timestamp: time.UnixMilli(0), Headers: []client.Header{{Key: "h\xfe", Value: []byte("v")}}},
			`{"topic":"t","partition":0,"offset":0,"timestamp":"1970-01-01T00:00:00Z","key":null,"value":null,"headers":[{"key":"aP4=","value":"v","key_encoding":"base64"}]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var line bytes.Buffer
			if err := appendRecord(&line, &test.record); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want+"\n", line.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestRecordJSONRoundTrip: what consume writes, produce reads back to the byte.
func TestRecordJSONRoundTrip(t *testing.T) {
	maybe := func(t *rapid.T, name string) []byte {
		if rapid.Bool().Draw(t, name+" is null") {
			return nil
		}
		if rapid.Bool().Draw(t, name+" is text") {
			return append([]byte{}, rapid.String().Draw(t, name)...)
		}
		return append([]byte{}, rapid.SliceOf(rapid.Byte()).Draw(t, name)...)
	}
	rapid.Check(t, func(t *rapid.T) {
		in := client.Record{
			Timestamp: time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "time")).UTC(),
			Key:       maybe(t, "key"), Value: maybe(t, "value"),
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "headers") {
			in.Headers = append(in.Headers, client.Header{Key: string(maybe(t, "name")), Value: maybe(t, "header")})
			_ = i
		}
		var line bytes.Buffer
		if err := appendRecord(&line, &in); err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(line.Bytes(), '\n') != line.Len()-1 {
			t.Fatalf("not one line: %q", line.String())
		}
		out, err := parseRecord(line.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if !out.Timestamp.Equal(in.Timestamp) {
			t.Fatalf("time %v became %v", in.Timestamp, out.Timestamp)
		}
		if diff := cmp.Diff(in.Key, out.Key); diff != "" {
			t.Fatalf("key: %s", diff)
		}
		if diff := cmp.Diff(in.Value, out.Value); diff != "" {
			t.Fatalf("value: %s", diff)
		}
		if diff := cmp.Diff(in.Headers, out.Headers); diff != "" {
			t.Fatalf("headers: %s", diff)
		}
	})
}

func TestRecordJSONThatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		`{"value":"?","encoding":"base64"}`:                                     "value: not base64",
		`{"value":null,"key":"?","encoding":"base64"}`:                          "key: not base64",
		`{"value":"x","encoding":"rot13"}`:                                      `unknown encoding "rot13"`,
		`{"value":"x","headers":[{"key":"h","value":"?","encoding":"base64"}]}`: `header "h": not base64`,
		`hello`:                                 "not JSON",
		`{"value":"x"`:                          "not JSON",
		`{"value":"x"} {"value":"y"}`:           "not JSON",
		`{"value":{"a":1}}`:                     `"value" is an object`,
		`{"value":5}`:                           `"value" is a number`,
		`{"value":"x","key":true}`:              `"key" is a bool`,
		`{"value":"x","headers":[{"key":1}]}`:   "is a number",
		`{"value":"x","timestamp":"soon"}`:      "soon",
		`["x"]`:                                 "this is an array",
		`"x"`:                                   "this is a string",
		`null`:                                  "null is no record",
		`{}`:                                    `no "value"`,
		`{"key":"k","vaule":"x"}`:               `"vaule" is no field of a record`,
		`{"value":null,"vaule":"x"}`:            `"vaule" is no field of a record`,
		`{"value":"x","headers":[{"kye":"h"}]}`: `"kye" is no field of a record`,
		`{"value":"x","headers":[{"key":"?","value":null,"key_encoding":"base64"}]}`: `header "?": key: not base64`,
		"{\"value\":\"\xff\"}":       "not UTF-8",
		`{"value":"\ud800"}`:         `\ud800 is half a character`,
		`{"value":"\ud800\u0041"}`:   `\ud800 is half a character`,
		`{"value":"\\\udc00\ud800"}`: `\udc00 is half a character`,
	} {
		if r, err := parseRecord([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is %+v, %v; want an error that says %q", text, r, err, want)
		}
	}
}

// TestTextThatIsRight: what only looks like a replaced character is taken.
func TestTextThatIsRight(t *testing.T) {
	for text, want := range map[string]string{
		`{"value":"\ud83d\ude00"}`: "\U0001f600",
		`{"value":"\\ud800"}`:      `\ud800`,
		"{\"value\":\"\ufffd\"}":   "\ufffd",
		`{"value":"\ufffd\\"}`:     "\ufffd\\",
		`{"value":"a","offset":5,"partition":1,"topic":"t","timestamp":null,"key":null,"headers":[]}`: "a",
	} {
		if r, err := parseRecord([]byte(text)); err != nil || string(r.Value) != want {
			t.Errorf("%s is %+v, %v", text, r, err)
		}
	}
}

// TestLinesThatAreNoRecords: blank lines count and are passed over, and the error
// names the line.
func TestLinesThatAreNoRecords(t *testing.T) {
	read, err := recordReader(strings.NewReader("{\"value\":\"a\"}\r\n \n{\"value\":null}\nx\n"), "json")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a", ""} {
		if r, err := read(); err != nil || string(r.Value) != want {
			t.Fatalf("%+v, %v; want %q", r, err, want)
		}
	}
	if _, err := read(); err == nil || !strings.HasPrefix(err.Error(), "line 4: ") {
		t.Errorf("error is %v", err)
	}
	long, err := recordReader(io.MultiReader(strings.NewReader("a\n"), zeros{}), `%v\n`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := long(); err != nil {
		t.Fatal(err)
	}
	if _, err := long(); err == nil || !strings.HasPrefix(err.Error(), "line 2 is longer") {
		t.Errorf("error is %v", err)
	}
}

// zeros is an input without an end.
type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
