package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport/transporttest"
)

// heap is the bytes of the heap in use.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// intrude connects to node 1 from a host, with a handshake and no mux behind it.
func intrude(t *testing.T, network *transporttest.Network, host string, class Class, own Identity) net.Conn {
	t.Helper()
	nc, err := network.Dial(t.Context(), host, meshAddress(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if _, err := New(Config{Identity: func() Identity { return own }}).greet(nc, class, own, anyNode); err != nil {
		t.Fatal(err)
	}
	return nc
}

// requestHead is the head of a request whose body is that many zeros.
func requestHead(method Method, size int) []byte {
	sum := checksum([][]byte{make([]byte, size)})
	return appendFrameHeader(nil, frameHeader{kind: frameRequest, method: method, id: 1, length: uint32(size), bodyCRC: sum})
}

// acceptedOf is the accepted connections of a node that hold for a condition.
func acceptedOf(n *meshNode, condition func(*conn) bool) []*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(func(yield func(*conn) bool) {
		for c := range n.conns {
			if !c.dialed && condition(c) && !yield(c) {
				return
			}
		}
	})
}

// TestPingsOfAPeerThatNeverReads: one answer waits, the newest, however many
// pings came.
func TestPingsOfAPeerThatNeverReads(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const pings, newest = 400_000, 1 << 40
		network := transporttest.New()
		n := startNode(t, network, Identity{Node: 1, Incarnation: 11}, nil)
		nc := intrude(t, network, "stranger", Control, Identity{Node: 2, Incarnation: 22})
		chunk := bytes.Repeat(appendFrameHeader(nil, frameHeader{kind: framePing, id: 1}), 4000)
		before := heap()
		for range pings / 4000 {
			if _, err := nc.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		nc.Write(appendFrameHeader(nil, frameHeader{kind: framePing, id: newest}))
		synctest.Wait()
		if grown := heap() - before; grown > 4<<20 {
			t.Errorf("the heap grew by %d bytes", grown)
		}
		for _, c := range acceptedOf(n, func(*conn) bool { return true }) {
			c.out.mu.Lock()
			if c.out.bytes > scratchSize || len(c.out.queue) > 1 {
				t.Errorf("%d frames and %d bytes wait", len(c.out.queue), c.out.bytes)
			}
			c.out.mu.Unlock()
		}
		head := make([]byte, frameHeaderSize)
		for answers := 0; ; answers++ {
			if _, err := io.ReadFull(nc, head); err != nil {
				t.Fatalf("after %d answers: %v", answers, err)
			}
			if h, err := decodeFrameHeader(head, 0); err != nil || answers > pings/2 {
				t.Fatalf("answer %d: %+v, %v", answers, h, err)
			} else if h.kind == framePong && h.id == newest {
				return
			}
		}
	})
}

// TestCallsToAPeerThatNeverReads: calls that gave up leave frames behind, and the
// bound counts what a small one costs.
func TestCallsToAPeerThatNeverReads(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 2, nil)
		echo(t, nodes[1], 2, Seed, "x")
		network.Drop(meshHost(1), meshHost(2))
		over, cancel := context.WithCancel(t.Context())
		cancel()
		before := heap()
		for range 3 * outboxLimit / frameOverhead / 2 {
			if _, err := nodes[1].Call(over, 2, Seed, MethodForward); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		if grown := heap() - before; grown > 2*outboxLimit {
			t.Errorf("the heap grew by %d bytes", grown)
		}
		nodes[1].mu.Lock()
		out := nodes[1].peers[2].links[Seed].conn.out
		nodes[1].mu.Unlock()
		out.mu.Lock()
		defer out.mu.Unlock()
		if len(out.queue) > outboxLimit/frameOverhead || out.bytes > outboxLimit {
			t.Errorf("%d frames and %d bytes wait, the limit is %d", len(out.queue), out.bytes, outboxLimit)
		}
	})
}

