package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport/transporttest"
)

func TestCallsOfAllClassesAndSizes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, nodes := mesh(t, 3, nil)
		var seen sync.Map
		nodes[2].Handle(MethodJoin, func(r *Request) {
			seen.Store(r.Class, r.Peer)
			r.Reply(r.Body[:len(r.Body)/2], r.Body[len(r.Body)/2:])
		})
		for _, class := range []Class{Control, Bulk, Seed} {
			for _, size := range []int{0, 1, smallBody, smallBody + 1, 1 << 20} {
				body := bytes.Repeat([]byte{byte(size), 7, 9}, size/3+1)[:size]
				got, err := nodes[1].Call(t.Context(), 2, class, MethodJoin, body[:size/3], nil, body[size/3:])
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("%v, %d bytes: got %d bytes, %v", class, size, len(got), err)
				}
			}
			if peer, _ := seen.Load(class); peer != nodes[1].self() {
				t.Errorf("%v: the handler saw %+v", class, peer)
			}
		}
	})
}

func TestErrorsOfHandlers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, nodes := mesh(t, 2, func(c *Config) { c.MaxFrame = 1 << 16 })
		var answer error
		nodes[2].Handle(MethodJoin, func(r *Request) { r.ReplyError(answer); r.ReplyError(errors.New("again")); r.Reply() })
		nodes[2].Handle(MethodGossip, func(r *Request) { panic("on purpose") })
		nodes[2].Handle(MethodForward, func(r *Request) { r.Reply(make([]byte, 1<<16+1)) })
		for _, c := range []struct {
			method  Method
			answer  error
			code    Code
			message string
		}{
			{MethodJoin, fmt.Errorf("wrapped: %w", &RemoteError{Code: 77, Message: "no"}), 77, "no"},
			{MethodJoin, errors.New("plain"), CodeInternal, "plain"},
			{MethodJoin, nil, CodeInternal, "a handler replied with a nil error"},
			{MethodJoin, errors.New(strings.Repeat("x", 5000)), CodeInternal, strings.Repeat("x", maxErrorText)},
			{MethodReadIndex, nil, CodeUnknownMethod, "ReadIndex is not served by this node"},
			{MethodForward, nil, CodeTooLarge, "the answer has 65537 bytes"},
		} {
			answer = c.answer
			_, err := nodes[1].Call(t.Context(), 2, Bulk, c.method)
			var remote *RemoteError
			if !errors.As(err, &remote) || remote.Code != c.code || remote.Message != c.message {
				t.Errorf("%v: %v, want code %d", c.method, err, c.code)
			}
		}
		if _, err := nodes[1].Call(t.Context(), 2, Bulk, MethodGossip); err == nil {
			t.Error("a panicking handler answered")
		}
		if len(nodes[2].log.with("panicked")) != 1 {
			t.Error("the panic was not logged")
		}
		pass(time.Second)
		answer = nil
		if _, err := nodes[1].Call(t.Context(), 2, Bulk, MethodReadIndex); err == nil || errors.Is(err, ErrPeerDown) {
			t.Errorf("after a panic: %v", err)
		}
		for _, err := range []error{
			errOf(nodes[1].Call(t.Context(), 2, Bulk, MethodJoin, make([]byte, 1<<16+1))),
			errOf(nodes[1].Call(t.Context(), 2, Bulk, MethodJoin, make([]byte, 1<<15), make([]byte, 1<<15+1))),
		} {
			if !errors.Is(err, ErrTooLarge) {
				t.Errorf("a request above the limit: %v", err)
			}
		}
	})
}

// errOf drops an answer.
func errOf(_ []byte, err error) error { return err }

func TestCallAddress(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network := transporttest.New()
		one := startNode(t, network, Identity{Node: 1, Incarnation: 11}, nil)
		two := startNode(t, network, Identity{Node: 2, Incarnation: 22}, nil)
		peer, answer, err := one.CallAddress(t.Context(), meshAddress(2), MethodForward, []byte("hello"))
		if err != nil || peer != two.self() || string(answer) != "hello" {
			t.Errorf("%+v, %q, %v", peer, answer, err)
		}
		peer, answer, err = one.CallAddress(t.Context(), meshAddress(1), MethodForward, []byte("me"))
		if err != nil || peer != one.self() || string(answer) != "me" {
			t.Errorf("a node that meets itself: %+v, %q, %v", peer, answer, err)
		}
		if _, _, err = one.CallAddress(t.Context(), meshAddress(3), MethodForward); !errors.Is(err, ErrPeerDown) {
			t.Errorf("nobody listens: %v", err)
		}
		synctest.Wait()
		if n := network.Connections(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
		two.Handle(MethodForward, func(r *Request) { <-r.Context().Done(); r.Reply() })
		if _, _, err = one.CallAddress(deadline(t, time.Second), meshAddress(2), MethodForward); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("its context ended: %v", err)
		}
	})
}

