package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// testConfig is a broker on free ports over a temporary folder.
func testConfig(t testing.TB) Config {
	return Config{NodeID: 1, DataDir: t.TempDir(), KafkaAddr: "127.0.0.1:0", RPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0",
		Version: "test", Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
}

// testWriter puts a broker's log into the test's.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// openBroker starts a broker and waits until it is ready.
func openBroker(t testing.TB, config Config) *Broker {
	t.Helper()
	b, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Kill() })
	awaitReady(t, b)
	return b
}

func awaitReady(t testing.TB, b *Broker) {
	t.Helper()
	select {
	case <-b.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the broker never became ready")
	}
}

// newClient is a franz-go client with the given options.
func newClient(t testing.TB, brokers []string, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(brokers...)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// createTopic1 creates a topic and waits until every broker knows it and a leader
// of each partition: a broker hears of a topic a moment after the one that made it.
func createTopic1(t testing.TB, c *kgo.Client, name string, partitions int32, factor int16) {
	t.Helper()
	admin := kadm.NewClient(c)
	resp, err := admin.CreateTopic(t.Context(), partitions, factor, nil, name)
	if err != nil || resp.Err != nil {
		t.Fatal(err, resp.Err)
	}
	brokers, err := admin.ListBrokers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range brokers {
		eventually(t, fmt.Sprintf("broker %d knows topic %s", b.NodeID, name), func() bool {
			return knowsTopic(t, c.Broker(int(b.NodeID)), name)
		})
	}
}

// knowsTopic reports whether a broker knows a topic and a leader of each partition.
func knowsTopic(t testing.TB, b *kgo.Broker, name string) bool {
	t.Helper()
	req, topic := kmsg.NewPtrMetadataRequest(), kmsg.NewMetadataRequestTopic()
	topic.Topic = &name
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range resp.Topics[0].Partitions {
		if p.ErrorCode != 0 || p.Leader < 0 {
			return false
		}
	}
	return resp.Topics[0].ErrorCode == 0
}

// read reads count records from the start of a topic.
func read(t testing.TB, brokers []string, topic string, count int) []*kgo.Record {
	t.Helper()
	c := newClient(t, brokers, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var records []*kgo.Record
	for len(records) < count {
		fetches := c.PollFetches(ctx)
		for _, e := range fetches.Errors() {
			t.Fatalf("%d of %d records, then %v", len(records), count, e.Err)
		}
		records = append(records, fetches.Records()...)
	}
	return records
}

// A single node is a complete Kafka for franz-go: every codec, from memory and
// from segment files, before and after a restart, graceful or not.
func TestSingleNode(t *testing.T) {
	config := testConfig(t)
	b := openBroker(t, config)
	want := 0
	produce := func() {
		for _, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
			c := newClient(t, []string{b.KafkaAddr()}, kgo.ProducerBatchCompression(codec))
			for i := range 100 {
				c.Produce(t.Context(), &kgo.Record{Topic: "events", Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "%06d %s", want+i, strings.Repeat("payload ", i))}, func(_ *kgo.Record, err error) {
					if err != nil {
						t.Error(err)
					}
				})
			}
			if err := c.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			want += 100
		}
	}
	check := func() {
		t.Helper()
		for i, r := range read(t, []string{b.KafkaAddr()}, "events", want) {
			if r.Offset != int64(i) || !bytes.HasPrefix(r.Value, fmt.Appendf(nil, "%06d ", i)) {
				t.Fatalf("record %d has offset %d and value %.20q", i, r.Offset, r.Value)
			}
		}
	}
	createTopic1(t, newClient(t, []string{b.KafkaAddr()}), "events", 1, 1)
	produce()
	check()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = openBroker(t, config)
	check()
	produce()
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	b = openBroker(t, config)
	check()
	if got := b.Info(); got.Cluster == "" || got.Took <= 0 || !strings.HasPrefix(got.ReadyLine(), "ready node=1 cluster="+got.Cluster+" kafka=127.0.0.1:") {
		t.Fatalf("%s", got.ReadyLine())
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// A group reads everything, commits, and goes on where it was.
func TestGroupOnASingleNode(t *testing.T) {
	config := testConfig(t)
	config.Settings = map[string]string{"group.initial.rebalance.delay.ms": "0"}
	b := openBroker(t, config)
	brokers := []string{b.KafkaAddr()}
	createTopic1(t, newClient(t, brokers), "events", 3, 1)
	send := func(from, to int) {
		c := newClient(t, brokers)
		for i := from; i < to; i++ {
			if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Value: fmt.Appendf(nil, "%d", i)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	take := func(count int) map[string]bool {
		c := newClient(t, brokers, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("events"), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		got := map[string]bool{}
		for len(got) < count {
			fetches := c.PollFetches(ctx)
			if err := fetches.Err0(); err != nil {
				t.Fatalf("%d of %d: %v", len(got), count, err)
			}
			fetches.EachRecord(func(r *kgo.Record) { got[string(r.Value)] = true })
			if err := c.CommitUncommittedOffsets(ctx); err != nil {
				t.Fatal(err)
			}
		}
		return got
	}
	send(0, 30)
	take(30)
	send(30, 50)
	if got := take(20); !got["30"] || got["29"] {
		t.Fatalf("the group did not go on where it was: %v", got)
	}
	lags, err := kadm.NewClient(newClient(t, brokers)).Lag(t.Context(), "g")
	if err != nil || lags["g"].Lag.Total() != 0 {
		t.Fatalf("lag %d, %v", lags["g"].Lag.Total(), err)
	}
}

// An idempotent producer's retry is found to be a copy, also after a restart.
func TestAdministrationOfASingleNode(t *testing.T) {
	b := openBroker(t, testConfig(t))
	c := newClient(t, []string{b.KafkaAddr()})
	admin := kadm.NewClient(c)
	createTopic1(t, c, "a", 2, -1)
	resp, err := admin.CreateTopic(t.Context(), 1, 1, nil, "a")
	if !errors.Is(errors.Join(err, resp.Err), kerr.TopicAlreadyExists) {
		t.Fatalf("again: %v, %v", err, resp.Err)
	}
	details, err := admin.ListTopics(t.Context())
	if err != nil || len(details["a"].Partitions) != 2 || details["a"].Partitions[1].Leader != 1 {
		t.Fatalf("%+v, %v", details, err)
	}
	if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "a", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	ends, err := admin.ListEndOffsets(t.Context(), "a")
	var total int64
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	if err != nil || total != 1 {
		t.Fatalf("%+v, %v", ends, err)
	}
	dirs, err := admin.DescribeAllLogDirs(t.Context(), nil)
	if err != nil || len(dirs[1]) != 1 {
		t.Fatalf("%+v, %v", dirs, err)
	}
	deleted, err := admin.DeleteTopics(t.Context(), "a")
	if err := errors.Join(err, deleted["a"].Err); err != nil {
		t.Fatal(err)
	}
	createTopic1(t, c, "a", 1, 1)
	c = newClient(t, []string{b.KafkaAddr()}) // the first holds on to the id of the topic that is gone
	if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "a", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// openThree founds a cluster of three brokers, with ids 1 to 3. Each keeps its
// addresses in its configuration, for another start.
func openThree(t *testing.T) (configs []Config, brokers []*Broker, addrs []string) {
	t.Helper()
	rpc := make([]string, 3)
	for i := range rpc {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		rpc[i] = l.Addr().String()
		l.Close()
	}
	configs, brokers, addrs = make([]Config, 3), make([]*Broker, 3), make([]string, 3)
	for i := range configs {
		configs[i] = testConfig(t)
		configs[i].NodeID, configs[i].RPCAddr, configs[i].Join = int32(i+1), rpc[i], rpc
		var err error
		if brokers[i], err = Open(t.Context(), configs[i]); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { brokers[i].Kill() })
		addrs[i] = brokers[i].KafkaAddr()
		configs[i].KafkaAddr = addrs[i]
	}
	for _, b := range brokers {
		awaitReady(t, b)
	}
	return configs, brokers, addrs
}

// Three brokers found a cluster, share leadership, and go on without one.
func TestThreeNodes(t *testing.T) {
	configs, brokers, addrs := openThree(t)
	c := newClient(t, addrs)
	createTopic1(t, c, "events", 6, 3)
	details, err := kadm.NewClient(c).ListTopics(t.Context(), "events")
	if err != nil {
		t.Fatal(err)
	}
	// Who is preferred, not who leads: on a busy machine an election may go to another.
	preferred := map[int32]int{}
	for _, p := range details["events"].Partitions {
		preferred[p.Replicas[0]]++
	}
	if len(preferred) != 3 {
		t.Errorf("preferred leaders by broker: %v", preferred)
	}
	send := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			c.Produce(t.Context(), &kgo.Record{Topic: "events", Value: fmt.Appendf(nil, "%d", i)}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	send(0, 500)
	if err := brokers[0].Close(); err != nil {
		t.Fatal(err)
	}
	send(500, 1000)
	brokers[0] = openBroker(t, configs[0])
	if err := brokers[1].Kill(); err != nil {
		t.Fatal(err)
	}
	send(1000, 1500)
	got := map[string]int{}
	for _, r := range read(t, []string{addrs[0], addrs[2]}, "events", 1500) {
		got[string(r.Value)]++
	}
	if len(got) != 1500 {
		t.Fatalf("%d different records", len(got))
	}
}

func TestHTTP(t *testing.T) {
	b := openBroker(t, testConfig(t))
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + b.Info().HTTP + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, path := range []string{"/livez", "/readyz", "/debug/pprof/"} {
		if code, body := get(path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	var h health
	if _, body := get("/healthz"); json.Unmarshal([]byte(body), &h) != nil || !h.Healthy || h.Brokers != 1 {
		t.Errorf("/healthz: %s", body)
	}
	if _, body := get("/version"); !strings.Contains(body, `"version":"test"`) {
		t.Errorf("/version: %s", body)
	}
	if code, _ := get("/nope"); code != http.StatusNotFound {
		t.Errorf("/nope: %d", code)
	}
	b.stop()
	if code, body := get("/readyz?verbose"); code != http.StatusServiceUnavailable || !strings.Contains(body, `{"name":"not_stopping","ok":false}`) {
		t.Errorf("/readyz of a broker that stops: %d %s", code, body)
	}
	http.DefaultClient.CloseIdleConnections()
}

// One clear line for what an operator gets wrong.
func TestOpenRefuses(t *testing.T) {
	config := testConfig(t)
	b := openBroker(t, config)
	inUse := testConfig(t)
	inUse.KafkaAddr = b.KafkaAddr()
	sameFolder := testConfig(t)
	sameFolder.DataDir = config.DataDir
	for _, row := range []struct {
		name   string
		config Config
		want   string
	}{
		{"port in use", inUse, "--kafka-addr " + b.KafkaAddr() + ": "},
		{"folder in use", sameFolder, config.DataDir},
	} {
		t.Run(row.name, func(t *testing.T) {
			other, err := Open(t.Context(), row.config)
			if err == nil {
				other.Kill()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%v", err)
			}
		})
	}
}
