//go:build interop

package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/cmd/internal/localcluster"
	"github.com/millrace/millrace/cmd/internal/testbinary"
)

const (
	// records is how many are written with each codec.
	records = 1200
	// run is how many of them one kcat writes: its headers are those of its
	// command line.
	run = 400
	// patience bounds one run of kcat.
	patience = time.Minute
)

// codecs are the names that kcat's -z knows and what franz-go calls them.
var codecs = []struct {
	name  string
	codec kgo.CompressionCodec
	kind  uint8 // in a batch's attributes
}{
	{"none", kgo.NoCompression(), 0},
	{"gzip", kgo.GzipCompression(), 1},
	{"snappy", kgo.SnappyCompression(), 2},
	{"lz4", kgo.Lz4Compression(), 3},
	{"zstd", kgo.ZstdCompression(), 4},
}

// kcatPath finds kcat, and installs it if it is not there.
func kcatPath(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("kcat"); err == nil {
		return path
	}
	var prefix []string
	if os.Geteuid() != 0 {
		prefix = []string{"sudo", "-n"}
	}
	for _, args := range [][]string{{"apt-get", "update", "-qq"}, {"apt-get", "install", "-y", "-qq", "kcat"}} {
		args = append(prefix[:len(prefix):len(prefix)], args...)
		command := exec.Command(args[0], args[1:]...)
		command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := command.CombinedOutput(); err != nil {
			t.Logf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	path, err := exec.LookPath("kcat")
	if err != nil {
		t.Fatal("kcat is not on the PATH and could not be installed: run `apt-get install kcat` as root, or `brew install kcat`, then `make interop` again")
	}
	return path
}

// cluster is three brokers with a kcat and a franz-go client at their door.
type cluster struct {
	*testing.T
	brokers string
	kcat    string
	client  *kgo.Client
	admin   *kadm.Client
}

func start(t *testing.T) *cluster {
	t.Helper()
	kcat := kcatPath(t)
	ports, err := localcluster.FreePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := localcluster.New(localcluster.Config{Binary: testbinary.Build(t), Dir: t.TempDir(), Ports: ports,
		Args: []string{"-c", "group.initial.rebalance.delay.ms=0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := nodes.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := nodes.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(nodes.Addrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &cluster{T: t, brokers: strings.Join(nodes.Addrs(), ","), kcat: kcat, client: client, admin: kadm.NewClient(client)}
}

// topic makes a topic of one partition, so that the order of all records is known.
func (c *cluster) topic(name string) {
	c.Helper()
	plain := "none" // the broker compresses nothing by itself
	resp, err := c.admin.CreateTopic(c.Context(), 1, 3, map[string]*string{"millrace.compression": &plain}, name)
	if err != nil || resp.Err != nil {
		c.Fatal(name, err, resp.Err)
	}
}

// run runs kcat and returns what it printed.
func (c *cluster) run(input string, args ...string) string {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, c.kcat, append([]string{"-b", c.brokers, "-q"}, args...)...)
	var out, errs bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &out, &errs
	if err := command.Run(); err != nil {
		c.Fatalf("kcat %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

// everything is kcat's format of a record with all it has; lengths of -1 tell null
// from empty.
const everything = `%o|%K|%k|%S|%s|%h\n`

// line is a record as kcat prints it in that format. A topic of plain records has
// dense offsets from 0.
func line(offset int, r *kgo.Record) string {
	length := func(b []byte) int {
		if b == nil {
			return -1
		}
		return len(b)
	}
	var headers []string
	for _, h := range r.Headers {
		headers = append(headers, h.Key+"="+string(h.Value))
	}
	return fmt.Sprintf("%d|%d|%s|%d|%s|%s\n", offset, length(r.Key), r.Key, length(r.Value), r.Value, strings.Join(headers, ","))
}

// consumed reads a topic from its start with franz-go and tells the codecs of the
// batches that it got.
func (c *cluster) consumed(topic string, count int) (lines []string, kinds map[uint8]bool) {
	c.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(c.brokers, ",")...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		c.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	kinds = map[uint8]bool{}
	for len(lines) < count {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			c.Fatalf("%s: %v after %d records", topic, err, len(lines))
		}
		fetches.EachRecord(func(r *kgo.Record) {
			kinds[r.Attrs.CompressionType()] = true
			lines = append(lines, line(int(r.Offset), r))
		})
	}
	return lines, kinds
}

func (c *cluster) same(what, want, got string) {
	c.Helper()
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		c.Errorf("%s (-want +got):\n%.4000s", what, diff)
	}
}

// TestKcatProduces writes with kcat and reads with kcat and franz-go: every record
// once, in order, with its key and headers, and in the codec it was sent in.
func TestKcatProduces(t *testing.T) {
	c := start(t)
	for _, row := range codecs {
		t.Run(row.name, func(t *testing.T) {
			c := &cluster{t, c.brokers, c.kcat, c.client, c.admin}
			topic := "kcat-" + row.name
			c.topic(topic)
			var want strings.Builder
			for first := 0; first < records; first += run {
				var input strings.Builder
				headers := []kgo.RecordHeader{{Key: "run", Value: []byte(strconv.Itoa(first))}, {Key: "run", Value: []byte("again")}, {Key: "empty", Value: []byte{}}}
				for i := first; i < first+run; i++ {
					key := fmt.Sprintf("key-%d", i%37)
					value := fmt.Sprintf("%06d übermäßig %s", i, strings.Repeat("long and compressible ", i%40))
					fmt.Fprintf(&input, "%s\t%s\n", key, value)
					want.WriteString(line(i, &kgo.Record{Key: []byte(key), Value: []byte(value), Headers: headers}))
				}
				args := []string{"-P", "-t", topic, "-p", "0", "-K", `\t`, "-z", row.name, "-X", "enable.idempotence=true"}
				for _, h := range headers {
					args = append(args, "-H", h.Key+"="+string(h.Value))
				}
				c.run(input.String(), args...)
			}
			c.same("kcat", want.String(), c.run("", "-C", "-t", topic, "-p", "0", "-o", "beginning", "-e", "-f", everything))
			lines, kinds := c.consumed(topic, records)
			c.same("franz-go", want.String(), strings.Join(lines, ""))
			if !kinds[row.kind] {
				t.Errorf("batches came in codecs %v, want %d", kinds, row.kind)
			}
		})
	}
}

// TestKcatConsumesWhatFranzGoProduced: nulls, empty values and all headers arrive.
func TestKcatConsumesWhatFranzGoProduced(t *testing.T) {
	c := start(t)
	for _, row := range codecs {
		t.Run(row.name, func(t *testing.T) {
			c := &cluster{t, c.brokers, c.kcat, c.client, c.admin}
			topic := "kgo-" + row.name
			c.topic(topic)
			client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(c.brokers, ",")...), kgo.ProducerBatchCompression(row.codec),
				kgo.RecordPartitioner(kgo.ManualPartitioner()))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			var want strings.Builder
			var batch []*kgo.Record
			for i := range records {
				r := &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%06d %s", i, strings.Repeat("abc", i%100))}
				if i%3 > 0 {
					r.Key = fmt.Appendf(nil, "key-%d", i%11)
				}
				switch i % 10 {
				case 8:
					r.Value = nil
				case 9:
					r.Value = []byte{}
				}
				for j := range i % 4 {
					r.Headers = append(r.Headers, kgo.RecordHeader{Key: fmt.Sprintf("h%d", j), Value: fmt.Appendf(nil, "%d", i)})
				}
				batch = append(batch, r)
				want.WriteString(line(i, r))
			}
			if err := client.ProduceSync(t.Context(), batch...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			c.same("kcat", want.String(), c.run("", "-C", "-t", topic, "-p", "0", "-o", "beginning", "-e", "-f", everything))
		})
	}
}

// TestKcatGroupResumes: a member that comes back goes on where its group is, also
// when the first one stopped in the middle of what it had fetched.
func TestKcatGroupResumes(t *testing.T) {
	c := start(t)
	const topic, group, stop = "group", "readers", 400
	c.topic(topic)
	var input, want strings.Builder
	for i := range records {
		fmt.Fprintf(&input, "%06d\n", i)
		fmt.Fprintf(&want, "%d|%06d\n", i, i)
	}
	c.run(input.String(), "-P", "-t", topic, "-p", "0")
	member := []string{"-X", "auto.offset.reset=earliest", "-f", `%o|%s\n`, "-G", group, topic}
	first := c.run("", append([]string{"-c", strconv.Itoa(stop)}, member...)...)
	if got := c.committed(group, topic); got != stop {
		t.Errorf("the group stands at %d after %d records", got, stop)
	}
	rest := c.run("", append([]string{"-e"}, member...)...)
	c.same("both together", want.String(), first+rest)
	if n := strings.Count(first, "\n"); n != stop {
		t.Errorf("the first member read %d records, want %d", n, stop)
	}
	if got := c.committed(group, topic); got != records {
		t.Errorf("the group stands at %d after all", got)
	}
	// Nothing new: a third member reads nothing again.
	c.run("one more\n", "-P", "-t", topic, "-p", "0")
	c.same("the third", fmt.Sprintf("%d|one more\n", records), c.run("", append([]string{"-e"}, member...)...))
}

// committed is the position of a group in the topic's partition, -1 without one.
func (c *cluster) committed(group, topic string) int64 {
	c.Helper()
	offsets, err := c.admin.FetchOffsets(c.Context(), group)
	if err != nil {
		c.Fatal(err)
	}
	at, ok := offsets.Lookup(topic, 0)
	if !ok {
		return -1
	}
	return at.At
}