// TestUnreadAnswersEndTheConnection: small requests are admitted by the thousand,
// and each may have a large answer.
func TestUnreadAnswersEndTheConnection(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const memory, frame = 1 << 20, 64 << 10
		network, nodes := mesh(t, 2, func(c *Config) { c.PeerMemory, c.MaxFrame = memory, frame })
		admitted := make(chan struct{}) // all of them, before the first answer
		nodes[2].Handle(MethodJoin, func(r *Request) { <-admitted; r.Reply(make([]byte, frame)) })
		echo(t, nodes[1], 2, Bulk, "x")
		bulk := func(c *conn) bool { return c.class == Bulk }
		for _, reads := range []bool{true, false} {
			calls := memory / 2 / frame
			if !reads {
				calls *= 10
			}
			results := make(chan error, calls)
			for range calls {
				go func() { results <- errOf(nodes[1].Call(t.Context(), 2, Bulk, MethodJoin)) }()
			}
			synctest.Wait()
			if !reads {
				network.Drop(meshHost(2), meshHost(1))
			}
			for range calls {
				admitted <- struct{}{}
			}
			pass(100 * time.Millisecond)
			if got := len(acceptedOf(nodes[2], bulk)); (got == 1) != reads {
				t.Errorf("answers are read: %v, %d connections", reads, got)
			}
			for ; reads && calls > 0; calls-- {
				if err := <-results; err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// TestHeadsCostNothing: the head of a large request alone, from many at once.
func TestHeadsCostNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network := transporttest.New()
		n := startNode(t, network, Identity{Node: 1, Incarnation: 11, Cluster: "c"}, nil)
		head := requestHead(MethodFounding, DefaultMaxFrame)
		var peers []net.Conn
		for i := range 16 {
			peers = append(peers, intrude(t, network, "stranger", Bulk, Identity{metadata.NodeID(2 + i), 22, "c"}))
		}
		before := heap()
		for _, nc := range peers {
			nc.Write(head)
		}
		synctest.Wait()
		if grown := heap() - before; grown > 1<<20 {
			t.Errorf("the heap grew by %d bytes", grown)
		}
		if got := len(acceptedOf(n, func(*conn) bool { return true })); got != len(peers) {
			t.Errorf("%d of %d connections stand", got, len(peers))
		}
	})
}

// TestIntroductionsAreSmall: who names no cluster, and who calls an address, gets
// no more than an introduction needs, and is not sent more either.
func TestIntroductionsAreSmall(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network := transporttest.New()
		one := startNode(t, network, Identity{Node: 1, Incarnation: 11, Cluster: "c"}, nil)
		two := startNode(t, network, Identity{Node: 2, Incarnation: 22}, nil)
		one.Handle(MethodJoin, func(r *Request) { r.Reply(make([]byte, introductionFrame+1)) })
		two.SetAddress(1, meshAddress(1))
		fits, over := make([]byte, introductionFrame), make([]byte, introductionFrame+1)
		call := func(method Method, body []byte) error { return errOf(two.Call(t.Context(), 1, Control, method, body)) }
		probed := func(method Method, body []byte) error {
			_, _, err := two.CallAddress(t.Context(), meshAddress(1), method, body)
			return err
		}
		if err := errors.Join(call(MethodForward, fits), probed(MethodForward, fits)); err != nil {
			t.Error(err)
		}
		if err := call(MethodForward, over); !errors.Is(err, ErrTooLarge) || !errors.Is(err, ErrPeerDown) {
			t.Errorf("a call: %v", err)
		}
		if err := probed(MethodForward, over); !errors.Is(err, ErrTooLarge) || errors.Is(err, ErrPeerDown) {
			t.Errorf("to an address: %v", err)
		}
		for _, f := range []func(Method, []byte) error{call, probed} {
			var remote *RemoteError
			if err := f(MethodJoin, nil); !errors.As(err, &remote) || remote.Code != CodeTooLarge {
				t.Errorf("a large answer: %v", err)
			}
		}
		for _, own := range []Identity{{Node: 3, Incarnation: 33}, {Node: 3, Incarnation: 33, Cluster: "c"}} {
			class := probe
			if own.Cluster == "" {
				class = Bulk
			}
			nc := intrude(t, network, "stranger", class, own)
			nc.Write(requestHead(MethodForward, introductionFrame+1))
			if _, err := nc.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%v of %+v: %v", class, own, err)
			}
		}
		two.setCluster("c") // the connection is made anew
		pass(time.Second)
		if err := call(MethodForward, over); err != nil {
			t.Error(err)
		}
	})
}

