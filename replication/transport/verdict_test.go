package transport

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport/transporttest"
)

// verdicts are those of a node on two others.
func (n *meshNode) verdicts(a, b metadata.NodeID) string {
	return fmt.Sprint(n.Verdict(a), " ", n.Verdict(b))
}

// kill ends a node as the kernel ends a process.
func kill(network *transporttest.Network, n *meshNode) {
	network.Kill(meshHost(n.self().Node))
	n.Close()
}

// TestDeadProcessIsGoneAtOnce: reset and refused is enough, and costs no waiting; so
// it is for a node that has stood for long and for one that has only just come.
func TestDeadProcessIsGoneAtOnce(t *testing.T) {
	for _, age := range []time.Duration{0, 10 * time.Millisecond, time.Minute + 30*time.Millisecond} {
		inBubble(t, func(t *testing.T) {
			network, nodes := mesh(t, 3, nil)
			await(t, time.Second, "connected", func() bool { return nodes[1].Up(2) && nodes[3].Up(2) && nodes[2].Up(1) })
			pass(age)
			changes := make(chan struct{}, 1)
			defer nodes[1].WatchPeers(changes)()
			if got := nodes[1].Suspects(); got != nil {
				t.Errorf("suspects %v at the start", got)
			}
			kill(network, nodes[2])
			began := time.Now()
			for nodes[1].Verdict(2) != Gone {
				<-changes // told, not found by asking
			}
			if took := time.Since(began); took > minBackoff || age > stableAfter && took > 0 {
				t.Errorf("gone after %v", took)
			}
			await(t, 2*minBackoff, "gone for the third", func() bool { return nodes[3].Verdict(2) == Gone })
			if got := nodes[1].verdicts(3, 2); got != "present gone" {
				t.Error(got)
			}
			if got := nodes[1].Suspects(); len(got) != 1 || got[0] != 2 {
				t.Errorf("suspects %v", got)
			}
			for range 3 { // its attempts go on, and so does the verdict
				pass(maxBackoff)
				if nodes[1].Verdict(2) != Gone {
					t.Error("it came back by itself")
				}
			}
		})
	}
}

// TestNodeThatComesBackIsPresent: at once, not when its silence is forgotten.
func TestNodeThatComesBackIsPresent(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 2, nil)
		pass(time.Second)
		kill(network, nodes[2])
		await(t, time.Second, "gone", func() bool { return nodes[1].Verdict(2) == Gone })
		pass(time.Minute)
		startNode(t, network, nodes[2].self(), nil)
		await(t, maxBackoff, "up", func() bool { return nodes[1].Up(2) })
		if nodes[1].Verdict(2) != Present {
			t.Error("connected, and not present")
		}
	})
}

// TestBrokenConnectionIsNoVerdict: a node that accepts the next connection is there.
func TestBrokenConnectionIsNoVerdict(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 2, nil)
		pass(2 * stableAfter)
		for range 50 {
			network.Reset(meshHost(1), meshHost(2))
			pass(30 * time.Millisecond)
			if got := nodes[1].Verdict(2); got != Present {
				t.Fatalf("%v after a reset", got)
			}
		}
	})
}

// TestSilenceTakesASecond: neither a reset nor an end, nothing more is heard.
func TestSilenceTakesASecond(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 3, nil)
		pass(10 * time.Second)
		network.Isolate(meshHost(2), meshHost(1), meshHost(3))
		took := await(t, 1500*time.Millisecond, "silent", func() bool { return nodes[1].Verdict(2) == Silent && nodes[3].Verdict(2) == Silent })
		if took < silenceFloor-pingInterval {
			t.Errorf("silent after %v", took)
		}
		if got := nodes[1].verdicts(2, 3); got != "silent present" {
			t.Error(got)
		}
		if got := nodes[2].verdicts(1, 3); got != "silent silent" {
			t.Errorf("the node that was cut off: %v", got)
		}
		pass(10 * time.Second) // its connections were closed meanwhile, and are dialled in vain
		if got := nodes[1].Verdict(2); got != Silent {
			t.Errorf("%v later", got)
		}
		network.RestoreAll()
		await(t, dialTimeout+maxBackoff, "present", func() bool { return nodes[1].Verdict(2) == Present && nodes[2].Verdict(1) == Present })
	})
}

// TestHeardOnItsOwnConnection: the address of a node is wrong, or a firewall is
// before it. It dials us, and lives.
func TestHeardOnItsOwnConnection(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, nodes := mesh(t, 2, nil)
		pass(time.Second)
		nodes[1].SetAddress(2, "") // it is not known for a moment, as while this node joins
		nodes[1].SetAddress(2, "nowhere:1")
		pass(10 * time.Second)
		if nodes[1].Up(2) {
			t.Fatal("connected to nowhere")
		}
		if got := nodes[1].Verdict(2); got != Present {
			t.Errorf("%v, though it pings us", got)
		}
		pass(30 * time.Millisecond) // not when the watch looks by itself
		nodes[2].Close()
		synctest.Wait()
		if got := nodes[1].Suspects(); len(got) != 1 {
			t.Errorf("suspects %v when its last connection had ended", got)
		}
	})
}

