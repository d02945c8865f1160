package client_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/client"
)

// frost is a network that can be made to stand still, as when a broker's process is
// stopped: what is sent is taken, and no answer comes.
type frost struct {
	mu    sync.Mutex
	still chan struct{} // closed: it thaws; nil: it flows
}

func (f *frost) freeze() { f.set(make(chan struct{})) }

func (f *frost) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.still != nil {
		close(f.still)
		f.still = nil
	}
}

func (f *frost) set(c chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.still = c
}

// wait gives false when the connection was closed before a thaw.
func (f *frost) wait(closed <-chan struct{}) bool {
	f.mu.Lock()
	still := f.still
	f.mu.Unlock()
	if still == nil {
		return true
	}
	select {
	case <-still:
		return true
	case <-closed:
		return false
	}
}

func (f *frost) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &frozenConn{Conn: conn, frost: f, closed: make(chan struct{})}, nil
}

// frozenConn is a connection whose answers the frost holds back.
type frozenConn struct {
	net.Conn
	frost  *frost
	once   sync.Once
	closed chan struct{}
}

// Read implements net.Conn.
func (c *frozenConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.frost.wait(c.closed) {
		return 0, net.ErrClosed
	}
	return n, err
}

// Close implements net.Conn.
func (c *frozenConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// frozen opens a client, makes a topic of one partition, and stops the answers.
func frozen(t *testing.T) (*client.Client, *frost, string) {
	f := &frost{}
	c := open(t, client.WithKgo(kgo.Dialer(f.dial)))
	topic := newTopic(t, c, 1)
	numbers(t, c, topic, 1)
	f.freeze()
	t.Cleanup(f.thaw) // before the client is closed
	return c, f, topic
}

// TestProduceEndsWithItsContext: a record in flight has no outcome yet; Produce must
// not wait for it beyond ctx, and must not say that it was not written.
func TestProduceEndsWithItsContext(t *testing.T) {
	c, f, topic := frozen(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	record := &client.Record{Topic: topic, Value: []byte("sent")}
	err := c.Produce(ctx, record)
	if !errors.Is(err, client.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if client.Retryable(err) {
		t.Error("it counts as retryable, but may write the record twice")
	}
	var failed *client.ProduceError
	if !errors.As(err, &failed) || len(failed.Failed) != 1 || failed.Failed[0].Record != record {
		t.Errorf("error is %#v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if err := c.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flushing: %v", err)
	}
	*record = client.Record{} // it is the caller's again: the race detector watches
	f.thaw()
	if err := c.Flush(limited(t)); err != nil {
		t.Fatal(err)
	}
	got := values(t, subscribe(t, c, client.Topics(topic), client.Until(client.End())))
	if len(got) != 2 || got[1] != "sent" {
		t.Errorf("read %q: the record was sent once", got)
	}
}

// TestProduceAfterTheEnd: what was never sent is known not to be written.
func TestProduceAfterTheEnd(t *testing.T) {
	c := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := c.Produce(ctx, &client.Record{Topic: topicName(t), Value: []byte("x")})
	if !errors.Is(err, context.Canceled) || errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("error is %v", err)
	}
}

// TestCloseTellsOfUnknownOutcomes: also at a broker that never answers the callback of
// each record is called, and no Close returns before.
func TestCloseTellsOfUnknownOutcomes(t *testing.T) {
	c, _, topic := frozen(t)
	c.CloseWithin(200 * time.Millisecond)
	result := make(chan error, 1)
	c.ProduceAsync(t.Context(), &client.Record{Topic: topic, Value: []byte("x")}, func(_ *client.Record, err error) { result <- err })
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			errs <- c.Close()
			select {
			case err := <-result:
				result <- err
			default:
				t.Error("Close returned before it was done")
			}
			errs <- nil
		}()
	}
	var closed []error
	for range 4 {
		if err := <-errs; err != nil {
			closed = append(closed, err)
		}
	}
	if len(closed) != 2 || !errors.Is(closed[0], client.ErrOutcomeUnknown) || !errors.Is(closed[1], client.ErrOutcomeUnknown) {
		t.Errorf("closing: %v", closed)
	}
	if err := <-result; !errors.Is(err, client.ErrOutcomeUnknown) || !errors.Is(err, client.ErrClosed) {
		t.Errorf("callback: %v", err)
	}
}

// TestBufferedBytesAreBounded: a broker that stands still must not cost all memory.
func TestBufferedBytesAreBounded(t *testing.T) {
	c, _, topic := frozen(t)
	const limit, size = 64 << 20, 900_000
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	value := make([]byte, size)
	for range limit/size + 5 {
		c.ProduceAsync(ctx, &client.Record{Topic: topic, Value: value}, nil)
	}
	if buffered := c.Kgo().BufferedProduceBytes(); buffered > limit || buffered < limit-2*size {
		t.Errorf("%d bytes are buffered, want at most and nearly %d", buffered, limit)
	}
	if ctx.Err() == nil {
		t.Error("the last did not wait for room")
	}
}
