package transport

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/replication/metadata"
)

// fakeNetwork connects nodes by function calls. Links go up and down, requests
// may be delivered more than once and late.
type fakeNetwork struct {
	mu    sync.Mutex
	nodes map[metadata.NodeID]*fakeNode
	down  map[[2]metadata.NodeID]bool
	lost  map[[2]metadata.NodeID]chan struct{} // closed when the link goes down
	work  sync.WaitGroup

	// deliveries, if set, says after which times a request arrives; the caller
	// gets the first answer.
	deliveries func(from, to metadata.NodeID, method Method) []time.Duration
	// sent, if set, is told of each request before it is delivered.
	sent func(from, to metadata.NodeID, method Method, body []byte)
}

// fakeNode is one node's end; it is a Server.
type fakeNode struct {
	network  *fakeNetwork
	id       metadata.NodeID
	handlers map[Method]Handler
	watchers map[chan<- struct{}]bool
}

func newFakeNetwork(t *testing.T) *fakeNetwork {
	n := &fakeNetwork{nodes: map[metadata.NodeID]*fakeNode{}, down: map[[2]metadata.NodeID]bool{}, lost: map[[2]metadata.NodeID]chan struct{}{}}
	t.Cleanup(n.work.Wait)
	return n
}

// node adds a node.
func (n *fakeNetwork) node(id metadata.NodeID) *fakeNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	node := &fakeNode{network: n, id: id, handlers: map[Method]Handler{}, watchers: map[chan<- struct{}]bool{}}
	n.nodes[id] = node
	return node
}

// pair names a link, whichever direction.
func pair(a, b metadata.NodeID) [2]metadata.NodeID { return [2]metadata.NodeID{min(a, b), max(a, b)} }

// setLink takes the link between two nodes up or down; calls under way are lost.
func (n *fakeNetwork) setLink(a, b metadata.NodeID, up bool) {
	n.mu.Lock()
	n.down[pair(a, b)] = !up
	if lost := n.lost[pair(a, b)]; lost != nil && !up {
		close(lost)
		delete(n.lost, pair(a, b))
	}
	n.mu.Unlock()
	n.notify()
}

// isolate takes all links of a node up or down.
func (n *fakeNetwork) isolate(id metadata.NodeID, up bool) {
	n.mu.Lock()
	var others []metadata.NodeID
	for other := range n.nodes {
		if other != id {
			others = append(others, other)
		}
	}
	n.mu.Unlock()
	for _, other := range others {
		n.setLink(id, other, up)
	}
}

// notify tells everybody who watches.
func (n *fakeNetwork) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, node := range n.nodes {
		for ch := range node.watchers {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}

// Up implements Network.
func (f *fakeNode) Up(node metadata.NodeID) bool {
	f.network.mu.Lock()
	defer f.network.mu.Unlock()
	return f.network.nodes[node] != nil && !f.network.down[pair(f.id, node)]
}

// Handle implements Server.
func (f *fakeNode) Handle(method Method, handler Handler) {
	f.network.mu.Lock()
	defer f.network.mu.Unlock()
	f.handlers[method] = handler
}

// WatchPeers implements Server.
func (f *fakeNode) WatchPeers(ch chan<- struct{}) func() {
	f.network.mu.Lock()
	defer f.network.mu.Unlock()
	f.watchers[ch] = true
	return func() {
		f.network.mu.Lock()
		defer f.network.mu.Unlock()
		delete(f.watchers, ch)
	}
}

// fakeAnswer is what a handler replied.
type fakeAnswer struct {
	body []byte
	err  error
}

// Call implements Network.
func (f *fakeNode) Call(ctx context.Context, node metadata.NodeID, class Class, method Method, body ...[]byte) ([]byte, error) {
	if !f.Up(node) {
		return nil, ErrPeerDown
	}
	n := f.network
	request := bytes.Join(body, nil)
	n.mu.Lock()
	target, lost := n.nodes[node], n.lost[pair(f.id, node)]
	if lost == nil {
		lost = make(chan struct{})
		n.lost[pair(f.id, node)] = lost
	}
	deliveries, sent := n.deliveries, n.sent
	n.mu.Unlock()
	if sent != nil {
		sent(f.id, node, method, request)
	}
	times := []time.Duration{0}
	if deliveries != nil {
		times = deliveries(f.id, node, method)
	}
	answers := make(chan fakeAnswer, len(times))
	for _, after := range times {
		n.work.Go(func() { target.receive(f.id, class, method, bytes.Clone(request), after, lost, answers) })
	}
	select {
	case a := <-answers:
		select {
		case <-lost: // first: an answer behind the end of its connection comes to nobody
			return nil, ErrConnectionLost
		default:
			return a.body, a.err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-lost:
		return nil, ErrConnectionLost
	}
}

// receive runs the handler of a request after a while, unless the link is lost.
func (f *fakeNode) receive(from metadata.NodeID, class Class, method Method, body []byte, after time.Duration, lost <-chan struct{}, answers chan<- fakeAnswer) {
	if after > 0 { // no timer for what is due: there may be thousands
		select {
		case <-time.After(after):
		case <-lost:
			return
		}
	}
	f.network.mu.Lock()
	handler := f.handlers[method]
	f.network.mu.Unlock()
	if handler == nil {
		answers <- fakeAnswer{err: &RemoteError{Code: CodeUnknownMethod}}
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	defer close(done)
	f.network.work.Go(func() {
		defer cancel()
		select {
		case <-lost:
		case <-done:
		}
	})
	handler(NewRequest(ctx, Peer{Node: from, Incarnation: 1}, class, method, body, func(bodies [][]byte, err error) {
		answers <- fakeAnswer{body: bytes.Join(bodies, nil), err: err}
	}))
}

// eventually polls until a condition holds.
func eventually(t *testing.T, within time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !condition() {
		if time.Since(start) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		<-time.After(time.Millisecond)
	}
	return time.Since(start)
}
