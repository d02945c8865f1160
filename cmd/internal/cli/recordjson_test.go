package cli

import (
	"bytes"
	"encoding/json"
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
			in.Headers = append(in.Headers, client.Header{Key: rapid.String().Draw(t, "name"), Value: maybe(t, "header")})
			_ = i
		}
		var line bytes.Buffer
		if err := appendRecord(&line, &in); err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(line.Bytes(), '\n') != line.Len()-1 {
			t.Fatalf("not one line: %q", line.String())
		}
		var read recordJSON
		if err := json.Unmarshal(line.Bytes(), &read); err != nil {
			t.Fatal(err)
		}
		out, err := read.record()
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
	for _, text := range []string{
		`{"value":"?","encoding":"base64"}`,
		`{"key":"?","encoding":"base64"}`,
		`{"value":"x","encoding":"rot13"}`,
		`{"headers":[{"key":"h","value":"?","encoding":"base64"}]}`,
	} {
		var read recordJSON
		if err := json.Unmarshal([]byte(text), &read); err != nil {
			t.Fatal(err)
		}
		if r, err := read.record(); err == nil {
			t.Errorf("%s is %+v, want an error", text, r)
		}
	}
}