// TestCallFailsAtOnceWhilePeerIsDown: no call waits for the next attempt to dial.
func TestCallFailsAtOnceWhilePeerIsDown(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 2, nil)
		echo(t, nodes[1], 2, Bulk, "x")
		pass(2 * time.Second)
		nodes[2].Close()
		network.Kill(meshHost(2))
		await(t, 100*time.Millisecond, "node 2 is down", func() bool { return !nodes[1].Up(2) })
		for i := range 50 {
			start := time.Now()
			_, err := nodes[1].Call(t.Context(), 2, Class(i%3), MethodForward)
			if !errors.Is(err, ErrPeerDown) || time.Since(start) != 0 {
				t.Fatalf("call %d: %v after %v", i, err, time.Since(start))
			}
			pass(33 * time.Millisecond)
		}
		if _, err := nodes[1].Call(t.Context(), 9, Control, MethodForward); !errors.Is(err, ErrPeerDown) {
			t.Errorf("an unknown node: %v", err)
		}
		if s, ok := nodes[1].Status(2); !ok || s.Up || !errors.Is(s.Err, transporttest.ErrRefused) {
			t.Errorf("status %+v", s)
		}
	})
}

func TestReconnect(t *testing.T) {
	for name, knows := range map[string]bool{"by redialling": false, "woken by the peer's own dial": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				network, nodes := mesh(t, 2, nil)
				await(t, time.Second, "up", func() bool { return nodes[1].Up(2) && nodes[2].Up(1) })
				nodes[2].Close()
				network.Kill(meshHost(2))
				pass(20 * time.Second) // the wait is at its longest now
				changed := make(chan struct{}, 1)
				defer nodes[1].WatchPeers(changed)()
				again := startNode(t, network, nodes[2].self(), nil)
				limit := maxBackoff
				if knows {
					again.SetAddress(1, meshAddress(1))
					limit = 5 * time.Millisecond
				}
				await(t, limit, "up again", func() bool { return nodes[1].Up(2) })
				select {
				case <-changed:
				default:
					t.Error("the watcher was not told")
				}
				echo(t, nodes[1], 2, Bulk, "back")
			})
		})
	}
}

// TestSilentPeerIsDown: packets vanish without a word; after 3 s the peer counts
// as down, calls under way fail, and later ones fail at once though dialling a
// vanished host takes long.
func TestSilentPeerIsDown(t *testing.T) {
	for _, directions := range [][2]bool{{true, true}, {true, false}, {false, true}} {
		t.Run(fmt.Sprint(directions), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				network, nodes := mesh(t, 3, nil)
				nodes[2].Handle(MethodJoin, func(r *Request) { <-r.Context().Done(); r.Reply() })
				echo(t, nodes[1], 2, Bulk, "x")
				result := make(chan error, 1)
				go func() { result <- errOf(nodes[1].Call(t.Context(), 2, Bulk, MethodJoin)) }()
				pass(5 * time.Second)
				if !nodes[1].Up(2) {
					t.Fatal("an idle peer is down")
				}
				if directions[0] {
					network.Drop(meshHost(1), meshHost(2))
				}
				if directions[1] {
					network.Drop(meshHost(2), meshHost(1))
				}
				took := await(t, silenceLimit+time.Second, "down", func() bool { return !nodes[1].Up(2) })
				if took < silenceLimit-pingInterval {
					t.Errorf("down after %v", took)
				}
				await(t, 500*time.Millisecond, "the call failed", func() bool { return len(result) == 1 })
				if err := <-result; !errors.Is(err, ErrConnectionLost) {
					t.Errorf("the call under way: %v", err)
				}
				if !directions[1] { // it closed the connection; our first attempt to redial hangs
					pass(dialTimeout)
				}
				for range 40 {
					start := time.Now()
					if err := errOf(nodes[1].Call(t.Context(), 2, Control, MethodForward)); !errors.Is(err, ErrPeerDown) || time.Since(start) > 0 {
						t.Fatalf("%v after %v", err, time.Since(start))
					}
					pass(130 * time.Millisecond)
				}
				if !nodes[1].Up(3) || !nodes[2].Up(3) {
					t.Error("others are down too")
				}
				network.RestoreAll()
				await(t, dialTimeout+maxBackoff, "up again", func() bool { return nodes[1].Up(2) && nodes[2].Up(1) })
				echo(t, nodes[1], 2, Bulk, "back")
			})
		})
	}
}

