package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metamodel"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// A broker alone keeps the leadership when its disk hangs. It says that it should get
// no traffic, and why; it lives; and what waited is written when the disk is back.
func TestReadyzNamesAHungDisk(t *testing.T) {
	fsys := crashfs.New(1)
	config := testConfig(t)
	config.FS, config.DataDir = fsys, "/data"
	config.MetaStores = func(f vfs.FS, dir string) (replication.MetaStores, error) { return metamodel.Open(f, dir) }
	b := openBroker(t, config)
	client := newClient(t, []string{b.KafkaAddr()})
	createTopic1(t, client, "events", 1, 1)
	back := make(chan struct{})
	fault := fsys.Inject(crashfs.Fault{Op: crashfs.OpChange, PathContains: "/topics/", Repeat: true, Stall: back})
	release := sync.OnceFunc(func() {
		fault.Remove()
		close(back)
	})
	t.Cleanup(release) // before the broker is killed, which waits for the disk
	acked := make(chan error, 1)
	client.Produce(t.Context(), &kgo.Record{Topic: "events", Value: []byte("late")}, func(_ *kgo.Record, err error) { acked <- err })

	var hung check
	eventually(t, "the hang to be noticed", func() bool {
		status, checks := readyChecks(t, b)
		hung = checks["disk_answers"]
		return !hung.OK && status == http.StatusServiceUnavailable
	})
	if disks := b.host.HungDisks(); len(disks) != 1 || disks[0].Folder != "/data/topics" || hung.Detail != "the disk of /data/topics hangs since "+disks[0].Since.UTC().Format(time.RFC3339) {
		t.Errorf("%+v hang, /readyz says %q", disks, hung.Detail)
	}
	resp, err := http.Get("http://" + b.Info().HTTP + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("/livez answers %d: the broker would be killed for its disk", resp.StatusCode)
	}
	release()
	if err := <-acked; err != nil {
		t.Errorf("the record that waited for the disk: %v", err)
	}
	if status, checks := readyChecks(t, b); status != http.StatusOK || checks["disk_answers"].Detail != "" {
		t.Errorf("behind the hang /readyz answers %d, %+v", status, checks)
	}
	http.DefaultClient.CloseIdleConnections()
}

// readyChecks is what /readyz?verbose answers.
func readyChecks(t *testing.T, b *Broker) (status int, checks map[string]check) {
	t.Helper()
	resp, err := http.Get("http://" + b.Info().HTTP + "/readyz?verbose")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Checks []check }
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	checks = map[string]check{}
	for _, c := range answer.Checks {
		checks[c.Name] = c
	}
	return resp.StatusCode, checks
}

// The controller gave up because its disk hangs. Those who asked for the controller
// look for the next one; those who asked any broker try again.
func TestResignedControllerSendsClientsOn(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.cluster.mu.Lock()
	n.cluster.changeErr = fmt.Errorf("%w: %w (last: %w)", replication.ErrMetadataUnavailable, context.Canceled, replication.ErrControllerResigned)
	n.cluster.mu.Unlock()
	if got := n.call(t, createRequest("x", 1, 1)).(*kmsg.CreateTopicsResponse).Topics[0]; got.ErrorCode != kerr.NotController.Code {
		t.Errorf("create: code %d", got.ErrorCode)
	}
	if _, failure := n.creating.automatic(t.Context(), n.node, "automatic"); failure == nil || failure.code != kerr.LeaderNotAvailable.Code {
		t.Errorf("a topic that is made because somebody asks for it: %v", failure)
	}
}
