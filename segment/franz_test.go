package segment

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// These tests hold the codec against franz-go, both ways: what its client
// encodes passes Check and decodes to the same, and what is built here decodes
// to the same there.

var allCodecs = []Codec{CodecNone, CodecGzip, CodecSnappy, CodecLZ4, CodecZstd}

// drawRecords are random records: null, empty and long keys and values, headers,
// equal and wild timestamps.
func drawRecords(t *rapid.T) []Record {
	long := noise(70_000)
	data := func(label string) []byte { // by size, so that what rapid prints and shrinks is small
		switch n := rapid.IntRange(-2, 1000).Draw(t, label); {
		case n == -2:
			return nil
		case n < 0:
			return []byte{}
		case n < 100:
			return long[:n]
		case n < 200:
			return long[:n*350]
		default:
			return bytes.Repeat([]byte("json"), n/2)
		}
	}
	records := make([]Record, rapid.IntRange(1, 20).Draw(t, "records"))
	for i := range records {
		r := &records[i]
		r.Offset = Offset(i)
		r.Timestamp = rapid.Int64Range(-1, 1<<42).Draw(t, "timestamp")
		r.Key, r.Value = data("key"), data("value")
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			r.Headers = append(r.Headers, RecordHeader{Key: rapid.String().Draw(t, "name"), Value: data("header")})
		}
	}
	return records
}

// noise are bytes that do not compress.
func noise(n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

// franzBatch encodes records with franz-go's own code.
func franzBatch(tb testing.TB, records []Record, codec Codec) []byte {
	var payload []byte
	first, last := records[0].Timestamp, int64(-1)
	for i, r := range records {
		k := kmsg.Record{TimestampDelta64: r.Timestamp - first, OffsetDelta: int32(i), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			k.Headers = append(k.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		k.Length = int32(recordSize(&r, r.Timestamp-first, i))
		payload = k.AppendTo(payload)
		last = max(last, r.Timestamp)
	}
	compressed := payload
	if codec != CodecNone {
		compressor, err := kgo.DefaultCompressor(franzCodec(codec))
		if err != nil {
			tb.Fatal(err)
		}
		compressed, _ = compressor.Compress(new(bytes.Buffer), payload)
	}
	batch := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, Attributes: int16(codec), LastOffsetDelta: int32(len(records) - 1),
		FirstTimestamp: first, MaxTimestamp: last, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		NumRecords: int32(len(records)), Records: compressed, Length: int32(49 + len(compressed)),
	}
	raw := batch.AppendTo(nil)
	batch.CRC = int32(crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return batch.AppendTo(nil)
}

func franzCodec(codec Codec) kgo.CompressionCodec {
	return [...]kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}[codec]
}

// franzRecords decodes frames with franz-go's own code.
func franzRecords(frames []byte) ([]Record, error) {
	response := kmsg.FetchResponseTopicPartition{RecordBatches: frames, HighWatermark: 1 << 60, LastStableOffset: 1 << 60}
	o := kgo.ProcessFetchPartitionOpts{KeepControlRecords: true}
	partition, _ := kgo.ProcessFetchPartition(o, &response, kgo.DefaultDecompressor(), nil)
	var records []Record
	for _, k := range partition.Records {
		r := Record{Offset: Offset(k.Offset), Timestamp: k.Timestamp.UnixMilli(), Key: k.Key, Value: k.Value}
		for _, h := range k.Headers {
			r.Headers = append(r.Headers, RecordHeader{Key: h.Key, Value: h.Value})
		}
		records = append(records, r)
	}
	return records, partition.Err
}

// diffRecords is "" or the beginning of the difference.
func diffRecords(want, got []Record) string {
	diff := cmp.Diff(want, got, cmp.Comparer(func(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }))
	return diff[:min(len(diff), 2000)]
}

func TestReadsFranz(t *testing.T) {
	for _, codec := range allCodecs {
		t.Run(codec.String(), rapid.MakeCheck(func(t *rapid.T) {
			records := drawRecords(t)
			frame := franzBatch(nopTB{}, records, codec)
			h, err := Check(frame, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if h.NumRecords != int32(len(records)) || h.Attributes.Codec() != codec {
				t.Fatalf("header %+v", h)
			}
			got, err := Records(frame, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			if diff := diffRecords(records, got); diff != "" {
				t.Fatal(diff)
			}
		}))
	}
}

func TestFranzReads(t *testing.T) {
	for _, codec := range allCodecs {
		t.Run(codec.String(), rapid.MakeCheck(func(t *rapid.T) {
			records := drawRecords(t)
			frame := Build(records, BuildOptions{Codec: codec})
			if _, err := Check(frame, Limits{}); err != nil {
				t.Fatal(err)
			}
			inflated, err := Inflate(frame, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			compressed, _, err := Compress(inflated, codec)
			if err != nil {
				t.Fatal(err)
			}
			for name, f := range map[string][]byte{"built": frame, "inflated": inflated, "compressed": compressed} {
				got, err := franzRecords(f)
				if err != nil {
					t.Fatal(name, err)
				}
				if diff := diffRecords(records, got); diff != "" {
					t.Fatal(name, diff)
				}
			}
			if plain := Build(records, BuildOptions{}); !bytes.Equal(plain, inflated) {
				t.Fatal("the inflated frame is not what was compressed")
			}
		}))
	}
}

// TestFranzReadsALogFile checks the layout of a segment file: batches and
// internal frames back to back.
func TestFranzReadsALogFile(t *testing.T) {
	var log []byte
	next := Offset(0)
	add := func(frame []byte) {
		Stamp(frame, next, 7)
		h, err := DecodeHeader(frame)
		if err != nil {
			t.Fatal(err)
		}
		next = h.NextOffset()
		log = append(log, frame...)
	}
	add(EncodeInternal(KindNoop, 0, nil))
	var want []Record
	for i := range 10 {
		r := []Record{{Timestamp: 1, Value: fmt.Append(nil, i)}, {Timestamp: 2, Value: fmt.Append(nil, -i)}}
		frame := Build(r, BuildOptions{Codec: allCodecs[i%len(allCodecs)]})
		add(frame)
		for k := range r {
			r[k].Offset = Offset(len(want))
			want = append(want, r[k])
		}
		add(EncodeVoid(0, Void{Code: VoidDuplicate, Offset: 0}))
	}
	got, err := franzRecords(log)
	if err != nil {
		t.Fatal(err)
	}
	if diff := diffRecords(want, got); diff != "" {
		t.Error(diff)
	}
}

// nopTB is a testing.TB for franzBatch within rapid; it cannot fail there.
type nopTB struct{ testing.TB }