// TestLargeBodiesShareABudget: one that stops in the middle holds up those of its
// own class and standing, for a while.
func TestLargeBodiesShareABudget(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const size = 4 * assuredBody
		network, nodes := mesh(t, 2, func(c *Config) { c.MaxFrame = size })
		nodes[1].SetIncarnation(2, 2)
		body := make([]byte, size)
		request := func(class Class, node metadata.NodeID) net.Conn {
			nc := intrude(t, network, fmt.Sprint("host", node), class, Identity{node, 22, "c"})
			nc.Write(requestHead(MethodForward, size))
			nc.Write(body[:assuredBody])
			return nc
		}
		finish := func(nc net.Conn) <-chan error {
			result := make(chan error, 1)
			go func() {
				nc.Write(body[assuredBody:])
				_, err := io.CopyN(io.Discard, nc, frameHeaderSize+size)
				result <- err
			}()
			return result
		}
		slow := request(Bulk, 3)
		synctest.Wait()
		if _, ok := nodes[1].receipts.claimants[Bulk].tryTake(1); ok {
			t.Fatal("a body that arrives takes nothing of the budget")
		}
		var trickle sync.WaitGroup
		defer trickle.Wait()
		defer slow.Close()
		trickle.Go(func() { // not silent
			for {
				if _, err := slow.Write(body[:1]); err != nil {
					return
				}
				<-time.After(time.Second)
			}
		})
		waits := finish(request(Bulk, 4))
		if err := <-finish(request(Control, 5)); err != nil {
			t.Errorf("the control connection: %v", err)
		}
		echo(t, nodes[2], 1, Bulk, string(body))
		own := func(c *conn) bool { return c.peer.Node == 2 && c.class == Bulk }
		stands := acceptedOf(nodes[1], own)
		pass(receiptGrace)
		if len(waits) > 0 {
			t.Error("two bodies arrive in the memory of one")
		}
		pass(size / receiptRate * time.Second)
		select {
		case err := <-waits:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("a body that does not come holds the memory for ever")
		}
		if _, err := io.Copy(io.Discard, slow); err != nil {
			t.Error(err)
		}
		if !slices.Equal(acceptedOf(nodes[1], own), stands) {
			t.Error("the time in which a body must come ended its connection afterwards")
		}
		if b := nodes[1].receipts.claimants[Bulk]; b.used != 0 {
			t.Errorf("%d bytes are held by nobody", b.used)
		}
	})
}

// TestFloodsKeepNobodyOut: a few hosts, those of members among them, open as many
// connections as they can, with and without handshakes, in the name of many nodes.
func TestFloodsKeepNobodyOut(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 3, nil)
		nodes[1].SetIncarnation(2, 2)
		joiner := startNode(t, network, Identity{Node: 4, Incarnation: 4}, nil)
		release, joined := make(chan struct{}), make(chan error, 1)
		nodes[1].Handle(MethodJoin, func(r *Request) { <-release; r.Reply() })
		go func() {
			_, _, err := joiner.CallAddress(t.Context(), meshAddress(1), MethodJoin)
			joined <- err
		}()
		await(t, time.Second, "all are connected", func() bool {
			return len(acceptedOf(nodes[1], func(*conn) bool { return true })) == 3
		})
		for i := range maxClaimants + classes { // of members from one host
			node := metadata.NodeID(1000 + i/classes)
			nodes[1].SetIncarnation(node, 1)
			intrude(t, network, "members", Class(i%classes), Identity{node, 1, "c"})
		}
		synctest.Wait()
		before := acceptedOf(nodes[1], func(*conn) bool { return true })
		if len(before) != 3+maxClaimants+classes {
			t.Fatalf("%d connections stand", len(before))
		}
		for i := range 3 * max(maxStrangers, maxClaimants, maxNewcomers) {
			node := metadata.NodeID(10 + i)
			intrude(t, network, meshHost(metadata.NodeID(2+i%2)), Control, Identity{Node: node, Incarnation: 1})
			intrude(t, network, "stranger", probe, Identity{node, 1, "c"})
			intrude(t, network, "stranger", Bulk, Identity{node, 1, "c"})
			intrude(t, network, "stranger", Bulk, Identity{2, metadata.Incarnation(10 + i), "c"})
			nc, err := network.Dial(t.Context(), "stranger", meshAddress(1))
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
		}
		synctest.Wait()
		for standing, limit := range map[standing]int{newcomer: maxNewcomers, claimant: maxClaimants} {
			if got := len(acceptedOf(nodes[1], func(c *conn) bool { return c.standing() == standing })); got > limit || got == 0 {
				t.Errorf("%d connections of standing %d, the limit is %d", got, standing, limit)
			}
		}
		for _, c := range before {
			if len(acceptedOf(nodes[1], func(other *conn) bool { return other == c })) == 0 {
				t.Errorf("the %v connection of node %d was closed", c.class, c.peer.Node)
			}
		}
		echo(t, nodes[2], 1, Bulk, "a member's new connection")
		echo(t, nodes[3], 1, Bulk, "that of a node which the metadata does not know")
		echo(t, nodes[3], 1, Control, "on what stood before")
		close(release)
		if err := <-joined; err != nil {
			t.Error(err)
		}
	})
}

