package server

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// founder is a broker to be, with the ports it will listen on.
type founder struct {
	config Config
	broker *Broker
}

// founders are three brokers that know each other's addresses and do not run.
func founders(t *testing.T) []*founder {
	t.Helper()
	var all []*founder
	var list []string
	for id := int32(1); id <= 3; id++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f := &founder{config: testConfig(t)}
		f.config.NodeID, f.config.RPCAddr = id, l.Addr().String()
		held := l // until the first start nobody can take the port
		f.config.Listen = func(network, address string) (net.Listener, error) {
			if first := held; first != nil && address == f.config.RPCAddr {
				held = nil
				return first, nil
			}
			return net.Listen(network, address)
		}
		all, list = append(all, f), append(list, f.config.RPCAddr)
	}
	for _, f := range all {
		f.config.Join = list
	}
	return all
}

func (f *founder) open(t *testing.T) *Broker {
	t.Helper()
	b, err := Open(t.Context(), f.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Kill() })
	f.broker = b
	return b
}

// A cluster that is being founded has one broker for a moment. Nothing may be
// decided by that number: no broker is ready, and topics of every kind are refused
// in a way that clients try again, until all three founders have joined.
func TestNothingIsCreatedWhileTheClusterIsFounded(t *testing.T) {
	nodes := founders(t)
	join := make(chan struct{})
	nodes[2].config.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		select { // it answers the others, and asks nobody
		case <-join:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
	for _, f := range nodes {
		f.open(t)
	}
	first := nodes[0].broker
	eventually(t, "two brokers register", func() bool { return first.node.cluster.View().BrokerCount() == 2 })
	progress, founding := first.node.cluster.View().Founding()
	if !founding || progress != "2 of 3 founding brokers have joined" {
		t.Fatalf("founding %v: %s", founding, progress)
	}
	client := newClient(t, []string{first.KafkaAddr()})
	created, err := kadm.NewClient(client).CreateTopic(t.Context(), -1, -1, nil, "early")
	if created.Err != kerr.LeaderNotAvailable || !strings.Contains(created.ErrMessage, progress) {
		t.Errorf("CreateTopics: %v, %q (%v)", created.Err, created.ErrMessage, err)
	}
	named := kmsg.NewPtrMetadataRequest()
	named.AllowAutoTopicCreation = true
	named.Topics = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("automatic")}}
	if answer, err := named.RequestWith(t.Context(), client); err != nil || answer.Topics[0].ErrorCode != kerr.LeaderNotAvailable.Code {
		t.Errorf("Metadata: %v, %v", answer, err)
	}
	seed := client.SeedBrokers()[0] // the client itself would try again
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey, find.CoordinatorKeys = "g", []string{"g"}
	coordinator, err := seed.Request(t.Context(), find)
	if err != nil || coordinator.(*kmsg.FindCoordinatorResponse).Coordinators[0].ErrorCode != kerr.CoordinatorNotAvailable.Code {
		t.Errorf("FindCoordinator: %v, %v", coordinator, err)
	}
	for _, f := range nodes[:2] {
		if closed(f.broker.Ready()) || readyz(t, f.broker) != http.StatusServiceUnavailable {
			t.Errorf("broker %d is ready", f.config.NodeID)
		}
	}
	close(join)
	for _, f := range nodes {
		awaitReady(t, f.broker)
	}
	if got := readyz(t, first); got != http.StatusOK {
		t.Errorf("/readyz answers %d", got)
	}
}

func readyz(t *testing.T, b *Broker) int {
	t.Helper()
	resp, err := http.Get("http://" + b.Info().HTTP + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// Whoever is the first to be ready, the topics created then have three replicas;
// and once the cluster is founded its brokers are ready without the third.
func TestTopicsOfANewClusterHaveAllReplicas(t *testing.T) {
	nodes := founders(t)
	for _, f := range nodes {
		f.open(t)
	}
	awaitReady(t, nodes[0].broker)
	client := newClient(t, []string{nodes[0].broker.KafkaAddr()}, kgo.ConsumeTopics("pay"), kgo.ConsumerGroup("g"))
	createTopic1(t, client, "pay", -1, -1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: "pay", Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if got := client.PollFetches(ctx); got.NumRecords() != 1 {
		t.Fatalf("%d records: %v", got.NumRecords(), got.Err())
	}
	for _, name := range []string{"pay", offsetsTopic} {
		topic, ok := nodes[0].broker.node.cluster.View().TopicNamed(name)
		if !ok || slices.ContainsFunc(topic.Partitions, func(p metadata.Partition) bool { return len(p.Replicas) != 3 }) {
			t.Errorf("topic %s: %+v", name, topic)
		}
	}
	client.Close()
	for _, f := range nodes {
		awaitReady(t, f.broker)
	}
	for _, f := range nodes {
		if err := f.broker.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range nodes[1:] {
		f.open(t)
	}
	for _, f := range nodes[1:] {
		awaitReady(t, f.broker)
	}
}
