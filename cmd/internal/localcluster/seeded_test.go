package localcluster

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/cmd/internal/testbinary"
)

// TestBrokerAwayForLongerThanRetention (M1, M2): while a broker is away the others remove
// what it would go on with. When it is back it copies their segments; it is killed in the
// middle of that, twice, goes on, is in sync again, and its files are the others'.
func TestBrokerAwayForLongerThanRetention(t *testing.T) {
	ports, err := FreePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Binary: testbinary.Build(t), Dir: t.TempDir(), Ports: ports, Args: []string{
		"-c", "log.retention.check.interval.ms=100", "-c", "millrace.retention.wait.ms=1000", "-c", "millrace.seeding.rate=2000000"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	kafka, err := client.Open(ctx, c.Addrs()[:2])
	if err != nil {
		t.Fatal(err)
	}
	defer kafka.Close()
	segment, keep := "1048576", "4194304"
	if err := kafka.Admin().Create(ctx, client.TopicSpec{Name: "kept", Partitions: 1, Replicas: 3,
		Configs: map[string]string{"segment.bytes": segment, "retention.bytes": keep}}); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{1})
	produce := func(count int) {
		t.Helper()
		for range count {
			value := make([]byte, 100_000)
			_, _ = random.Read(value)
			if err := kafka.Produce(ctx, &client.Record{Topic: "kept", Value: value}); err != nil {
				t.Fatal(err)
			}
		}
	}
	segments := func(node int) []string {
		found, err := filepath.Glob(filepath.Join(c.DataDir(node), "topics", "kept", "0-*", "*.log"))
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(found)
		return found
	}
	await := func(what string, done func() bool) {
		t.Helper()
		for !done() {
			select {
			case <-ctx.Done():
				t.Fatalf("timed out waiting for %s", what)
			case <-time.After(pollInterval):
			}
		}
	}
	produce(5)
	if err := c.Kill(3); err != nil {
		t.Fatal(err)
	}
	produce(100)
	await("the first segments to be removed", func() bool {
		return filepath.Base(segments(1)[0]) > "00000000000000000010" && filepath.Base(segments(2)[0]) > "00000000000000000010"
	})
	for range 2 {
		if err := c.StartNode(3); err != nil {
			t.Fatal(err)
		}
		await("the copy to begin", func() bool {
			staged, err := filepath.Glob(filepath.Join(c.DataDir(3), "topics", "kept", "0-*", "seed", "*.hdr"))
			return err == nil && len(staged) > 0 || filepath.Base(segments(3)[0]) > "00000000000000000010"
		})
		if err := c.Kill(3); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.StartNode(3); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx, 3); err != nil {
		t.Fatal(err)
	}
	await("it to be in sync", func() bool {
		details, err := kafka.Admin().Kadm().ListTopics(ctx, "kept")
		return err == nil && slices.Contains(details["kept"].Partitions[0].ISR, 3)
	})
	produce(15) // seals what it got, and more
	await("it to begin where another one does", func() bool {
		return filepath.Base(segments(3)[0]) > "00000000000000000010"
	})
	if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, name := range segments(3) {
		ours, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for node := 1; node <= 2; node++ {
			theirs, err := os.ReadFile(filepath.Join(filepath.Dir(segments(node)[0]), filepath.Base(name)))
			if os.IsNotExist(err) {
				continue
			}
			n := min(len(ours), len(theirs)) // the last may have been stopped behind the others
			if err != nil || !bytes.Equal(ours[:n], theirs[:n]) {
				t.Errorf("%s differs from node %d's, %v", filepath.Base(name), node, err)
			}
			if n > 0 {
				compared++
			}
		}
	}
	if compared < 4 {
		t.Errorf("%d segments compared", compared)
	}
}
