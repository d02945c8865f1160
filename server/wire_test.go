package server

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// wire is a client that writes frames by hand.
type wire struct {
	net.Conn
	next int32
}

func dial(t testing.TB, addr string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &wire{Conn: c}
}

func (w *wire) close() { w.Conn.Close() }

// frame encodes a request with its header.
func frame(correlation int32, req kmsg.Request) []byte {
	b := []byte{0, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(req.Key()))
	b = binary.BigEndian.AppendUint16(b, uint16(req.GetVersion()))
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	b = append(b, 0, 4, 't', 'e', 's', 't')
	if req.IsFlexible() {
		b = append(b, 0)
	}
	b = req.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// send writes a request and returns its correlation id.
func (w *wire) send(t testing.TB, req kmsg.Request) int32 {
	t.Helper()
	w.next++
	if _, err := w.Write(frame(w.next, req)); err != nil {
		t.Fatal(err)
	}
	return w.next
}

// write sends bytes as they are.
func (w *wire) write(t testing.TB, b []byte) {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
}

// receive reads one answer.
func (w *wire) receive(t testing.TB) (int32, []byte) {
	t.Helper()
	var prefix [4]byte
	if _, err := io.ReadFull(w, prefix[:]); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint32(prefix[:]))
	if _, err := io.ReadFull(w, body); err != nil {
		t.Fatal(err)
	}
	return int32(binary.BigEndian.Uint32(body)), body[4:]
}

// request sends one request and decodes its answer.
func (w *wire) request(t testing.TB, req kmsg.Request) kmsg.Response {
	t.Helper()
	want := w.send(t, req)
	got, body := w.receive(t)
	if got != want {
		t.Fatalf("answer to request %d, want %d", got, want)
	}
	return decodeAnswer(t, req, body)
}

func decodeAnswer(t testing.TB, req kmsg.Request, body []byte) kmsg.Response {
	t.Helper()
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	if resp.IsFlexible() && resp.Key() != keyAPIVersions {
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		t.Fatalf("decode answer of %T v%d: %v", req, req.GetVersion(), err)
	}
	if again := resp.AppendTo(nil); len(again) != len(body) {
		t.Fatalf("answer of %T v%d has %d bytes, %d were decoded", req, req.GetVersion(), len(body), len(again))
	}
	return resp
}

// expectClosed waits until the broker closes the connection, without an answer.
func (w *wire) expectClosed(t testing.TB) {
	t.Helper()
	// Well before the handshake's time-out, which would close it too.
	if err := w.SetReadDeadline(time.Now().Add(handshakeTimeout / 2)); err != nil {
		t.Fatal(err)
	}
	n, err := w.Read(make([]byte, 1))
	if n > 0 || errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Fatalf("the connection is open: read %d bytes, %v", n, err)
	}
}

// Requests that no client sends close their connection, without an allocation
// from what they claim, and disturb nobody else.
func TestBadFramesCloseTheConnection(t *testing.T) {
	n := newTestNode(t, 1, nil)
	other := dial(t, n.addr)
	defer other.close()
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.SetVersion(9)
	good := frame(1, metadata)
	long := func(claimed uint32, rest ...byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, claimed), rest...)
	}
	withKey := func(key, version int16) []byte {
		b := append([]byte(nil), good...)
		binary.BigEndian.PutUint16(b[4:], uint16(key))
		binary.BigEndian.PutUint16(b[6:], uint16(version))
		return b
	}
	for _, row := range []struct {
		name string
		data []byte
	}{
		{"length 0x7fffffff", long(0x7fffffff)},
		{"length -1", long(0xffffffff)},
		{"length 0", long(0)},
		{"length 7", long(7, 0, 3, 0, 9, 0, 0, 0)},
		{"above socket.request.max.bytes", long(104857601)},
		{"unknown key", withKey(999, 0)},
		{"negative key", withKey(-1, 0)},
		{"a key only brokers use", withKey(4, 0)},
		{"version above", withKey(3, 99)},
		{"negative version", withKey(3, -1)},
		{"Produce below 3", withKey(0, 2)},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n")},
		{"TLS hello", []byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}},
		{"client id beyond the frame", long(10, 0, 3, 0, 9, 0, 0, 0, 1, 0x7f, 0xff)},
		{"array of 2^31 topics", long(16, 0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0x07)},
		{"tags without end", long(15, 0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f)},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := dial(t, n.addr)
			defer c.close()
			if _, err := c.Write(row.data); err != nil {
				t.Fatal(err)
			}
			c.expectClosed(t)
			other.request(t, metadata)
		})
	}
}

