package segment

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

// benchmarkBatch is a batch of about 100 KiB of GitHub events, as a producer
// sends them.
func benchmarkBatch(b *testing.B, codec Codec) []byte {
	b.Helper()
	file, err := os.Open("../testdata/events/github.ndjson.gz")
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(unzipped)
	lines.Buffer(nil, 1<<20)
	var records []Record
	for size := 0; size < 100<<10 && lines.Scan(); {
		var event struct{ Value json.RawMessage }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			b.Fatal(err)
		}
		r := Record{Timestamp: 1_700_000_000_000, Key: fmt.Append(nil, len(records)), Value: event.Value,
			Headers: []RecordHeader{{Key: "event-id", Value: make([]byte, 16)}}}
		records, size = append(records, r), size+len(r.Value)
	}
	return Build(records, BuildOptions{Codec: codec})
}

// BenchmarkCheck measures what each produced batch costs, in inflated bytes.
func BenchmarkCheck(b *testing.B) {
	plain := len(benchmarkBatch(b, CodecNone))
	for _, codec := range allCodecs {
		b.Run(codec.String(), func(b *testing.B) {
			frame := benchmarkBatch(b, codec)
			b.SetBytes(int64(plain))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Check(frame, Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCheckSmall is a batch of 100 records of 100 bytes.
func BenchmarkCheckSmall(b *testing.B) {
	records := make([]Record, 100)
	for i := range records {
		records[i] = Record{Timestamp: int64(i), Key: make([]byte, 10), Value: make([]byte, 90)}
	}
	frame := Build(records, BuildOptions{})
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Check(frame, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCompress measures the leader's compression, in uncompressed bytes.
func BenchmarkCompress(b *testing.B) {
	frame := benchmarkBatch(b, CodecNone)
	for _, codec := range allCodecs[1:] {
		b.Run(codec.String(), func(b *testing.B) {
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				out, _, err := Compress(frame, codec)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(frame))/float64(len(out)), "ratio")
			}
		})
	}
}
