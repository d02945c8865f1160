package server

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// acceptBackoffMin and acceptBackoffMax bound the pause after an accept that
	// failed for lack of descriptors or memory; connections wait in the system's
	// queue meanwhile.
	acceptBackoffMin = 5 * time.Millisecond
	acceptBackoffMax = time.Second
)

// listener accepts client connections and owns them.
type listener struct {
	node   *node
	net    net.Listener
	logger *slog.Logger

	mu struct {
		sync.Mutex
		conns    map[*conn]struct{}
		hosts    map[string]int // connections by remote host
		stopping bool
	}
	wg   sync.WaitGroup // the accept loop and every connection
	stop chan struct{}
}

func newListener(n *node, l net.Listener) *listener {
	ln := &listener{node: n, net: l, logger: n.logger, stop: make(chan struct{})}
	ln.mu.conns = map[*conn]struct{}{}
	ln.mu.hosts = map[string]int{}
	return ln
}

// start begins to accept.
func (l *listener) start() {
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		l.accept()
	}()
}

// accept is the accept loop. It ends with the listener.
func (l *listener) accept() {
	backoff := acceptBackoffMin
	for {
		c, err := l.net.Accept()
		if err == nil {
			backoff = acceptBackoffMin
			l.take(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		l.logger.Warn("accept a client connection", "err", err, "again_in", backoff, "descriptors_used_up", errors.Is(err, syscall.EMFILE))
		select {
		case <-time.After(backoff):
		case <-l.stop:
			return
		}
		backoff = min(2*backoff, acceptBackoffMax)
	}
}

// take serves a connection, or closes it if there are too many.
func (l *listener) take(c net.Conn) {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		host = c.RemoteAddr().String()
	}
	cn := newConn(l.node, c)
	l.mu.Lock()
	refuse := l.mu.stopping || len(l.mu.conns) >= l.node.settings.maxConnections ||
		l.mu.hosts[host] >= l.node.settings.maxPerAddress
	if !refuse {
		l.mu.conns[cn] = struct{}{}
		l.mu.hosts[host]++
		l.wg.Add(1)
	}
	l.mu.Unlock()
	if refuse {
		cn.cancel(errDraining)
		c.Close()
		return
	}
	go func() {
		defer l.wg.Done()
		cn.serve()
		l.forget(cn, host)
	}()
}

func (l *listener) forget(c *conn, host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.mu.conns, c)
	if l.mu.hosts[host]--; l.mu.hosts[host] == 0 {
		delete(l.mu.hosts, host)
	}
}

// connections is how many there are.
func (l *listener) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.mu.conns)
}

// stopAccepting closes the listening socket; connections stay.
func (l *listener) stopAccepting() {
	l.mu.Lock()
	first := !l.mu.stopping
	l.mu.stopping = true
	l.mu.Unlock()
	if first {
		close(l.stop)
		l.net.Close()
	}
}

// drain lets every connection answer what it has read, for at most grace, and
// ends it.
func (l *listener) drain(grace time.Duration) {
	l.stopAccepting()
	l.mu.Lock()
	for c := range l.mu.conns {
		c.drain()
	}
	l.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.wg.Wait()
	}()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-timer.C:
	}
	l.kill()
	<-done
}

// kill ends every connection at once, in the middle of whatever it does.
func (l *listener) kill() {
	l.stopAccepting()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.mu.conns {
		c.cancel(errDraining)
		c.net.Close()
	}
}