func TestUnsupportedApiVersionsIsAnsweredWithTheList(t *testing.T) {
	n := newTestNode(t, 1, nil)
	c := dial(t, n.addr)
	defer c.close()
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "future", "9"
	req.SetVersion(3)
	b := frame(7, req)
	binary.BigEndian.PutUint16(b[6:], 77)
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	id, body := c.receive(t)
	resp := kmsg.NewPtrApiVersionsResponse() // version 0
	if err := resp.ReadFrom(body); err != nil || id != 7 || resp.ErrorCode != 35 || len(resp.ApiKeys) != len(table) {
		t.Fatalf("answer %d: %v, code %d, %d keys", id, err, resp.ErrorCode, len(resp.ApiKeys))
	}
	// The connection goes on with a version that is in the list.
	got := c.request(t, req).(*kmsg.ApiVersionsResponse)
	if got.ErrorCode != 0 || len(got.ApiKeys) != len(table) {
		t.Fatalf("version 3: code %d, %d keys", got.ErrorCode, len(got.ApiKeys))
	}
}

// A client that believes to speak with another broker is told so (KIP-1242).
func TestApiVersionsOfAnotherBroker(t *testing.T) {
	n := newTestNode(t, 1, nil)
	own, other := n.cluster.ClusterID(), "other-cluster"
	id := int32(n.cluster.Node())
	for _, row := range []struct {
		name    string
		version int16
		cluster *string
		id      int32
		code    int16
	}{
		{"nobody in particular", 5, nil, -1, 0},
		{"this one", 5, &own, id, 0},
		{"another cluster", 5, &other, id, kerr.RebootstrapRequired.Code},
		{"another node", 5, &own, id + 1, kerr.RebootstrapRequired.Code},
		{"a cluster without a node", 5, &own, -1, kerr.InvalidRequest.Code},
		{"a node without a cluster", 5, nil, id, kerr.InvalidRequest.Code},
		{"before version 5", 4, &other, id, 0},
	} {
		c := dial(t, n.addr)
		req := kmsg.NewPtrApiVersionsRequest()
		req.SetVersion(row.version)
		req.ClientSoftwareName, req.ClientSoftwareVersion, req.ClusterID, req.NodeID = "kgo", "1", row.cluster, row.id
		if got := c.request(t, req).(*kmsg.ApiVersionsResponse); got.ErrorCode != row.code {
			t.Errorf("%s: code %d, want %d", row.name, got.ErrorCode, row.code)
		}
		c.close()
	}
}

// TestFranzGoIsKnown: franz-go's first request has a version that is spoken, else
// its name would stay unknown, and every batch be inflated for it.
func TestFranzGoIsKnown(t *testing.T) {
	if newest := kmsg.NewPtrApiVersionsRequest().MaxVersion(); newest != apiVersionsMax {
		t.Errorf("franz-go asks with version %d, the newest spoken is %d", newest, apiVersionsMax)
	}
}

// A client that is slow, or stops in the middle, holds only its own connection.
func TestSlowClientIsDropped(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"connections.max.idle.ms": "50"})
	c := dial(t, n.addr)
	defer c.close()
	req := kmsg.NewPtrApiVersionsRequest()
	c.request(t, req)
	c.expectClosed(t) // idle
	eventually(t, "the connection is forgotten", func() bool { return n.ln.connections() == 0 })
}

// Connections that only claim to send large requests take no memory from others.
func TestClaimedLengthsTakeNoMemory(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"socket.request.max.bytes": "1048576", "millrace.request.memory.bytes": "1048576"})
	const claims = 4
	for range claims {
		c := dial(t, n.addr)
		defer c.close()
		if _, err := c.Write([]byte{0, 0x10, 0, 0}); err != nil { // 1 MiB, of which nothing comes
			t.Fatal(err)
		}
	}
	eventually(t, "the lengths have been read", func() bool { return n.budget.inUse() >= claims*eagerFrame })
	n.call(t, kmsg.NewPtrApiVersionsRequest())
}

