package seeding

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/replication/transport/transporttest"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// network gives calls to a node's handlers, as another node.
type network struct {
	from     metadata.NodeID
	handlers map[transport.Method]transport.Handler
	calls    int
	fail     func(call int, method transport.Method) error // before the handler
}

func (n *network) handle(m transport.Method, h transport.Handler) { n.handlers[m] = h }

func newNetwork() *network {
	return &network{from: 2, handlers: map[transport.Method]transport.Handler{}}
}

func (n *network) Up(metadata.NodeID) bool { return true }

func (n *network) Call(ctx context.Context, _ metadata.NodeID, class transport.Class, method transport.Method, body ...[]byte) (answer []byte, err error) {
	n.calls++
	if class != transport.Seed {
		return nil, errors.New("not on the connection for seeds")
	}
	if n.fail != nil {
		if err := n.fail(n.calls, method); err != nil {
			return nil, err
		}
	}
	r := transport.NewRequest(ctx, transport.Peer{Node: n.from}, class, method, bytes.Join(body, nil),
		func(bodies [][]byte, e error) { answer, err = bytes.Join(bodies, nil), e })
	n.handlers[method](r)
	return answer, err
}

// memory is a source, and the sink of a copy.
type memory struct {
	seed   log.Seed
	files  [][]byte
	closed int
	failed error // of ReadAt or Write
}

// newMemory is a source whose middle file is large; version changes its content.
func newMemory(version byte, size int) *memory {
	m := &memory{seed: testSeed()}
	m.seed.Files[1].Size, m.seed.Files[1].Sum = int64(size), uint32(version)
	for _, f := range m.seed.Files {
		b := make([]byte, f.Size)
		for i := range b {
			b[i] = byte(i)*31 + byte(i>>10) + version
		}
		m.files = append(m.files, b)
	}
	return m
}

func (m *memory) Seed() *log.Seed { return &m.seed }

func (m *memory) ReadAt(file int, p []byte, at int64) (int, error) {
	if m.failed != nil {
		return 0, m.failed
	}
	return copy(p, m.files[file][at:]), nil
}

// sink is an empty one for a seed.
func sink(seed log.Seed) *memory { return &memory{seed: seed, files: make([][]byte, len(seed.Files))} }

func (m *memory) Next() (file int, at, lacks int64, more bool) {
	for i, f := range m.seed.Files {
		if n := int64(len(m.files[i])); n < f.Size {
			return i, n, f.Size - n, true
		}
	}
	return 0, 0, 0, false
}

func (m *memory) Write(b []byte) error {
	if m.failed != nil {
		return m.failed
	}
	file, _, _, _ := m.Next()
	m.files[file] = append(m.files[file], b...)
	return nil
}

func (m *memory) Close() error { m.closed++; return nil }

// serve makes a server that gives what *source is.
func serve(n *network, source **memory) *Server {
	return NewServer(n.handle, ServerConfig{Open: func(group transport.GroupID, at segment.Index) (Source, error) {
		if group != testGroup || at != 0 && at != (*source).seed.Index {
			return nil, log.ErrNotFound
		}
		return *source, nil
	}})
}

// fetch is a copy from a network into the last of the sinks.
func fetch(n *network, sinks *[]*memory) *Fetch {
	return &Fetch{Network: n, Node: 1, Group: testGroup, Open: func(s log.Seed) (Sink, error) {
		*sinks = append(*sinks, sink(s))
		return (*sinks)[len(*sinks)-1], nil
	}}
}

func same(t *testing.T, got Sink, want *memory) {
	t.Helper()
	m, ok := got.(*memory)
	if !ok || len(m.files) != len(want.files) || m.closed != 0 {
		t.Fatalf("the sink is %+v", got)
	}
	for i := range want.files {
		if !bytes.Equal(m.files[i], want.files[i]) {
			t.Errorf("file %d differs", i)
		}
	}
}

