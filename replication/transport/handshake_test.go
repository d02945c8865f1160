package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport/transporttest"
)

// goldenHello is a message and its bytes, which never change.
var goldenHello = hello{
	version: 1, kind: kindAnswer, class: Bulk, refusal: RefusedCluster, instance: 0x1122334455667788,
	peer: Peer{Node: 0x01020304, Incarnation: 0x99aabbccddeeff00, Cluster: "clus"}, text: "no",
}

const goldenHelloBytes = "4d494c4c52414345" + "0001" + "0032" + "02" + "01" + "01" + "04" + "01020304" + "02" + "000000" +
	"99aabbccddeeff00" + "1122334455667788" + "636c7573" + "6e6f"

func TestHelloGolden(t *testing.T) {
	encoded := goldenHello.append(nil)
	if got := hex.EncodeToString(encoded[:len(encoded)-4]); got != goldenHelloBytes {
		t.Errorf("encoded\n%s, want\n%s", got, goldenHelloBytes)
	}
	decoded, err := decodeHello(encoded)
	if diff := cmp.Diff(goldenHello, decoded, cmp.AllowUnexported(hello{})); err != nil || diff != "" {
		t.Errorf("decoded (-want +got), %v:\n%s", err, diff)
	}
}

func TestHelloIsCutAtItsLimits(t *testing.T) {
	h := goldenHello
	h.peer.Cluster, h.text = strings.Repeat("c", 300), strings.Repeat("t", 3000)
	decoded, err := decodeHello(h.append(nil))
	if err != nil || len(decoded.peer.Cluster) != maxClusterID || len(decoded.text) != maxRefusalText {
		t.Errorf("%+v, %v", decoded, err)
	}
}

// TestHelloFindsEveryFlippedBit: no flipped bit, no missing and no further byte
// passes.
func TestHelloFindsEveryFlippedBit(t *testing.T) {
	good := goldenHello.append(nil)
	for bit := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := decodeHello(bad); !errors.Is(err, ErrFrame) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	for n := range good {
		if _, err := decodeHello(good[:n]); !errors.Is(err, ErrFrame) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if _, err := decodeHello(append(bytes.Clone(good), 0)); !errors.Is(err, ErrFrame) {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestHelloRefusesAbsurdValues(t *testing.T) {
	for name, change := range map[string]func(*hello){
		"kind 0":             func(h *hello) { h.kind = 0 },
		"kind 4":             func(h *hello) { h.kind = 4 },
		"class 4":            func(h *hello) { h.class = probe + 1 },
		"negative node":      func(h *hello) { h.peer.Node = -1 },
		"no incarnation":     func(h *hello) { h.peer.Incarnation = 0 },
		"version 0":          func(h *hello) { h.version = 0 },
		"hello that refuses": func(h *hello) { h.kind = kindHello },
	} {
		h := goldenHello
		change(&h)
		if _, err := decodeHello(h.append(nil)); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := goldenHello
	h.version = 2
	if decoded, err := decodeHello(h.append(nil)); err != nil || decoded.version != 2 {
		t.Errorf("a newer version is not told from garbage: %+v, %v", decoded, err)
	}
}

// TestHandshakeOfAStrangerAllocatesLittle: whatever length is claimed.
func TestHandshakeOfAStrangerAllocatesLittle(t *testing.T) {
	big := append([]byte(helloMagic), 0, 1, 0xff, 0xff)
	big = append(big, make([]byte, 70000)...)
	long := append([]byte(helloMagic), 0, 1, 0x02, 0x00)
	long = append(long, make([]byte, 600)...)
	for name, input := range map[string][]byte{"length 65535": big, "length 512": long, "web": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")} {
		const rounds = 200
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range rounds {
			if _, err := readHello(bytes.NewReader(input), kindHello); !errors.Is(err, ErrFrame) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) / rounds; got > 1024 {
			t.Errorf("%s: %d bytes allocated", name, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	type side struct {
		reason Refusal
		byPeer bool
	}
	one := Identity{Node: 1, Incarnation: 11, Cluster: "c"}
	for _, c := range []struct {
		name    string
		two     Identity
		retire  bool
		node    metadata.NodeID // what node 1 looks for
		want    side            // what node 1 gets
		address metadata.NodeID
	}{
		{"another cluster", Identity{2, 22, "d"}, false, 2, side{RefusedCluster, true}, 2},
		{"retired incarnation", Identity{2, 22, "c"}, true, 2, side{RefusedRetired, false}, 2},
		{"another node", Identity{2, 22, "c"}, false, 3, side{RefusedNode, false}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				network := transporttest.New()
				first := startNode(t, network, one, nil)
				second := startNode(t, network, c.two, nil)
				if c.retire {
					first.SetIncarnation(2, 22)
					first.SetIncarnation(2, 23)
				}
				first.SetAddress(c.node, meshAddress(c.address))
				_, err := first.Call(t.Context(), c.node, Control, MethodForward)
				var refused *RefusedError
				if !errors.As(err, &refused) || !errors.Is(err, ErrPeerDown) || !errors.Is(err, ErrRefusedIdentity) {
					t.Fatalf("error %v", err)
				}
				if got := (side{refused.Reason, refused.ByPeer}); got != c.want || refused.Peer != c.two || refused.Text == "" {
					t.Errorf("refused %+v, want %+v", refused, c.want)
				}
				pass(10 * time.Minute)
				for _, n := range []*meshNode{first, second} {
					if got := len(n.log.with(refused.Reason.String())) + len(n.log.with(refused.Text)); got > 24 || len(n.log.with(refused.Text)) == 0 {
						t.Errorf("node %d logged it %d times in 10 minutes", n.self().Node, got)
					}
				}
			})
		})
	}
}

// TestTwoNodesWithOneID: by CallAddress, as founding meets them.
func TestTwoNodesWithOneID(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network := transporttest.New()
		caller := startNode(t, network, Identity{Node: 1, Incarnation: 11}, nil)
		for i, other := range []Identity{{1, 12, ""}, {1, 11, ""}} { // another disk; a copy of our data folder
			address := fmt.Sprintf("other%d:1", i)
			listener, err := network.Listen(address)
			if err != nil {
				t.Fatal(err)
			}
			twin := New(Config{Listener: listener, Identity: func() Identity { return other }, Logger: caller.config.Logger})
			twin.Handle(MethodForward, func(r *Request) { t.Error("a twin was let in"); r.Reply() })
			twin.Start()
			peer, _, err := caller.CallAddress(t.Context(), address, MethodForward)
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Reason != RefusedDuplicate || peer != other {
				t.Errorf("%+v, %v", peer, err)
			}
			twin.Close()
		}
	})
}

func TestNewerProtocolIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network := transporttest.New()
		n := startNode(t, network, Identity{Node: 1, Incarnation: 11, Cluster: "c"}, nil)
		nc, err := network.Dial(t.Context(), "n2", meshAddress(1))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.Write(hello{version: 2, kind: kindHello, peer: Peer{Node: 2, Incarnation: 22}}.append(nil))
		answer, err := readHello(nc, kindAnswer)
		if err != nil || answer.refusal != RefusedVersion || !strings.Contains(answer.text, "version 2") {
			t.Errorf("%+v, %v", answer, err)
		}
		if _, err := nc.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("not closed: %v", err)
		}
		synctest.Wait()
		if len(n.log.with("newer")) == 0 && len(n.log.with("version 2")) == 0 {
			t.Error("not logged")
		}
	})
}