// Clients that send the beginning of something large and stop hold no more than
// that; while others wait for memory they have to go.
func TestStalledRequestsStopNobody(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"socket.request.max.bytes": "1048576", "millrace.request.memory.bytes": "1048576"})
	n.topic(t, "t", 1, nil)
	const stalled = 3
	for range stalled {
		c := dial(t, n.addr)
		defer c.close()
		c.write(t, []byte{0, 0x10, 0, 0}) // 1 MiB
		c.write(t, make([]byte, eagerFrame+1))
	}
	eventually(t, "they wait for more memory", n.budget.contended)
	n.call(t, kmsg.NewPtrApiVersionsRequest()) // small requests never wait for them
	if got := n.produceOne(t, produceRequest("t", 0, segment.Build([]segment.Record{{Value: noise(700_000)}}, segment.BuildOptions{}))); got.ErrorCode != 0 {
		t.Fatalf("code %d", got.ErrorCode)
	}
}

// While nobody waits for its memory, a slow client has its time.
func TestSlowRequestIsReadWhileThereIsMemory(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 1, nil)
	c := dial(t, n.addr)
	defer c.close()
	whole := frame(1, produceRequest("t", 0, segment.Build([]segment.Record{{Value: noise(200_000)}}, segment.BuildOptions{})))
	c.write(t, whole[:eagerFrame+100])
	<-time.After(frameStall + frameStall/4)
	c.write(t, whole[eagerFrame+100:])
	if id, _ := c.receive(t); id != 1 {
		t.Fatalf("answer to request %d", id)
	}
}

// A slow client with a batch of ordinary size has its time too while others wait
// with something large: they get past it.
func TestSlowRequestIsReadWhileLargeOnesGrow(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 1, nil)
	c := dial(t, n.addr)
	defer c.close()
	whole := frame(1, produceRequest("t", 0, segment.Build([]segment.Record{{Value: noise(1_000_000)}}, segment.BuildOptions{})))
	c.write(t, whole[:8*eagerFrame+100])
	eventually(t, "the rest of the batch is awaited", func() bool { return n.budget.inUse() > 8*eagerFrame })
	var half, over, third claim // the last waits until the one before it is done
	var waiter sync.WaitGroup
	for _, large := range []*claim{&half, &over, &third} {
		waiter.Go(func() {
			if err := n.budget.grow(t.Context(), large, n.settings.requestMemory/2-(2<<20)); err != nil {
				t.Error(err)
			}
		})
		if large != &third {
			waiter.Wait()
		}
	}
	eventually(t, "somebody waits to grow", n.budget.contended)
	<-time.After(frameStall + frameStall/4)
	if !n.budget.contended() {
		t.Error("nobody waits any more")
	}
	c.write(t, whole[8*eagerFrame+100:])
	if id, _ := c.receive(t); id != 1 {
		t.Errorf("answer to request %d", id)
	}
	n.budget.drop(&half)
	n.budget.drop(&over)
	waiter.Wait()
	n.budget.drop(&third)
}

// Who keeps others from the memory gives way to them: everybody to those who hold
// nothing, the one beyond the budget and who holds much to those who grow.
func TestWhoImpedesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(32 << 20)
		var small, much, over, waits claim
		for _, row := range []struct {
			c *claim
			n int64
		}{{&small, modestClaim}, {&much, modestClaim + 1}, {&over, 20 << 20}} {
			if err := b.grow(t.Context(), row.c, row.n); err != nil {
				t.Fatal(err)
			}
		}
		check := func(state string, want ...bool) {
			t.Helper()
			for i, c := range []*claim{&small, &much, &over} {
				if got := b.impedes(c); got != want[i] {
					t.Errorf("%s: claim %d impedes others: %v, want %v", state, i, got, want[i])
				}
			}
		}
		check("nobody waits", false, false, false)
		ctx, cancel := context.WithCancel(t.Context())
		go b.grow(ctx, &waits, 1)
		synctest.Wait()
		check("one waits to grow", false, true, true)
		go b.take(ctx, 20<<20)
		synctest.Wait()
		check("one waits with nothing", true, true, true)
		cancel()
		synctest.Wait()
	})
}