// TestFetchGoesOn: calls that fail because the giver is away, before or after they were
// carried out, and a giver that has forgotten everything, cost one call more, and no
// byte is read twice.
func TestFetchGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newMemory(0, 4*MaxRead+5)
		for at := 1; at <= 8; at++ {
			for _, lost := range []error{transport.ErrPeerDown, transport.ErrConnectionLost, nil} {
				n := newNetwork()
				serve(n, &source)
				n.fail = func(call int, _ transport.Method) error {
					if call == at && lost == nil {
						serve(n, &source) // it restarts, and knows no session
					} else if call == at {
						return lost
					}
					return nil
				}
				var sinks []*memory
				got, err := fetch(n, &sinks).Run(t.Context())
				if err != nil {
					t.Fatalf("call %d, %v: %v", at, lost, err)
				}
				same(t, got, source)
				if len(sinks) != 1 || n.calls > 8+2 {
					t.Errorf("call %d, %v: %d sinks, %d calls", at, lost, len(sinks), n.calls)
				}
			}
		}
	})
}

// TestFetchChangedSeed: a giver that has another seed by then is asked for that, into a
// new sink; the old one is closed.
func TestFetchChangedSeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newMemory(0, 4*MaxRead)
		source := old
		n := newNetwork()
		serve(n, &source)
		n.fail = func(call int, _ transport.Method) error {
			if call == 4 {
				source, old.failed = newMemory(9, 2*MaxRead), log.ErrSeedChanged
			}
			return nil
		}
		var sinks []*memory
		got, err := fetch(n, &sinks).Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, source)
		if len(sinks) != 2 || sinks[0].closed != 1 {
			t.Errorf("%d sinks, the first closed %d times", len(sinks), sinks[0].closed)
		}
	})
}

// TestFetchEnds: with what cannot get better, and then the sink is closed.
func TestFetchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("disk full")
		for name, harm := range map[string]struct {
			do   func(*Fetch, *network, *memory)
			want func(error) bool
		}{
			"no such end": {func(f *Fetch, _ *network, _ *memory) { f.At = 899 }, func(err error) bool {
				var remote *transport.RemoteError
				return errors.As(err, &remote) && remote.Code == CodeNothing
			}},
			"another end": {func(f *Fetch, n *network, m *memory) {
				f.At = 899
				NewServer(n.handle, ServerConfig{Open: func(transport.GroupID, segment.Index) (Source, error) { return m, nil }})
			}, func(err error) bool { return errors.Is(err, errMalformed) }},
			"no such group":    {func(f *Fetch, _ *network, _ *memory) { f.Group.Partition++ }, func(err error) bool { return err != nil }},
			"giver's disk":     {func(_ *Fetch, _ *network, m *memory) { m.failed = io.ErrUnexpectedEOF }, func(err error) bool { return err != nil }},
			"refused by Open":  {func(f *Fetch, _ *network, _ *memory) { f.Open = func(log.Seed) (Sink, error) { return nil, full } }, func(err error) bool { return errors.Is(err, full) }},
			"sink is full":     {failingSink(full), func(err error) bool { return errors.Is(err, full) }},
			"always damaged":   {failingSink(log.ErrSeedDamaged), func(err error) bool { return errors.Is(err, log.ErrSeedDamaged) }},
			"nobody wants it":  {cancelled, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }},
			"short answer":     {answering(func(b []byte) []byte { return b[:len(b)-1] }), func(err error) bool { return errors.Is(err, errMalformed) }},
			"longer answer":    {answering(func(b []byte) []byte { return append(b, 0) }), func(err error) bool { return errors.Is(err, errMalformed) }},
			"answer of future": {answering(func(b []byte) []byte { b[0]++; return b }), func(err error) bool { return errors.Is(err, errMalformed) }},
		} {
			source := newMemory(0, 2*MaxRead)
			n := newNetwork()
			serve(n, &source)
			var sinks []*memory
			f := fetch(n, &sinks)
			harm.do(f, n, source)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			got, err := f.Run(ctx)
			cancel()
			if got != nil || !harm.want(err) {
				t.Errorf("%s: %v", name, err)
			}
			if len(sinks) > 0 && sinks[len(sinks)-1].closed != 1 {
				t.Errorf("%s: the sink was closed %d times", name, sinks[0].closed)
			}
		}
	})
}

