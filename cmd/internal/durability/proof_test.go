package durability

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/server"
)

// make proof runs TestSegmentsAreTheLog with a gigabyte. Less than a hundred megabytes
// prove little: the file of votes alone is preallocated with one.
var proofFlag = flag.Int64("proof-megabytes", 128, "how much TestSegmentsAreTheLog produces")

const (
	proofPartitions = 4
	proofValue      = 1000
)

// TestSegmentsAreTheLog: what a broker stores is its segment files. All other files
// of a loaded data folder together are below 2% of them, and a Kafka client's
// decoder reads each of them from byte 0.
func TestSegmentsAreTheLog(t *testing.T) {
	dir := t.TempDir()
	broker, err := server.Open(t.Context(), server.Config{
		DataDir: dir, NodeID: 1, KafkaAddr: "127.0.0.1:0", RPCAddr: "127.0.0.1:0", HTTPAddr: "none",
	})
	must(t, err)
	t.Cleanup(func() { _ = broker.Kill() })
	<-broker.Ready()
	want := produceMegabytes(t, broker.KafkaAddr(), *proofFlag)
	logs, others := folderBytes(t, dir)
	t.Logf("%d MB produced: %d bytes of .log files, %d of all others (%.2f%%)", *proofFlag, logs, others, 100*float64(others)/float64(logs))
	if others*50 >= logs {
		t.Errorf("%d bytes beside %d bytes of .log files", others, logs)
	}
	must(t, broker.Close())
	logs, others = folderBytes(t, dir)
	if others*50 >= logs {
		t.Errorf("after the stop: %d bytes beside %d bytes of .log files", others, logs)
	}
	replicas, err := FindReplicas(vfs.OS(), dir, 1, testTopic)
	must(t, err)
	got := make([]int64, proofPartitions)
	for _, r := range replicas {
		got[r.Partition] = decodeWithFranzGo(t, r.Dir)
	}
	if !slices.Equal(got, want) {
		t.Errorf("franz-go decodes %d records of the files, %d were acknowledged", got, want)
	}
}

// produceMegabytes produces from two clients, and counts what was acknowledged by
// partition.
func produceMegabytes(t *testing.T, address string, megabytes int64) []int64 {
	t.Helper()
	var clients []*kgo.Client
	for range 2 {
		client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(testTopic))
		must(t, err)
		defer client.Close()
		clients = append(clients, client)
	}
	segmentBytes := fmt.Sprint(64 << 20)
	resp, err := kadm.NewClient(clients[0]).CreateTopic(t.Context(), proofPartitions, 1, map[string]*string{"segment.bytes": &segmentBytes}, testTopic)
	must(t, err)
	must(t, resp.Err)
	counts := make([]int64, proofPartitions)
	for n := range megabytes << 20 / proofValue {
		e := Event{Partition: int32(n % proofPartitions), Sequence: n / proofPartitions}
		counts[e.Partition]++
		clients[n%2].Produce(t.Context(), &kgo.Record{Partition: e.Partition, Value: e.encode(1, proofValue)}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	for _, client := range clients {
		must(t, client.Flush(t.Context()))
	}
	return counts
}

// folderBytes adds up the files of a data folder.
func folderBytes(t *testing.T, dir string) (logs, others int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".log") && strings.Contains(path, "/topics/") {
			logs += info.Size()
		} else {
			others += info.Size()
		}
		return nil
	}))
	return logs, others
}

// decodeWithFranzGo hands whole .log files to the decoder of a Kafka client, as if a
// broker had answered a fetch with them, and counts the records.
func decodeWithFranzGo(t *testing.T, dir string) int64 {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	must(t, err)
	next := int64(0)
	for _, name := range names {
		data, err := os.ReadFile(name)
		must(t, err)
		response := kmsg.NewFetchResponseTopicPartition()
		response.RecordBatches, response.HighWatermark = data, int64(len(data))
		options := kgo.ProcessFetchPartitionOpts{KeepControlRecords: true, Offset: next, Topic: testTopic}
		partition, _ := kgo.ProcessFetchPartition(options, &response, kgo.DefaultDecompressor(), nil)
		must(t, partition.Err)
		for _, r := range partition.Records {
			if r.Attrs.IsControl() {
				continue // one of ours, which takes no offset
			}
			if r.Offset != next {
				t.Fatalf("%s: offset %d follows offset %d", name, r.Offset, next-1)
			}
			if _, err := decode(1, r.Value); err != nil {
				t.Fatalf("%s: offset %d: %v", name, r.Offset, err)
			}
			next++
		}
	}
	return next
}