// TestBorrowedIdentity: who uses a member's numbers and names no cluster neither
// replaces nor ends the member's connections.
func TestBorrowedIdentity(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 2, nil)
		echo(t, nodes[2], 1, Bulk, "x")
		all := func(c *conn) bool { return c.peer == nodes[2].self() }
		await(t, time.Second, "both are connected", func() bool { return len(acceptedOf(nodes[1], all)) == 2 })
		before := acceptedOf(nodes[1], all)
		for _, class := range []Class{Control, Bulk} {
			intrude(t, network, "stranger", class, Identity{Node: 2, Incarnation: 2})
		}
		pass(2 * silenceLimit)
		after := acceptedOf(nodes[1], all)
		for _, c := range before {
			if !slices.Contains(after, c) {
				t.Errorf("the %v connection was closed", c.class)
			}
		}
	})
}

// TestClaimantBecomesMember: when the metadata learns its incarnation, on the
// connection that stands.
func TestClaimantBecomesMember(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, nodes := mesh(t, 2, nil)
		await(t, time.Second, "up", func() bool { return nodes[2].Up(1) })
		c := acceptedOf(nodes[1], func(*conn) bool { return true })[0]
		for _, step := range []struct {
			incarnation metadata.Incarnation
			standing    standing
			memory      int64
		}{{0, claimant, claimantMemory}, {2, registered, DefaultPeerMemory}} {
			if step.incarnation != 0 {
				nodes[1].SetIncarnation(2, step.incarnation)
			}
			if c.standing() != step.standing || c.budget.limit != step.memory {
				t.Errorf("incarnation %v: standing %d with %d bytes", step.incarnation, c.standing(), c.budget.limit)
			}
		}
	})
}

// TestBodyGrowsAsItArrives: whatever length is claimed.
func TestBodyGrowsAsItArrives(t *testing.T) {
	read := func(size, arrives int, claim func() error) ([]byte, int64, error) {
		source := bytes.Repeat([]byte("abcdefg"), size/7+1)[:size]
		h := frameHeader{length: uint32(size), bodyCRC: checksum([][]byte{source})}
		r := bufio.NewReaderSize(bytes.NewReader(source[:arrives]), readBuffer)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		body, err := readBody(r, h, claim)
		runtime.ReadMemStats(&after)
		if err == nil && !bytes.Equal(body, source) {
			t.Errorf("%d bytes: another body", size)
		}
		return body, int64(after.TotalAlloc - before.TotalAlloc), err
	}
	for _, size := range []int{0, 1, readBuffer, readBuffer + 1, assuredBody, assuredBody + 1, bodyGrowth*assuredBody + 1} {
		claims := 0
		if _, _, err := read(size, size, func() error { claims++; return nil }); err != nil || (claims == 1) != (size > assuredBody) {
			t.Errorf("%d bytes: %d claims, %v", size, claims, err)
		}
	}
	for arrives, most := range map[int]int64{
		0: 0, readBuffer - 1: 0, readBuffer: assuredBody, assuredBody - 1: assuredBody,
		assuredBody: (1 + bodyGrowth) * assuredBody, bodyGrowth*assuredBody - 1: (1 + bodyGrowth) * assuredBody,
	} {
		if _, allocated, err := read(DefaultMaxFrame, arrives, nil); err == nil || allocated > most+4<<10 {
			t.Errorf("%d bytes arrived, %d were allocated, %v", arrives, allocated, err)
		}
	}
	refused := errors.New("refused")
	if _, allocated, err := read(DefaultMaxFrame, DefaultMaxFrame, func() error { return refused }); !errors.Is(err, refused) || allocated > assuredBody+4<<10 {
		t.Errorf("refused: %d bytes allocated, %v", allocated, err)
	}
}

func TestCrowdedOut(t *testing.T) {
	for name, c := range map[string]struct {
		hosts string // of the arrivals 1, 2, ...
		want  uint64
	}{
		"one":                       {"a", 1},
		"the busiest host's oldest": {"abbcb", 2},
		"the oldest of two":         {"cbcb", 1},
		"nobody knows where from":   {"   ", 1},
	} {
		entrants := map[uint64]entrant{}
		for i, host := range c.hosts {
			entrants[uint64(i+1)] = entrant{host: string(host), order: uint64(i + 1)}
		}
		if got := crowdedOut(maps.All(entrants)); got != c.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}