func failingSink(err error) func(*Fetch, *network, *memory) {
	return func(f *Fetch, _ *network, _ *memory) {
		open := f.Open
		f.Open = func(s log.Seed) (Sink, error) {
			got, _ := open(s)
			got.(*memory).failed = err
			return got, nil
		}
	}
}

func cancelled(_ *Fetch, n *network, _ *memory) {
	n.fail = func(call int, _ transport.Method) error {
		if call > 3 {
			return transport.ErrPeerDown
		}
		return nil
	}
}

// answering changes the answers to reads.
func answering(change func([]byte) []byte) func(*Fetch, *network, *memory) {
	return func(_ *Fetch, n *network, _ *memory) {
		read := n.handlers[transport.MethodSeedRead]
		n.handlers[transport.MethodSeedRead] = func(r *transport.Request) {
			read(transport.NewRequest(r.Context(), r.Peer, r.Class, r.Method, r.Body, func(bodies [][]byte, err error) {
				r.Reply(change(bytes.Join(bodies, nil)))
			}))
		}
	}
}

// TestThrottle: each side keeps a copy at its rate.
func TestThrottle(t *testing.T) {
	for name, limit := range map[string]func(*Fetch, *Server, *rate.Limiter){
		"giver": func(_ *Fetch, s *Server, l *rate.Limiter) { s.config.Throttle = l },
		"taker": func(f *Fetch, _ *Server, l *rate.Limiter) { f.Throttle = l },
	} {
		synctest.Test(t, func(t *testing.T) {
			source := newMemory(0, 11*MaxRead)
			n := newNetwork()
			s := serve(n, &source)
			var sinks []*memory
			f := fetch(n, &sinks)
			limit(f, s, NewThrottle(MaxRead/2))
			begun := time.Now()
			got, err := f.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, source)
			if took := time.Since(begun); took < 20*time.Second || took > 21*time.Second {
				t.Errorf("%s: 11 MiB at 512 KiB/s, of which 1 MiB at once, took %v", name, took)
			}
		})
	}
}