// TestOnePeerDoesNotBlockAnother: node 2 answers nothing and its memory is full;
// its reader waits, and nothing else does.
func TestOnePeerDoesNotBlockAnother(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const memory, size = 1 << 20, 100 << 10
		_, nodes := mesh(t, 3, func(c *Config) { c.PeerMemory = memory })
		release := make(chan struct{})
		var running, most atomic.Int64
		nodes[2].Handle(MethodJoin, func(r *Request) {
			most.Store(max(most.Load(), running.Add(1)))
			<-release
			running.Add(-1)
			r.Reply(r.Body[:1])
		})
		const calls = 400
		results := make(chan error, calls)
		for range calls {
			go func() { results <- errOf(nodes[1].Call(t.Context(), 2, Bulk, MethodJoin, make([]byte, size))) }()
		}
		pass(30 * time.Second)
		if got := running.Load(); got != memory/(size+requestOverhead) {
			t.Errorf("%d requests of %d bytes run in %d bytes", got, size, memory)
		}
		if !nodes[1].Up(2) || !nodes[2].Up(1) {
			t.Error("a peer that is busy counts as down")
		}
		start := time.Now()
		echo(t, nodes[1], 2, Control, "beside it")
		echo(t, nodes[1], 3, Bulk, "to another node")
		echo(t, nodes[3], 2, Bulk, "from another node")
		if took := time.Since(start); took > 0 {
			t.Errorf("the others took %v", took)
		}
		if err := errOf(nodes[1].Call(deadline(t, time.Second), 2, Bulk, MethodForward)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call behind the full ones: %v", err)
		}
		close(release)
		for range calls {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestControlReaderThatWaitsIsNotSilent: the memory of a control connection is
// full for long; both sides must know that the other one lives.
func TestControlReaderThatWaitsIsNotSilent(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, nodes := mesh(t, 2, func(c *Config) { c.PeerMemory = 1 })
		release := make(chan struct{})
		nodes[2].Handle(MethodJoin, func(r *Request) { <-release; r.Reply() })
		results := make(chan error, 3)
		for range 3 {
			go func() { results <- errOf(nodes[1].Call(t.Context(), 2, Control, MethodJoin)) }()
		}
		pass(4 * silenceLimit)
		if !nodes[1].Up(2) || len(results) > 0 {
			t.Error("the connection broke")
		}
		close(release)
		for range 3 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestAnswersCountUntilWritten: a peer that asks and does not read is read no
// further once the answers to what it asked fill its memory.
func TestAnswersCountUntilWritten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const memory, size, calls = 4 << 20, 16 << 10, 3000
		network, nodes := mesh(t, 2, func(c *Config) { c.PeerMemory = memory })
		var handled atomic.Int64
		nodes[2].Handle(MethodJoin, func(r *Request) { handled.Add(1); r.Reply(make([]byte, size)) })
		echo(t, nodes[1], 2, Bulk, "x")
		network.Drop(meshHost(2), meshHost(1))
		for range calls {
			go nodes[1].Call(t.Context(), 2, Bulk, MethodJoin)
		}
		pass(time.Second)
		// What the memory admits before the first answer, and what the window holds.
		if got := handled.Load(); got > memory/requestOverhead+(1<<20)/size {
			t.Errorf("%d of %d requests were handled in %d bytes", got, calls, memory)
		}
	})
}