// TestGarbageOnThePort: strangers are closed, in time, and never keep a peer out.
func TestGarbageOnThePort(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 2, nil)
		await(t, time.Second, "up", func() bool { return nodes[1].Up(2) })
		stranger := func(bytes string) net.Conn {
			nc, err := network.Dial(t.Context(), "stranger", meshAddress(1))
			if err != nil {
				t.Fatal(err)
			}
			nc.Write([]byte(bytes))
			return nc
		}
		closedAfter := func(nc net.Conn) time.Duration {
			start := time.Now()
			io.Copy(io.Discard, nc)
			nc.Close()
			return time.Since(start)
		}
		if took := closedAfter(stranger("GET / HTTP/1.1\r\n\r\n")); took > 0 {
			t.Errorf("garbage was closed after %v", took)
		}
		good := hello{version: 1, kind: kindHello, peer: Peer{Node: 3, Incarnation: 3}}.append(nil)
		for _, quiet := range []string{"", "MILL", string(good[:20]), string(good)} {
			if took := closedAfter(stranger(quiet)); took != handshakeTimeout {
				t.Errorf("%d bytes and silence were closed after %v", len(quiet), took)
			}
		}
		var waiting []net.Conn
		for range 3 * maxStrangers {
			waiting = append(waiting, stranger("M"))
		}
		synctest.Wait()
		nodes[1].mu.Lock()
		strangers := len(nodes[1].strangers)
		nodes[1].mu.Unlock()
		if strangers > maxStrangers {
			t.Errorf("%d strangers", strangers)
		}
		echo(t, nodes[2], 1, Bulk, "a new connection comes through")
		for _, nc := range waiting {
			nc.Close()
		}
		frame := newFrame(frameHeader{kind: frameRequest, method: MethodForward, id: 1}, nil, nil)
		if took := closedAfter(stranger(string(frame.head))); took > 0 {
			t.Errorf("a request without a handshake was closed after %v", took)
		}
	})
}

// TestLaterConnectionReplaces: a peer that dials again has given up what it had.
func TestLaterConnectionReplaces(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 2, nil)
		await(t, time.Second, "up", func() bool { return nodes[1].Up(2) && nodes[2].Up(1) })
		before := network.Connections()
		c, err := nodes[1].dial(t.Context(), meshAddress(2), Control, 2)
		if err != nil {
			t.Fatal(err)
		}
		nodes[1].mu.Lock()
		nodes[1].startLocked(c)
		nodes[1].mu.Unlock()
		pass(500 * time.Millisecond)
		if got := network.Connections(); got > before+1 {
			t.Errorf("%d connections, before %d", got, before)
		}
		nodes[2].mu.Lock()
		accepted := 0
		for c := range nodes[2].conns {
			if !c.dialed {
				accepted++
			}
		}
		nodes[2].mu.Unlock()
		if accepted != 1 {
			t.Errorf("%d accepted connections of one peer and class", accepted)
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Add(goldenHello.append(nil))
	f.Add(hello{version: 1, kind: kindHello, peer: Peer{Node: 1, Incarnation: 1}}.append(nil))
	f.Add(hello{version: 9, kind: kindHello, peer: Peer{Node: 1, Incarnation: 1}}.append(nil))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := readHello(bytes.NewReader(data), kindHello)
		if err != nil || h.version != helloVersion {
			return
		}
		encoded := h.append(nil)
		if !bytes.Equal(encoded, data[:len(encoded)]) {
			t.Errorf("read %x, written anew %x", data, encoded)
		}
	})
}