// TestSessions: a session is its node's alone, and of too many the one that was read
// last is kept.
func TestSessions(t *testing.T) {
	source := newMemory(0, 100)
	n := newNetwork()
	serve(n, &source)
	ask := func(method transport.Method, body []byte) ([]byte, transport.Code) {
		answer, err := n.Call(t.Context(), 1, transport.Seed, method, body)
		var remote *transport.RemoteError
		if err != nil && !errors.As(err, &remote) {
			t.Fatal(err)
		} else if err != nil {
			return nil, remote.Code
		}
		return answer, 0
	}
	open := func() uint64 {
		answer, _ := ask(transport.MethodSeedDescribe, describe{group: testGroup}.encode())
		session, _, err := decodeSeed(testGroup, answer)
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	part := func(session uint64, at int64, length int) transport.Code {
		_, code := ask(transport.MethodSeedRead, read{session: session, file: 1, position: at, length: length}.encode())
		return code
	}
	first, second := open(), open()
	for range maxSessions - 2 {
		open()
	}
	if code := part(first, 0, 100); code != 0 {
		t.Fatalf("code %d", code)
	}
	open()
	if code := part(first, 99, 1); code != 0 {
		t.Errorf("the session read last was forgotten: code %d", code)
	}
	if code := part(second, 0, 1); code != CodeChanged {
		t.Errorf("more than %d sessions: code %d", maxSessions, code)
	}
	for _, beyond := range [][2]int64{{100, 1}, {0, 101}, {1 << 62, 1}} {
		if code := part(first, beyond[0], int(beyond[1])); code != transport.CodeBadRequest {
			t.Errorf("%d bytes at %d of 100: code %d", beyond[1], beyond[0], code)
		}
	}
	n.from = 3
	if code := part(first, 0, 1); code != CodeChanged {
		t.Errorf("another node's session: code %d", code)
	}
}

// TestSeedOverMux copies a log over the real mux into a staging folder, loses the
// connection in the middle, and opens the copy.
func TestSeedOverMux(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := filledLog(t)
		defer l.Close()
		wire := transporttest.New()
		giver, taker := newMux(t, wire, 1), newMux(t, wire, 2)
		defer giver.Close()
		defer taker.Close()
		slow := NewThrottle(64 << 10)
		slow.AllowN(time.Now(), MaxRead)
		NewServer(giver.Handle, ServerConfig{Throttle: slow, Open: func(_ transport.GroupID, at segment.Index) (Source, error) { return l.OpenSeed(at) }})
		o := logOptions(0xbeef)
		f := &Fetch{Network: taker, Node: 1, Group: transport.GroupID{Topic: o.Identity.TopicID}, Open: func(s log.Seed) (Sink, error) { return log.OpenStaging(o, s) }}
		begun := time.Now()
		lost := time.AfterFunc(5*time.Second, func() { wire.Reset(transporttest.Host(muxAddress(1)), transporttest.Host(muxAddress(2))) })
		if got, err := f.Run(t.Context()); err != nil {
			t.Fatal(err)
		} else if err := got.(*log.Staging).Switch(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); lost.Stop() || took > time.Minute {
			t.Errorf("it took %v, and the connection was not lost meanwhile", took)
		}
		r, err := log.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for i := segment.Index(1); i <= r.LastIndex(); i++ {
			a, _, aErr := l.ReadEntries(i, 1, 1)
			b, _, bErr := r.ReadEntries(i, 1, 1)
			if aErr != nil || bErr != nil || !bytes.Equal(a, b) {
				t.Fatalf("entry %d: %v, %v", i, aErr, bErr)
			}
		}
		if r.LastIndex() < 100 {
			t.Errorf("%d entries", r.LastIndex())
		}
	})
}

func muxAddress(node metadata.NodeID) string { return []string{"", "a:1", "b:1"}[node] }

func newMux(t *testing.T, wire *transporttest.Network, node metadata.NodeID) *transport.Mux {
	t.Helper()
	listener, err := wire.Listen(muxAddress(node))
	if err != nil {
		t.Fatal(err)
	}
	mux := transport.New(transport.Config{
		Listener: listener, Dial: wire.Dialer(transporttest.Host(muxAddress(node))), Logger: slog.New(slog.DiscardHandler),
		Identity: func() transport.Identity {
			return transport.Identity{Node: node, Incarnation: 1, Cluster: "cluster"}
		},
	})
	mux.SetAddress(3-node, muxAddress(3-node))
	mux.Start()
	return mux
}

func logOptions(incarnation uint64) log.Options {
	return log.Options{FS: crashfs.New(1).Mount(), Dir: "/topics/t/0", SegmentBytes: 64 << 10, Identity: log.Identity{
		Topic: "t", TopicID: segment.TopicID{9}, Incarnation: incarnation,
	}}
}

// filledLog has about 700 KB in segments of 64 KiB, all of it applied.
func filledLog(t *testing.T) *log.Log {
	t.Helper()
	l, err := log.Create(logOptions(1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 120 {
		frame := segment.Build([]segment.Record{{Value: bytes.Repeat([]byte{byte(i), byte(i >> 3)}, 3000)}}, segment.BuildOptions{})
		a := l.Begin()
		segment.Stamp(frame, a.NextOffset(), 1)
		if err := errors.Join(a.Stage(log.Entry{Index: a.NextIndex(), Term: 1, Kind: segment.KindRecords, Frame: frame}), a.Commit()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Apply(l.LastIndex()); err != nil {
		t.Fatal(err)
	}
	return l
}