// Only a request that carries records may be large, and it is refused for its
// length and key alone.
func TestLargeRequestsWithoutRecordsAreRefused(t *testing.T) {
	n := newTestNode(t, 1, nil)
	head := binary.BigEndian.AppendUint32(nil, maxOrdinaryFrame+1)
	for _, key := range []uint16{3, 1, 14, 999} {
		c := dial(t, n.addr)
		defer c.close()
		c.write(t, binary.BigEndian.AppendUint16(head, key))
		c.expectClosed(t)
	}
	if used := n.budget.inUse(); used != 0 {
		t.Errorf("%d bytes were taken", used)
	}
	c := dial(t, n.addr)
	defer c.close()
	c.write(t, binary.BigEndian.AppendUint16(head, keyProduce))
	eventually(t, "the records are awaited", func() bool { return n.budget.inUse() == eagerFrame })
}

// A fetch that wants no bytes at least is answered at once.
func TestFetchOfNoMinimumDoesNotWait(t *testing.T) {
	n := newTestNode(t, 1, nil)
	topic := n.topic(t, "t", 1, nil)
	req := fetchRequest(12, fetchTopicOf("t", topic.ID, 0))
	req.MaxWaitMillis, req.MinBytes = 60_000, 0 // longer than the client's deadline
	n.call(t, req)
}

// A connection that waits for an answer is not idle.
func TestWaitingIsNotIdle(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"connections.max.idle.ms": "20"})
	topic := n.topic(t, "t", 1, nil)
	req := fetchRequest(12, fetchTopicOf("t", topic.ID, 0))
	req.MaxWaitMillis = 200
	c := dial(t, n.addr)
	defer c.close()
	c.request(t, req)
}

func TestConnectionLimits(t *testing.T) {
	n := newTestNode(t, 1, map[string]string{"max.connections": "2"})
	req := kmsg.NewPtrApiVersionsRequest()
	a, b := dial(t, n.addr), dial(t, n.addr)
	defer a.close()
	defer b.close()
	a.request(t, req)
	b.request(t, req)
	third := dial(t, n.addr)
	defer third.close()
	third.expectClosed(t)
	a.close()
	eventually(t, "there is room again", func() bool { return n.ln.connections() < 2 })
	fourth := dial(t, n.addr)
	defer fourth.close()
	fourth.request(t, req)
	b.request(t, req)
}

// The answers of one connection come in the order of its requests.
func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 3, nil)
	c := dial(t, n.addr)
	defer c.close()
	var sent []int32
	for i := range 200 {
		if i%3 == 0 {
			sent = append(sent, c.send(t, produceRequest("t", int32(i%3), batchOf(i))))
		} else {
			sent = append(sent, c.send(t, kmsg.NewPtrMetadataRequest()))
		}
	}
	for _, want := range sent {
		if got, _ := c.receive(t); got != want {
			t.Fatalf("answer %d, want %d", got, want)
		}
	}
}

// A panic in a handler ends that connection, not the broker.
func TestPanicClosesOneConnection(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 1, nil)
	n.cluster.partition("t", 0).decide(func([]byte, *fakeProposal) bool { panic("bug") })
	other := dial(t, n.addr)
	defer other.close()
	other.request(t, kmsg.NewPtrApiVersionsRequest())
	c := dial(t, n.addr)
	defer c.close()
	c.send(t, produceRequest("t", 0, batchOf(1)))
	c.expectClosed(t)
	other.request(t, kmsg.NewPtrApiVersionsRequest())
}

// A stop answers what was read and closes.
func TestDrainAnswersWhatIsUnderWay(t *testing.T) {
	n := newTestNode(t, 1, nil)
	n.topic(t, "t", 1, nil)
	hold := make(chan *fakeProposal, 1)
	n.cluster.partition("t", 0).decide(func(_ []byte, p *fakeProposal) bool { hold <- p; return true })
	c := dial(t, n.addr)
	defer c.close()
	c.send(t, produceRequest("t", 0, batchOf(1)))
	p := <-hold
	drained := make(chan struct{})
	go func() { defer close(drained); n.ln.drain(10 * time.Second) }()
	eventually(t, "the listener refuses", func() bool {
		probe, err := net.Dial("tcp", n.addr)
		if err == nil {
			probe.Close()
		}
		return err != nil
	})
	p.resolve(okResult(41), nil)
	if _, body := c.receive(t); len(body) == 0 {
		t.Fatal("empty answer")
	}
	c.expectClosed(t)
	<-drained
}
