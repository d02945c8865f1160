package groups

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// tinyServer is just enough of a broker for a group consumer: one topic "t" of
// four empty partitions, and a coordinator.
type tinyServer struct {
	t        *testing.T
	c        *Coordinator
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	work     sync.WaitGroup
}

// versions is what tinyServer speaks, by API key.
var versions = map[int16]int16{1: 11, 2: 4, 3: 8, 8: 9, 9: 9, 10: 4, 11: 9, 12: 4, 13: 5, 14: 5, 15: 6, 16: 5, 18: 3, 42: 2, 47: 0}

func startTinyServer(t *testing.T, c *Coordinator) *tinyServer {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &tinyServer{t: t, c: c, listener: listener}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.work.Go(func() { s.serve(conn) })
		}
	})
	return s
}

func (s *tinyServer) close() {
	s.cancel()
	s.listener.Close()
	s.work.Wait()
}

// serve answers the requests of one connection in order.
func (s *tinyServer) serve(conn net.Conn) {
	stop := context.AfterFunc(s.ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	for {
		var size [4]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(conn, frame); err != nil {
			return
		}
		key, version := int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))
		request := kmsg.RequestForKey(key)
		request.SetVersion(version)
		body := frame[10:]
		if n := int16(binary.BigEndian.Uint16(frame[8:])); n > 0 {
			body = body[n:]
		}
		if request.IsFlexible() {
			body = body[1:] // no tags in the header
		}
		if err := request.ReadFrom(body); err != nil {
			s.t.Errorf("request %d: %v", key, err)
			return
		}
		answer := s.answer(request)
		out := append(make([]byte, 4), frame[4:8]...)
		if answer.IsFlexible() && key != 18 {
			out = append(out, 0)
		}
		out = answer.AppendTo(out)
		binary.BigEndian.PutUint32(out, uint32(len(out)-4))
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

func (s *tinyServer) answer(request kmsg.Request) kmsg.Response {
	host, port := "127.0.0.1", int32(s.listener.Addr().(*net.TCPAddr).Port)
	switch r := request.(type) {
	case *kmsg.ApiVersionsRequest:
		resp := r.ResponseKind().(*kmsg.ApiVersionsResponse)
		for key, highest := range versions {
			resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: key, MaxVersion: highest})
		}
		return resp
	case *kmsg.MetadataRequest:
		resp := r.ResponseKind().(*kmsg.MetadataResponse)
		resp.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: host, Port: port}}
		name := "t"
		topic := kmsg.MetadataResponseTopic{Topic: &name}
		for p := range int32(4) {
			topic.Partitions = append(topic.Partitions, kmsg.MetadataResponseTopicPartition{Partition: p, Leader: 1, Replicas: []int32{1}, ISR: []int32{1}})
		}
		resp.Topics = []kmsg.MetadataResponseTopic{topic}
		return resp
	case *kmsg.FindCoordinatorRequest:
		resp := r.ResponseKind().(*kmsg.FindCoordinatorResponse)
		for _, key := range r.CoordinatorKeys {
			resp.Coordinators = append(resp.Coordinators, kmsg.FindCoordinatorResponseCoordinator{Key: key, NodeID: 1, Host: host, Port: port})
		}
		return resp
	case *kmsg.ListOffsetsRequest:
		resp := r.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, topic := range r.Topics {
			out := kmsg.ListOffsetsResponseTopic{Topic: topic.Topic}
			for _, p := range topic.Partitions {
				out.Partitions = append(out.Partitions, kmsg.ListOffsetsResponseTopicPartition{Partition: p.Partition, LeaderEpoch: -1})
			}
			resp.Topics = append(resp.Topics, out)
		}
		return resp
	case *kmsg.FetchRequest:
		select {
		case <-time.After(20 * time.Millisecond):
		case <-s.ctx.Done():
		}
		return r.ResponseKind()
	}
	return s.c.Handle(s.ctx, request, ClientInfo{ID: "kgo", Host: "/127.0.0.1"})
}

// consumer is a group member of franz-go that keeps account of what it owns.
type consumer struct {
	client *kgo.Client
	mu     sync.Mutex
	owned  map[int32]bool
}

func (c *consumer) change(partitions map[string][]int32, owned bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range partitions["t"] {
		if owned {
			c.owned[p] = true
		} else {
			delete(c.owned, p)
		}
	}
}

func (c *consumer) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.owned)
}

func startConsumer(t *testing.T, s *tinyServer, opts ...kgo.Opt) *consumer {
	c := &consumer{owned: map[int32]bool{}}
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(s.listener.Addr().String()), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"),
		kgo.HeartbeatInterval(20 * time.Millisecond), kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { c.change(p, true) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { c.change(p, false) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { c.change(p, false) }),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	c.client = client
	return c
}

func (c *consumer) commit(t *testing.T, partition int32, offset int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var failed error
	c.client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{"t": {partition: {Epoch: -1, Offset: offset}}},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			failed = err
			if err == nil && resp.Topics[0].Partitions[0].ErrorCode != codeNone {
				t.Errorf("commit: %s", codeName(resp.Topics[0].Partitions[0].ErrorCode))
			}
		})
	if failed != nil {
		t.Errorf("commit: %v", failed)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestRealConsumers lets two members of franz-go share a topic, with eager and
// cooperative balancing, over a change of coordinator.
func TestRealConsumers(t *testing.T) {
	for name, balancer := range map[string]kgo.GroupBalancer{"range": kgo.RangeBalancer(), "cooperative": kgo.CooperativeStickyBalancer()} {
		t.Run(name, func(t *testing.T) {
			store := newMemStore()
			c := New(Config{
				Store: store, Partitions: func() int32 { return 1 }, InitialRebalanceDelay: -1, Logger: slog.New(slog.DiscardHandler),
			})
			defer c.Close()
			lead := func(term segment.Term) {
				store.elect(0, term)
				c.Lead(0, term)
			}
			lead(1)
			server := startTinyServer(t, c)
			defer server.close()
			a := startConsumer(t, server, kgo.Balancers(balancer))
			defer a.client.Close()
			eventually(t, "one member owns all", func() bool { return a.count() == 4 })
			b := startConsumer(t, server, kgo.Balancers(balancer), kgo.InstanceID("static-b"))
			eventually(t, "two members share", func() bool { return a.count() == 2 && b.count() == 2 })

			a.mu.Lock()
			mine := slices.Collect(func(yield func(int32) bool) {
				for p := range a.owned {
					if !yield(p) {
						return
					}
				}
			})
			a.mu.Unlock()
			a.commit(t, mine[0], 5)
			_, generation := a.client.GroupMetadata()
			lead(2)
			a.commit(t, mine[0], 6)
			if _, now := a.client.GroupMetadata(); now != generation {
				t.Errorf("generation %d after a change of coordinator, was %d", now, generation)
			}
			positions, err := c.Offsets(t.Context(), "g")
			if err != nil || len(positions) != 1 || positions[0].Offset != 6 {
				t.Errorf("positions %+v, %v", positions, err)
			}

			// A static member does not leave by itself: it is removed.
			b.client.Close()
			leave := kmsg.NewPtrLeaveGroupRequest()
			leave.Group, leave.Version = "g", 5
			instance := "static-b"
			leave.Members = []kmsg.LeaveGroupRequestMember{{InstanceID: &instance}}
			if got := c.Handle(t.Context(), leave, ClientInfo{}).(*kmsg.LeaveGroupResponse); got.Members[0].ErrorCode != codeNone {
				t.Fatalf("leave: %+v", got)
			}
			eventually(t, "the one that stays owns all", func() bool { return a.count() == 4 })
		})
	}
}