// TestCallWaitsForRoom: bytes that wait for a stuck connection are bounded.
func TestCallWaitsForRoom(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 2, nil)
		echo(t, nodes[1], 2, Seed, "x")
		network.Drop(meshHost(1), meshHost(2))
		const calls, size = 40, 1 << 20
		for range calls {
			go nodes[1].Call(deadline(t, 2*time.Second), 2, Seed, MethodForward, make([]byte, size))
		}
		pass(time.Second)
		nodes[1].mu.Lock()
		c := nodes[1].peers[2].links[Seed].conn
		nodes[1].mu.Unlock()
		c.out.mu.Lock()
		waiting := c.out.bytes
		c.out.mu.Unlock()
		if waiting > outboxLimit || waiting < outboxLimit-2*size {
			t.Errorf("%d bytes wait, the limit is %d", waiting, outboxLimit)
		}
		network.RestoreAll()
		pass(2 * time.Second)
		echo(t, nodes[1], 2, Seed, "y")
	})
}

func TestCorruptedBytesNeverReachAHandler(t *testing.T) {
	for _, size := range []int{10, 100 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				network, nodes := mesh(t, 2, nil)
				sent := bytes.Repeat([]byte("0123456789"), size/10)
				nodes[2].Handle(MethodJoin, func(r *Request) {
					if !bytes.Equal(r.Body, sent) {
						t.Error("flipped bytes reached the handler")
					}
					r.Reply()
				})
				echo(t, nodes[1], 2, Bulk, "x")
				pass(time.Second) // all connections stand: no handshake is hit
				network.Corrupt(meshHost(1), meshHost(2))
				_, err := nodes[1].Call(t.Context(), 2, Bulk, MethodJoin, sent)
				if err == nil { // a ping was hit instead
					pass(2 * time.Second)
				}
				if len(nodes[2].log.with("bad frame")) != 1 {
					t.Errorf("not logged; the call: %v; log: %v", err, nodes[2].log.with(""))
				}
				pass(time.Second)
				echo(t, nodes[1], 2, Bulk, "y")
			})
		})
	}
}

// TestIdentityBecomesKnown: connections made before a cluster was founded are
// made anew, so that peers know the cluster of whoever calls.
func TestIdentityBecomesKnown(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network := transporttest.New()
		one := startNode(t, network, Identity{Node: 1, Incarnation: 1}, nil)
		two := startNode(t, network, Identity{Node: 2, Incarnation: 2}, nil)
		var seen atomic.Value
		two.Handle(MethodJoin, func(r *Request) { seen.Store(r.Peer); r.Reply() })
		one.SetAddress(2, meshAddress(2))
		two.SetAddress(1, meshAddress(1))
		for _, cluster := range []string{"", "c"} {
			one.setCluster(cluster)
			pass(time.Second)
			if err := errOf(one.Call(t.Context(), 2, Control, MethodJoin)); err != nil || seen.Load() != (Peer{1, 1, cluster}) {
				t.Errorf("the handler saw %+v, %v", seen.Load(), err)
			}
		}
		two.setCluster("c")
		pass(time.Second)
		if s, _ := one.Status(2); s.Peer.Cluster != "c" || !one.Up(2) {
			t.Errorf("status %+v", s)
		}
	})
}

// TestPeerThatClosesAtOnceIsNotDialledInALoop: it takes every handshake and
// closes the connection.
func TestPeerThatClosesAtOnceIsNotDialledInALoop(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network := transporttest.New()
		n := startNode(t, network, Identity{Node: 1, Incarnation: 1}, nil)
		listener, err := network.Listen(meshAddress(2))
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		var dials atomic.Int64
		fickle := New(Config{Identity: func() Identity { return Identity{Node: 2, Incarnation: 2} }})
		go func() {
			for {
				nc, err := listener.Accept()
				if err != nil {
					return
				}
				dials.Add(1)
				fickle.welcome(nc, fickle.config.Identity())
				nc.Close()
			}
		}()
		n.SetAddress(2, meshAddress(2))
		pass(20 * time.Second)
		if got := dials.Load(); got < 15 || got > 30 {
			t.Errorf("%d dials in 20 s", got)
		}
	})
}

