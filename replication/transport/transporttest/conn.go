package transporttest

import (
	"io"
	"net"
	"sync"
	"time"
)

// conn is one end of a connection.
type conn struct {
	network       *Network
	local, remote addr
	in, out       *stream
	other         *conn
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close implements net.Conn: the other end reads what was sent, then io.EOF.
func (c *conn) Close() error {
	c.in.fail(net.ErrClosed)
	c.out.finish()
	c.network.mu.Lock()
	delete(c.network.conns, c)
	c.network.mu.Unlock()
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.in.readDeadline.set(t, c.in)
	c.out.writeDeadline.set(t, c.out)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { c.in.readDeadline.set(t, c.in); return nil }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.writeDeadline.set(t, c.out); return nil }

// stream is one direction of a connection.
type stream struct {
	network *Network
	link    linkKey

	readDeadline, writeDeadline deadline

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced whenever something below changes
	chunks   []chunk
	bytes    int   // in chunks
	finished bool  // the writer has closed: EOF behind the chunks
	err      error // the reader has closed, or the connection was reset
}

// chunk is one write.
type chunk struct {
	data []byte
	due  time.Time
}

// newStream is an empty direction over a link.
func newStream(n *Network, link linkKey) *stream {
	return &stream{network: n, link: link, changed: make(chan struct{})}
}

// announce wakes readers and writers; the caller holds mu.
func (s *stream) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// fail ends the direction for both sides at once.
func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		s.chunks = nil
		s.announce()
	}
}

// finish is the writer's close.
func (s *stream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
	s.announce()
}

// write waits for room in the window and queues a copy.
func (s *stream) write(p []byte) (int, error) {
	total := 0
	for {
		s.network.mu.Lock()
		state := *s.network.fault(s.link)
		deaf := s.network.fault(linkKey{s.link.to, s.link.from}).drop
		s.network.mu.Unlock()
		s.mu.Lock()
		switch {
		case s.finished:
			s.mu.Unlock()
			return total, net.ErrClosed
		case s.err == net.ErrClosed && deaf: // the reset does not arrive either
			s.mu.Unlock()
			return total + len(p), nil
		case s.err != nil:
			s.mu.Unlock()
			return total, ErrReset
		case s.writeDeadline.expired():
			s.mu.Unlock()
			return total, errTimeout
		}
		if n := min(window-s.bytes, len(p)); n > 0 {
			data := append([]byte(nil), p[:n]...)
			if state.corrupt {
				data[n/2] ^= 1 << 3
			}
			s.chunks = append(s.chunks, chunk{data: data, due: time.Now().Add(state.delay)})
			s.bytes += n
			total += n
			p = p[n:]
			s.announce()
		}
		changed := s.changed
		s.mu.Unlock()
		if state.corrupt && total > 0 {
			s.network.change(s.link.from, s.link.to, func(f *fault) { f.corrupt = false })
		}
		if len(p) == 0 {
			return total, nil
		}
		<-changed
	}
}

// read waits for bytes that have arrived.
func (s *stream) read(p []byte) (int, error) {
	for {
		s.network.mu.Lock()
		drop, link := s.network.fault(s.link).drop, s.network.changed
		s.network.mu.Unlock()
		n, changed, arrives, err := s.tryRead(p, drop)
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		var timer *time.Timer
		var due <-chan time.Time
		if !arrives.IsZero() {
			timer = time.NewTimer(time.Until(arrives))
			due = timer.C
		}
		select {
		case <-changed:
		case <-link:
		case <-due:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// tryRead copies what has arrived. Otherwise it tells what to wait for: a change,
// or the time at which the first chunk arrives.
func (s *stream) tryRead(p []byte, drop bool) (n int, changed <-chan struct{}, arrives time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = s.changed
	switch {
	case s.err != nil:
		return 0, nil, arrives, s.err
	case s.readDeadline.expired():
		return 0, nil, arrives, errTimeout
	case drop:
		return 0, changed, arrives, nil
	}
	for n < len(p) && len(s.chunks) > 0 {
		first := &s.chunks[0]
		if time.Now().Before(first.due) {
			arrives = first.due
			break
		}
		k := copy(p[n:], first.data)
		first.data = first.data[k:]
		n += k
		if len(first.data) == 0 {
			s.chunks = s.chunks[1:]
		}
	}
	if n > 0 {
		s.bytes -= n
		s.announce()
		return n, nil, arrives, nil
	}
	if s.finished && len(s.chunks) == 0 {
		return 0, nil, arrives, io.EOF
	}
	return 0, changed, arrives, nil
}

// deadline is a time after which waits end.
type deadline struct {
	mu    sync.Mutex
	at    time.Time
	timer *time.Timer
}

// set changes the deadline and has the stream's waits look again.
func (d *deadline) set(t time.Time, s *stream) {
	d.mu.Lock()
	d.at = t
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			s.mu.Lock()
			s.announce()
			s.mu.Unlock()
		})
	}
	d.mu.Unlock()
	s.mu.Lock()
	s.announce()
	s.mu.Unlock()
}

// expired reports whether the deadline has passed.
func (d *deadline) expired() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.at.IsZero() && !time.Now().Before(d.at)
}