// TestNewcomerIsNoSignOfLife: what names no cluster is not the node that was there.
func TestNewcomerIsNoSignOfLife(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		network, nodes := mesh(t, 2, nil)
		pass(time.Second)
		kill(network, nodes[2])
		await(t, time.Second, "gone", func() bool { return nodes[1].Verdict(2) == Gone })
		wiped := startNode(t, network, Identity{Node: 2, Incarnation: 99}, func(c *Config) { // listens elsewhere
			c.Listener.Close()
			c.Listener = nil
		})
		wiped.SetAddress(1, meshAddress(1))
		pass(5 * time.Second)
		if !wiped.Up(1) {
			t.Fatal("the newcomer is not connected")
		}
		if got := nodes[1].Verdict(2); got != Gone {
			t.Errorf("%v: another disk stands in for the node", got)
		}
	})
}

// TestReaderThatWaitsMissesNobody: the peer's requests fill its memory here; nothing
// is read, and nothing follows from that.
func TestReaderThatWaitsMissesNobody(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, nodes := mesh(t, 2, func(c *Config) { c.PeerMemory = 1 })
		nodes[1].Handle(MethodJoin, func(r *Request) { <-r.Context().Done(); r.Reply() })
		pass(time.Second)
		nodes[1].SetAddress(2, "nowhere:1") // so that only the accepted connection is heard
		for range 2 {
			go nodes[2].Call(t.Context(), 1, Control, MethodJoin)
		}
		pass(silenceLimit - time.Second)
		if got := nodes[1].Verdict(2); got != Present {
			t.Error(got)
		}
	})
}

// TestPulseLearnsTheNetwork: a second is enough where pings come as they are sent,
// and not where gaps of most of a second are usual.
func TestPulseLearnsTheNetwork(t *testing.T) {
	for _, c := range []struct {
		name      string
		gaps      []time.Duration
		atMost    time.Duration // silence that is silence
		tolerates time.Duration // silence that is none
	}{
		{"steady", []time.Duration{100, 100, 100}, 1100, 1000},
		{"bursts", []time.Duration{99, 1, 0, 0, 99, 1}, 1100, 1000},
		{"jitter", []time.Duration{50, 150, 80, 120}, 1100, 1000},
		{"slow and irregular", []time.Duration{100, 900, 100, 700}, 3100, 2000},
		{"the same in bursts", []time.Duration{100, 0, 0, 0, 0, 0, 0, 0, 0, 900, 0, 0, 0, 0, 0, 0, 0, 0}, 3100, 2000},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &pulse{mean: pingInterval}
			var now time.Duration
			for i := range 100 * len(c.gaps) {
				now += c.gaps[i%len(c.gaps)] * time.Millisecond
				p.beat(now, now)
			}
			if p.silent(now + c.tolerates*time.Millisecond) {
				t.Errorf("silent after %v ms (mean %v, deviation %v)", int64(c.tolerates), p.mean, p.dev)
			}
			if !p.silent(now + c.atMost*time.Millisecond) {
				t.Errorf("not silent after %v ms (mean %v, deviation %v)", int64(c.atMost), p.mean, p.dev)
			}
		})
	}
}

// TestFaultTeachesNoPatience: a node that was silent for long and comes back is
// missed as soon as before when it falls silent again.
func TestFaultTeachesNoPatience(t *testing.T) {
	p := &pulse{mean: pingInterval}
	now := time.Hour
	for range 2 {
		p.beat(now, now)
		if !p.silent(now + silenceFloor + pingInterval) {
			t.Errorf("mean %v, deviation %v after a fault", p.mean, p.dev)
		}
		now += time.Minute
	}
}

// TestStoppedProcessMissesNobody: this process got no processor for a minute. Its
// peers were not silent.
func TestStoppedProcessMissesNobody(t *testing.T) {
	m := New(Config{Identity: func() Identity { return Identity{Node: 1} }})
	p := m.newPulse()
	m.wake(time.Minute)
	if p.silent(time.Duration(m.awake.Load())) {
		t.Error("silent after a pause of ours")
	}
	for range 12 {
		m.wake(pingInterval)
	}
	if !p.silent(time.Duration(m.awake.Load())) {
		t.Error("not silent after a second of ours")
	}
}

// TestStoppedProcessClosesNothing: nor does it close its connections, which have the
// pings of that minute in them.
func TestStoppedProcessClosesNothing(t *testing.T) {
	own := Identity{Node: 1}
	m := New(Config{Identity: func() Identity { return own }, Logger: quiet})
	here, there := net.Pipe()
	defer there.Close()
	c := m.newConn(here, Peer{Node: 2}, own, Control, true)
	m.conns[c] = struct{}{}
	closed := func() bool {
		m.inspect(c, own, 0)
		select {
		case <-c.done:
			return true
		default:
			return false
		}
	}
	m.epoch = m.epoch.Add(-time.Minute) // the minute has passed
	m.wake(time.Minute)
	if closed() {
		t.Fatal("closed after a pause of ours")
	}
	for range silenceLimit / pingInterval {
		m.wake(pingInterval)
	}
	if !closed() {
		t.Error("not closed after three seconds of ours")
	}
}

// TestRefusedByTheKernel: the text of a dial's error is not looked at, its number is.
func TestRefusedByTheKernel(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	m := New(Config{Identity: func() Identity { return Identity{Node: 1} }})
	m.Start()
	defer m.Close()
	if _, err := m.dial(t.Context(), l.Addr().String(), Control, 2); !isRefused(err) {
		t.Errorf("%v is not taken for refused", err)
	}
	if isRefused(nil) || isRefused(errSilent) {
		t.Error("everything is taken for refused")
	}
}
