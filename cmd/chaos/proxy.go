//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// retransmission is how much later bytes arrive when the first try was lost: what a
// receiver of TCP sees of loss.
const retransmission = 200 * time.Millisecond

// chunkBytes is how much a proxy moves at once.
const chunkBytes = 16 << 10

// weather is what a proxy does to the bytes of a link, in both directions.
type weather struct {
	// delay is how long bytes are under way, jitter by how much that varies.
	delay, jitter time.Duration
	// loss is the part of the chunks, of a hundred, that arrives only at the second try.
	loss int
	// flips is how many of a million chunks have one bit flipped.
	flips int
}

// proxy stands before a broker's address and passes connections on.
type proxy struct {
	listener net.Listener
	target   string
	weather  atomic.Pointer[weather]
	flipped  atomic.Int64

	context context.Context
	cancel  context.CancelFunc
	ends    sync.WaitGroup
}

// newProxy listens at an address for another one.
func newProxy(listen, target string) (*proxy, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &proxy{listener: l, target: target}
	p.context, p.cancel = context.WithCancel(context.Background())
	p.weather.Store(&weather{})
	p.ends.Go(p.accept)
	return p, nil
}

func (p *proxy) set(w weather) { p.weather.Store(&w) }

// close ends all connections and waits until nothing is left.
func (p *proxy) close() {
	p.cancel()
	p.listener.Close()
	p.ends.Wait()
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.ends.Go(func() { p.pass(client) })
	}
}

// pass connects both sides until one of them ends, or the proxy does. A target that
// refuses is passed on as a reset, so that a dead broker looks dead.
func (p *proxy) pass(client net.Conn) {
	defer client.Close()
	broker, err := net.DialTimeout("tcp", p.target, time.Second)
	if err != nil {
		client.(*net.TCPConn).SetLinger(0)
		return
	}
	defer broker.Close()
	stop := context.AfterFunc(p.context, func() { client.Close(); broker.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { p.copy(broker, client); broker.Close(); client.Close() })
	both.Go(func() { p.copy(client, broker); broker.Close(); client.Close() })
	both.Wait()
}

// parcel is bytes under way.
type parcel struct {
	bytes []byte
	due   time.Time
}

// copy moves bytes in order, each when it is due. The queue is the cable: what is
// under way does not keep what comes behind it from leaving.
func (p *proxy) copy(to, from net.Conn) {
	cable := make(chan parcel, 1024)
	var sending sync.WaitGroup
	sending.Go(func() {
		for parcel := range cable {
			if wait := time.Until(parcel.due); wait > 0 {
				rest(p.context, wait)
			}
			if _, err := to.Write(parcel.bytes); err != nil {
				from.Close()
				for range cable {
				}
				return
			}
		}
	})
	for {
		buf := make([]byte, chunkBytes)
		n, err := from.Read(buf)
		if n > 0 {
			cable <- parcel{bytes: p.damage(buf[:n]), due: time.Now().Add(p.underWay())}
		}
		if err != nil {
			break
		}
	}
	close(cable)
	sending.Wait()
}

func (p *proxy) underWay() time.Duration {
	w := p.weather.Load()
	d := w.delay
	if w.jitter > 0 {
		d += rand.N(2*w.jitter) - w.jitter
	}
	if rand.IntN(100) < w.loss {
		d += retransmission
	}
	return d
}

func (p *proxy) damage(b []byte) []byte {
	if w := p.weather.Load(); w.flips > 0 && rand.IntN(1_000_000) < w.flips {
		b[rand.IntN(len(b))] ^= 1 << rand.IntN(8)
		p.flipped.Add(1)
	}
	return b
}

// rest waits for d; false when ctx has ended.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