func TestAddressChanges(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 2, nil)
		await(t, time.Second, "up", func() bool { return nodes[1].Up(2) })
		elsewhere, err := network.Listen("other:1")
		if err != nil {
			t.Fatal(err)
		}
		moved := New(Config{Listener: elsewhere, Dial: network.Dialer("other"), Identity: nodes[2].self})
		moved.Handle(MethodForward, func(r *Request) { r.Reply([]byte("moved")) })
		moved.Start()
		defer moved.Close()
		nodes[1].SetAddress(2, "other:1")
		pass(100 * time.Millisecond)
		if got, err := nodes[1].Call(t.Context(), 2, Bulk, MethodForward); err != nil || string(got) != "moved" {
			t.Errorf("%q, %v", got, err)
		}
		nodes[1].SetAddress(2, "")
		if err := errOf(nodes[1].Call(t.Context(), 2, Bulk, MethodForward)); !errors.Is(err, ErrPeerDown) {
			t.Errorf("a forgotten node: %v", err)
		}
		pass(time.Second)
		if _, known := nodes[1].Status(2); known || nodes[1].Up(2) {
			t.Error("a forgotten node is known")
		}
	})
}

func TestRoundTripIsMeasured(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 2, nil)
		network.Delay(meshHost(1), meshHost(2), 30*time.Millisecond)
		network.Delay(meshHost(2), meshHost(1), 10*time.Millisecond)
		pass(2 * time.Second)
		if s, _ := nodes[1].Status(2); s.RTT != 40*time.Millisecond || s.Silence > 2*pingInterval {
			t.Errorf("status %+v", s)
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 3, nil)
		nodes[2].Handle(MethodJoin, func(r *Request) { <-r.Context().Done(); r.ReplyError(r.Context().Err()) })
		errs := make(chan error, 3)
		go func() { errs <- errOf(nodes[1].Call(context.Background(), 2, Bulk, MethodJoin)) }()
		go func() {
			_, _, err := nodes[1].CallAddress(context.Background(), meshAddress(2), MethodJoin)
			errs <- err
		}()
		network.Drop(meshHost(1), "n9")
		go func() { _, _, err := nodes[1].CallAddress(context.Background(), "n9:1", MethodJoin); errs <- err }()
		pass(time.Second)
		if err := nodes[1].Close(); err != nil {
			t.Error(err)
		}
		for range 3 {
			if err := <-errs; !errors.Is(err, ErrClosed) {
				t.Errorf("a call under way: %v", err)
			}
		}
		for _, err := range []error{
			errOf(nodes[1].Call(context.Background(), 2, Control, MethodForward)),
			func() error {
				_, _, err := nodes[1].CallAddress(context.Background(), meshAddress(2), MethodForward)
				return err
			}(),
			nodes[1].Close(),
		} {
			if err != nil && !errors.Is(err, ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
		nodes[1].SetAddress(7, meshAddress(7))
		nodes[1].Start()
		pass(time.Second)
		if !nodes[2].Up(3) {
			t.Error("the others are down")
		}
		// The bubble ends with a failure if a goroutine is left.
	})
}

// TestOverTCP is real sockets, many callers at once and large bodies, for writev
// and the race detector.
func TestOverTCP(t *testing.T) {
	nodes := make([]*Mux, 2)
	addresses := make([]string, 2)
	for i := range nodes {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses[i] = listener.Addr().String()
		identity := Identity{Node: metadata.NodeID(i), Incarnation: metadata.Incarnation(i + 1), Cluster: "c"}
		nodes[i] = New(Config{Listener: listener, Identity: func() Identity { return identity }})
		nodes[i].Handle(MethodForward, func(r *Request) {
			slices.Reverse(r.Body)
			r.Reply(r.Body[:len(r.Body)/3], r.Body[len(r.Body)/3:])
		})
		nodes[i].Start()
		defer nodes[i].Close()
	}
	nodes[0].SetAddress(1, addresses[1])
	nodes[1].SetAddress(0, addresses[0])
	var wg sync.WaitGroup
	for caller := range 16 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 1))
			for range 40 {
				body := make([]byte, random.IntN(1<<uint(random.IntN(19))))
				for i := range body {
					body[i] = byte(random.Uint32())
				}
				cut := random.IntN(len(body) + 1)
				got, err := nodes[caller%2].Call(t.Context(), metadata.NodeID(1-caller%2), Class(random.IntN(3)), MethodForward, body[:cut], body[cut:])
				slices.Reverse(got)
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("%d bytes: %d, %v", len(body), len(got), err)
					return
				}
			}
		})
	}
	wg.Wait()
}
