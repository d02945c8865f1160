package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// ErrGroupRegistered is a second facade for a group whose first is not closed.
var ErrGroupRegistered = errors.New("the raft group is registered already")

// GroupUp is what a replica says to its peers after each start of its raft
// instance (DESIGN 4.3 i). It wakes their held calls, and lets the replicas of a
// group without a leader agree on who campaigns.
type GroupUp struct {
	// Group is the group whose instance has started.
	Group GroupID
	// Replica is the server id of the replica that says so.
	Replica raft.ServerID
	// LastTerm and LastIndex are the last entry of its log.
	LastTerm segment.Term
	// LastIndex is the index of that entry.
	LastIndex segment.Index
	// Term is the term it is in.
	Term segment.Term
	// Leader is the leader it knows, empty for none.
	Leader raft.ServerID
	// Probation is 0, or says that the replica is on probation (DESIGN 4.4): it may
	// lack what it acknowledged to leaders of this term and before.
	Probation segment.Term
	// Withholds: it gives no votes.
	Withholds bool
}

// Server is what a router needs of the mux; *Mux is one.
type Server interface {
	Network
	// Handle sets the handler of a method; nil removes it.
	Handle(method Method, handler Handler)
	// WatchPeers sends on ch, without waiting, whenever Up of any node changes.
	WatchPeers(ch chan<- struct{}) (cancel func())
}

// RouterConfig is what a router needs.
type RouterConfig struct {
	// Server is the node's mux.
	Server Server
	// OnGroupUp is told of each GroupUp from a peer, after the held calls were
	// woken, in the goroutine of the request. May be nil.
	OnGroupUp func(from metadata.NodeID, up GroupUp)
}

// raftMethods are the methods whose requests go to a group's facade.
var raftMethods = [...]Method{MethodRaftAppend, MethodRaftVote, MethodRaftPreVote, MethodRaftTimeoutNow, MethodRaftSnapshot, MethodRaftHandOver}

// Router hands the raft requests that arrive at a node to the facades of its
// groups. It has one goroutine, for the peers that go up and down; requests are
// answered in the mux's own.
type Router struct {
	config RouterConfig
	cancel func() // of WatchPeers
	stop   chan struct{}
	once   sync.Once
	work   sync.WaitGroup

	mu     sync.RWMutex // never held while a facade is called
	groups map[GroupID]*Facade
}

// NewRouter makes a router and registers its handlers with the mux.
func NewRouter(config RouterConfig) *Router {
	r := &Router{config: config, stop: make(chan struct{}), groups: make(map[GroupID]*Facade)}
	changes := make(chan struct{}, 1)
	r.cancel = config.Server.WatchPeers(changes)
	for _, method := range raftMethods {
		config.Server.Handle(method, r.handleRaft)
	}
	config.Server.Handle(MethodGroupUp, r.handleGroupUp)
	r.work.Go(func() { r.watch(changes) })
	return r
}

// Close removes the handlers and joins the router's goroutine. Facades are closed
// by their owners. It may be called more than once.
func (r *Router) Close() error {
	r.once.Do(func() {
		for _, method := range raftMethods {
			r.config.Server.Handle(method, nil)
		}
		r.config.Server.Handle(MethodGroupUp, nil)
		r.cancel()
		close(r.stop)
	})
	r.work.Wait()
	return nil
}

// Register lets requests reach the facade, until that is closed. What arrives
// before its raft instance runs waits for it.
func (r *Router) Register(f *Facade) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed {
		return ErrGroupClosed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.groups[f.config.Group] != nil {
		return fmt.Errorf("%w: %s", ErrGroupRegistered, f.config.Group)
	}
	r.groups[f.config.Group] = f
	f.onClose = func() { r.remove(f.config.Group) }
	return nil
}

// remove takes a closed facade out; its group's place is free then.
func (r *Router) remove(g GroupID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.groups, g)
}

// facade finds the facade of a group, nil if it is not here.
func (r *Router) facade(g GroupID) *Facade {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.groups[g]
}

// watch lets all held calls look again whenever a peer went up or down.
func (r *Router) watch(changes <-chan struct{}) {
	for {
		select {
		case <-changes:
		case <-r.stop:
			return
		}
		r.mu.RLock()
		facades := make([]*Facade, 0, len(r.groups))
		for _, f := range r.groups {
			facades = append(facades, f)
		}
		r.mu.RUnlock()
		for _, f := range facades {
			f.peersChanged()
		}
	}
}

// handleRaft answers a raft request.
func (r *Router) handleRaft(req *Request) {
	reply, err := r.route(req)
	if err != nil {
		req.ReplyError(err)
		return
	}
	req.Reply(reply)
}

// route finds the replica that a request is for. The group may be unknown here,
// and its replica another one than is meant: the caller is told which, and holds
// its entries.
func (r *Router) route(req *Request) ([]byte, error) {
	message := &wireReader{rest: req.Body}
	e := readEnvelope(message)
	if message.err != nil {
		return nil, coded(message.err)
	}
	if err := sentBy(req.Peer, e.sender); err != nil {
		return nil, coded(err)
	}
	f := r.facade(e.group)
	if f == nil {
		return nil, unknownGroup(e.group)
	}
	if e.target != f.config.LocalID {
		// A replica that lost its disk is another server. It must not vote, or
		// acknowledge, as the one that is meant (DESIGN 4.4).
		return nil, &RemoteError{Code: CodeOtherReplica, Message: fmt.Sprintf("group %s has replica %s here, not %s", e.group, f.config.LocalID, e.target)}
	}
	return f.serve(req.Context(), req.Method, e.sender, message)
}

// sentBy checks that a message speaks for a replica of the node it came from.
func sentBy(peer Peer, sender raft.ServerID) error {
	node, _, err := ParseServerID(sender)
	if err != nil {
		return fmt.Errorf("%w: sender: %w", ErrMalformed, err)
	}
	if node != peer.Node {
		return fmt.Errorf("%w: node %d speaks for replica %s", ErrMalformed, peer.Node, sender)
	}
	return nil
}

// handleGroupUp takes a peer's announcements.
func (r *Router) handleGroupUp(req *Request) {
	ups, err := decodeGroupUps(req.Body)
	for i := 0; err == nil && i < len(ups); i++ {
		err = sentBy(req.Peer, ups[i].Replica)
	}
	if err != nil {
		req.ReplyError(coded(err))
		return
	}
	for _, up := range ups {
		if f := r.facade(up.Group); f != nil {
			f.groupUp(up.Replica)
		}
		if r.config.OnGroupUp != nil {
			r.config.OnGroupUp(req.Peer.Node, up)
		}
	}
	req.Reply()
}

// maxGroupUps bounds the announcements of one message.
const maxGroupUps = 4096

// Announce tells a node which instances of this node have started. It fails like
// Call; an announcement that was lost is made up for when the node is up again,
// and within ten seconds otherwise, see hold.
func (r *Router) Announce(ctx context.Context, node metadata.NodeID, ups ...GroupUp) error {
	for len(ups) > 0 {
		n := min(len(ups), maxGroupUps)
		if _, err := r.config.Server.Call(ctx, node, Control, MethodGroupUp, encodeGroupUps(ups[:n])); err != nil {
			return fmt.Errorf("announce %d groups: %w", n, err)
		}
		ups = ups[n:]
	}
	return nil
}
